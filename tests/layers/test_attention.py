"""Attention and einsum equations: as Keras computes them, saved, exported, and refused in words."""

import keras
import numpy as np
import pytest

from keras_tensornet.layers import (
    FactorizedConv2DTranspose,
    FactorizedEinsumDense,
    FactorizedMultiHeadAttention,
    TREinsumDense,
)
from keras_tensornet.layers.equations import parse_equation
from keras_tensornet.networks import Network
from tests.layers.support import BACKEND, TOLERANCE, array, tensorflow_only
from tests.references import relative_error

pytestmark = pytest.mark.filterwarnings("ignore:Some ranks")

RANDOM = np.random.default_rng(0)
QUERY = RANDOM.standard_normal((2, 5, 12)).astype("float32")
VALUE = RANDOM.standard_normal((2, 7, 10)).astype("float32")


def trained_attention(**settings):
    """A built Keras layer with biases that are not zero."""
    dense = keras.layers.MultiHeadAttention(3, 4, **settings)
    dense(QUERY, VALUE)
    dense.set_weights([RANDOM.standard_normal(w.shape) * 0.3 for w in dense.get_weights()])
    return dense


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param(
            {"value_dim": 5, "use_bias": False},
            marks=pytest.mark.skipif(BACKEND == "jax", reason="Keras' own layer fails on JAX"),
        ),
        {"output_shape": (3, 2)},
        {"use_gate": True, "output_shape": 6, "name": "mine"},
    ],
)
@pytest.mark.parametrize("format", ["tr", "tucker"])
def test_attention_at_full_rank_and_back(settings, format):
    dense = trained_attention(**settings)
    layer = FactorizedMultiHeadAttention.from_layer(dense, rank=100, format=format)
    wanted, scores = dense(QUERY, VALUE, return_attention_scores=True)
    found, found_scores = layer(QUERY, VALUE, return_attention_scores=True)
    assert relative_error(array(found), array(wanted)) < TOLERANCE
    assert relative_error(array(found_scores), array(scores)) < TOLERANCE
    back = layer.to_dense_layer()
    assert back.get_config() == dense.get_config()
    assert relative_error(array(back(QUERY, VALUE)), array(found)) < TOLERANCE


def test_attention_takes_masks_as_keras_does():
    dense = trained_attention()
    layer = FactorizedMultiHeadAttention.from_layer(dense, rank=100)
    mask = RANDOM.integers(0, 2, (2, 5, 7)).astype(bool) | np.eye(5, 7, dtype=bool)
    for arguments in ({"attention_mask": mask}, {"use_causal_mask": True}):
        wanted = array(dense(QUERY, VALUE, **arguments))
        assert relative_error(array(layer(QUERY, VALUE, **arguments)), wanted) < TOLERANCE


def test_each_projection_has_its_own_rank_by_a_threshold():
    layer = FactorizedMultiHeadAttention.from_layer(trained_attention(), energy=0.6)
    assert set(layer.rank) == {"query", "key", "value", "output"}
    for name, projection in layer.projections.items():
        assert projection.rank == layer.rank[name]
        assert projection.network.num_params < np.prod(projection.kernel.shape) * 3


def test_an_attention_model_trains_and_is_saved(tmp_path):
    layer = FactorizedMultiHeadAttention(3, 4, rank=2, format="cp", dropout=0.1, seed=1)
    query, value = keras.Input((5, 12)), keras.Input((7, 10))
    model = keras.Model([query, value], layer(query, value))
    model.compile("adam", "mse")
    model.fit([QUERY, VALUE], QUERY, epochs=1, verbose=0)
    wanted = array(model([QUERY, VALUE]))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded([QUERY, VALUE])), wanted)
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(array(clone([QUERY, VALUE])), wanted)
    assert all("core" in v.path or "bias" in v.path for v in model.trainable_variables)


@tensorflow_only
def test_an_attention_model_is_exported(tmp_path):
    import tensorflow as tf

    tokens = keras.Input((5, 12))
    model = keras.Model(tokens, FactorizedMultiHeadAttention(3, 4, rank=2)(tokens, tokens))
    model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    assert relative_error(array(saved.serve(QUERY)), array(model(QUERY))) < TOLERANCE
    path = str(tmp_path / "model.tflite")
    model.export(path, format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(path)
    entry = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(entry, QUERY.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry, QUERY)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert relative_error(found, array(model(QUERY))) < TOLERANCE


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (
            {"rank": {"query": 2}},
            ValueError,
            r"a dict with one for each of 'query', 'key', 'value'",
        ),
        ({"rank": 0}, ValueError, r"`rank` must be at least 1"),
        ({"rank": None}, TypeError, r"`rank` must be an integer"),
        ({"rank": 2, "format": "svd"}, ValueError, r"`format` must be one of 'tr'"),
        ({"rank": 2, "implementation": "fast"}, ValueError, r"`implementation`"),
    ],
)
def test_bad_arguments_of_attention(arguments, error, words):
    with pytest.raises(error, match=words):
        FactorizedMultiHeadAttention(3, 4, **arguments)


def test_attention_from_a_layer_that_is_none_or_not_built():
    with pytest.raises(TypeError, match=r"takes a keras.layers.MultiHeadAttention"):
        FactorizedMultiHeadAttention.from_layer(keras.layers.Dense(3), rank=2)
    with pytest.raises(ValueError, match="not built"):
        FactorizedMultiHeadAttention.from_layer(keras.layers.MultiHeadAttention(3, 4), rank=2)
    with pytest.raises(ValueError, match="has no projections yet"):
        _ = FactorizedMultiHeadAttention(3, 4, rank=2).projections


@pytest.mark.parametrize(
    "equation, words",
    [
        ("abc,cd", r"must have the form"),
        ("...ab,bc->ac", r"must have the form"),
        ("abc,bcd->abd", r"'b' is in all three terms"),
        ("abc,cd->ad", r"'b' is in the inputs only"),
        ("ab,bcd->ac", r"'d' is in the kernel only"),
        ("ab,bc->acd", r"'d' is in the outputs only"),
        ("aab,bc->aac", r"'a' occurs twice in one term"),
    ],
)
def test_equations_that_are_no_product_say_why(equation, words):
    with pytest.raises(ValueError, match=words):
        FactorizedEinsumDense(equation, 4, rank=2)


def test_an_equation_must_be_a_string():
    with pytest.raises(TypeError, match=r"`equation` must be a string"):
        parse_equation(3)


@pytest.mark.parametrize(
    "arguments, shape, words",
    [
        (
            {"output_shape": 4},
            (None, 5, 12),
            r"`output_shape` must have one entry for each .* 'bd'",
        ),
        ({"output_shape": (6, 4)}, (None, 5, 12), r"Axis 'b' .* is 5 in the input .* and 6 in"),
        ({"output_shape": (None, None)}, (None, 5, 12), r"Axis 'd' of 'abc,cd->abd' is not"),
        ({"output_shape": (None, 4)}, (None, 5, None), r"Axis 'c' of 'abc,cd->abd' is not"),
        ({"output_shape": (None, 4)}, (None, 12), r"must have the axes that the equation"),
        (
            {"output_shape": (None, 4), "bias_axes": "c"},
            (None, 5, 12),
            r"`bias_axes` must name axes",
        ),
        ({"output_shape": (None, 4), "out_modes": (3, 2)}, (None, 5, 12), r"`out_modes` must mult"),
    ],
)
def test_shapes_that_do_not_fit_an_equation(arguments, shape, words):
    layer = TREinsumDense("abc,cd->abd", rank=2, **arguments)
    with pytest.raises(ValueError, match=words):
        layer.build(shape)


def test_the_shape_of_outputs_is_checked_at_once():
    with pytest.raises(ValueError, match=r"`output_shape` must be at least 1"):
        TREinsumDense("abc,cd->abd", (None, 0), rank=2)


def test_a_network_of_your_own_in_an_equation():
    sizes = {"i0": 3, "i1": 4, "o0": 10, "a": 2, "b": 3, "c": 2}
    network = Network.parse("i0 a b, i1 a c, o0 b c", sizes)
    layer = FactorizedEinsumDense("abc,dc->abd", (None, 10), network=network)
    inputs = RANDOM.standard_normal((2, 5, 12)).astype("float32")
    layer.build(inputs.shape)
    kernel = array(layer.kernel)
    wanted = np.einsum("abc,dc->abd", inputs, kernel)
    assert relative_error(array(layer(inputs)), wanted) < TOLERANCE


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (
            {"output_padding": 2, "strides": 2},
            ValueError,
            r"below the stride .* output_padding=2, st",
        ),
        ({"output_padding": (1, -1), "strides": 2}, ValueError, r"each at least 0"),
        ({"output_padding": (1, 0, 0), "strides": 2}, ValueError, r"a tuple of 2"),
        ({"output_padding": 0.5, "strides": 2}, TypeError, r"`output_padding` must be an integer"),
        ({"padding": "causal"}, ValueError, r"`padding` must be one of 'valid', 'same'"),
        ({"strides": 2, "dilation_rate": 2}, ValueError, r"cannot both be above 1"),
    ],
)
def test_bad_arguments_of_transposed_convolutions(arguments, error, words):
    with pytest.raises(error, match=words):
        FactorizedConv2DTranspose(6, 3, rank=2, **arguments)


def test_the_padding_of_one_dimension_may_be_causal_and_is_kept():
    from keras_tensornet.layers import CPConv1D

    layer = CPConv1D(6, 3, rank=2, padding="causal")
    assert CPConv1D.from_config(layer.get_config()).padding == "causal"
    with pytest.raises(ValueError, match=r"one of 'valid', 'same', 'causal'"):
        CPConv1D(6, 3, rank=2, padding="full")
