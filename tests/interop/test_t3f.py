"""t3f: conversion changes nothing, and t3f's own full, round and project agree with ours."""

import builtins

import keras
import numpy as np
import pytest

from keras_tensornet.decompositions import tt_round
from keras_tensornet.interop import from_t3f, to_t3f
from keras_tensornet.layers import (
    FactorizedDense,
    TRDense,
    TTConv2D,
    TTDense,
    TTMConv2D,
)

t3f = pytest.importorskip("t3f", reason='t3f is not installed: pip install "keras-tensornet[t3f]"')

# Sums of a few dozen float32 products, taken in another order.
TOLERANCE = 2e-6


def built(layer, *input_shape):
    keras.utils.set_random_seed(7)
    layer.build((None, *input_shape))
    return layer


# name -> a layer with unequal modes, and how t3f's full tensor becomes its dense kernel
LAYERS = {
    "tt-dense": lambda: built(
        FactorizedDense(6, rank=(2, 3, 2), format="tt", in_modes=(2, 5), out_modes=(3, 2)), 10
    ),
    "ttm-dense": lambda: built(TTDense(30, rank=3, in_modes=(2, 3, 4), out_modes=(5, 2, 3)), 24),
    "ttm-dense-more-inputs": lambda: built(
        TTDense(6, rank=2, in_modes=(2, 3, 2), out_modes=(3, 2)), 12
    ),
    "tt-conv": lambda: built(TTConv2D(5, (3, 2), rank=(2, 4, 3)), 8, 8, 4),
    "ttm-conv": lambda: built(TTMConv2D(6, 3, rank=3, in_modes=(2, 2), out_modes=(3, 2)), 8, 8, 4),
    "ttm-conv-groups": lambda: built(
        TTMConv2D(12, 3, rank=3, in_modes=(2, 2), out_modes=(3, 2), groups=2), 8, 8, 8
    ),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param]()


def dense_kernel(layer, full):
    """t3f's full tensor in Keras layout."""
    full = np.asarray(full)
    kernel = np.asarray(layer.kernel)
    if isinstance(layer, TTConv2D):
        full = full.transpose(1, 2, 0, 3)  # (C, D, D, T) -> (D, D, C, T)
    return full.reshape(kernel.shape)


def relative(one, other):
    return np.linalg.norm(np.asarray(one) - np.asarray(other)) / np.linalg.norm(np.asarray(other))


def test_full_is_the_merged_kernel(layer):
    full = dense_kernel(layer, t3f.full(to_t3f(layer)))
    assert relative(full, layer.kernel) < TOLERANCE


def test_norm_from_cores_is_that_of_t3f(layer):
    expected = float(t3f.frobenius_norm_squared(to_t3f(layer)))
    assert float(layer._kernel.squared_norm()) == pytest.approx(expected, rel=1e-5)


def test_there_and_back_changes_no_bit(layer):
    layer.bias.assign(np.arange(layer.bias.shape[0]))
    again = from_t3f(to_t3f(layer), like=layer, name="again")
    assert type(again) is type(layer)
    assert again.name == "again"
    assert [variable.shape for variable in again.cores] == [v.shape for v in layer.cores]
    for one, other in zip(again.weights, layer.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_conversion_is_a_copy(layer):
    before = np.asarray(t3f.full(to_t3f(layer)))
    train = to_t3f(layer)
    layer.cores[0].assign(np.zeros(layer.cores[0].shape))
    np.testing.assert_array_equal(np.asarray(t3f.full(train)), before)


def test_our_rounding_is_that_of_t3f(layer):
    train = to_t3f(layer)
    ours = tt_round([np.asarray(core) for core in train.tt_cores], ranks=2)
    theirs = t3f.round(train, max_tt_rank=2)
    assert theirs.get_tt_ranks().as_list() == [1, *(core.shape[-1] for core in ours)]
    # both sweep right with QR and left with SVD, so that they cut the same singular values
    full = t3f.full(t3f.TensorTrain(ours))
    assert relative(full, t3f.full(theirs)) < 1e-5


def test_rounded_layer_computes_with_the_rounded_kernel():
    layer = LAYERS["ttm-dense"]()
    rounded = t3f.round(to_t3f(layer), max_tt_rank=2)
    small = from_t3f(rounded, like=layer, activation="relu")
    assert small.rank == (2, 2)
    x = np.random.default_rng(0).normal(size=(4, 24)).astype("float32")
    expected = np.maximum(x @ np.asarray(t3f.full(rounded)), 0.0)
    np.testing.assert_allclose(np.asarray(small(x)), expected, rtol=1e-4, atol=1e-5)
    assert layer.network.rank == (1, 3, 3, 1)  # `like` is left as it was


def test_projection_on_the_tangent_space(layer):
    """Riemannian tools see the layer: X is in its own tangent space, and projection is one."""
    where = to_t3f(layer)
    assert relative(t3f.full(t3f.project(where, where)), t3f.full(where)) < 1e-5
    other = t3f.TensorTrain(
        [np.random.default_rng(1).normal(size=core.shape).astype("f4") for core in where.tt_cores]
    )
    once = t3f.project(other, where)
    assert relative(t3f.full(t3f.project(once, where)), t3f.full(once)) < 1e-4
    # <P(G), X> = <G, X>, because the residual G - P(G) is orthogonal to the tangent space
    expected = np.vdot(np.asarray(t3f.full(other)), np.asarray(t3f.full(where)))
    found = np.vdot(np.asarray(t3f.full(once)), np.asarray(t3f.full(where)))
    scale = np.linalg.norm(t3f.full(other)) * np.linalg.norm(t3f.full(where))
    assert abs(found - expected) < 1e-5 * scale


def test_matrix_without_like_becomes_a_dense_layer():
    matrix = np.random.default_rng(2).normal(size=(12, 10)).astype("float32")
    train = t3f.to_tt_matrix(matrix, shape=((3, 4), (2, 5)), max_tt_rank=6)
    layer = from_t3f(train, use_bias=False)
    assert isinstance(layer, TTDense)
    assert (layer.modes.in_modes, layer.modes.out_modes) == ((3, 4), (2, 5))
    x = np.eye(12, dtype="float32")
    np.testing.assert_allclose(np.asarray(layer(x)), matrix, atol=1e-5)


def test_ranks_above_what_the_modes_allow_come_down_without_loss():
    cores = [
        np.random.default_rng(k).normal(size=s) for k, s in enumerate([(1, 2, 2, 9), (9, 2, 3, 1)])
    ]
    train = t3f.TensorTrain([core.astype("float32") for core in cores])
    with pytest.warns(UserWarning, match="rank"):
        layer = from_t3f(train)
    assert tuple(layer.network.rank) == (1, 4, 1)
    assert relative(layer.kernel, t3f.full(train)) < 1e-5


def test_a_train_of_one_core():
    train = t3f.TensorTrain([np.arange(6, dtype="float32").reshape(1, 2, 3, 1)])
    np.testing.assert_array_equal(np.asarray(from_t3f(train).kernel), np.arange(6).reshape(2, 3))


def test_a_ring_is_refused():
    ring = built(TRDense(6, rank=2), 8)
    with pytest.raises(ValueError, match="open chain of cores, format 'tt' or 'ttm'"):
        to_t3f(ring)


def test_what_is_no_train_is_refused():
    with pytest.raises(TypeError, match=r"must be one t3f\.TensorTrain\. Received: ndarray"):
        from_t3f(np.eye(3))


def test_a_plain_train_needs_like():
    train = to_t3f(LAYERS["tt-conv"]())
    with pytest.raises(ValueError, match="does not say which of its axes are inputs"):
        from_t3f(train)


def test_other_modes_than_those_of_like_are_refused():
    layer = LAYERS["tt-conv"]()
    wrong = t3f.to_tt_tensor(np.ones((4, 3, 3, 5), "float32"), max_tt_rank=2)
    with pytest.raises(ValueError, match="modes of `tt` must be those of `like`"):
        from_t3f(wrong, like=layer)


def test_without_t3f_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def importing(name, *args, **options):
        if name == "t3f":
            raise ImportError("No module named 't3f'")
        return original(name, *args, **options)

    layer = LAYERS["ttm-dense"]()
    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(ImportError, match=r'pip install "keras-tensornet\[t3f\]"'):
        to_t3f(layer)
