"""LeNet-300-100 and LeNet-5 for MNIST, in the sizes of Tensor Ring Nets (Wang et al. 2018).

T-Basis (Obukhov et al. 2020, 5.2) uses the same LeNet-5, and the ADMM paper (Yin et al. 2021,
Table 1) compares with its tensor-ring figures.
"""

from __future__ import annotations

import keras
from keras import layers

from keras_tensornet.models import stock


def lenet300(
    input_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    *,
    dense: stock.LayerFactory | None = None,
    weight_decay: float = 0.0,
    name: str = "lenet300",
) -> keras.Model:
    """Build LeNet-300-100: 784-300-100-10, 266,200 weights and 410 biases (TRN, Table 1).

    Args:
        input_shape: image shape `(height, width, channels)`; flattened first.
        num_classes: number of logits.
        dense: factory of all three layers, `fc1`, `fc2` and `fc3`; the paper factorises all.
        weight_decay: of the stock layers' kernels.
        name: name of the model.

    >>> lenet300().count_params()
    266610
    """
    dense = stock.dense_factory(dense, weight_decay)
    inputs = keras.Input(input_shape, name="image")
    x = layers.Flatten(name="flatten")(inputs)
    for index, units in enumerate((300, 100), start=1):
        x = dense(units, use_bias=True, name=f"fc{index}")(x)
        x = layers.ReLU(name=f"relu{index}")(x)
    logits = dense(num_classes, use_bias=True, name="fc3")(x)
    return keras.Model(inputs, logits, name=name)


def lenet5(
    input_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    *,
    conv: stock.LayerFactory | None = None,
    dense: stock.LayerFactory | None = None,
    weight_decay: float = 0.0,
    name: str = "lenet5",
) -> keras.Model:
    """Build the wide LeNet-5: 428,700 weights and 400 biases (TRN, Table 3).

    The table's FLOPs fix what it does not say. conv1, 784K = 2 * 28^2 * 500, keeps the image size;
    conv2, 5000K = 2 * 10^2 * 25,000, turns 14x14 into 10x10, so it is not padded; a second pooling
    leaves the 5 * 5 * 50 = 1250 inputs of fc1.

    Args:
        input_shape: image shape `(height, width, channels)`.
        num_classes: number of logits.
        conv: factory of `conv1` and `conv2`; the papers factorise both.
        dense: factory of `fc1` and `fc2`; the papers factorise both.
        weight_decay: of the stock layers' kernels.
        name: name of the model.

    >>> lenet5().count_params()
    429100
    """
    conv = stock.conv_factory(conv, weight_decay)
    dense = stock.dense_factory(dense, weight_decay)
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for index, (filters, padding) in enumerate(((20, "same"), (50, "valid")), start=1):
        x = conv(filters, 5, strides=1, padding=padding, use_bias=True, name=f"conv{index}")(x)
        x = layers.ReLU(name=f"relu{index}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{index}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = dense(320, use_bias=True, name="fc1")(x)
    x = layers.ReLU(name="relu3")(x)
    logits = dense(num_classes, use_bias=True, name="fc2")(x)
    return keras.Model(inputs, logits, name=name)
