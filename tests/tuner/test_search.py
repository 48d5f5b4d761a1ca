"""Searches with KerasTuner: every tuner, every format, limits, fronts, and bad input."""

import csv
import dataclasses
import importlib
import json
import struct
import sys

import numpy as np
import pytest

keras_tuner = pytest.importorskip("keras_tuner")
keras = pytest.importorskip("keras")

from keras_tensornet import tuner as tuning  # noqa: E402
from keras_tensornet.compression.kinds import find_targets, kernel_array  # noqa: E402
from keras_tensornet.contraction import kernel_plan, to_keras_layout  # noqa: E402
from keras_tensornet.tbasis import tbasis_model  # noqa: E402
from keras_tensornet.tuner.decompositions import Decompositions  # noqa: E402

FORMATS = ("tr", "tt", "tucker", "cp", "tbasis")


def small_cnn():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(6, 3, activation="relu", name="conv1"),
            keras.layers.Conv2D(12, 3, activation="relu", name="conv2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(24, activation="relu", name="fc1"),
            keras.layers.Dense(3, name="fc2"),
        ]
    )
    compile_it(model)
    return model


def compile_it(model, hp=None):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])


RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6, 6, 2)).astype("float32")
Y = (X.mean(axis=(1, 2, 3)) > 0).astype("int32")


def search(tuner, **options):
    tuner.search(X, Y, validation_data=(X, Y), epochs=1, verbose=0, **options)
    return tuner


def random_search(hypermodel, folder, trials=2, **options):
    options = {"objective": hypermodel.objective, "seed": 0, "overwrite": True, **options}
    return keras_tuner.RandomSearch(
        hypermodel, max_trials=trials, directory=str(folder), project_name="p", **options
    )


def build(hypermodel, **values):
    hp = keras_tuner.HyperParameters()
    for name, value in values.items():
        hp.Fixed(name.replace("__", "/"), value)
    return hypermodel.build(hp)


# ----------------------------------------------------------------- the space


@pytest.mark.parametrize("source", [small_cnn, small_cnn()], ids=["function", "model"])
def test_space_is_conditional_on_the_format(source):
    hypermodel = tuning.TensorNetHyperModel(source, FORMATS, fit_steps=2, rank=(2, 5))
    hp = keras_tuner.HyperParameters()
    hypermodel.build(hp)
    trained = isinstance(source, keras.Model)
    by = "energy" if trained else "rank"
    wanted = {"format", f"tr_{by}", f"tt_{by}", f"tucker_{by}", "cp_rank"}
    assert {one.name for one in hp.space} == wanted | {"tbasis_size", "tbasis_rank"}
    for one in hp.space:
        formats = {value for condition in one.conditions for value in condition.values}
        assert formats == (set() if one.name == "format" else {one.name.split("_")[0]})
    assert {one.name for one in hp.space if hp.is_active(one)} == {"format", f"tr_{by}"}


@pytest.mark.parametrize("format", FORMATS)
def test_built_model_has_the_chosen_format_and_rank(format):
    hypermodel = tuning.TensorNetHyperModel(small_cnn, FORMATS, rank=(2, 5), basis_size=(2, 9))
    values = {"tbasis_size": 3, "tbasis_rank": 2} if format == "tbasis" else {f"{format}_rank": 2}
    model = build(hypermodel, format=format, **values)
    assert model.count_params() < small_cnn().count_params()
    kinds = [type(layer).__name__ for layer in model.layers]
    if format == "tbasis":
        basis = next(layer for layer in model.layers if isinstance(layer, tuning_layer("TBasis")))
        assert (basis.size, basis.rank) == (3, 2)
    else:
        assert kinds[0] == "Conv2D" and kinds[-1] == "Dense"  # the ends stay dense
        ranks = {n for layer in model.layers[1:4:2] for n in np.ravel(layer.rank)}
        assert max(ranks) == 2 and model.layers[1].network.name == format


def tuning_layer(name):
    from keras_tensornet import layers

    return getattr(layers, name)


def test_values_per_layer_and_per_stage():
    per_layer = tuning.TensorNetHyperModel(small_cnn, "tt", rank=(2, 9), per_layer=True)
    model = build(per_layer, format="tt", tt_rank__conv2=2, tt_rank__fc1=3)
    assert np.max(model.get_layer("conv2").rank) == 2 and np.max(model.get_layer("fc1").rank) == 3
    hp = keras_tuner.HyperParameters()
    tuning.TensorNetHyperModel(small_cnn, "tt", per_layer=lambda path: path[:2]).build(hp)
    assert {one.name for one in hp.space} == {"format", "tt_rank/co", "tt_rank/fc"}
    assert tuning.stage_of("encoder/stage2_block1_conv2") == "stage2"
    assert tuning.stage_of("fc1") == "fc1"


def test_lists_are_the_values_themselves_and_a_grid_visits_each_once(tmp_path):
    hypermodel = tuning.TensorNetHyperModel(
        small_cnn, ("tr", "tbasis"), rank=[3, 2, 3], basis_size=[4]
    )
    hypermodel.fit = lambda hp, model, *args, **kwargs: 0.0
    tuner = keras_tuner.GridSearch(
        hypermodel, keras_tuner.Objective("default_objective", "min"), directory=tmp_path
    )
    tuner.search()
    visited = [
        (values["format"], values[f"{values['format']}_rank"])
        for values in (trial.hyperparameters.values for trial in tuner.oracle.trials.values())
    ]
    assert sorted(visited) == [("tbasis", 2), ("tbasis", 3), ("tr", 2), ("tr", 3)]
    trained = tuning.TensorNetHyperModel(small_cnn(), "tt", energy=[0.9, 0.5])
    hp = keras_tuner.HyperParameters()
    trained.build(hp)
    assert [one.values for one in hp.space if one.name == "tt_energy"] == [[0.5, 0.9]]


def test_own_hyperparameters_of_the_build_function_and_of_compile():
    def with_units(hp):
        units = hp.Int("units", 8, 16)
        return keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(units), keras.layers.Dense(3)]
        )

    def compile_model(model, hp):
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.1, 0.2)), "mse")

    hypermodel = tuning.TensorNetHyperModel(
        with_units, "cp", rank=(1, 2), compile_model=compile_model
    )
    model = build(hypermodel, units=12, rate=0.15)
    assert model.layers[0].units == 12
    assert float(model.optimizer.learning_rate) == pytest.approx(0.15)


def test_arguments_reach_the_layers():
    hypermodel = tuning.TensorNetHyperModel(
        small_cnn, "tr", arguments=lambda path, format: {"fc1": {"out_modes": (3, 8)}}.get(path)
    )
    assert build(hypermodel).get_layer("fc1").modes.out_modes == (3, 8)


# ------------------------------------------------- decompositions of a trained model


@pytest.mark.parametrize("format", ["tt", "ttm", "tr", "tucker"])
def test_decompositions_are_made_once_and_the_model_is_left_as_it_was(format):
    model = small_cnn()
    before = [weight.copy() for weight in model.get_weights()]
    hypermodel = tuning.TensorNetHyperModel(model, format)
    for energy in (0.4, 0.9, 0.4, 0.9):
        built = build(hypermodel, format=format, **{f"{format}_energy": energy})
    layers = 2
    energies = 1 if format in ("tt", "ttm") else 2
    assert hypermodel.decompositions.made == layers * energies
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(built.get_layer("fc2").get_weights()[0], before[-2])


def test_decompositions_that_are_kept_do_not_grow_without_bound():
    target = find_targets(small_cnn())[2]
    cache = Decompositions()
    for energy in np.linspace(0.5, 0.99, 12):
        cache.layer(target, "tucker", "energy", float(energy), {})
    (kept,) = cache.kept.values()
    entries = sum(core.size for _, cores in kept.values() for core in cores)
    assert 1 <= len(kept) < 12 and entries <= 4 * kernel_array(target).size


@pytest.mark.parametrize("format", ["tt", "ttm"])
def test_cut_trains_are_as_good_as_fresh_ones(format):
    target = find_targets(small_cnn())[2]  # fc1
    kernel = kernel_array(target)
    cache = Decompositions()
    arguments = {"in_modes": (6, 8), "out_modes": (4, 6)}
    for rank in (1, 2, 4, 7):
        layer = cache.layer(target, format, "rank", rank, arguments)
        fresh = type(layer).from_layer(target.layer, rank=rank, format=format, **arguments)
        cut, new = (np.linalg.norm(found.kernel - kernel) for found in (layer, fresh))
        assert np.all(np.equal(layer.rank, fresh.rank))
        assert cut <= 1.1 * new, "slices of the exact train are nearly as good as TT-SVD"
    assert cache.made == 1


def test_singular_values_of_the_exact_train_are_those_of_the_unfoldings():
    target = find_targets(small_cnn())[2]
    cache = Decompositions()
    cache.layer(target, "tt", "rank", 2, {"in_modes": (6, 8), "out_modes": (4, 6)})
    (exact,) = cache.exact.values()
    tensor = kernel_array(target).astype("float64").reshape(6, 8, 4, 6)
    for bond, values in enumerate(exact.values, start=1):
        unfolding = tensor.reshape(int(np.prod(tensor.shape[:bond])), -1)
        expected = np.linalg.svd(unfolding, compute_uv=False)
        np.testing.assert_allclose(values, expected[: len(values)], atol=1e-6 * expected[0])


def test_energy_near_one_keeps_the_trained_outputs():
    model = small_cnn()
    hypermodel = tuning.TensorNetHyperModel(model, ("tt",), energy=(0.3, 1.0))
    target = find_targets(model)[2]
    layer = hypermodel.decompositions.layer(target, "tt", "rank", 2, {})
    assert layer.name == "fc1"
    ((key, form),) = hypermodel.decompositions.forms.items()
    rank, cores = hypermodel.decompositions._cores(key, target, form, "energy", 1.0)
    network = form.network(rank)[1]
    merged = to_keras_layout(kernel_plan(network).run(cores, np), form.modes, np)
    np.testing.assert_allclose(merged, kernel_array(target), atol=1e-5)


# ------------------------------------------------------------- searches and fronts


def test_search_records_sizes_and_gives_a_front(tmp_path):
    hypermodel = tuning.TensorNetHyperModel(small_cnn, ("tr", "tt"), rank=(1, 3), seed=1)
    tuner = search(random_search(hypermodel, tmp_path, trials=3))
    front = tuning.pareto(tuner)
    assert len(front.trials) == 3 and 1 <= len(front) <= 3
    for trial in front.trials:
        hp = tuner.oracle.trials[trial.trial_id].hyperparameters
        model = hypermodel.build(hp.copy())
        assert trial.params == model.count_params()
        assert trial.compression_ratio == pytest.approx(small_cnn().count_params() / trial.params)
        assert trial.flops == tuning.ModelSize.of(model).flops > 0
        assert set(trial.values) == {"format", f"{trial.values['format']}_rank"}
    for one in front:
        assert not any(
            other.params < one.params and other.metric >= one.metric for other in front.trials
        )
    worse = [dataclasses.replace(trial, metric=1.0) for trial in front.trials]
    again = front.with_trials(worse, "test_error", "min")
    assert [trial.params for trial in again] == [front.trials[0].params]
    from_folder = tuning.pareto(tmp_path / "p")
    assert from_folder == front

    front.to_csv(tmp_path / "front.csv")
    front.to_json(tmp_path / "front.json")
    front.plot(tmp_path / "front.png")
    rows = list(csv.DictReader((tmp_path / "front.csv").open()))
    assert [int(row["params"]) for row in rows] == [trial.params for trial in front.trials]
    stored = json.loads((tmp_path / "front.json").read_text())
    assert stored["trials"][0]["metric"] == front.trials[0].metric
    assert (tmp_path / "front.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "compression" in str(front) and "*" in str(front)
    best = tuner.get_best_models(1)[0]
    assert best(X[:2]).shape == (2, 3)


@pytest.mark.parametrize("kind", ["Hyperband", "BayesianOptimization", "GridSearch", "own"])
def test_all_tuners_run(kind, tmp_path):
    hypermodel = tuning.TensorNetHyperModel(small_cnn, ("tr", "tt"), rank=(1, 2), seed=1)
    where = {"directory": str(tmp_path), "project_name": "p", "overwrite": True}
    if kind == "own":

        class Own(keras_tuner.RandomSearch):
            def run_trial(self, trial, *args, **kwargs):
                trial.hyperparameters.Fixed("mine", 1)
                return super().run_trial(trial, *args, **kwargs)

        tuner = Own(hypermodel, hypermodel.objective, max_trials=1, **where)
    elif kind == "Hyperband":
        tuner = keras_tuner.Hyperband(hypermodel, hypermodel.objective, max_epochs=2, **where)
    else:
        cls = getattr(keras_tuner, kind)
        tuner = cls(hypermodel, hypermodel.objective, max_trials=2, **where)
    assert len(tuning.pareto(search(tuner)).trials) >= 1


def test_trained_model_with_every_format(tmp_path):
    hypermodel = tuning.TensorNetHyperModel(
        small_cnn(), FORMATS, rank=(1, 2), basis_size=(2, 3), fit_steps=3, energy=(0.3, 0.5)
    )
    for format in FORMATS:
        model = build(hypermodel, format=format)
        hypermodel.fit(None, model, X, Y, validation_data=(X, Y), epochs=1, verbose=0)
    assert len(hypermodel.fitted) == 1


def test_own_objective_beside_ours(tmp_path):
    hypermodel = tuning.TensorNetHyperModel(small_cnn, "tr", rank=(1, 2))
    objective = keras_tuner.Objective("val_loss", "min")
    tuner = search(random_search(hypermodel, tmp_path, trials=1, objective=objective))
    assert tuning.pareto(tuner, "val_loss").direction == "min"


def test_tensorboard_shows_trials_as_hparams(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    hypermodel = tuning.TensorNetHyperModel(small_cnn, "tr", rank=(1, 2))
    tuner = random_search(hypermodel, tmp_path, trials=1)
    search(tuner, callbacks=[keras.callbacks.TensorBoard(str(tmp_path / "logs"))])
    plugins, tags = set(), set()
    for file in (tmp_path / "logs").rglob("events*"):
        events = EventAccumulator(str(file)).Reload()
        plugins |= {
            events.summary_metadata[tag].plugin_data.plugin_name for tag in events.summary_metadata
        }
        tags |= set(events.Tags()["tensors"])
    assert "hparams" in plugins
    assert {"epoch_params", "epoch_compression_ratio", "epoch_score"} <= tags


def test_data_parallel_training_inside_a_trial(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.distribute is TensorFlow's")
    import tensorflow as tf

    hypermodel = tuning.TensorNetHyperModel(small_cnn, "tr", rank=(1, 2))
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    tuner = random_search(hypermodel, tmp_path, trials=1, distribution_strategy=strategy)
    assert len(tuning.pareto(search(tuner)).trials) == 1


# --------------------------------------------------------------- sizes and limits


def test_flops_of_stock_layers_counted_by_hand():
    inner = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.DepthwiseConv2D(3)])
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(3, 3, strides=2, padding="same")(inputs)
    x = inner(x)
    x = keras.layers.Conv2DTranspose(5, 2, strides=2)(x)
    x = keras.layers.SeparableConv2D(2, 2, padding="same")(x)
    outputs = keras.layers.Dense(7)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    expected = (
        2 * 16 * (3 * 3 * 1 * 3)  # conv at 4 x 4
        + 2 * 4 * (3 * 3 * 3)  # depthwise at 2 x 2
        + 2 * 4 * (2 * 2 * 3 * 5)  # transposed from 2 x 2
        + 2 * 16 * (2 * 2 * 5)
        + 2 * 16 * (5 * 2)  # depthwise and pointwise at 4 x 4
        + 2 * 32 * 7
    )
    size = tuning.ModelSize.of(model)
    assert (size.flops, size.params, size.latency) == (expected, model.count_params(), None)


def test_flops_of_layers_on_a_basis_are_those_of_their_kernels():
    dense = small_cnn()
    shared = tbasis_model(dense, size=3, rank=2, seed=0)
    assert tuning.ModelSize.of(shared).flops == tuning.ModelSize.of(dense).flops


def test_flops_of_shared_recurrent_and_time_distributed_layers():
    shared = keras.layers.Dense(4)
    inputs = keras.Input((5, 4))
    x = keras.layers.TimeDistributed(shared)(inputs)
    x = keras.layers.TimeDistributed(shared)(x)
    outputs = keras.layers.LSTM(3)(x)
    model = keras.Model(inputs, outputs)
    assert tuning.ModelSize.of(model).flops == 2 * 5 * (2 * 16) + 5 * 2 * (4 * 12 + 3 * 12)


def test_latency_is_measured_and_leaves_the_model_trainable():
    hypermodel = tuning.TensorNetHyperModel(small_cnn, "tr", rank=(2, 2))
    model = build(hypermodel)
    size = tuning.ModelSize.of(model, latency_batch=2)
    assert size.latency > 0
    assert not model.get_layer("fc1").frozen


@pytest.mark.parametrize(
    "limits, expected",
    [
        ({"params": 0.5}, {"params": 500.0}),
        ({"params": 400}, {"params": 400.0}),
        ({"params": 1.0, "flops": 2}, {"params": 1000.0, "flops": 2.0}),
        ({"latency": 0.5}, {"latency": 2.0}),
    ],
)
def test_limits_are_shares_or_absolute(limits, expected):
    dense = tuning.ModelSize(1000, 2000, 4.0)
    assert tuning.SizeObjective(**limits).limits(dense) == expected


def test_score_falls_by_the_weight_with_each_doubling():
    dense = tuning.ModelSize(1000, 1000)
    goal = tuning.SizeObjective(params=0.1, weight=0.02)
    scores = [goal.score(0.9, tuning.ModelSize(n, 1), dense) for n in (50, 100, 200, 400)]
    assert scores == pytest.approx([0.9, 0.9, 0.88, 0.86])
    loss = tuning.SizeObjective("val_loss", "min", params=0.1, weight=0.02)
    assert loss.score(0.9, tuning.ModelSize(200, 1), dense) == pytest.approx(0.92)


def test_impossible_trials_are_rejected_before_training_and_the_search_goes_on(tmp_path):
    trained = []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            trained.append(self.model.count_params())

    unlimited = tuning.TensorNetHyperModel(small_cnn, "tt")
    limit = build(unlimited, format="tt", tt_rank=2).count_params()
    goal = tuning.SizeObjective(params=limit)
    hypermodel = tuning.TensorNetHyperModel(small_cnn, "tt", rank=(1, 12), objective=goal)
    tuner = keras_tuner.GridSearch(
        hypermodel,
        hypermodel.objective,
        max_trials=4,
        max_consecutive_failed_trials=4,
        directory=str(tmp_path),
        overwrite=True,
    )
    search(tuner, callbacks=[Watch()])
    front = tuning.pareto(tuner)
    assert front.unfinished > 0 and len(front.trials) > 0
    assert max(trained) <= limit and len(trained) == len(front.trials)
    rejected = [trial for trial in tuner.oracle.trials.values() if trial.status == "FAILED"]
    assert all(f"exceeds the limit of {limit:,}" in trial.message for trial in rejected)
    assert f"{front.unfinished} more trials were rejected or failed." in str(front)


def test_a_model_no_smaller_than_the_dense_one_is_rejected():
    hypermodel = tuning.TensorNetHyperModel(small_cnn, "cp", rank=(900, 900))
    with pytest.raises(keras_tuner.errors.FailedTrialError, match="no fewer than the dense model"):
        hypermodel.fit(None, build(hypermodel), X, Y)


def test_a_trial_that_raises_leaves_the_rest_of_the_search(tmp_path):
    def compile_model(model, hp):
        compile_it(model)
        if hp.get("tr_rank") == 2:
            raise ArithmeticError("this rank is unlucky")

    hypermodel = tuning.TensorNetHyperModel(small_cnn, "tr", rank=(1, 3))
    tuner = keras_tuner.GridSearch(
        hypermodel, hypermodel.objective, max_trials=5, directory=str(tmp_path), overwrite=True
    )
    hypermodel.compile_model = compile_model
    search(tuner)
    front = tuning.pareto(tuner)
    assert len(front.trials) >= 1 and front.unfinished == 1
    failed = [trial for trial in tuner.oracle.trials.values() if trial.status == "FAILED"]
    assert "this rank is unlucky" in failed[0].message


# --------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"formats": ()}, ValueError, "The search space is empty: `formats`"),
        ({"formats": ("tr", "xx")}, ValueError, "`formats` must be one of .*Received: .*'xx'"),
        ({"rank": (5, 2)}, ValueError, "The search space is empty: `rank`"),
        ({"rank": (0, 2)}, ValueError, r"`rank\[0\]` must be at least 1"),
        ({"rank": "many"}, TypeError, r"`rank` must be a tuple \(low, high\), a list of"),
        ({"rank": []}, ValueError, "empty: a list of values for `rank`"),
        ({"rank": [2, 0]}, ValueError, r"`rank\[1\]` must be at least 1"),
        ({"energy": [0.5, 2.0]}, ValueError, r"`energy\[1\]` must lie in \(0, 1\]"),
        ({"energy": (0.0, 0.5)}, ValueError, r"`energy\[0\]` must lie in \(0, 1\]"),
        ({"energy": (0.5, 1.5)}, ValueError, r"`energy\[1\]` must lie in \(0, 1\]"),
        ({"basis_size": (2, 3, 4)}, TypeError, "`basis_size` must be a tuple"),
        ({"per_layer": "layer"}, ValueError, "`per_layer` must be False"),
        ({"objective": "val_accuracy"}, TypeError, "must be a SizeObjective"),
        ({"include": "nothing"}, ValueError, "matches none of"),
        ({"exclude": [keras.layers.Layer]}, ValueError, "empty: no layer is left"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        tuning.TensorNetHyperModel(small_cnn(), **arguments)


def test_without_keras_tuner_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_tuner", None)
    monkeypatch.delitem(sys.modules, "keras_tensornet.tuner")
    with pytest.raises(ImportError, match=r'pip install "keras-tensornet\[tuner\]"'):
        importlib.import_module("keras_tensornet.tuner")


def test_wrong_source_and_wrong_build_function():
    with pytest.raises(TypeError, match="must be a Keras model or a function"):
        tuning.TensorNetHyperModel(3)
    with pytest.raises(keras_tuner.errors.FatalTypeError, match="must return a Keras model"):
        build(tuning.TensorNetHyperModel(lambda: None))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"params": 0}, "`params` must be a positive number"),
        ({"weight": 0.1}, "there must be a limit"),
        ({"direction": "up"}, "`direction` must be one of"),
    ],
)
def test_wrong_objectives(arguments, words):
    with pytest.raises(ValueError, match=words):
        tuning.SizeObjective(**arguments)


def test_objective_that_training_does_not_log(tmp_path):
    hypermodel = tuning.TensorNetHyperModel(
        small_cnn, "tr", (2, 3), objective=tuning.SizeObjective("val_acuracy", direction="max")
    )
    with pytest.raises(keras_tuner.errors.FatalValueError, match="Received: 'val_acuracy'; it"):
        search(random_search(hypermodel, tmp_path))
    hypermodel = tuning.TensorNetHyperModel(small_cnn, "tr", (2, 3))
    objective = keras_tuner.Objective("accurcy", "max")
    with pytest.raises(keras_tuner.errors.FatalValueError, match="Received: 'accurcy'"):
        search(random_search(hypermodel, tmp_path, objective=objective))


def test_an_objective_whose_direction_is_not_known_is_refused_before_any_trial():
    with pytest.raises(ValueError, match="direction"):
        tuning.SizeObjective("val_acuracy")


def test_front_without_trials(tmp_path):
    with pytest.raises(FileNotFoundError, match="There are no trials in"):
        tuning.pareto(tmp_path)
    hypermodel = tuning.TensorNetHyperModel(small_cnn, "tr")
    tuner = random_search(hypermodel, tmp_path)
    with pytest.raises(ValueError, match="No trial is finished"):
        tuning.pareto(tuner)
    with pytest.raises(ValueError, match="`size` must be one of"):
        tuning.pareto(tuner, size="weight")


def test_front_files_need_a_folder_and_leave_nothing_half_written(tmp_path):
    trial = tuning.TrialResult("0", 0.5, 10, 20, 2.0, None, {"format": "tr"}, True)
    front = tuning.ParetoFront("val_accuracy", "max", "params", (trial,))
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        front.to_csv(tmp_path / "missing" / "front.csv")
    (tmp_path / "front.json").mkdir()
    with pytest.raises(OSError):
        front.to_json(tmp_path / "front.json")
    assert [path.name for path in tmp_path.iterdir()] == ["front.json"]
    front.plot(tmp_path / "front.png", beside={"paper": [(10, 0.4), (30, 0.6)]})
    width, height = struct.unpack(">II", (tmp_path / "front.png").read_bytes()[16:24])
    assert width > 500 and height > 300
