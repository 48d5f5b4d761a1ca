"""What the networks share: stock layers for places without a factory, and the plain block."""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras

from keras_tensornet.types import Tensor

LayerFactory = Callable[..., keras.layers.Layer]


def conv_factory(factory: LayerFactory | None, weight_decay: float) -> LayerFactory:
    """Return `factory`, or a `Conv2D` with He's initialisation and the given weight decay."""
    return factory or functools.partial(
        keras.layers.Conv2D,
        kernel_initializer="he_normal",
        kernel_regularizer=_decay(weight_decay),
    )


def dense_factory(factory: LayerFactory | None, weight_decay: float) -> LayerFactory:
    """Return `factory`, or a `Dense` with the given weight decay."""
    return factory or functools.partial(keras.layers.Dense, kernel_regularizer=_decay(weight_decay))


def batch_norm(name: str) -> keras.layers.Layer:
    """A `BatchNormalization` with the papers' momentum (0.1 in PyTorch's terms).

    Keras' default of 0.99 needs some 500 steps before inference matches training, which is more
    than a short fine-tuning has.
    """
    return keras.layers.BatchNormalization(momentum=0.9, name=name)


def conv_bn_relu(x: Tensor, conv: LayerFactory, filters: int, padding: str, name: str) -> Tensor:
    """The block of the plain networks: 3x3 convolution with bias, batch normalisation, ReLU."""
    x = conv(filters, 3, strides=1, padding=padding, use_bias=True, name=name)(x)
    x = batch_norm(name.replace("conv", "bn"))(x)
    return keras.layers.ReLU(name=name.replace("conv", "relu"))(x)


def _decay(weight_decay: float) -> keras.regularizers.Regularizer | None:
    if weight_decay < 0.0:
        raise ValueError(
            f"`weight_decay` must not be negative. Received: weight_decay={weight_decay}. "
            "Use 0.0 for none."
        )
    # d/dW (decay / 2 |W|^2) = decay W
    return keras.regularizers.L2(weight_decay / 2) if weight_decay else None
