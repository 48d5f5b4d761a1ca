"""Transposed convolutions whose kernel is a tensor network.

A transposed convolution along all axes is the same along one axis after another, so a plan's stages
are transposed convolutions as well: 1x1 products, and one stage for each spatial mode. Keras keeps
the kernel as (height, width, filters, channels); its modes are (height, width, channels, filters).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from keras_tensornet import validation
from keras_tensornet.contraction import Plan, Workload
from keras_tensornet.execution import run_plan
from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.conv import ConvMethods, crop_groups, pad_groups
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.types import Config, Identifier, Implementation, Modes, Rank, Shape, Tensor


class FactorizedConvTranspose(ConvMethods, keras.layers.Layer):
    """What transposed convolutions share; see `FactorizedConv2DTranspose` for the arguments."""

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        rank: Rank = None,
        format: str | None = None,
        network: Network | None = None,
        in_modes: Modes = None,
        out_modes: Modes = None,
        spatial: str | None = None,
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        output_padding: int | Sequence[int] | None = None,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Identifier = None,
        use_bias: bool = True,
        kernel_initializer: Identifier = None,
        bias_initializer: Identifier = "zeros",
        kernel_regularizer: Identifier = None,
        bias_regularizer: Identifier = None,
        activity_regularizer: Identifier = None,
        kernel_constraint: Identifier = None,
        bias_constraint: Identifier = None,
        implementation: Implementation = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self._set_conv_arguments(
            filters, kernel_size, strides, padding, data_format, dilation_rate, spatial
        )
        self.output_padding = _output_padding(output_padding, self.strides)
        self._set_arguments(
            rank,
            format,
            network,
            in_modes,
            out_modes,
            implementation,
            activation,
            use_bias,
            kernel_initializer,
            bias_initializer,
            kernel_regularizer,
            bias_regularizer,
            kernel_constraint,
            bias_constraint,
        )

    @classmethod
    def dense_class(cls) -> type[keras.layers.Layer]:
        """The dense twin."""
        return getattr(keras.layers, f"Conv{cls.ndim}DTranspose")

    def _kernel_modes(self, channels: int) -> KernelModes:
        modes = super()._kernel_modes(channels)
        # (*kernel_size, channels, filters) -> (*kernel_size, filters, channels)
        order = (*range(self.ndim), self.ndim + 1, self.ndim)
        return replace(modes, split=modes.plain_shape, order=order)

    def workload(
        self, input_shape: Shape, training: bool = False, merged: bool = False
    ) -> Workload:
        """What plans need to know of inputs of that shape."""
        return replace(super().workload(input_shape, training, merged), transposed=True)

    def _convolution(self, inputs: Tensor, plan: Plan, kernels: list[Tensor]) -> Tensor:
        """(B, *spatial, channels) -> (B, *spatial, filters), channels last."""
        if plan.implementation == "reconstructed":
            kernel = ops.cast(kernels[0], inputs.dtype)
            return self._transpose(inputs, kernel, tuple(range(self.ndim)))
        in_padding, out_padding = self.modes.padding
        inputs = pad_groups(inputs, 1, in_padding)
        outputs = run_plan(plan, inputs, kernels, self.network.size, self._convolve)
        return crop_groups(outputs, 1, self.filters, out_padding)

    def _convolve(self, inputs: Tensor, kernel: Tensor, axes: tuple[int, ...]) -> Tensor:
        """A stage: its kernel is (*extents, channels, filters)."""
        return self._transpose(inputs, ops.swapaxes(kernel, -1, -2), axes)

    def _transpose(self, inputs: Tensor, kernel: Tensor, axes: tuple[int, ...]) -> Tensor:
        every, output_padding = range(self.ndim), self.output_padding
        if output_padding is not None:
            output_padding = tuple(output_padding[k] if k in axes else 0 for k in every)
        return ops.conv_transpose(
            inputs,
            kernel,
            strides=tuple(self.strides[k] if k in axes else 1 for k in every),
            dilation_rate=tuple(self.dilation_rate[k] if k in axes else 1 for k in every),
            padding=self.padding,
            output_padding=output_padding,
            data_format="channels_last",
        )

    def _output_extent(self, axis: int, extent: int) -> int:
        stride = self.strides[axis]
        reach = (self.kernel_size[axis] - 1) * self.dilation_rate[axis] + 1
        if self.output_padding is None:
            return extent * stride + (max(reach - stride, 0) if self.padding == "valid" else 0)
        least = reach if self.padding == "valid" else reach % 2
        return (extent - 1) * stride + least + self.output_padding[axis]

    def _channels_of(self, kernel_shape: tuple[int, ...]) -> int:
        return kernel_shape[-1]

    def get_config(self) -> Config:
        """All arguments as plain values."""
        config = {**super().get_config(), **self._conv_config()}
        return config | {"output_padding": self.output_padding}


@serialisable
class FactorizedConv2DTranspose(FactorizedConvTranspose):
    """A `keras.layers.Conv2DTranspose` whose kernel is a tensor network of any format.

    Args:
        filters, kernel_size, rank, format, network, in_modes, out_modes, spatial, implementation,
            kernel_initializer, kernel_regularizer, kernel_constraint, bond_dropout, seed: as in
            `FactorizedConv2D`; modes are named as the layer sees them, `in_modes` multiply to the
            input channels and `out_modes` to `filters`.
        strides, padding, output_padding, data_format, dilation_rate, activation, use_bias,
            bias_initializer, bias_regularizer, activity_regularizer, bias_constraint, **kwargs:
            as in `keras.layers.Conv2DTranspose`.

    Input shape:
        (batch, height, width, channels), or (batch, channels, height, width) with
        `data_format="channels_first"`. Batch, height and width may be unknown.

    Output shape:
        (batch, new height, new width, filters), or filters first.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if modes do not multiply to the channels, `output_padding` is not below
            `strides`, or a rank is below 1 or of the wrong length.
    """

    ndim = 2


@serialisable
class TRConv2DTranspose(FactorizedConvTranspose):
    """Transposed 2D convolution with a tensor-ring kernel; `rank` as in `TRConv2D`.

    Examples:

    >>> layer = TRConv2DTranspose(8, 3, rank=2, strides=2, padding="same")
    >>> layer.compute_output_shape((None, 7, 7, 16))
    (None, 14, 14, 8)
    """

    ndim = 2
    format = "tr"


@serialisable
class TTConv2DTranspose(FactorizedConvTranspose):
    """Transposed 2D convolution with a tensor train (channels, height, width, filters)."""

    ndim = 2
    format = "tt"


@serialisable
class CPConv2DTranspose(FactorizedConvTranspose):
    """Transposed 2D convolution with a CP kernel of `rank` rank-one terms."""

    ndim = 2
    format = "cp"


@serialisable
class TuckerConv2DTranspose(FactorizedConvTranspose):
    """Transposed 2D convolution with a Tucker kernel; `rank` as in `TuckerConv2D`."""

    ndim = 2
    format = "tucker"


def _output_padding(
    value: int | Sequence[int] | None, strides: tuple[int, ...]
) -> tuple[int, ...] | None:
    """`output_padding` for each axis, at least 0 and below the strides."""
    if value is None:
        return None
    given = value if isinstance(value, (tuple, list)) else (value,) * len(strides)
    paddings = tuple(validation.optional_int("output_padding", padding) for padding in given)
    if len(paddings) != len(strides) or any(
        padding is None or not 0 <= padding < stride
        for padding, stride in zip(paddings, strides, strict=True)
    ):
        raise ValueError(
            f"`output_padding` must be None, an integer or a tuple of {len(strides)}, each at "
            "least 0 and below the stride of its axis. Received: "
            f"output_padding={value}, strides={strides}."
        )
    return tuple(padding or 0 for padding in paddings)
