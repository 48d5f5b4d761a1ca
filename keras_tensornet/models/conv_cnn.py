"""TT-conv-CNN, the six-convolution CIFAR-10 network of Garipov et al. (2016).

"Ultimate tensorization: compressing convolutional and FC layers alike", arXiv 1611.03214;
compressed again by permuted TT (Gabor and Zdunek 2022, Tables 1 and 2).
"""

from __future__ import annotations

import keras
from keras import layers

from keras_tensornet.models import stock

# name, filters, padding; pooling follows the second and the fourth convolution
CONVOLUTIONS = (
    ("block1_conv1", 64, "same"),
    ("block1_conv2", 64, "same"),
    ("block2_conv1", 128, "same"),
    ("block2_conv2", 128, "same"),
    ("block3_conv1", 128, "valid"),
    ("block3_conv2", 128, "valid"),
)


def tt_conv_cnn(
    input_shape: tuple[int, ...] = (32, 32, 3),
    num_classes: int = 10,
    *,
    conv: stock.LayerFactory | None = None,
    stem: stock.LayerFactory | None = None,
    dense: stock.LayerFactory | None = None,
    weight_decay: float = 0.0,
    name: str = "tt_conv_cnn",
) -> keras.Model:
    """Build TT-conv-CNN: 557,888 trainable parameters and 104 M multiply-adds.

    3x3 convolutions with bias, each followed by batch normalisation and ReLU; 3x3 max pooling with
    stride 2 after each of the first two pairs; the last pair is not padded, 8x8 -> 6x6 -> 4x4;
    average pooling and a classifier without bias. Both papers factorise every convolution but the
    first, 552,960 of the weights.

    Args:
        input_shape: image shape `(height, width, channels)`.
        num_classes: number of logits.
        conv: factory of the five convolutions after the first.
        stem: factory of the first convolution, `block1_conv1`.
        dense: factory of the classifier, `fc`.
        weight_decay: of the stock layers' kernels; the papers train with none.
        name: name of the model.
    """
    conv = stock.conv_factory(conv, weight_decay)
    stem = stock.conv_factory(stem, weight_decay)
    dense = stock.dense_factory(dense, weight_decay)
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for index, (layer_name, filters, padding) in enumerate(CONVOLUTIONS):
        x = stock.conv_bn_relu(x, conv if index else stem, filters, padding, layer_name)
        if index in (1, 3):
            pool_name = layer_name.replace("conv2", "pool")
            x = layers.MaxPooling2D(3, strides=2, padding="same", name=pool_name)(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = dense(num_classes, use_bias=False, name="fc")(x)
    return keras.Model(inputs, logits, name=name)
