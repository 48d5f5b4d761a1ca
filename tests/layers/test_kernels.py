"""Initializers, regularizers and constraints keep the meaning they have for a dense kernel."""

import math

import keras
import numpy as np
import pytest
from keras import constraints, initializers, ops, regularizers

from keras_tensornet.contraction.norms import norm_plan
from keras_tensornet.initializers import MergedVarianceScaling, core_initializers
from tests import formats_table as table
from tests.layers.support import array, predictions, slow_kernel
from tests.references import merge_labels, relative_error

pytestmark = pytest.mark.filterwarnings("ignore:Some ranks")

DRAWS = 20_000
# Entries of the kernel are products of up to six normal cores: heavy tails, hence the draws.
VARIANCE_TOLERANCE = 0.05
ZERO_MEAN = {
    "size": (MergedVarianceScaling(seed=1), lambda shape: 2 / math.prod(shape)),
    "fan_in": (
        MergedVarianceScaling(1.0, "fan_in", "uniform", seed=1),
        lambda shape: 1 / math.prod(shape[:-1]),
    ),
    "fan_out": (
        MergedVarianceScaling(1.0, "fan_out", "truncated_normal", seed=1),
        lambda shape: 1 / (math.prod(shape[:-2]) * shape[-1]),
    ),
    "fan_avg": (
        MergedVarianceScaling(1.0, "fan_avg", seed=1),
        lambda shape: 2 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])),
    ),
    "glorot_uniform": (
        initializers.GlorotUniform(seed=1),
        lambda shape: 2 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])),
    ),
    "he_normal": (initializers.HeNormal(seed=1), lambda shape: 2 / math.prod(shape[:-1])),
    "lecun_uniform": (initializers.LecunUniform(seed=1), lambda shape: 1 / math.prod(shape[:-1])),
    "random_normal": (initializers.RandomNormal(stddev=0.3, seed=1), lambda shape: 0.09),
    "random_uniform": (initializers.RandomUniform(-0.3, 0.3, seed=1), lambda shape: 0.03),
    "truncated_normal": (
        initializers.TruncatedNormal(stddev=0.3, seed=1),
        lambda shape: (0.3 * 0.87962566103423978) ** 2,
    ),
}


def largest_entry(kernel):
    """A regularizer that is a plain function, known to nobody by name."""
    return 0.1 * ops.max(ops.abs(kernel))


def sampled_variance(network, initializer, kernel_shape) -> float:
    """The mean square of merged kernels, drawn many at a time by the samplers of the cores."""
    samplers = core_initializers(initializer, network, kernel_shape)
    cores = [
        array(sampler((DRAWS, *shape), dtype="float32"))
        for sampler, shape in zip(samplers, network.core_shapes, strict=True)
    ]
    labels = [("draw", *core) for core in network.cores]
    kernels = merge_labels(cores, labels, ("draw", *network.kernel_labels))
    return float(np.mean(kernels**2))


@pytest.mark.parametrize("row", table.rows("variance"))
def test_the_merged_kernel_has_the_variance_aimed_at(row):
    layer = row.built()
    shape = layer.modes.kernel_shape
    initializer, target = ZERO_MEAN["size"]
    ratio = sampled_variance(layer.network, initializer, shape) / target(shape)
    assert ratio == pytest.approx(1.0, abs=VARIANCE_TOLERANCE)


@pytest.mark.parametrize("name", ZERO_MEAN)
def test_zero_mean_initializers_keep_their_variance(name):
    row = table.ROWS[0]
    initializer, target = ZERO_MEAN[name]
    layer = row.built(kernel_initializer=initializer)
    shape = layer.modes.kernel_shape
    ratio = sampled_variance(layer.network, initializer, shape) / target(shape)
    assert ratio == pytest.approx(1.0, abs=VARIANCE_TOLERANCE)
    drawn = array(layer.cores[0])  # the layer draws by the same samplers
    again = core_initializers(initializer, layer.network, shape)[0](drawn.shape, dtype="float32")
    np.testing.assert_array_equal(drawn, array(again))


@pytest.mark.parametrize("row", table.rows("initializers"))
def test_initializers_that_fix_the_kernel_are_met_exactly(row):
    shape = row.built().modes.kernel_shape
    np.testing.assert_array_equal(array(row.built(kernel_initializer="zeros").kernel), 0.0)
    for initializer in (initializers.Constant(0.7), initializers.Ones()):
        kernel = array(row.built(kernel_initializer=initializer).kernel)
        assert relative_error(kernel, np.full(shape, array(initializer((1,)))[0])) < 1e-5


@pytest.mark.parametrize("row", table.rows("initializers"))
def test_drawn_kernels_are_met_at_full_rank(row):
    drawn = [initializers.Orthogonal(seed=3)]
    if row is table.ROWS[0]:
        drawn += [
            initializers.RandomNormal(mean=1.0, seed=3),
            initializers.RandomUniform(0.0, 1.0, seed=3),
            lambda shape, dtype=None: ops.ones(shape, dtype) * 2.0,
        ]
    for initializer in drawn:
        layer = row.built(rank=row.full_rank, kernel_initializer=initializer)
        wanted = array(initializer(layer.modes.kernel_shape, dtype="float32"))
        assert relative_error(array(layer.kernel), wanted) < 1e-5


@pytest.mark.parametrize("row", table.rows("initializers"))
def test_seeds_reproduce(row):
    def draw(**seeded):
        return slow_kernel(row.built(**seeded))

    seed = {"kernel_initializer": MergedVarianceScaling(seed=5)}
    np.testing.assert_array_equal(draw(**seed), draw(**seed))
    other = {"kernel_initializer": MergedVarianceScaling(seed=6)}
    assert not np.array_equal(draw(**seed), draw(**other))
    keras.utils.set_random_seed(3)
    first, second = draw(), draw()
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(draw(), first)
    assert not np.array_equal(first, second)
    keras.utils.set_random_seed(3)
    glorot = draw(kernel_initializer="glorot_uniform")
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(draw(kernel_initializer="glorot_uniform"), glorot)


def test_cores_of_equal_shape_are_drawn_differently():
    layer = table.ROWS[0].make(in_modes=(3, 3), out_modes=(3, 3), units=9)
    layer.kernel_initializer = MergedVarianceScaling(seed=0)
    layer.build((None, 9))
    cores = [array(core) for core in layer.cores]
    assert not any(np.array_equal(cores[0], core) for core in cores[1:])


def test_one_seed_generator_serves_many_cores_and_layers():
    generator = keras.random.SeedGenerator(4)
    initializer = MergedVarianceScaling(seed=generator)
    row = table.ROWS[0]
    first, second = (row.built(kernel_initializer=initializer) for _ in range(2))
    assert not np.array_equal(array(first.cores[0]), array(second.cores[0]))


@pytest.mark.parametrize("row", table.rows("penalty"))
@pytest.mark.parametrize(
    "regularizer",
    [
        regularizers.L1(0.1),
        regularizers.L2(0.1),
        regularizers.L1L2(0.1, 0.2),
        regularizers.L1L2(l2=0.2),
        largest_entry,
    ],
    ids=["l1", "l2", "l1_l2", "l2_only", "function"],
)
def test_a_regularizer_sees_the_merged_kernel(row, regularizer):
    layer = row.built(kernel_regularizer=regularizer, bias_regularizer="l2")
    dense = layer.to_dense_layer()
    found, wanted = (float(sum(each.losses)) for each in (layer, dense))
    assert wanted > 0
    assert found == pytest.approx(wanted, rel=1e-5)
    layer.trainable = False
    assert not layer.losses


@pytest.mark.parametrize("row", table.rows("penalty"))
def test_the_norm_is_computed_from_the_cores_where_that_is_cheaper(row):
    case = row.plain
    size = {key: 256 for key in ("units", "filters") if key in case.arguments}
    shape = tuple(256 if extent == case.input_shape[-1] else extent for extent in case.input_shape)
    layer = row.make(**size, in_modes=4, out_modes=4, kernel_regularizer=regularizers.L2(0.5))
    layer.build((None, *shape))
    assert norm_plan(layer.network).grams, "the kernel is built"
    wanted = 0.5 * np.sum(array(layer.kernel).astype("float64") ** 2)
    assert float(sum(layer.losses)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("row", table.rows("constraint"))
@pytest.mark.parametrize(
    "constraint",
    [
        constraints.NonNeg(),
        constraints.MaxNorm(0.5),
        constraints.UnitNorm(),
        constraints.MinMaxNorm(0.2, 0.4),
    ],
    ids=lambda constraint: type(constraint).__name__,
)
def test_a_constraint_holds_for_the_merged_kernel(row, constraint):
    layer = row.built(kernel_constraint=constraint)
    plain = row.built()
    for core, other in zip(layer.cores, plain.cores, strict=True):
        core.assign(other.value)
    wanted = array(constraint(ops.convert_to_tensor(plain.kernel)))
    assert relative_error(array(layer.kernel), wanted) < 1e-5
    assert layer.plan.implementation == "reconstructed"
    inputs = row.inputs()
    bias = None if layer.bias is None else array(layer.bias)
    outputs = row.operation.reference(layer, inputs, array(layer.kernel), bias)
    assert relative_error(predictions(layer, inputs), outputs) < 1e-5
    assert type(layer.to_dense_layer().kernel_constraint) is type(constraint)
