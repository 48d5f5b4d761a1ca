"""Laws of truncated SVDs: exact for a cut, the error of every rank from one factorisation, and no
format loses more than that at its size."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_tensornet import compress_model, formats, plan_compression
from keras_tensornet.compression import cuts
from keras_tensornet.compression.choosing import budgets
from keras_tensornet.compression.choosing.subjects import Subject
from keras_tensornet.compression.kinds import find_kernels, find_targets
from keras_tensornet.compression.planning import calibrated_subjects
from keras_tensornet.compression.weighted import Metric, weighted_error
from keras_tensornet.modes import kernel_modes

RANDOM = np.random.default_rng(0)
TRAINED = 0.15  # singular values of a trained-like kernel fall by this much each


def trained_like(*shape):
    """A kernel with the slowly falling singular values of a trained one, and no structure."""
    rows, columns = int(np.prod(shape[:-1])), shape[-1]
    left, _ = np.linalg.qr(RANDOM.standard_normal((rows, min(rows, columns))))
    right, _ = np.linalg.qr(RANDOM.standard_normal((columns, min(rows, columns))))
    values = np.exp(-TRAINED * np.arange(left.shape[1]))
    return ((left * values) @ right.T).reshape(shape)


def gram(size):
    root = RANDOM.standard_normal((size, size)) * np.geomspace(1, 0.05, size)
    return (root @ root.T)[None]


CUTS = {
    "tt": (kernel_modes(7, 5, 1, 1), (3,)),
    "cp": (kernel_modes(7, 5, 1, 1), 3),
    "tr": (kernel_modes(7, 5, 1, 1), (2, 2)),
    "tucker": (kernel_modes(3, 7, 1, 1, ((3, 2),)), (3, 4)),
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", CUTS)
def test_cores_of_a_cut_are_the_optimum_that_the_singular_values_say(name, scaled):
    modes, rank = CUTS[name]
    network = formats.get(name).build(modes, rank)
    cut = cuts.cut_of(network, modes)
    kernel = RANDOM.standard_normal(modes.kernel_shape)
    patch = kernel.size // modes.out_size
    scale = RANDOM.uniform(0.5, 2, modes.out_size) if scaled else None
    metric = Metric.regularised(gram(patch), scale)
    cores = cuts.cut_cores(kernel, network, modes, cut, metric)
    assert [core.shape for core in cores] == list(network.core_shapes)
    values = cuts.singular_values(kernel, modes, metric)
    expected = cuts.error_at(values, network.count(cut.bonds))
    assert weighted_error(kernel, network, modes, metric, cores) == pytest.approx(expected)
    # tr(S E^T G E S) through the symmetric root of G, an independent way to the same values
    weights, vectors = np.linalg.eigh(metric.gram[0])
    whitened = (vectors * np.sqrt(weights)) @ vectors.T @ kernel.reshape(patch, -1)
    whitened = whitened if scale is None else whitened * scale
    np.testing.assert_allclose(values, np.linalg.svd(whitened, compute_uv=False), rtol=1e-6)


def test_large_matrices_have_the_same_values_down_to_the_resolution():
    kernel = trained_like(300, 260)
    modes = kernel_modes(300, 260, 1, 1)
    exact = np.linalg.svd(kernel, compute_uv=False)
    found = cuts.singular_values(kernel, modes, None)
    large = exact > 1e-6 * exact[0]
    np.testing.assert_allclose(found[large], exact[large], rtol=1e-2)
    assert cuts.error_at(found, 50) == pytest.approx(cuts.error_at(exact, 50), rel=1e-6)
    assert cuts.rank_for_threshold(found, eps=cuts.error_at(exact, 20) * 1.001) == 20


@pytest.mark.parametrize("name", ["tucker", "ht", "ttm", "bt"])
def test_networks_of_more_than_one_cut_are_told_apart(name):
    modes = kernel_modes(6, 8, (2, 3), (4, 2))
    assert cuts.cut_of(formats.get(name).build(modes, 2), modes) is None


def dense_and_conv():
    inputs = layers.Input((6, 6, 8))
    x = layers.Conv2D(16, 3, padding="same", name="conv")(inputs)
    x = layers.Conv2D(16, 1, name="point")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(24, name="dense")(x))
    for layer in (model.get_layer(name) for name in ("conv", "point", "dense")):
        layer.kernel.assign(trained_like(*layer.kernel.shape))
    return model


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("rule", [{"share": 0.5}, {"share": 0.25}, {"params": 0.5}], ids=str)
@pytest.mark.parametrize("format", [*formats.FORMATS, "auto"])
def test_no_format_loses_more_than_a_truncated_svd_of_its_size(format, rule, calibrated):
    model = dense_and_conv()
    data = RANDOM.standard_normal((32, 6, 6, 8)).astype("float32") if calibrated else None
    plan = plan_compression(model, format=format, exclude=(), calibration_data=data, **rule)
    targets = {target.path: target for target in find_targets(model)}
    subjects = calibrated_subjects(model, list(targets.values()), data)
    for subject in subjects:
        choice = plan[subject.path]
        values = cuts.singular_values(
            subject.kernel, subject.truncation().form.modes, subject.metric
        )
        shape = subject.kernel_shape
        rank = choice.params // (int(np.prod(shape[:-1])) + shape[-1])
        assert choice.error <= cuts.error_at(values, rank) * (1 + 1e-3), choice


def table_and_sequences():
    """An embedding, an LSTM and a GRU, whose kernels have the spectra of trained ones."""
    ids = layers.Input((5,), dtype="int32")
    x = layers.Embedding(60, 24, name="table")(ids)
    x = layers.LSTM(16, return_sequences=True, name="lstm")(x)
    x = layers.GRU(12, name="gru")(x)
    model = keras.Model(ids, layers.Dense(4, name="last")(x))
    for target in find_kernels(model):
        target.kernel.assign(trained_like(*target.kernel_shape))
    return model


@pytest.mark.parametrize("rule, calibrated", [({"share": 0.5}, False), ({"params": 0.5}, True)])
@pytest.mark.parametrize("format", [*formats.FORMATS, "auto"])
def test_tables_and_recurrent_kernels_lose_no_more_than_by_svd_either(format, rule, calibrated):
    model = table_and_sequences()
    data = RANDOM.integers(0, 60, (48, 5)).astype("int32") if calibrated else None
    plan = plan_compression(model, format=format, exclude="last", calibration_data=data, **rule)
    targets = [target for target in find_kernels(model) if target.path != "last"]
    assert {target.path for target in targets} >= {"table", "lstm/recurrent_kernel", "gru"}
    for subject in calibrated_subjects(model, targets, data):
        choice = plan[subject.path]
        assert rule == {"params": 0.5} or choice.params <= 0.5 * choice.dense_params
        values = cuts.singular_values(
            subject.kernel, subject.truncation().form.modes, subject.metric
        )
        rank = choice.params // sum(subject.kernel_shape)
        assert choice.error <= cuts.error_at(values, rank) * (1 + 1e-3), choice


def test_where_the_format_loses_the_svd_is_taken_and_said():
    model = dense_and_conv()
    plan = plan_compression(model, format="ttm", share=0.5, exclude=())
    assert plan["dense"].format == "tt" and "truncated SVD" in plan["dense"].note
    small = compress_model(model, plan=plan)
    assert small.count_params() == plan.params
    kernel = ops.convert_to_numpy(small.get_layer("dense").kernel)
    wanted = ops.convert_to_numpy(model.get_layer("dense").kernel)
    error = np.linalg.norm(kernel - wanted) / np.linalg.norm(wanted)
    assert error == pytest.approx(plan["dense"].error, rel=1e-3)
    asked = plan_compression(
        model, format="ttm", share=0.5, overrides={"dense": {"format": "ttm", "share": 0.5}}
    )
    assert asked["dense"].format == "ttm"  # who names a format for a layer gets it


def test_trials_of_a_cut_take_one_factorisation(monkeypatch):
    model = dense_and_conv()
    subject = Subject(find_targets(model)[2])
    truncation, calls = subject.truncation(), []
    exact = cuts.singular_values
    monkeypatch.setattr(
        "keras_tensornet.compression.choosing.subjects.singular_values",
        lambda *arguments: calls.append(1) or exact(*arguments),
    )
    options = budgets.options_of(subject, [truncation.form], "params", 1)
    assert len(options) > 5 and len(calls) == 1
