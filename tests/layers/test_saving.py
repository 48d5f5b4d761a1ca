"""Layers are saved, loaded, cloned and configured without losing a bit."""

import json

import keras
import numpy as np
import pytest

from keras_tensornet import Network
from keras_tensornet import layers as tensor_layers
from tests import formats_table as table
from tests.layers.support import array, predictions

pytestmark = pytest.mark.filterwarnings("ignore:Some ranks")


def saved_cases(row) -> list:
    """Every third case and the first, as many layers as one model needs to mix them up."""
    return [case for case in row.operation.cases[::3] if not row.why_not("saving", case)]


def model_of_cases(row, **overrides):
    """A functional model with one layer and one input for each case of a row."""
    inputs, outputs = [], []
    for case in saved_cases(row):
        inputs.append(keras.Input(case.input_shape))
        outputs.append(row.make(case, **overrides)(inputs[-1]))
    return keras.Model(inputs, outputs)


def inputs_of_cases(row) -> list:
    """Inputs for `model_of_cases`."""
    return [row.inputs(case) for case in saved_cases(row)]


def assert_bit_equal(row, model, other):
    """Both models compute the same, to the last bit."""
    inputs = inputs_of_cases(row)
    for found, wanted in zip(other(inputs), model(inputs), strict=True):
        np.testing.assert_array_equal(array(found), array(wanted))


@pytest.mark.parametrize("row", table.rows("saving"))
def test_saved_and_cloned_models_are_bit_equal(row, tmp_path):
    model = model_of_cases(row)
    model.save(tmp_path / "model.keras")
    assert_bit_equal(row, model, keras.models.load_model(tmp_path / "model.keras"))
    clone = keras.models.clone_model(model)
    assert model.count_params() == clone.count_params()
    model.save_weights(tmp_path / "model.weights.h5")
    clone.load_weights(tmp_path / "model.weights.h5")
    assert_bit_equal(row, model, clone)
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    assert_bit_equal(row, model, other)


@pytest.mark.parametrize("row, case", table.cases("saving"))
def test_the_configuration_is_plain_and_complete(row, case):
    options = {
        "implementation": "reconstructed",
        "kernel_regularizer": "l2",
        "bias_constraint": "non_neg",
        "activity_regularizer": "l1",
        "activation": "relu",
        "name": "mine",
        "dtype": "float64",
    }
    young, built = row.make(case, **options), row.built(case, **options)
    for layer in (young, built):
        text = json.dumps(layer.get_config())
        again = row.layer_class.from_config(json.loads(text))
        assert json.loads(json.dumps(again.get_config())) == json.loads(text)
        again.build((None, *case.input_shape))
        assert again.network == built.network
        assert again.name == "mine"
        assert again.dtype == "float64"


def test_the_rank_recorded_is_the_rank_used():
    layer = tensor_layers.TTDense(10, rank=99, in_modes=(3, 4), out_modes=(2, 5))
    with pytest.warns(UserWarning, match=r"r1 from 99 to 6"):
        layer.build((None, 12))
    assert layer.get_config()["rank"] == (6,)
    again = tensor_layers.TTDense.from_config(layer.get_config())
    again.build((None, 12))  # warns no more
    assert again.network == layer.network


def test_a_network_of_your_own_is_saved_by_its_labels(tmp_path):
    network = Network.parse(
        "i0 a b, a i1 o0 c, b c o1", {"i0": 3, "i1": 4, "o0": 2, "o1": 5, "a": 2, "b": 3, "c": 2}
    )
    joint = Network.parse(
        "i0 a, a s b, b o0",
        {"i0": 4, "o0": 6, "a": 2, "b": 3},
        spatial={"s": (3, 2)},
    )
    inputs = keras.Input((12,)), keras.Input((6, 5, 4))
    outputs = (
        tensor_layers.FactorizedDense(10, network=network)(inputs[0]),
        tensor_layers.FactorizedConv2D(6, (3, 2), network=joint)(inputs[1]),
    )
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "own.keras")
    loaded = keras.models.load_model(tmp_path / "own.keras")
    assert loaded.layers[-1].network in (network, joint)
    arrays = [table.normal_inputs((2, *each.shape[1:])) for each in inputs]
    for found, wanted in zip(loaded(arrays), model(arrays), strict=True):
        np.testing.assert_array_equal(array(found), array(wanted))
    for each in (network, joint):
        assert Network.from_config(json.loads(json.dumps(each.to_config()))) == each


def test_a_truncated_file_is_refused_and_leaves_nothing(tmp_path):
    row = table.ROWS[0]
    model = keras.Sequential([keras.Input(row.plain.input_shape), row.make()])
    path = tmp_path / "model.keras"
    model.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Exception, match=r"(?i)not a zip file|zip|truncated"):
        keras.models.load_model(path)
    (tmp_path / "foreign.keras").write_text("no model")
    with pytest.raises(ValueError, match=r"File not found|accessible|zip"):
        keras.models.load_model(tmp_path / "foreign.keras")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["foreign.keras", "model.keras"]
    path.write_bytes(whole)
    inputs = row.inputs()
    np.testing.assert_array_equal(
        predictions(keras.models.load_model(path), inputs), predictions(model, inputs)
    )


def test_weights_of_another_rank_are_refused(tmp_path):
    row = table.ROWS[0]
    model = keras.Sequential([keras.Input(row.plain.input_shape), row.make()])
    model.save_weights(tmp_path / "model.weights.h5")
    other = keras.Sequential([keras.Input(row.plain.input_shape), row.make(rank=row.rank + 1)])
    before = other.get_weights()
    with pytest.raises(ValueError, match=r"(?i)shape"):
        other.load_weights(tmp_path / "model.weights.h5")
    for found, wanted in zip(other.get_weights(), before, strict=True):
        assert found.shape == wanted.shape
