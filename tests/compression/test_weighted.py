"""Laws of decompositions by output error, and of the patch moments that weigh them."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_tensornet import formats
from keras_tensornet.compression import weighted
from keras_tensornet.compression.calibration import absorbs_mean, calibrate, output_scale
from keras_tensornet.compression.covariance import patch_moments
from keras_tensornet.compression.kinds import find_targets
from keras_tensornet.compression.normalisation import reestimate_batch_norm
from keras_tensornet.compression.patches import Geometry
from keras_tensornet.compression.weighted import (
    Metric,
    refine,
    weighted_decomposition,
    weighted_error,
)
from keras_tensornet.kernels import decompose_kernel
from keras_tensornet.modes import KernelModes, kernel_modes
from tests import references

RANDOM = np.random.default_rng(0)
CASES = {
    "tt": (kernel_modes(6, 8, 1, 1, ((3,), (2,))), (4, 6, 4)),
    "tr": (kernel_modes(6, 8, 1, 1, ((3, 2),)), 3),
    "ttm": (kernel_modes(6, 8, (2, 3), (4, 2), ((3, 2),)), 4),
    "cp": (kernel_modes(6, 8, 1, 1, ((3,), (2,))), 6),
    "tucker": (kernel_modes(6, 8, 1, 1, ((3, 2),)), (3, 4)),
    "bt": (kernel_modes(6, 8, 1, 1, ((3, 2),)), (2, 2)),
    "ht": (kernel_modes(6, 8, 1, 1, ((3, 2),)), 3),
    "padded": (KernelModes(7, 11, (2, 4), (3, 4)), 2),
    "groups": (kernel_modes(3, 4, 1, 1, ((3,), (2,)), groups=2), 2),
}


def problem(name):
    """A kernel, a network for it, and a metric with a few strong directions."""
    modes, rank = CASES[name]
    format = {"padded": "tr", "groups": "tt"}.get(name, name)
    network = formats.get(format).build(modes, rank)
    kernel = RANDOM.standard_normal(modes.kernel_shape)
    size = int(np.prod(modes.kernel_size)) * modes.in_size
    root = RANDOM.standard_normal((modes.groups, size, size)) * np.geomspace(1, 0.05, size)
    return kernel, network, modes, Metric.regularised(root @ root.transpose(0, 2, 1))


@pytest.mark.parametrize("name", CASES)
def test_output_error_falls_from_plain_to_whitened_to_refined(name):
    kernel, network, modes, metric = problem(name)
    plain = decompose_kernel(kernel, network, modes)
    whitened = weighted_decomposition(kernel, network, modes, metric, quick=True)
    refined = weighted_decomposition(kernel, network, modes, metric)
    from_plain = refine(kernel, network, modes, metric, plain)
    errors = [
        weighted_error(kernel, network, modes, metric, cores)
        for cores in (plain, whitened, refined, from_plain)
    ]
    assert errors[2] <= errors[1] * (1 + 1e-9) and errors[3] <= errors[0] * (1 + 1e-9)
    assert errors[2] < 0.97 * errors[0]
    assert [core.shape for core in refined] == list(network.core_shapes)


@pytest.mark.parametrize("name", CASES)
def test_a_second_decomposition_takes_the_roots_of_the_first(name, monkeypatch):
    """A budget tries many ranks, and a root of wide patches takes seconds."""
    kernel, network, modes, metric = problem(name)
    first = weighted_decomposition(kernel, network, modes, metric, quick=True)
    monkeypatch.setattr(weighted, "_root", None)
    again = weighted_decomposition(kernel, network, modes, metric, quick=True)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_weighted_matrix_is_the_optimum_of_the_generalised_svd():
    modes = kernel_modes(7, 5, 1, 1)
    network = formats.get("tt").build(modes, 2)
    kernel = RANDOM.standard_normal((7, 5))
    root = RANDOM.standard_normal((7, 7)) * np.geomspace(1, 0.1, 7)
    metric = Metric((root @ root.T)[None])
    cores = weighted_decomposition(kernel, network, modes, metric)
    values = np.linalg.svd(root.T @ kernel, compute_uv=False)
    best = np.sqrt(np.sum(values[2:] ** 2) / np.sum(values**2))
    assert weighted_error(kernel, network, modes, metric, cores) == pytest.approx(best, rel=1e-4)


def test_scaled_outputs_count_by_the_square_of_their_scale():
    x, scale = RANDOM.standard_normal((50, 7)), np.array([0.1, 3.0, 1.0, 0.5, 7.0])
    modes = kernel_modes(7, 5, 1, 1)
    network = formats.get("tt").build(modes, 2)
    kernel = RANDOM.standard_normal((7, 5))
    metric = Metric.regularised((x.T @ x / len(x))[None], scale, ridge=0.0)
    cores = weighted_decomposition(kernel, network, modes, metric)
    lost = x @ (kernel - np.einsum("aib,bjc->ij", *cores)) * scale
    share = np.linalg.norm(lost) / np.linalg.norm(x @ kernel * scale)
    assert weighted_error(kernel, network, modes, metric, cores) == pytest.approx(share)
    # Truncated SVD of what the outputs are on the data: nothing of that rank loses less.
    values = np.linalg.svd(x @ kernel * scale, compute_uv=False)
    best = np.sqrt(np.sum(values[2:] ** 2) / np.sum(values**2))
    assert share == pytest.approx(best, rel=1e-4)  # least squares end at 1e-5


def test_identity_metric_gives_the_plain_error():
    kernel, network, modes, _ = problem("tt")
    metric = Metric(np.eye(36)[None])
    plain = decompose_kernel(kernel, network, modes)
    merged = np.einsum("aib,bxc,cyd,doe->xyio", *plain)
    expected = np.linalg.norm(merged - kernel) / np.linalg.norm(kernel)
    assert weighted_error(kernel, network, modes, metric, plain) == pytest.approx(expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": (3, 2), "strides": 2, "padding": "same"},
        {"kernel_size": 3, "dilation_rate": (2, 1)},
        {"kernel_size": 2, "groups": 2, "strides": (2, 1)},
    ],
    ids=str,
)
def test_moments_are_those_of_the_patches_that_the_layer_multiplies(arguments):
    x = RANDOM.standard_normal((5, 7, 6, 4)).astype("float32")
    layer = layers.Conv2D(6, use_bias=False, name="conv", **arguments)
    model = keras.Sequential([layers.Input((7, 6, 4)), layer])
    gram, mean = patch_moments(model, ["conv"], x, batch_size=2)["conv"]
    outputs = references.conv(
        x,
        keras.ops.convert_to_numpy(layer.kernel),
        None,
        strides=layer.strides,
        padding=layer.padding,
        dilation=layer.dilation_rate,
        groups=layer.groups,
    )
    kernel = keras.ops.convert_to_numpy(layer.kernel).reshape(-1, layer.groups, 6 // layer.groups)
    # E[y] = E[x]^T W and E[y^2] = diag(W^T E[x x^T] W), group by group
    means = np.einsum("gp,pgo->go", mean, kernel).ravel()
    squares = np.einsum("pgo,gpq,qgo->go", kernel, gram, kernel).ravel()
    np.testing.assert_allclose(means, outputs.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(squares, (outputs**2).mean((0, 1, 2)), rtol=1e-4)


def test_dense_and_causal_patches():
    x = RANDOM.standard_normal((4, 6, 3)).astype("float32")
    model = keras.Sequential(
        [layers.Input((6, 3)), layers.Conv1D(2, 3, padding="causal", dilation_rate=2, name="c")]
    )
    gram, _ = patch_moments(model, ["c"], x)["c"]
    padded = np.pad(x, ((0, 0), (4, 0), (0, 0)))
    patches = np.stack([padded[:, t : t + 5 : 2].reshape(4, 9) for t in range(6)], 1)
    expected = np.einsum("btp,btq->pq", patches, patches) / 24
    np.testing.assert_allclose(gram[0], expected, rtol=1e-4, atol=1e-6)
    assert Geometry(model.layers[0]).patch == 9


def test_means_count_where_nothing_absorbs_them():
    inputs = layers.Input((3, 4))
    x = layers.Dense(5, use_bias=False, name="normed")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Dense(5, use_bias=False, name="bare")(x)
    x = layers.TimeDistributed(layers.Dense(3, name="inner"), name="time_distributed")(x)
    model = keras.Model(inputs, x)
    known = calibrate(model, RANDOM.standard_normal((8, 3, 4))).known
    assert set(known) == {"normed", "bare", "time_distributed/inner"}
    assert known["normed"][1] is not None and known["bare"][1] is None
    norm = model.layers[2]
    norm.gamma.assign([2.0, 2.0, 2.0, 2.0, -1.0])
    norm.moving_variance.assign([4.0, 1.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(
        output_scale(model.get_layer("normed"), 5), [1, 2, 2, 2, 1], rtol=1e-3
    )
    assert output_scale(model.get_layer("bare"), 5) is None
    assert known["time_distributed/inner"][1] is not None
    bare = next(target for target in find_targets(model) if target.path == "bare")
    assert not absorbs_mean(bare, 5)


def test_reestimated_statistics_are_those_of_the_data_and_the_model_is_not_touched():
    inputs = layers.Input((4,))
    x = layers.Dropout(0.5)(layers.Dense(6)(inputs))
    first = layers.BatchNormalization(name="first")
    second = layers.BatchNormalization(name="second")
    frozen = layers.BatchNormalization(name="frozen", trainable=False)
    middle = first(x)
    model = keras.Model(inputs, frozen(second(layers.Dense(3)(middle))))
    data = RANDOM.standard_normal((30, 4)).astype("float32")
    before = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    result = reestimate_batch_norm(model, data, batch_size=30)
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), old)
    seen = keras.ops.convert_to_numpy(model.layers[1](data))
    norm = result.get_layer("first")
    np.testing.assert_allclose(norm.moving_mean, seen.mean(0), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, seen.var(0), rtol=1e-4)
    np.testing.assert_array_equal(result.get_layer("frozen").moving_mean, np.zeros(3))
    assert norm.momentum == first.momentum
    parts = reestimate_batch_norm(model, data, batch_size=20).get_layer("first")
    np.testing.assert_allclose(parts.moving_mean, seen.mean(0), atol=1e-5)


def test_statistics_follow_what_has_changed_and_nothing_else():
    """Few examples are not those that the moving averages are of: only differences are taken."""
    inputs = layers.Input((4,))
    norm = layers.BatchNormalization(name="norm")
    model = keras.Model(inputs, norm(layers.Dense(6, name="dense")(inputs)))
    norm.moving_mean.assign(RANDOM.standard_normal(6))
    norm.moving_variance.assign(RANDOM.uniform(0.5, 2.0, 6))
    data = RANDOM.standard_normal((30, 4)).astype("float32")
    same = reestimate_batch_norm(model, data, dense=model).get_layer("norm")
    np.testing.assert_allclose(same.moving_mean, norm.moving_mean, atol=1e-5)
    np.testing.assert_allclose(same.moving_variance, norm.moving_variance, rtol=1e-5)
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    dense = other.get_layer("dense")
    dense.bias.assign(dense.bias + 3.0)
    found = reestimate_batch_norm(other, data, dense=model).get_layer("norm")
    np.testing.assert_allclose(found.moving_mean, norm.moving_mean + 3.0, atol=1e-5)
    np.testing.assert_allclose(found.moving_variance, norm.moving_variance, rtol=1e-4)
    dense.kernel.assign(2.0 * dense.kernel)
    found = reestimate_batch_norm(other, data, dense=model).get_layer("norm")
    np.testing.assert_allclose(found.moving_variance, 4.0 * norm.moving_variance, rtol=0.02)
