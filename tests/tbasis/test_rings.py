"""Envelopes, cores from the basis, and initialisation."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_tensornet.initializers import MergedVarianceScaling
from keras_tensornet.layers import TBasis, TBasisConv2D, TBasisCores, TBasisDense
from keras_tensornet.layers.tbasis.envelopes import envelope
from tests.tbasis import references

array = ops.convert_to_numpy

KERNELS = [  # shape, mode, cores
    ((3, 3, 16, 16), 9, 4),
    ((3, 3, 16, 32), 9, 5),
    ((3, 3, 64, 64), 9, 5),
    ((64, 10), 9, 4),  # no spatial core
    ((1, 1, 5, 4), 9, 2),  # nor for a 1x1 convolution
    ((5, 5, 20, 50), 25, 4),
    ((1250, 320), 25, 5),
    ((3, 3, 1, 1), 9, 2),
    ((2, 3), 9, 1),  # a ring of one core: its trace
    ((1, 1), 9, 1),
    ((2, 3, 4, 5), 9, 3),  # 2x3 positions in a 3x3 grid
    ((1, 4, 2, 2), 9, 2),  # 1x4 positions do not fit into the grid but into the mode
]


@pytest.mark.parametrize("shape, mode, num_cores", KERNELS)
def test_the_number_of_cores_is_that_of_eq_10(shape, mode, num_cores):
    assert envelope(shape, mode, 2).num_cores == num_cores


@pytest.mark.parametrize(
    "shape, mode", [(shape, mode) for shape, mode, _ in KERNELS if math.prod(shape) < 10_000]
)
@pytest.mark.parametrize("adapters", ("exp", "linear", "none"))
def test_merged_kernels_are_the_papers_sum(shape, mode, adapters):
    generator = np.random.default_rng(0)
    basis = generator.normal(size=(3, 2, mode, 2)).astype("float32")
    layer = TBasisCores([shape, (2, 2)], adapters, seed=0)
    layer.build(basis.shape)
    rho = None
    if adapters != "none":
        layer.adapters.assign(generator.normal(size=layer.adapters.shape))
        rho = array(layer.adapters)
        rho = np.exp(rho) if adapters == "exp" else rho
    cores = references.ring_cores(basis, array(layer.coefficients), rho)[:-1]
    wanted = references.kernel(cores, shape, math.isqrt(mode))
    # float32 sums of R^d products, against float64
    np.testing.assert_allclose(array(layer.kernels(basis)[0]), wanted, rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(2, 3), st.integers(1, 3), st.booleans())
def test_any_channels_merge_to_the_papers_sum(in_size, out_size, base, rank, spatial):
    shape = (2, 2, in_size, out_size) if spatial else (in_size, out_size)
    ring = envelope(shape, base * base, rank)
    cores = np.random.default_rng(0).normal(size=(ring.num_cores, rank, base * base, rank))
    from keras_tensornet.layers.tbasis.cores import merge_ring

    found = merge_ring(ring, ring.cut(cores, np), np)
    np.testing.assert_allclose(found, references.kernel(cores, shape, base), atol=1e-10)


def test_all_cores_come_from_one_product_with_the_basis():
    shapes = [(3, 3, 4, 5), (5, 2)]
    basis = TBasis(3, 2, seed=1)
    basis.build()
    layer = TBasisCores(shapes, seed=2)
    rings = layer(basis(np.zeros((1, 1))))
    assert [tuple(ring.shape) for ring in rings] == [(3, 2, 9, 2), (2, 2, 9, 2)]
    assert [variable.name for variable in layer.trainable_variables] == [
        "tbasis_coefficients",
        "tbasis_adapters",
    ]
    assert tuple(layer.coefficients.shape) == (5, 3)
    wanted = references.ring_cores(array(basis.basis), array(layer.coefficients), np.ones((5, 2)))
    np.testing.assert_allclose(np.concatenate([array(ring) for ring in rings]), wanted, atol=1e-5)


@pytest.mark.parametrize("size, rank", ((1, 1), (2, 8), (16, 4)))
@pytest.mark.parametrize("initializer", (None, "glorot_uniform", MergedVarianceScaling(1.0)))
def test_merged_variance_meets_its_target_for_all_widths(size, rank, initializer):
    shapes = [(3, 3, 8, 8), (3, 3, 16, 32), (3, 3, 90, 60), (1, 1, 30, 10), (100, 10)]
    basis = TBasis(size, rank, seed=0)
    basis.build()
    layer = TBasisCores(shapes, kernel_initializer=initializer, seed=1)
    layer(basis(np.zeros(1)))
    for shape, kernel in zip(shapes, layer.kernels(basis.basis), strict=True):
        fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape) // shape[-2]
        target = {
            None: 2 / fan_in,  # He et al. 2015
            "glorot_uniform": 2 / (fan_in + fan_out),
        }.get(initializer if isinstance(initializer, str) else None, 2 / fan_in)
        if isinstance(initializer, MergedVarianceScaling):
            target = 1 / math.prod(shape)
        assert abs(np.var(array(kernel)) / target - 1) < 0.02


def test_the_variance_is_right_before_the_correction_on_average():
    # sigma_B^2 = 1 / (B R), sigma_alpha^2 = sigma^(2 / d), eq. (11) to (13)
    shape, ratios = (3, 3, 9, 9), []
    for seed in range(200):
        basis = TBasis(8, 4, seed=seed)
        basis.build()
        layer = TBasisCores([shape], seed=seed + 1000)
        layer.build((8, 4, 9, 4))  # without values: no second step
        kernel = array(layer.kernels(basis.basis)[0])
        ratios.append(np.mean(np.square(kernel)) * 81 / 2)
    # the mean of 200 heavy-tailed ratios; their own spread is about 1
    assert abs(np.mean(ratios) - 1) < 0.25


@pytest.mark.parametrize("kind", (TBasisDense, TBasisConv2D))
def test_layers_correct_their_variance_when_they_are_built(kind):
    arguments, shape = ((20,), (30,)) if kind is TBasisDense else ((20, 3), (8, 8, 12))
    basis, layer = TBasis(4, 3, seed=0), kind(*arguments, seed=1)
    inputs = keras.Input(shape)
    layer(inputs, basis=basis(inputs))
    variance = np.var(array(layer.merge_kernel(basis.basis)))
    assert abs(variance * math.prod(layer.kernel_shape[:-1]) / 2 - 1) < 0.02


def test_the_basis_has_variance_one_over_size_times_rank():
    basis = TBasis(16, 16, seed=0)
    basis.build()
    assert abs(np.var(array(basis.basis)) * 16 * 16 - 1) < 0.02


def test_a_seed_is_a_basis():
    values = []
    for seed in (3, 3, 4):
        layer = TBasis(2, 2, seed=seed, trainable=False)
        layer.build()
        assert not layer.trainable_variables
        values.append(array(layer.basis))
    np.testing.assert_array_equal(values[0], values[1])
    assert np.any(values[0] != values[2])
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        layer = TBasis(2, 2)
        layer.build()
        drawn.append(array(layer.basis))
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize(
    "make, error, words",
    (
        (lambda: TBasis(0, 2), ValueError, "`size` must be at least 1"),
        (lambda: TBasis(2, 2.0), TypeError, "`rank` must be an integer"),
        (lambda: TBasis(2, 2, mode=8), ValueError, "must be a square n .* mode=8. Use 9"),
        (lambda: TBasis(2, 2, mode=1), ValueError, "n of at least 2"),
        (lambda: TBasis(2, 2, seed="a"), TypeError, "`seed` must be a non-negative integer"),
        (lambda: TBasisCores([]), ValueError, "at least one kernel"),
        (lambda: TBasisCores([(3,)]), ValueError, "at least input and output channels"),
        (lambda: TBasisCores([(3, 3)], "tanh"), ValueError, "'exp', 'linear', 'none'"),
        (lambda: TBasisCores([(3, 3)], kernel_initializer="ones"), ValueError, "mean zero"),
        (lambda: TBasisDense(3, kernel_initializer="zeros"), ValueError, "mean zero"),
        (lambda: TBasisDense(3, adapters="abs"), ValueError, "one of 'exp', 'linear', 'none'"),
    ),
)
def test_bad_arguments_say_what_is_wrong(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_basis_larger_than_its_space_warns():
    with pytest.warns(UserWarning, match=r"more than mode \* rank\^2 = 36 .*size=37"):
        TBasis(37, 2)


def test_a_mode_smaller_than_the_kernel_is_refused():
    inputs = keras.Input((8, 8, 3))
    basis = TBasis(2, 2)(inputs)
    with pytest.raises(ValueError, match=r"5 x 5 kernel with 25 positions and mode=9\. Use"):
        TBasisConv2D(4, 5)(inputs, basis=basis)
