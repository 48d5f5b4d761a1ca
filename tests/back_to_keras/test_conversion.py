"""Laws of the ways back: dense and stock models compute the same and hold no layer of ours."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_tensornet import Network
from keras_tensornet import layers as factorized
from keras_tensornet.back_to_keras import to_dense_model, to_stock_model
from keras_tensornet.back_to_keras.dense import is_factorized
from keras_tensornet.compression import compress_model
from keras_tensornet.rewriting.walker import walk_layers
from tests.compression.test_compress import FORMATS, convnet, images
from tests.rewriting.test_walker import assert_same_outputs, randomised

RANDOM = np.random.default_rng(0)


def foreign(model):
    return [
        path for path, layer in walk_layers(model) if "keras_tensornet" in type(layer).__module__
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_dense_and_stock_models_compute_the_same(format):
    model = convnet(strides=(2, 1), groups=2)
    small = compress_model(model, format=format, rank=2, exclude=())
    assert foreign(small)
    dense, stock = to_dense_model(small), to_stock_model(small)
    for converted in (dense, stock):
        assert not foreign(converted)
        assert_same_outputs(small, converted, images(), rtol=1e-4, atol=1e-4)
    assert dense.count_params() == model.count_params()
    assert [layer.name for layer in dense.layers] == [layer.name for layer in model.layers]
    assert stock.count_params() < dense.count_params()
    assert {layer.name for layer in model.layers} <= {layer.name for layer in stock.layers}


CONVOLUTIONS = [
    {"padding": "same"},
    {"strides": (2, 1), "padding": "same"},
    {"dilation_rate": (2, 1), "activation": "relu"},
    {"groups": 2, "use_bias": False},
    {"in_modes": (2, 4), "out_modes": (3, 4)},
    {"spatial": "separate", "activation": "softmax", "strides": 2},
]


@pytest.mark.parametrize("format", ["tr", "tt", "ttm", "cp", "tucker", "bt", "ht"])
@pytest.mark.parametrize("arguments", CONVOLUTIONS, ids=str)
def test_a_convolution_becomes_a_chain_of_stock_convolutions(format, arguments):
    if arguments.get("groups") and arguments.get("in_modes"):
        return
    layer = factorized.FactorizedConv2D(12, (3, 2), rank=2, format=format, **arguments)
    model = randomised(keras.Sequential([layers.Input((7, 8, 8)), layer]))
    stock = to_stock_model(model)
    assert not foreign(stock)
    x = RANDOM.standard_normal((3, 7, 8, 8)).astype("float32")
    assert_same_outputs(model, stock, x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("format", ["tr", "tt", "ttm", "cp", "tucker", "bt", "ht"])
@pytest.mark.parametrize("shape", [(24,), (3, 24), (None, 24)], ids=str)
def test_a_dense_layer_becomes_a_chain_of_stock_layers(format, shape):
    layer = factorized.FactorizedDense(
        30, rank=2, format=format, in_modes=(4, 6), out_modes=(5, 6), activation="softmax"
    )
    model = randomised(keras.Sequential([layers.Input(shape), layer]))
    stock = to_stock_model(model)
    assert not foreign(stock) and len(stock.layers) > 1
    x = RANDOM.standard_normal((4, *(extent or 5 for extent in shape))).astype("float32")
    assert_same_outputs(model, stock, x, rtol=1e-3, atol=1e-4)
    assert stock.count_params() < to_dense_model(model).count_params()


def test_one_dimension_three_dimensions_and_causal_padding():
    for kind, shape, arguments in (
        ("1D", (9, 6), {"padding": "causal", "dilation_rate": 2}),
        ("3D", (5, 4, 4, 6), {"padding": "same"}),
    ):
        layer = getattr(factorized, f"TTConv{kind}")(8, 3, rank=2, **arguments)
        model = randomised(keras.Sequential([layers.Input(shape), layer]))
        stock = to_stock_model(model)
        x = RANDOM.standard_normal((2, *shape)).astype("float32")
        assert not foreign(stock) and len(stock.layers) == len(layer.cores)
        assert_same_outputs(model, stock, x, rtol=1e-3, atol=1e-4)


def test_tt_becomes_the_four_convolutions_of_the_paper():
    layer = factorized.TTConv2D(16, 3, rank=(3, 4, 5), padding="same", name="conv")
    model = randomised(keras.Sequential([layers.Input((8, 8, 16)), layer]))
    made = to_stock_model(model).layers
    assert [type(one) for one in made] == [layers.Conv2D] * 4
    assert [one.kernel_size for one in made] == [(1, 1), (3, 1), (1, 3), (1, 1)]
    assert [one.name for one in made] == ["conv_part0", "conv_part1", "conv_part2", "conv"]
    assert [one.use_bias for one in made] == [False, False, False, True]


def test_where_no_chain_saves_anything_the_layer_is_merged():
    cases = [
        factorized.TRDense(7, rank=2, in_modes=(2, 3), name="padded"),
        factorized.TREmbedding(50, 8, rank=2),
        factorized.TTConv2D(6, 3, rank=100),
        factorized.TTConv2D(8, 3, rank=1, kernel_constraint="max_norm"),
        factorized.TRDense(41, rank=2),
    ]
    shapes = [(6,), (5,), (6, 6, 4), (6, 6, 8), (37,)]
    for layer, shape in zip(cases, shapes, strict=True):
        dtype = "int32" if "Embedding" in type(layer).__name__ else "float32"
        model = randomised(keras.Sequential([layers.Input(shape, dtype=dtype), layer]))
        stock = to_stock_model(model)
        assert not foreign(stock)
        x = RANDOM.integers(0, 6, (2, *shape)).astype(dtype)
        assert_same_outputs(model, stock, x, rtol=1e-3, atol=1e-4)


def test_a_network_of_ones_own_and_recurrent_layers_come_back():
    sizes = {"i0": 4, "i1": 4, "o0": 4, "o1": 8, "a": 2, "b": 2}
    network = Network.parse("i0 a, a i1 o0 b, b o1", sizes)
    inputs = layers.Input((6, 16))
    x = factorized.FactorizedDense(32, network=network)(inputs)
    x = layers.Bidirectional(factorized.TTLSTM(8, rank=2, return_sequences=True))(x)
    model = randomised(keras.Model(inputs, x))
    x = RANDOM.standard_normal((2, 6, 16)).astype("float32")
    for convert in (to_dense_model, to_stock_model):
        assert_same_outputs(model, convert(model), x, rtol=1e-3, atol=1e-4)
        assert not foreign(convert(model))
    assert is_factorized(model.layers[1]) and not is_factorized(layers.Dense(2))
