"""Laws of planning and compressing whole models, on models of a few hundred weights."""

import inspect
import math
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_tensornet import decompositions, formats
from keras_tensornet.compression import (
    CompressionPlan,
    calibrate,
    compress_model,
    plan_compression,
)
from keras_tensornet.compression.choosing import budgets
from keras_tensornet.compression.kinds import find_targets
from tests.rewriting.test_walker import assert_same_outputs, randomised, weights_of

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_draws_whatever_ran_before(monkeypatch):
    monkeypatch.setitem(globals(), "RANDOM", np.random.default_rng(0))


# CP to a small error takes many sweeps; its layers have tests of their own.
FORMATS = ("tr", "tt", "ttm", "tucker", "bt", "ht")


def convnet(**second):
    inputs = layers.Input((8, 9, 3), name="images")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(inputs)
    x = layers.Conv2D(12, 3, name="second", **second)(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(16, (3, 2), padding="same", activation="relu", name="third")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(24, activation="tanh", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(4, name="classifier")(x), name="convnet")
    for weight in model.weights:
        if "seed" not in weight.path and "moving_variance" not in weight.path:
            weight.assign(RANDOM.standard_normal(weight.shape) * 0.3)
    return model


def images(count=6):
    return RANDOM.standard_normal((count, 8, 9, 3)).astype("float32")


@pytest.mark.parametrize("format", FORMATS)
def test_full_rank_keeps_outputs_names_and_untouched_weights(format):
    model = convnet(strides=(2, 1), dilation_rate=1, groups=2)
    before = weights_of(model)
    plan = plan_compression(model, format=format, rank=1, exclude=())
    # Nothing may grow, so a rule leaves most layers dense at full rank; a plan by hand does not.
    paths = [choice.path for choice in plan]
    full = (2, 10_000) if format == "bt" else 10_000
    for path in paths:
        plan = plan.with_layer(path, rank=full, format=format)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = compress_model(model, plan=plan)
    assert [layer.name for layer in result.layers] == [layer.name for layer in model.layers]
    assert all(result.get_layer(path).network.name == format for path in paths) and paths
    assert_same_outputs(model, result, images(), rtol=5e-3, atol=5e-3)
    for (_, old), (_, now) in zip(before, weights_of(model), strict=True):
        np.testing.assert_array_equal(old, now)


def test_defaults_keep_the_ends_and_growers_dense_and_say_so():
    plan = plan_compression(convnet(), rank=100)
    notes = {choice.path: choice.note for choice in plan}
    assert notes["first"] == "first convolution" and notes["classifier"] == "classifier"
    assert notes["second"] == "would grow" and plan["second"].format is None
    assert plan.params == plan.model_params == convnet().count_params()


def test_plan_counts_what_compress_makes():
    model = convnet()
    for rule in ({"energy": 0.5}, {"eps": 0.6}, {"rank": 2}, {"share": 0.4}, {"vbmf": True}):
        plan = plan_compression(model, **rule)
        result = compress_model(model, plan=plan)
        assert result.count_params() == plan.params
        assert compress_model(model, **rule).count_params() == plan.params
        for choice in plan:
            if choice.format:
                assert result.get_layer(choice.path).network.num_params == choice.params
                assert choice.params < choice.dense_params
    assert str(plan).count("\n") >= len(plan) + 4 and "model 'convnet'" in str(plan)


def test_eps_bounds_each_error_and_share_each_size():
    model = convnet()
    assert all(choice.error <= 0.5 for choice in plan_compression(model, eps=0.5))
    for choice in plan_compression(model, share=0.3, format="cp"):
        assert choice.format is None or choice.params <= 0.3 * choice.dense_params


@pytest.mark.parametrize("name", ["share", "params", "flops", "latency"])
def test_a_compression_ratio_given_as_a_share_is_refused_with_the_share(name):
    with pytest.raises(ValueError, match=rf"Received: {name}=4. Give 0.25 for 4x fewer"):
        plan_compression(convnet(), **{name: 4})
    with pytest.raises(ValueError, match=rf"`{name}` must lie in \(0, 1\]. Received: {name}=0"):
        plan_compression(convnet(), **{name: 0})


def params_raised_by_one(model, plan):
    """Model sizes with one bond raised by one, if its layer grows and stays below dense."""
    for choice in plan:
        bonds = choice.rank if isinstance(choice.rank, tuple) else (choice.rank,)
        for place in range(len(bonds) if choice.format else 0):
            larger = (*bonds[:place], bonds[place] + 1, *bonds[place + 1 :])
            rank = larger if isinstance(choice.rank, tuple) else larger[0]
            raised = compress_model(model, plan=plan.with_layer(choice.path, rank=rank))
            if (
                choice.params
                < raised.get_layer(choice.path).network.num_params
                < choice.dense_params
            ):
                yield raised.count_params()


@pytest.mark.parametrize("format", ["tt", "cp", "tucker", "auto"])
@pytest.mark.parametrize("budget", ["params", "flops"])
def test_a_budget_is_met(format, budget):
    model = convnet()
    plan = plan_compression(model, format=format, **{budget: 0.6})
    if budget == "params":
        total = 0.6 * plan.model_params
        assert plan.params <= total
        # Within 1 %, or no bond can be raised: one step can be 2 % of this tiny model.
        assert plan.params >= 0.99 * total or min(params_raised_by_one(model, plan)) > total
    if budget == "flops":
        before, after = plan.flops
        assert 0.58 * before <= after <= 0.6 * before
    assert any(choice.format for choice in plan)


@pytest.mark.parametrize("format", ["tt", "cp", "tucker"])
def test_what_the_knapsack_leaves_is_spent_on_single_bonds(format, monkeypatch):
    def cheapest(options, weights, budget, total):
        return [min(layer, key=lambda option: option.costs.params) for layer in options]

    monkeypatch.setattr(budgets, "choose", cheapest)
    model = convnet()
    plan = plan_compression(model, format=format, params=0.6)
    total = 0.6 * plan.model_params
    assert plan.params <= total
    assert min(params_raised_by_one(model, plan), default=math.inf) > total


@pytest.mark.parametrize("format", ["tt", "tucker", "ttm", "ht"])
def test_a_budget_beats_a_uniform_ratio_of_the_same_size(format):
    model = convnet()
    uniform = plan_compression(model, format=format, share=0.5)
    share = uniform.params / uniform.model_params
    budget = plan_compression(model, format=format, params=share)
    total = [
        sum(choice.error**2 / (1 - choice.error**2) for choice in plan)
        for plan in (uniform, budget)
    ]
    assert budget.params <= uniform.params and total[1] <= total[0]


def test_a_budget_below_what_stays_dense_is_refused():
    with pytest.raises(ValueError, match=r"params=0.01 is below what stays dense.*exclude=\(\)"):
        plan_compression(convnet(), params=0.01)


def test_calibration_lowers_the_output_error_and_repairs_the_mean():
    model = convnet()
    low_rank = RANDOM.standard_normal((64, 8, 9, 1)) * RANDOM.standard_normal(3)
    data = (low_rank + 0.1 * RANDOM.standard_normal((64, 8, 9, 3)) + 1.0).astype("float32")
    plain = compress_model(model, rank=2)
    calibrated = compress_model(model, rank=2, calibration_data=data, recover=False)
    target = model.predict(data, verbose=0)
    errors = [np.linalg.norm(m.predict(data, verbose=0) - target) for m in (plain, calibrated)]
    assert errors[1] < 0.85 * errors[0]
    known = calibrate(model, data)
    assert_same_outputs(
        calibrated,
        compress_model(model, rank=2, calibration_data=known, recover=False),
        data,
        rtol=0,
        atol=1e-6,
    )
    once = compress_model(
        model, rank=2, calibration_data=iter([data[:50], data[50:]]), recover=False
    )
    assert_same_outputs(calibrated, once, data, rtol=0, atol=1e-6)
    feature = keras.Model(model.inputs, model.get_layer("hidden").output)
    same = keras.Model(calibrated.inputs, calibrated.get_layer("hidden").output)
    assert feature.predict(data, verbose=0).shape == same.predict(data, verbose=0).shape
    assert plan_compression(model, rank=2, calibration_data=data).measure == "output"


def test_include_exclude_and_overrides():
    model = convnet()

    def compressed(**choice):
        return [c.path for c in plan_compression(model, rank=1, **choice) if c.format]

    assert compressed() == ["second", "third", "hidden"]
    assert compressed(include="second") == ["second"]
    assert compressed(include=keras.layers.Dense) == ["hidden"]
    assert compressed(include="t.*") == ["third"]
    assert compressed(include=["classifier", "second"]) == ["second", "classifier"]
    assert compressed(exclude=()) == ["first", "second", "third", "hidden", "classifier"]
    assert compressed(exclude=[keras.layers.Conv2D]) == ["hidden", "classifier"]
    assert compressed(exclude=lambda layer: layer.name != "third") == ["third"]
    assert compressed(overrides={"second": None}) == ["third", "hidden"]
    plan = plan_compression(
        model, params=0.7, overrides={"second": {"format": "tucker", "rank": (2, 3)}}
    )
    assert plan["second"].format == "tucker" and plan["second"].rank == (2, 3)
    assert plan["third"].format in ("tt", "tucker", None)  # "tucker" as a truncated SVD


def test_a_plan_can_be_edited_and_goes_to_json_and_back():
    model = convnet()
    plan = plan_compression(model, rank=2)
    assert CompressionPlan.from_json(plan.to_json()) == plan
    edited = plan.with_layer("second", rank=(1, 2, 1)).without_layer("hidden")
    assert edited.params is None and "?" in str(edited) and plan.params is not None
    result = compress_model(model, plan=edited)
    assert result.get_layer("second").rank == (1, 2, 1)
    assert type(result.get_layer("hidden")) is layers.Dense
    tucker = compress_model(model, plan=plan.with_layer("third", rank=2, format="tucker"))
    assert tucker.get_layer("third").network.name == "tucker"
    for text in (
        "[]",
        "{}",
        "no json",
        '{"version": 9, "model": "a", "layers": [], "model_params": 1}',
    ):
        with pytest.raises(ValueError, match="plan"):
            CompressionPlan.from_json(text)
    with pytest.raises(KeyError, match="no layer 'nowhere'"):
        plan["nowhere"]


def test_ranks_are_multiples_where_asked():
    for rule in ({"rank": 5}, {"energy": 0.7}, {"params": 0.6}):
        plan = plan_compression(convnet(), format="tucker", multiple=2, **rule)
        ranks = [rank for choice in plan if choice.format for rank in choice.rank]
        assert ranks and all(rank % 2 == 0 for rank in ranks)


def test_every_row_of_the_table_comes_through_a_model():
    inputs = layers.Input((6,), dtype="int32")
    x = layers.Embedding(100, 12, name="embedding")(inputs)
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True, name="lstm"), name="both")(x)
    x = layers.GRU(24, return_sequences=True, name="gru")(x)
    x = layers.Conv1D(20, 3, name="conv1d")(x)
    x = layers.EinsumDense("abc,cd->abd", (None, 24), bias_axes="d", name="einsum")(x)
    x = layers.Reshape((4, 6, 4))(x)
    x = layers.Conv2DTranspose(10, 3, name="transpose")(x)
    x = layers.Reshape((6, 8, 5, 2))(x)
    x = layers.Conv3D(9, 3, name="conv3d")(x)
    x = layers.TimeDistributed(layers.Dense(30, name="step"), name="steps")(x)
    model = randomised(keras.Model(inputs, x))
    paths = [target.path for target in find_targets(model)]
    overrides = {path: {"rank": 3} for path in paths}
    result = compress_model(model, format="tr", rank=3, overrides=overrides)
    replaced = [
        target.path
        for target in find_targets(model)
        if target.path not in {other.path for other in find_targets(result)}
    ]
    assert set(replaced) == set(paths) - {
        c.path
        for c in plan_compression(model, format="tr", rank=3, overrides=overrides)
        if c.format is None
    }
    assert len(replaced) >= 6
    data = RANDOM.integers(0, 100, (3, 6))
    assert result(data).shape == model(data).shape
    assert result.count_params() < model.count_params()


def test_wrong_arguments_are_named():
    model = convnet()
    cases = [
        ({}, "exactly one of"),
        ({"rank": 2, "eps": 0.1}, "exactly one of.*rank=2, eps=0.1"),
        ({"rank": 2, "format": "qr"}, "`format` must be one of"),
        ({"rank": 2, "format": "auto"}, "compares formats"),
        ({"params": 1.5}, r"`params` is the share that is kept, in \(0, 1\]"),
        ({"rank": 2, "include": "nothing"}, "`include` must describe layers.*'nothing'"),
        ({"rank": 2, "overrides": {"x": None}}, "`overrides` names layers.*'x'"),
        ({"params": 0.5, "overrides": {"second": {"format": "cp"}}}, "how its ranks are chosen"),
        ({"rank": 2, "overrides": {"second": {"rank": 2, "in_modes": (5,)}}}, "does not fit"),
    ]
    for arguments, text in cases:
        with pytest.raises((ValueError, TypeError), match=text):
            plan_compression(model, **arguments)
    plan = plan_compression(model, rank=2)
    with pytest.raises(ValueError, match=r"leave the other arguments out.*plan and rank"):
        compress_model(model, rank=2, plan=plan)
    other = keras.Sequential([layers.Input((4,)), layers.Dense(3, name="second")])
    with pytest.raises(ValueError, match="made for another model"):
        compress_model(other, plan=plan)


def test_progress_is_reported_for_each_layer(capsys):
    done = []
    plan_compression(convnet(), rank=1, progress=lambda *call: done.append(call))
    assert done == [(1, 3, "second"), (2, 3, "third"), (3, 3, "hidden")]
    done.clear()
    plan_compression(convnet(), params=0.6, progress=lambda *call: done.append(call))
    assert [call[:2] for call in done] == [(count, 6) for count in range(1, 7)]
    plan_compression(convnet(), rank=1, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "3/3 hidden" in captured.err


@pytest.mark.parametrize("calibrated", [False, True])
def test_trials_of_a_budget_are_quick_and_what_is_kept_is_not(calibrated, monkeypatch):
    taken = []

    def recording(tensor, **how):
        taken.append(how.get("num_iter"))
        return whole(tensor, **how)

    whole = decompositions.cp_als
    monkeypatch.setattr(decompositions, "cp_als", recording)
    images = np.random.default_rng(0).normal(size=(8, 8, 9, 3)).astype("float32")
    data = {"calibration_data": images, "recover": False} if calibrated else {}
    compress_model(convnet(), format="cp", params=0.5, **data)
    assert set(taken) == {formats.get("cp").trial_sweeps, None}
    assert taken[-1] is None


def test_compress_model_takes_the_arguments_of_plan_compression_with_the_same_defaults():
    """They are listed twice for editors and `help`; here they are one."""
    planning, compressing = (
        inspect.signature(function).parameters for function in (plan_compression, compress_model)
    )
    assert set(planning) <= set(compressing)
    shared = [name for name in compressing if name in planning]
    assert shared == list(planning), "in the same order"
    for name in shared:
        ours, theirs = compressing[name], planning[name]
        assert (ours.default, ours.kind) == (theirs.default, theirs.kind), name
        assert ours.annotation == theirs.annotation, name
