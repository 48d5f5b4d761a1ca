"""Small models and plans for the ADMM tests."""

import keras
import numpy as np

from keras_tensornet.compression import plan_compression

SAMPLES = 32


def data(features=8, outputs=3, seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((SAMPLES, features)).astype("float32")
    return x, random.standard_normal((SAMPLES, outputs)).astype("float32")


def two_layers(seed=0, learning_rate=0.1, decay=2**-7, **compile_arguments):
    """8 -> 12 -> 3, the first layer with a regularizer of its own."""
    own = keras.regularizers.L2(decay) if decay else None
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(12, activation="tanh", kernel_regularizer=own, name="first"),
            keras.layers.Dense(3, name="last"),
        ]
    )
    model.compile(keras.optimizers.SGD(learning_rate), "mse", **compile_arguments)
    return model


def fit(model, callbacks=(), epochs=1, **arguments):
    x, y = data()
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **arguments).history


def weights(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def plan_for(model, rank=2, format="ttm", include="first"):
    """The plan that brings the layer "first" to a rank."""
    return plan_compression(model, format, rank=rank, include=include)
