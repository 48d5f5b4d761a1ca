"""Convolutions whose kernel is a tensor network: what they share, whatever their axes and format.

Sources: Tensor Ring Nets (Wang et al. 2018, section 3.2, equations 11 to 13); TT on the permuted
kernel (Gabor & Zdunek 2022, equations 7 to 12); Ultimate tensorization (Garipov et al. 2016);
Kruskal convolutions (Lebedev et al. 2015); Tucker-2 (Kim et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_tensornet import formats, validation
from keras_tensornet.contraction import Plan, Workload
from keras_tensornet.execution import leading, run_plan
from keras_tensornet.layers.arguments import spanned_modes
from keras_tensornet.layers.common import FactorizedMethods
from keras_tensornet.modes import KernelModes, kernel_modes
from keras_tensornet.networks import Network
from keras_tensornet.shapes import BATCH_HINT, EXTENT_HINT, filled
from keras_tensornet.types import Config, Identifier, Implementation, Modes, Rank, Shape, Tensor

SPATIAL = ("joint", "separate")
PADDINGS = ("valid", "same", "causal")


class ConvMethods(FactorizedMethods):
    """Methods of convolutions and transposed convolutions; `ndim` counts the spatial axes."""

    ndim: int
    groups = 1
    # Of each layer: `(inputs, plan, kernels) -> outputs`, and of an axis the extent after it.
    _convolution: Callable[[Tensor, Plan, list[Tensor]], Tensor]
    _output_extent: Callable[[int, int], int]

    def _set_conv_arguments(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int],
        padding: str,
        data_format: str | None,
        dilation_rate: int | Sequence[int],
        spatial: str | None,
    ) -> None:
        """Check and keep the arguments that all convolutions share."""
        self.filters = validation.positive_int("filters", filters)
        self.kernel_size = _spatial_tuple("kernel_size", kernel_size, self.ndim)
        self.strides = _spatial_tuple("strides", strides, self.ndim)
        self.dilation_rate = _spatial_tuple("dilation_rate", dilation_rate, self.ndim)
        self.padding = validation.one_of("padding", str(padding).lower(), self._paddings())
        self.data_format = data_format or keras.config.image_data_format()
        validation.one_of("data_format", self.data_format, ("channels_last", "channels_first"))
        self.spatial = None if spatial is None else validation.one_of("spatial", spatial, SPATIAL)
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                "`strides` and `dilation_rate` cannot both be above 1. Received: "
                f"strides={self.strides}, dilation_rate={self.dilation_rate}."
            )
        self.input_spec = keras.layers.InputSpec(ndim=self.ndim + 2)

    @classmethod
    def _paddings(cls) -> tuple[str, ...]:
        return PADDINGS[:2]

    def build(self, input_shape: Shape) -> None:
        """Create the cores and the bias for inputs (batch, *spatial, channels)."""
        channels = input_shape[self._channel_axis]
        if channels is None:
            raise ValueError(
                "The channels of the inputs must be known when the layer is built. Received: "
                f"input shape {tuple(input_shape)} with data_format={self.data_format!r}."
            )
        if channels % self.groups:
            raise ValueError(
                "`groups` must divide the input channels. Received: "
                f"groups={self.groups}, channels={channels}."
            )
        self.compute_output_shape(input_shape)  # raises where the kernel does not fit
        self._build_kernel(self._kernel_modes(channels))
        axes = {self._channel_axis: channels}
        self.input_spec = keras.layers.InputSpec(ndim=self.ndim + 2, axes=axes)
        self._finish_build(input_shape)

    def _kernel_modes(self, channels: int) -> KernelModes:
        in_modes: Modes = self.in_modes
        out_modes: Modes = self.out_modes
        if self.network_argument is not None:
            modes = self.network_argument.kernel_modes()
            if modes.kernel_size != self.kernel_size or modes.groups != self.groups:
                raise ValueError(
                    "The network's spatial modes must have the extents of `kernel_size`, and its "
                    f"groups must be those of the layer. Received: kernel_size={self.kernel_size}, "
                    f"groups={self.groups}, and a network of extents {modes.kernel_size} and "
                    f"{modes.groups} groups. See `spatial` and `group` of `Network.parse`."
                )
            spanned_modes(
                self.network_argument, channels // self.groups, self.filters // self.groups
            )
            in_modes, out_modes, spatial = modes.in_modes, modes.out_modes, modes.spatial
        else:
            format = formats.get(self._format)
            joint = (self.spatial or format.spatial) == "joint"
            spatial = (self.kernel_size,) if joint else tuple((k,) for k in self.kernel_size)
            whole = None if format.tensorize else 1
            in_modes = whole if in_modes is None else in_modes
            out_modes = whole if out_modes is None else out_modes
        return kernel_modes(
            channels // self.groups,
            self.filters // self.groups,
            in_modes,
            out_modes,
            spatial,
            self.groups,
            "filters" if self.groups == 1 else "filters // groups",
        )

    def workload(
        self, input_shape: Shape, training: bool = False, merged: bool = False
    ) -> Workload:
        """What plans need to know of inputs of that shape."""
        batch = input_shape[0] or BATCH_HINT
        extents = tuple(
            extent or max(EXTENT_HINT, dilation * (kernel - 1) + 1)
            for extent, kernel, dilation in zip(
                self._spatial_part(input_shape), self.kernel_size, self.dilation_rate, strict=True
            )
        )
        shape = self._with_channels((batch, *extents))
        return Workload(
            rows=batch,
            spatial_in=extents,
            spatial_out=filled(self._spatial_part(self.compute_output_shape(shape))),
            strides=self.strides,
            training=training,
            merged=merged,
        )

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Apply the cores by the plan for these shapes, then bias and activation."""
        plan, kernels = self._plan_and_kernels(tuple(inputs.shape), bool(training))
        if self.data_format == "channels_first":
            inputs = ops.transpose(inputs, (0, *range(2, self.ndim + 2), 1))
        outputs = self._convolution(inputs, plan, kernels)
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        if self.data_format == "channels_first":
            outputs = ops.transpose(outputs, (0, self.ndim + 1, *range(1, self.ndim + 1)))
        return outputs if self.activation is None else self.activation(outputs)

    @property
    def _channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def _spatial_part(self, shape: Shape) -> Shape:
        return shape[1:-1] if self.data_format == "channels_last" else shape[2:]

    def _with_channels(self, lead: tuple[int, ...]) -> tuple[int, ...]:
        channels = self.modes.in_size * self.groups
        if self.data_format == "channels_last":
            return (*lead, channels)
        return (lead[0], channels, *lead[1:])

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """(batch, *spatial, filters), or filters first."""
        spatial = self._spatial_part(tuple(input_shape))
        extents = tuple(
            None if extent is None else self._output_extent(axis, extent)
            for axis, extent in enumerate(spatial)
        )
        if any(extent is not None and extent < 1 for extent in extents):
            raise ValueError(
                "The kernel does not fit into the inputs. Received: input shape "
                f"{tuple(input_shape)}, kernel_size={self.kernel_size}, "
                f"dilation_rate={self.dilation_rate}, padding={self.padding!r}."
            )
        if self.data_format == "channels_last":
            return (input_shape[0], *extents, self.filters)
        return (input_shape[0], self.filters, *extents)

    def _conv_config(self) -> Config:
        """The arguments of all convolutions as plain values."""
        return {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "spatial": self.spatial,
            **self._common_config(),
        }

    def _input_shape_for(self, kernel_shape: tuple[int, ...], like: keras.layers.Layer) -> Shape:
        """An input shape from which the layer builds to a kernel of that shape."""
        shape: list[int | None] = [None] * (self.ndim + 2)
        shape[self._channel_axis] = self._channels_of(kernel_shape)
        return tuple(shape)

    def _channels_of(self, kernel_shape: tuple[int, ...]) -> int:
        return kernel_shape[-2] * self.groups


class FactorizedConv(ConvMethods, keras.layers.Layer):
    """What `FactorizedConv1D`, `2D` and `3D` share; see `FactorizedConv2D` for the arguments."""

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
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        groups: int = 1,
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
        self.groups = validation.positive_int("groups", groups)
        if self.filters % self.groups:
            raise ValueError(
                "`groups` must divide `filters`. Received: "
                f"groups={self.groups}, filters={self.filters}."
            )
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
        return getattr(keras.layers, f"Conv{cls.ndim}D")

    @classmethod
    def _paddings(cls) -> tuple[str, ...]:
        return PADDINGS if cls.ndim == 1 else PADDINGS[:2]

    def _convolution(self, inputs: Tensor, plan: Plan, kernels: list[Tensor]) -> Tensor:
        """(B, *spatial, channels) -> (B, *spatial, filters), channels last."""
        if self.padding == "causal":
            left = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            inputs = ops.pad(inputs, ((0, 0), (left, 0), (0, 0)))
        if plan.implementation == "reconstructed":
            kernel = ops.cast(kernels[0], inputs.dtype)
            return self._convolve(inputs, kernel, tuple(range(self.ndim)))
        in_padding, out_padding = self.modes.padding
        inputs = pad_groups(inputs, self.groups, in_padding)
        outputs = run_plan(
            plan, inputs, kernels, self.network.size, self._convolve, self._depthwise_convolve
        )
        return crop_groups(outputs, self.groups, self.filters // self.groups, out_padding)

    def _convolve(self, inputs: Tensor, kernel: Tensor, axes: tuple[int, ...]) -> Tensor:
        return ops.conv(inputs, kernel, **self._settings(axes))

    def _depthwise_convolve(self, inputs: Tensor, kernel: Tensor, axes: tuple[int, ...]) -> Tensor:
        return ops.depthwise_conv(inputs, kernel, **self._settings(axes))

    def _settings(self, axes: tuple[int, ...]) -> Config:
        """Strides and dilation of the axes that a stage handles; 1 for the others."""
        every = range(self.ndim)
        return {
            "strides": tuple(self.strides[axis] if axis in axes else 1 for axis in every),
            "dilation_rate": tuple(
                self.dilation_rate[axis] if axis in axes else 1 for axis in every
            ),
            "padding": "valid" if self.padding == "causal" else self.padding,
            "data_format": "channels_last",
        }

    def _output_extent(self, axis: int, extent: int) -> int:
        if self.padding == "valid":
            extent -= self.dilation_rate[axis] * (self.kernel_size[axis] - 1)
        return -(-extent // self.strides[axis])

    def get_config(self) -> Config:
        """All arguments as plain values."""
        return {**super().get_config(), **self._conv_config(), "groups": self.groups}


def _spatial_tuple(name: str, value: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        return (validation.positive_int(name, value),) * ndim
    extents = validation.int_tuple(name, value)
    if len(extents) != ndim:
        raise ValueError(
            f"`{name}` must be an integer or a tuple of {ndim}. Received: {name}={extents}."
        )
    return extents


def pad_groups(inputs: Tensor, groups: int, padding: int) -> Tensor:
    """Append zeros to the channels of each group, up to the product of the modes."""
    if not padding:
        return inputs
    size = inputs.shape[-1] // groups
    split = ops.reshape(inputs, (-1, groups, size))
    split = ops.pad(split, ((0, 0), (0, 0), (0, padding)))
    return ops.reshape(split, (*leading(inputs), groups * (size + padding)))


def crop_groups(outputs: Tensor, groups: int, size: int, padding: int) -> Tensor:
    """Cut the padded channels of each group off."""
    if not padding:
        return outputs
    split = ops.reshape(outputs, (-1, groups, size + padding))[..., :size]
    return ops.reshape(split, (*leading(outputs), math.prod((groups, size))))
