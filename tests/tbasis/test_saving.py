"""One basis before, one after: saving, loading, cloning, SavedModel, LiteRT."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_tensornet.layers import TBasis, TBasisConv2D, TBasisDense
from keras_tensornet.tbasis import tbasis_model

array = ops.convert_to_numpy
tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="needs TensorFlow's exporters"
)


def by_hand() -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    basis = TBasis(3, 2, seed=0)(inputs)
    x = TBasisConv2D(5, 3, activation="relu", seed=0)(inputs, basis=basis)
    x = TBasisConv2D(5, 3, strides=2, implementation="factorized", seed=1)(x, basis=basis)
    x = layers.Flatten()(x)
    return keras.Model(inputs, TBasisDense(3, seed=2)(x, basis=basis))


def rewritten() -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(5, 3)(inputs)
    x = layers.Conv2D(7, 3, activation="relu")(x)
    x = layers.Flatten()(x)
    return tbasis_model(keras.Model(inputs, layers.Dense(3)(x)), 3, 2, seed=0)


def inputs_of(model) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype("float32")


def num_bases(model) -> int:
    return sum(isinstance(layer, TBasis) for layer in model._flatten_layers())


@pytest.mark.parametrize("make", (by_hand, rewritten))
def test_saved_loaded_and_cloned_models_share_one_basis(make, tmp_path):
    model = make()
    x = inputs_of(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    model.save_weights(tmp_path / "model.weights.h5")
    weighted = keras.models.clone_model(model)
    weighted.load_weights(tmp_path / "model.weights.h5")
    for other in (loaded, clone, weighted):
        assert num_bases(other) == num_bases(model) == 1
        assert len(other.trainable_variables) == len(model.trainable_variables)
        np.testing.assert_array_equal(array(other(x)), array(model(x)))


def test_a_clone_is_initialised_as_its_model_was():
    kernel = array(keras.models.clone_model(by_hand()).layers[1].basis)
    np.testing.assert_array_equal(kernel, array(by_hand().layers[1].basis))


def test_a_frozen_basis_stays_frozen(tmp_path):
    model = rewritten()
    model.get_layer("tbasis").trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    assert not loaded.get_layer("tbasis").trainable


@tensorflow_only
@pytest.mark.parametrize("make", (by_hand, rewritten))
def test_saved_model_and_litert_compute_the_same(make, tmp_path):
    import tensorflow as tf

    model = make()
    x = inputs_of(model)
    wanted = array(model(x))
    model.export(tmp_path / "saved", verbose=False)
    restored = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(array(restored.serve(x)), wanted, atol=1e-5)
    # one basis among the variables of the exported graph
    shapes = [tuple(variable.shape) for variable in restored._all_variables]
    assert shapes.count((3, 2, 9, 2)) == 1
    assert len(shapes) == len(model.variables)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, x)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
