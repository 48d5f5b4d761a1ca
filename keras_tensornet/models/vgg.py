"""VGG-11, -16 and -19 in their CIFAR form (Simonyan and Zisserman 2015).

Batch normalisation after every convolution and a single fully connected layer in place of three:
the networks of the tensor thesis (Tables 7.4, 7.5 and appendix A), and the "VGGnet" of permuted TT
(Gabor and Zdunek 2022, Table 1: VGG-19, 20 M parameters).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_tensornet.models import stock

STAGE_FILTERS = (64, 128, 256, 512, 512)
STAGE_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg11(
    input_shape: tuple[int, ...] = (32, 32, 3), num_classes: int = 10, **options: Any
) -> keras.Model:
    """Build VGG-11: 9,231,114 trainable parameters at 10 classes. For `options` see `vgg19`."""
    return _vgg(11, input_shape, num_classes, **options)


def vgg16(
    input_shape: tuple[int, ...] = (32, 32, 3), num_classes: int = 10, **options: Any
) -> keras.Model:
    """Build VGG-16: 14,728,266 trainable parameters at 10 classes. For `options` see `vgg19`."""
    return _vgg(16, input_shape, num_classes, **options)


def vgg19(
    input_shape: tuple[int, ...] = (32, 32, 3), num_classes: int = 10, **options: Any
) -> keras.Model:
    """Build VGG-19: 20,040,522 trainable parameters at 10 classes.

    Args:
        input_shape: image shape `(height, width, channels)`, at least 32x32.
        num_classes: number of logits.
        conv: factory of every convolution but the first; the papers factorise these.
        stem: factory of the first convolution, `stage1_conv1`.
        dense: factory of the classifier, `fc`.
        weight_decay: of the stock layers' kernels.
        name: name of the model, `"vgg19"` by default.
    """
    return _vgg(19, input_shape, num_classes, **options)


def _vgg(
    depth: int,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    conv: stock.LayerFactory | None = None,
    stem: stock.LayerFactory | None = None,
    dense: stock.LayerFactory | None = None,
    weight_decay: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    conv = stock.conv_factory(conv, weight_decay)
    dense = stock.dense_factory(dense, weight_decay)
    factory = stock.conv_factory(stem, weight_decay)
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    stages = zip(STAGE_FILTERS, STAGE_CONVOLUTIONS[depth], strict=True)
    for stage, (filters, convolutions) in enumerate(stages, start=1):
        for index in range(1, convolutions + 1):
            x = stock.conv_bn_relu(x, factory, filters, "same", f"stage{stage}_conv{index}")
            factory = conv  # every convolution after the first
        x = layers.MaxPooling2D(2, name=f"stage{stage}_pool")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = dense(num_classes, use_bias=True, name="fc")(x)
    return keras.Model(inputs, logits, name=name or f"vgg{depth}")
