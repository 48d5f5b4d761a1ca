"""Laws of folding: the same outputs in inference, without the normalisations that can go."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_tensornet.back_to_keras import fold_batch_norm

RANDOM = np.random.default_rng(0)


def norm(**arguments):
    draw = keras.initializers.RandomUniform(0.5, 1.5, seed=1)
    return layers.BatchNormalization(
        beta_initializer=draw,
        gamma_initializer=draw,
        moving_mean_initializer=draw,
        moving_variance_initializer=draw,
        **arguments,
    )


KINDS = [
    layers.Conv2D(5, 3, use_bias=False),
    layers.Conv2D(6, 3, groups=3, bias_initializer="random_normal"),
    layers.DepthwiseConv2D(3, depth_multiplier=2),
    layers.Dense(4, bias_initializer="random_normal"),
]


@pytest.mark.parametrize("layer", KINDS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("arguments", [{}, {"center": False, "scale": False}], ids=str)
def test_a_normalisation_becomes_kernel_and_bias(layer, arguments):
    layer = type(layer).from_config(layer.get_config())
    inputs = layers.Input((6, 6, 3))
    model = keras.Model(inputs, layers.ReLU()(norm(**arguments)(layer(inputs))))
    folded = fold_batch_norm(model)
    assert not any(isinstance(each, layers.BatchNormalization) for each in folded.layers)
    x = RANDOM.standard_normal((4, 6, 6, 3)).astype("float32")
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-4, atol=1e-5)
    assert any(isinstance(each, layers.BatchNormalization) for each in model.layers)


def test_what_cannot_be_folded_stays():
    inputs = layers.Input((6, 6, 3))
    active = norm(name="after_activation")(layers.Conv2D(4, 3, activation="relu")(inputs))
    shared = layers.Conv2D(4, 3)(inputs)
    first, second = norm(name="first")(shared), norm(name="second")(shared)
    rows = norm(axis=1, name="rows")(layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, layers.Add()([active, first, second, rows]))
    folded = fold_batch_norm(model)
    kept = {each.name for each in folded.layers if isinstance(each, layers.BatchNormalization)}
    assert kept == {"after_activation", "first", "second", "rows"}
    x = RANDOM.standard_normal((2, 6, 6, 3)).astype("float32")
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-5, atol=1e-6)
