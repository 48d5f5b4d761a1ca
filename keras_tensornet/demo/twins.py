"""The networks that the demo compares: for each data set a dense one and its factorised twins.

Twins differ from the dense network in the layers that a factory makes, and in nothing else. The
ranks were chosen so that they reach the dense accuracy within about a point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from keras_tensornet import layers
from keras_tensornet.models import lenet5, resnet_cifar, stock, tensor_ring_modes


@dataclass(frozen=True)
class Twin:
    """One network of a comparison.

    Attributes:
        name: short name, also the name of its file.
        title: what the table calls it.
        build: returns the uncompiled model, which gives logits.
        learning_rate: of Adam at the start; it falls to zero along a cosine.
    """

    name: str
    title: str
    build: Callable[[], keras.Model]
    learning_rate: float


@dataclass(frozen=True)
class Comparison:
    """What to train on one data set.

    Attributes:
        heading: network and data set in words.
        twins: the dense network first.
        epochs: by default.
        batch_size: in training.
        repeats: of each latency measurement.
    """

    heading: str
    twins: tuple[Twin, ...]
    epochs: int
    batch_size: int
    repeats: int


def comparison(dataset: str) -> Comparison:
    """The comparison for one of `datasets.NAMES`."""
    return {"digits": _digits, "mnist": _mnist, "cifar10": _cifar10}[dataset]()


def digits_cnn(
    conv: stock.LayerFactory | None = None, dense: stock.LayerFactory | None = None
) -> keras.Model:
    """A small CNN for 8x8 images: 91,082 parameters, most of them in the three replaceable layers.

    Three 3x3 convolutions with batch normalisation, a hidden dense layer, and dropout before it and
    after the first pooling: the test images are by writers that the training has not seen.

    Args:
        conv: factory of `conv2` and `conv3`, called like `keras.layers.Conv2D`.
        dense: factory of `fc1`, called like `keras.layers.Dense`.
    """
    stem, conv = stock.conv_factory(None, 0.0), stock.conv_factory(conv, 0.0)
    dense = stock.dense_factory(dense, 0.0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = stock.conv_bn_relu(inputs, stem, 32, "same", "conv1")
    x = stock.conv_bn_relu(x, conv, 64, "same", "conv2")
    x = keras.layers.MaxPooling2D(2, name="pool2")(x)
    x = keras.layers.Dropout(0.2, name="dropout2")(x)
    x = stock.conv_bn_relu(x, conv, 64, "same", "conv3")
    x = keras.layers.MaxPooling2D(2, name="pool3")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dropout(0.2, name="dropout3")(x)
    x = stock.batch_norm("bn_fc1")(dense(128, name="fc1")(x))
    x = keras.layers.Dropout(0.3, name="dropout_fc1")(keras.layers.ReLU(name="relu_fc1")(x))
    logits = keras.layers.Dense(10, name="fc2")(x)
    return keras.Model(inputs, logits, name="digits_cnn")


def _digits() -> Comparison:
    ring = partial(digits_cnn, partial(layers.TRConv2D, rank=8), partial(layers.TRDense, rank=8))
    train = partial(digits_cnn, partial(layers.TTConv2D, rank=12), partial(layers.TTDense, rank=8))
    twins = (
        Twin("dense", "dense", digits_cnn, 2e-3),
        Twin("tr", "tensor ring", ring, 6e-3),
        Twin("tt", "tensor train", train, 6e-3),
    )
    return Comparison("Small CNN on scikit-learn's digits", twins, 20, 32, 50)


def _mnist() -> Comparison:
    """LeNet-5 of Tensor Ring Nets (Wang et al. 2018), Tables 3 and 4."""
    modes = tensor_ring_modes("lenet5")

    def ring_conv(
        filters: int, kernel_size: int | Sequence[int], name: str, **options: Any
    ) -> keras.Layer:
        options |= modes[name]
        return layers.TRConv2D(
            filters, kernel_size, rank=10, spatial="separate", name=name, **options
        )

    def ring_dense(units: int, name: str, **options: Any) -> keras.Layer:
        options |= modes[name]
        return layers.TRDense(units, rank=10, name=name, **options)

    def train_conv(
        filters: int, kernel_size: int | Sequence[int], name: str, **options: Any
    ) -> keras.Layer:
        rank = (1, 5, 10) if name == "conv1" else (15, 15, 25)
        return layers.TTConv2D(filters, kernel_size, rank=rank, name=name, **options)

    def train_dense(units: int, name: str, **options: Any) -> keras.Layer:
        rank = 10 if name == "fc1" else (10, 10, 5)
        return layers.TTDense(units, rank=rank, name=name, **options)

    twins = (
        Twin("dense", "dense", lenet5, 1e-3),
        Twin("tr", "tensor ring", partial(lenet5, conv=ring_conv, dense=ring_dense), 3e-3),
        Twin("tt", "tensor train", partial(lenet5, conv=train_conv, dense=train_dense), 3e-3),
    )
    return Comparison("LeNet-5 on MNIST", twins, 3, 128, 30)


def _cifar10() -> Comparison:
    """ResNet-20 (He et al. 2016); the first convolution and the classifier stay dense."""
    ring = partial(resnet_cifar, 20, conv=partial(layers.TRConv2D, rank=10))
    train = partial(resnet_cifar, 20, conv=partial(layers.TTConv2D, rank=16))
    twins = (
        Twin("dense", "dense", partial(resnet_cifar, 20), 3e-3),
        Twin("tr", "tensor ring", ring, 3e-3),
        Twin("tt", "tensor train", train, 3e-3),
    )
    return Comparison("ResNet-20 on CIFAR-10", twins, 2, 128, 10)
