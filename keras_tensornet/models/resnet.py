"""Residual networks for CIFAR: ResNet-6n+2, ResNet-18, -34, -50 and WRN-d-k.

- `resnet_cifar` (He et al. 2016, section 4.2): Tensor Ring Nets (Table 5, ResNet-32), T-Basis and
  ADMM (ResNet-20, -32), permuted TT (ResNet-56, -110).
- `resnet18`, `resnet34`, `resnet50`: the thesis' CIFAR forms of the ImageNet networks, with a 3x3
  first convolution of stride 1 and no pooling after it.
- `wide_resnet` (Zagoruyko and Komodakis 2016): Tensor Ring Nets and T-Basis (WRN-28-10).

A residual block is described by its convolutions, `((filters, kernel_size, strides), ...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import layers

from keras_tensornet import validation
from keras_tensornet.models import stock
from keras_tensornet.types import Tensor

Convolutions = tuple[tuple[int, int, int], ...]


def resnet_cifar(
    depth: int,
    input_shape: tuple[int, ...] = (32, 32, 3),
    num_classes: int = 10,
    *,
    conv: stock.LayerFactory | None = None,
    stem: stock.LayerFactory | None = None,
    dense: stock.LayerFactory | None = None,
    shortcut: str = "pad",
    weight_decay: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Build the thin CIFAR ResNet of 6n + 2 layers: 16, 32 and 64 filters, n blocks each.

    | depth | trainable parameters, 10 classes | 3x3 weights that `conv` makes |
    |---|---|---|
    | 20 | 269,722 | 267,264 |
    | 32 | 464,154 | 460,800 |
    | 56 | 853,018 | 847,872 |
    | 110 | 1,727,962 | 1,722,240 |

    Tensor Ring Nets factorise every layer: give `conv`, `stem` and `dense`. (Their Table 5 has a
    pre-activation block; its convolutions have the same shapes.) T-Basis, ADMM and permuted TT
    leave the first convolution dense.

    Args:
        depth: 6n + 2, such as 20, 32, 44, 56 or 110.
        input_shape: image shape `(height, width, channels)`.
        num_classes: number of logits.
        conv: factory of every 3x3 convolution but the first.
        stem: factory of the first convolution, `conv1`.
        dense: factory of the classifier, `fc`.
        shortcut: where a stage halves the image and doubles the filters, `"pad"` takes every second
            pixel and pads with zero channels (He's option A, no parameters) and `"projection"`
            learns a stock 1x1 convolution with batch normalisation (option B).
        weight_decay: of the stock layers' kernels; the papers use 1e-4.
        name: name of the model, `"resnet_cifar32"` and so on by default.

    Raises:
        ValueError: if `depth` is not 6n + 2 or `shortcut` is unknown.
    """
    validation.positive_int("depth", depth)
    validation.one_of("shortcut", shortcut, ("pad", "projection"))
    if depth < 8 or depth % 6 != 2:
        raise ValueError(
            f"`depth` must be 6n + 2. Received: depth={depth}. Use 20, 32, 44, 56 or 110."
        )
    stock_conv = stock.conv_factory(None, weight_decay)
    return _resnet(
        input_shape,
        num_classes,
        stem_filters=16,
        stages=_stages((16, 32, 64), (depth // 6,) * 3, _basic),
        conv=stock.conv_factory(conv, weight_decay),
        stem=stock.conv_factory(stem, weight_decay),
        shortcut=_pad if shortcut == "pad" else _projection(stock_conv),
        dense=stock.dense_factory(dense, weight_decay),
        name=name or f"resnet_cifar{depth}",
    )


def resnet18(
    input_shape: tuple[int, ...] = (32, 32, 3), num_classes: int = 10, **options: Any
) -> keras.Model:
    """Build ResNet-18: 11,173,962 trainable parameters at 10 classes. `options` as `resnet50`."""
    return _resnet_imagenet(18, input_shape, num_classes, (2, 2, 2, 2), _basic, **options)


def resnet34(
    input_shape: tuple[int, ...] = (32, 32, 3), num_classes: int = 10, **options: Any
) -> keras.Model:
    """Build ResNet-34: 21,282,122 trainable parameters at 10 classes. `options` as `resnet50`."""
    return _resnet_imagenet(34, input_shape, num_classes, (3, 4, 6, 3), _basic, **options)


def resnet50(
    input_shape: tuple[int, ...] = (32, 32, 3), num_classes: int = 10, **options: Any
) -> keras.Model:
    """Build ResNet-50: 23,520,842 trainable parameters at 10 classes.

    The thesis leaves the first convolution, the projections and the classifier dense. Its published
    sizes for CP and Tucker on ResNet-50 (Table 7.3) are met when the last 1x1 convolution of each
    block, `..._conv3`, stays dense as well.

    Args:
        input_shape: image shape `(height, width, channels)`.
        num_classes: number of logits.
        conv: factory of every convolution but the first and the projections: 16, 32 and 48 of
            them in ResNet-18, -34 and -50.
        stem: factory of the first convolution, `conv1`.
        projection: factory of the 1x1 convolutions on the shortcuts, `..._shortcut`.
        dense: factory of the classifier, `fc`.
        weight_decay: of the stock layers' kernels.
        name: name of the model, `"resnet50"` by default.
    """
    return _resnet_imagenet(50, input_shape, num_classes, (3, 4, 6, 3), _bottleneck, **options)


def wide_resnet(
    depth: int = 28,
    width: int = 10,
    input_shape: tuple[int, ...] = (32, 32, 3),
    num_classes: int = 10,
    *,
    conv: stock.LayerFactory | None = None,
    stem: stock.LayerFactory | None = None,
    projection: stock.LayerFactory | None = None,
    dense: stock.LayerFactory | None = None,
    use_bias: bool = False,
    weight_decay: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Build WRN-depth-width, 36,479,194 trainable parameters for WRN-28-10 at 10 classes.

    Pre-activation blocks: batch normalisation and ReLU come before each convolution, and the
    projection sees the activated input.

    Args:
        depth: 6n + 4, such as 16, 22, 28 or 40.
        width: multiplies the 16, 32 and 64 filters.
        input_shape: image shape `(height, width, channels)`.
        num_classes: number of logits.
        conv: factory of every 3x3 convolution but the first.
        stem: factory of the first convolution, `conv1`.
        projection: factory of the three 1x1 convolutions on the shortcuts; the sizes that Tensor
            Ring Nets and T-Basis publish are only possible when these are factorised too.
        dense: factory of the classifier, `fc`.
        use_bias: whether every convolution has a bias, as in the WRN-28-10 that T-Basis counts: the
            first and the shortcuts included, 10,096 parameters more. The WRN paper has none.
        weight_decay: of the stock layers' kernels; 5e-4 in the WRN paper.
        name: name of the model, `"wide_resnet28_10"` by default.

    Raises:
        ValueError: if `depth` is not 6n + 4.
    """
    validation.positive_int("depth", depth)
    validation.positive_int("width", width)
    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"`depth` must be 6n + 4. Received: depth={depth}. Use 16, 22, 28 or 40.")
    conv = stock.conv_factory(conv, weight_decay)
    stem = stock.conv_factory(stem, weight_decay)
    projection = stock.conv_factory(projection, weight_decay)
    dense = stock.dense_factory(dense, weight_decay)
    inputs = keras.Input(input_shape, name="image")
    x = _convolve(inputs, stem, 16, 3, 1, "conv1", use_bias)
    widths = (16 * width, 32 * width, 64 * width)
    for prefix, convolutions in _named(_stages(widths, (depth // 6,) * 3, _basic)):
        x = _preactivation_block(x, convolutions, conv, projection, prefix, use_bias)
    x = layers.ReLU(name="relu1")(stock.batch_norm("bn1")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = dense(num_classes, use_bias=True, name="fc")(x)
    return keras.Model(inputs, logits, name=name or f"wide_resnet{depth}_{width}")


def _resnet_imagenet(
    depth: int,
    input_shape: tuple[int, ...],
    num_classes: int,
    blocks: tuple[int, ...],
    block: Callable[[int, int], Convolutions],
    *,
    conv: stock.LayerFactory | None = None,
    stem: stock.LayerFactory | None = None,
    projection: stock.LayerFactory | None = None,
    dense: stock.LayerFactory | None = None,
    weight_decay: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """ResNet-18, -34 and -50: four stages of 64 to 512 filters, projected shortcuts."""
    return _resnet(
        input_shape,
        num_classes,
        stem_filters=64,
        stages=_stages((64, 128, 256, 512), blocks, block),
        conv=stock.conv_factory(conv, weight_decay),
        stem=stock.conv_factory(stem, weight_decay),
        shortcut=_projection(stock.conv_factory(projection, weight_decay)),
        dense=stock.dense_factory(dense, weight_decay),
        name=name or f"resnet{depth}",
    )


def _resnet(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    stem_filters: int,
    stages: list[list[Convolutions]],
    conv: Any,
    stem: Any,
    shortcut: Any,
    dense: Any,
    name: str,
) -> keras.Model:
    inputs = keras.Input(input_shape, name="image")
    x = _convolve(inputs, stem, stem_filters, 3, 1, "conv1")
    x = layers.ReLU(name="relu1")(stock.batch_norm("bn1")(x))
    for prefix, convolutions in _named(stages):
        x = _residual_block(x, convolutions, conv, shortcut, prefix)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = dense(num_classes, use_bias=True, name="fc")(x)
    return keras.Model(inputs, logits, name=name)


def _basic(filters: int, strides: int) -> Convolutions:
    return (filters, 3, strides), (filters, 3, 1)


def _bottleneck(filters: int, strides: int) -> Convolutions:
    return (filters, 1, 1), (filters, 3, strides), (4 * filters, 1, 1)


def _stages(
    widths: Sequence[int], blocks: Sequence[int], block: Callable[[int, int], Convolutions]
) -> list[list[Convolutions]]:
    """The blocks of every stage; each stage but the first begins with stride 2."""
    return [
        [block(filters, 2 if stage and not index else 1) for index in range(count)]
        for stage, (filters, count) in enumerate(zip(widths, blocks, strict=True))
    ]


def _named(stages: list[list[Convolutions]]) -> Iterator[Any]:
    """Yield `("stage1_block1_", convolutions)` for every block in order."""
    for stage, blocks in enumerate(stages, start=1):
        for index, convolutions in enumerate(blocks, start=1):
            yield f"stage{stage}_block{index}_", convolutions


def _residual_block(
    x: Tensor, convolutions: Convolutions, conv: Any, shortcut: Any, prefix: str
) -> Tensor:
    """y = relu(shortcut(x) + bn(conv(... relu(bn(conv(x))))))."""
    y = x
    for index, (filters, kernel_size, strides) in enumerate(convolutions, start=1):
        if index > 1:
            y = layers.ReLU(name=f"{prefix}relu{index - 1}")(y)
        y = _convolve(y, conv, filters, kernel_size, strides, f"{prefix}conv{index}")
        y = stock.batch_norm(f"{prefix}bn{index}")(y)
    if _changes_shape(x, convolutions):
        x = shortcut(x, y.shape[-1], _total_strides(convolutions), prefix)
    y = layers.Add(name=f"{prefix}add")([x, y])
    return layers.ReLU(name=f"{prefix}relu{len(convolutions)}")(y)


def _preactivation_block(
    x: Tensor, convolutions: Convolutions, conv: Any, projection: Any, prefix: str, use_bias: bool
) -> Tensor:
    """y = x + conv(relu(bn(conv(relu(bn(x)))))), with a projection where the shape changes."""
    y = x
    for index, (filters, kernel_size, strides) in enumerate(convolutions, start=1):
        y = stock.batch_norm(f"{prefix}bn{index}")(y)
        y = layers.ReLU(name=f"{prefix}relu{index}")(y)
        if index == 1 and _changes_shape(x, convolutions):
            total_strides = _total_strides(convolutions)
            out_filters = convolutions[-1][0]
            name = f"{prefix}shortcut"
            x = _convolve(y, projection, out_filters, 1, total_strides, name, use_bias)
        y = _convolve(y, conv, filters, kernel_size, strides, f"{prefix}conv{index}", use_bias)
    return layers.Add(name=f"{prefix}add")([x, y])


def _pad(x: Tensor, filters: int, strides: int, prefix: str) -> Any:
    """He's option A: every second pixel, then zero channels on both sides, with stock layers."""
    # an average over one pixel is x[:, ::strides, ::strides]
    x = layers.AveragePooling2D(1, strides=strides, name=f"{prefix}shortcut_pool")(x)
    before = (filters - x.shape[-1]) // 2
    after = filters - x.shape[-1] - before
    # Read as "channels_first", the two axes that ZeroPadding2D pads are (W, C) of (B, H, W, C).
    return layers.ZeroPadding2D(
        ((0, 0), (before, after)), data_format="channels_first", name=f"{prefix}shortcut_pad"
    )(x)


def _projection(conv: stock.LayerFactory) -> Any:
    """He's option B: a strided 1x1 convolution with batch normalisation."""

    def project(x: Tensor, filters: int, strides: int, prefix: str) -> Any:
        x = _convolve(x, conv, filters, 1, strides, f"{prefix}shortcut")
        return stock.batch_norm(f"{prefix}shortcut_bn")(x)

    return project


def _convolve(
    x: Tensor,
    conv: Any,
    filters: int,
    kernel_size: int,
    strides: int,
    name: str,
    use_bias: bool = False,
) -> Tensor:
    options = {"strides": strides, "padding": "same", "use_bias": use_bias, "name": name}
    return conv(filters, kernel_size, **options)(x)


def _changes_shape(x: Tensor, convolutions: Convolutions) -> bool:
    return _total_strides(convolutions) > 1 or x.shape[-1] != convolutions[-1][0]


def _total_strides(convolutions: Convolutions) -> int:
    return max(strides for _, _, strides in convolutions)
