"""Dense layers become factorized ones and come back, with every setting."""

import keras
import numpy as np
import pytest

from keras_tensornet import Network
from keras_tensornet import layers as tensor_layers
from tests import formats_table as table
from tests.layers.support import TOLERANCE, array, predictions, slow_kernel
from tests.references import relative_error

pytestmark = pytest.mark.filterwarnings("ignore:Some ranks")

# Arguments of factorized layers that their dense twins do not know.
FACTORIZED_ONLY = ("in_modes", "out_modes", "spatial", "format", "rank")
SETTINGS = {
    "activation": "tanh",
    "kernel_regularizer": keras.regularizers.L2(0.01),
    "bias_constraint": keras.constraints.MaxNorm(3.0),
    "name": "mine",
}


def dense_twin(row, case, **settings):
    """A built dense layer of a case with random weights, and what the factorized one needs."""
    arguments = {k: v for k, v in case.arguments.items() if k not in FACTORIZED_ONLY}
    own = {**case.arguments, **row.arguments}
    own = {k: v for k, v in own.items() if k in FACTORIZED_ONLY and k != "rank"}
    dense = getattr(keras.layers, row.operation.dense)(**arguments, **settings)
    dense.build((None, *case.input_shape))
    dense.set_weights(
        [table.normal_inputs(weight.shape, 3 + k) for k, weight in enumerate(dense.get_weights())]
    )
    return dense, own


@pytest.mark.parametrize("row", table.rows("full rank"))
def test_full_rank_gives_the_kernel_back(row):
    layer = row.built(rank=row.full_rank)
    kernel = table.normal_inputs(layer.modes.kernel_shape, seed=2)
    assert layer.assign_kernel(kernel) < TOLERANCE
    assert relative_error(slow_kernel(layer), kernel) < TOLERANCE


@pytest.mark.parametrize("row", table.rows("conversion"))
def test_the_error_returned_is_that_of_the_kernel(row):
    layer = row.built()
    kernel = table.normal_inputs(layer.modes.kernel_shape, seed=2)
    returned = layer.assign_kernel(kernel)
    error = np.linalg.norm((slow_kernel(layer) - kernel).ravel()) / np.linalg.norm(kernel.ravel())
    assert returned == pytest.approx(error, rel=1e-4)
    assert 0 < returned < 1
    assert layer.assign_kernel(np.zeros_like(kernel)) == 0.0


@pytest.mark.parametrize("row", table.rows("conversion"))
def test_a_dense_layer_and_back(row):
    for case in row.operation.cases[:1] + row.operation.cases[4:8]:
        if row.why_not("conversion", case):
            continue
        dense, own = dense_twin(row, case, **SETTINGS)
        layer = row.layer_class.from_layer(dense, rank=row.rank, **own)
        inputs = row.inputs(case)
        assert relative_error(array(layer.bias), array(dense.bias)) == 0
        back = layer.to_dense_layer()
        assert type(back) is type(dense)
        wanted = dense.get_config() | {"kernel_initializer": None}
        assert back.get_config() | {"kernel_initializer": None} == wanted
        assert relative_error(predictions(back, inputs), predictions(layer, inputs)) < TOLERANCE
        assert relative_error(array(back.kernel), array(layer.kernel)) == 0


@pytest.mark.parametrize("row", table.rows("full rank"))
def test_cores_of_a_decomposition_are_of_one_size(row):
    layer = row.built()
    layer.assign_kernel(100.0 * array(layer.kernel))
    sizes = [np.sqrt(np.mean(array(core) ** 2)) for core in layer.cores]
    # CP's factors are of one norm, column by column, before all entries are.
    assert max(sizes) < 1.001 * min(sizes)


@pytest.mark.parametrize("row", table.rows("conversion"))
def test_from_layer_at_full_rank_keeps_the_outputs(row):
    dense, own = dense_twin(row, row.plain, **SETTINGS)
    layer = row.layer_class.from_layer(dense, rank=row.full_rank, **own)
    inputs = row.inputs()
    assert relative_error(predictions(layer, inputs), predictions(dense, inputs)) < TOLERANCE


@pytest.mark.parametrize("row", table.rows("conversion"))
def test_thresholds_choose_the_rank(row):
    dense, own = dense_twin(row, row.plain)
    kernel = array(dense.kernel)
    small = row.layer_class.from_layer(dense, energy=0.3, **own)
    large = row.layer_class.from_layer(dense, energy=0.95, **own)
    assert small.network.num_params < large.network.num_params
    near = row.layer_class.from_layer(dense, eps=0.2, **own)
    assert relative_error_norm(near, kernel) <= 0.2
    assert near.rank == near.get_config()["rank"]
    again = row.layer_class.from_config(near.get_config())
    again.build((None, *row.plain.input_shape))
    assert again.network == near.network


def relative_error_norm(layer, kernel) -> float:
    """Error of a layer's kernel in the Frobenius norm."""
    return np.linalg.norm((array(layer.kernel) - kernel).ravel()) / np.linalg.norm(kernel.ravel())


def test_the_source_is_left_as_it_was():
    dense, own = dense_twin(table.ROWS[0], table.ROWS[0].plain, **SETTINGS)
    weights, config = dense.get_weights(), dense.get_config()
    tensor_layers.TRDense.from_layer(dense, rank=2, **own)
    assert dense.get_config() == config
    for found, wanted in zip(dense.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_functions_without_a_name_are_handed_over():
    dense = keras.layers.Dense(
        6, activation=lambda x: x * 2.0, kernel_initializer=lambda s, dtype: 1
    )
    dense.kernel_initializer = keras.initializers.get("zeros")
    dense.build((None, 4))
    layer = tensor_layers.TRDense.from_layer(dense, rank=2)
    assert layer.activation is dense.activation
    assert layer.to_dense_layer().activation is dense.activation


def test_half_precision_kernels_are_decomposed_in_full_precision():
    dense = keras.layers.Dense(6, dtype="float16")
    dense.build((None, 4))
    layer = tensor_layers.TTDense.from_layer(dense, rank=99, dtype="float32")
    assert relative_error(array(layer.kernel), array(dense.kernel)) < TOLERANCE


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({}, r"exactly one of `rank`, `energy` and `eps`. Received: none of them"),
        ({"rank": 2, "energy": 0.5}, r"Received: \{'rank': 2, 'energy': 0.5\}"),
        ({"energy": 0.0}, r"`energy` must lie in \(0, 1\]. Received: energy=0.0"),
        ({"energy": 1.5}, r"`energy` must lie in \(0, 1\]. Received: energy=1.5"),
        ({"rank": 0}, r"`rank` must be at least 1. Received: rank=0"),
    ],
    ids=str,
)
def test_from_layer_refuses_bad_thresholds(arguments, text):
    dense = keras.layers.Dense(6)
    dense.build((None, 4))
    with pytest.raises(ValueError, match=text):
        tensor_layers.TRDense.from_layer(dense, **arguments)


def test_from_layer_refuses_other_layers():
    with pytest.raises(TypeError, match=r"takes a keras.layers.Dense. Received: .*Conv2D"):
        tensor_layers.TRDense.from_layer(keras.layers.Conv2D(3, 2), rank=2)
    with pytest.raises(ValueError, match="Layer 'young' is not built, so it has no kernel"):
        tensor_layers.TRDense.from_layer(keras.layers.Dense(3, name="young"), rank=2)
    with pytest.raises(TypeError, match=r"takes a keras.layers.Conv2D. Received: .*Depthwise"):
        tensor_layers.TRConv2D.from_layer(keras.layers.DepthwiseConv2D(3), rank=2)


def test_a_network_of_your_own_has_no_decomposition():
    network = Network.parse("i0 a, a o0", {"i0": 4, "o0": 6, "a": 2})
    layer = tensor_layers.FactorizedDense(6, network=network)
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"Only networks of a named format .* can be decomposed"):
        layer.assign_kernel(np.ones((4, 6), "float32"))
