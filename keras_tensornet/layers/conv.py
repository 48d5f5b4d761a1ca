"""Convolutions whose kernel is a tensor network.

Sources: Tensor Ring Nets (Wang et al. 2018, section 3.2, equations 11 to 13) for `TRConv2D`; TT on
the permuted kernel (Gabor & Zdunek 2022, equations 7 to 12) for `TTConv2D`; Ultimate tensorization
(Garipov et al. 2016) for `TTMConv2D`.
"""

from __future__ import annotations

import math

import keras
from keras import ops

from keras_tensornet import formats, validation
from keras_tensornet.contraction import Plan, Workload
from keras_tensornet.execution import leading, run_plan
from keras_tensornet.layers.common import BATCH_HINT, EXTENT_HINT, FactorizedMethods, serialisable
from keras_tensornet.modes import kernel_modes

SPATIAL = ("joint", "separate")
PADDINGS = ("valid", "same", "causal")


class FactorizedConv(FactorizedMethods, keras.layers.Layer):
    """What `FactorizedConv2D` and its kin share; `ndim` is the number of spatial axes."""

    ndim: int

    def __init__(
        self,
        filters,
        kernel_size,
        rank=None,
        format=None,
        network=None,
        in_modes=None,
        out_modes=None,
        spatial=None,
        strides=1,
        padding="valid",
        data_format=None,
        dilation_rate=1,
        groups=1,
        activation=None,
        use_bias=True,
        kernel_initializer=None,
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        implementation="auto",
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.filters = validation.positive_int("filters", filters)
        self.kernel_size = _spatial_tuple("kernel_size", kernel_size, self.ndim)
        self.strides = _spatial_tuple("strides", strides, self.ndim)
        self.dilation_rate = _spatial_tuple("dilation_rate", dilation_rate, self.ndim)
        paddings = PADDINGS if self.ndim == 1 else PADDINGS[:2]
        self.padding = validation.one_of("padding", str(padding).lower(), paddings)
        self.data_format = data_format or keras.config.image_data_format()
        validation.one_of("data_format", self.data_format, ("channels_last", "channels_first"))
        self.groups = validation.positive_int("groups", groups)
        self.spatial = None if spatial is None else validation.one_of("spatial", spatial, SPATIAL)
        if self.filters % self.groups:
            raise ValueError(
                "`groups` must divide `filters`. Received: "
                f"groups={self.groups}, filters={self.filters}."
            )
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                "`strides` and `dilation_rate` cannot both be above 1. Received: "
                f"strides={self.strides}, dilation_rate={self.dilation_rate}."
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
        self.input_spec = keras.layers.InputSpec(ndim=self.ndim + 2)

    @classmethod
    def dense_class(cls):
        """The dense twin."""
        return getattr(keras.layers, f"Conv{cls.ndim}D")

    def build(self, input_shape):
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
        self.built_shape = tuple(input_shape)
        self.built = True

    def _kernel_modes(self, channels: int):
        if self.network_argument is not None:
            modes = self.network_argument.kernel_modes()
            in_modes, out_modes, spatial = modes.in_modes, modes.out_modes, modes.spatial
        else:
            format = formats.get(self._format)
            joint = (self.spatial or format.spatial) == "joint"
            spatial = (self.kernel_size,) if joint else tuple((k,) for k in self.kernel_size)
            whole = None if format.tensorize else 1
            in_modes = whole if self.in_modes is None else self.in_modes
            out_modes = whole if self.out_modes is None else self.out_modes
        return kernel_modes(
            channels // self.groups,
            self.filters // self.groups,
            in_modes,
            out_modes,
            spatial,
            self.groups,
            "filters" if self.groups == 1 else "filters // groups",
        )

    def workload(self, input_shape, training: bool = False, merged: bool = False) -> Workload:
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
            spatial_out=self._spatial_part(self.compute_output_shape(shape)),
            strides=self.strides,
            training=training,
            merged=merged,
        )

    def call(self, inputs, training=None):
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

    def _convolution(self, inputs, plan: Plan, kernels: list):
        """(B, *spatial, channels) -> (B, *spatial, filters), channels last."""
        if self.padding == "causal":
            left = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            inputs = ops.pad(inputs, ((0, 0), (left, 0), (0, 0)))
        if plan.implementation == "reconstructed":
            kernel = ops.cast(kernels[0], inputs.dtype)
            return self._convolve(inputs, kernel, tuple(range(self.ndim)))
        in_padding, out_padding = self.modes.padding
        inputs = _pad_groups(inputs, self.groups, in_padding)
        outputs = run_plan(
            plan, inputs, kernels, self.network.size, self._convolve, self._depthwise_convolve
        )
        return _crop_groups(outputs, self.groups, self.filters // self.groups, out_padding)

    def _convolve(self, inputs, kernel, axes):
        return ops.conv(inputs, kernel, **self._settings(axes))

    def _depthwise_convolve(self, inputs, kernel, axes):
        return ops.depthwise_conv(inputs, kernel, **self._settings(axes))

    def _settings(self, axes: tuple[int, ...]) -> dict:
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

    @property
    def _channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def _spatial_part(self, shape: tuple) -> tuple:
        return shape[1:-1] if self.data_format == "channels_last" else shape[2:]

    def _with_channels(self, lead: tuple) -> tuple:
        channels = self.modes.in_size * self.groups
        if self.data_format == "channels_last":
            return (*lead, channels)
        return (lead[0], channels, *lead[1:])

    def compute_output_shape(self, input_shape):
        """(batch, *spatial, filters), or filters first."""
        extents = tuple(
            _output_extent(extent, kernel, stride, dilation, self.padding)
            for extent, kernel, stride, dilation in zip(
                self._spatial_part(tuple(input_shape)),
                self.kernel_size,
                self.strides,
                self.dilation_rate,
                strict=True,
            )
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

    def get_config(self):
        """All arguments as plain values."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
            "spatial": self.spatial,
            **self._common_config(),
        }


@serialisable
class FactorizedConv2D(FactorizedConv):
    """A `keras.layers.Conv2D` whose kernel is a tensor network of any format, or of your own.

    Args:
        filters: number of output channels.
        kernel_size: int or (height, width).
        rank: bond sizes: an int for all, or a tuple as the format takes it.
        format: name of the format, "tr" by default.
        network: a `keras_tensornet.Network` of your own, instead of `format` and `rank`.
        in_modes: factors of the input channels (per group), or how many; None takes the format's
            default, balanced factors or the channels as one mode.
        out_modes: the same for `filters` (per group).
        spatial: "joint", one mode of size height * width, or "separate", one mode each; None takes
            the format's default.
        implementation: "factorized" applies the cores in stages, "reconstructed" merges the
            kernel and runs the dense convolution, "auto" chooses by predicted time; or a chain of
            stages as `plan.describe()` writes it; or a dict of these with the keys "inference" and
            "training".
        kernel_initializer: of the merged kernel; by default `MergedVarianceScaling()`.
        kernel_regularizer: of the merged kernel; an L2 penalty is computed from the cores.
        kernel_constraint: of the merged kernel, which is then always merged.
        strides, padding, data_format, dilation_rate, groups, activation, use_bias,
            bias_initializer, bias_regularizer, activity_regularizer, bias_constraint, **kwargs:
            as in `keras.layers.Conv2D`.

    Input shape:
        (batch, height, width, channels), or (batch, channels, height, width) with
        `data_format="channels_first"`. Batch, height and width may be unknown.

    Output shape:
        (batch, new height, new width, filters), or filters first.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if modes do not multiply to the channels, `groups` does not divide them, or a
            rank is below 1 or of the wrong length.
    """

    ndim = 2


@serialisable
class TRConv2D(FactorizedConv):
    """2D convolution with a tensor-ring kernel (Wang et al. 2018, section 3.2).

    Cores (r, n, r) on a ring: input modes, one core for the spatial positions (two with
    `spatial="separate"`), output modes. Arguments as in `FactorizedConv2D`.

    Example:

    >>> layer = TRConv2D(64, 3, rank=10, in_modes=(4, 4, 4), out_modes=(4, 4, 4))
    >>> layer.build((None, 32, 32, 64))
    >>> layer.network.num_params
    3300
    """

    ndim = 2
    format = "tr"


@serialisable
class TTConv2D(FactorizedConv):
    """2D convolution with a tensor train on the permuted kernel (Gabor & Zdunek 2022).

    The kernel is permuted to (channels, height, width, filters) and `rank` is an int or
    (r1, r2, r3): a 1x1 convolution to r1 channels, D x 1 to r2, 1 x D to r3, 1x1 to the filters.
    Arguments as in `FactorizedConv2D`; `in_modes` and `out_modes` split the channels further.
    """

    ndim = 2
    format = "tt"


@serialisable
class TTMConv2D(FactorizedConv):
    """2D convolution with a TT-matrix kernel (Garipov et al. 2016; TT-CONV of Yin et al. 2021).

    A spatial core (1, D*D, r), then cores (r, i_k, o_k, r') with one input and one output mode
    each. Arguments as in `FactorizedConv2D`.
    """

    ndim = 2
    format = "ttm"


def _spatial_tuple(name: str, value, ndim: int) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        return (validation.positive_int(name, value),) * ndim
    extents = validation.int_tuple(name, value)
    if len(extents) != ndim:
        raise ValueError(
            f"`{name}` must be an integer or a tuple of {ndim}. Received: {name}={extents}."
        )
    return extents


def _output_extent(extent, kernel: int, stride: int, dilation: int, padding: str):
    if extent is None:
        return None
    if padding == "valid":
        extent -= dilation * (kernel - 1)
    return -(-extent // stride)


def _pad_groups(inputs, groups: int, padding: int):
    """Append zeros to the channels of each group, up to the product of the modes."""
    if not padding:
        return inputs
    size = inputs.shape[-1] // groups
    split = ops.reshape(inputs, (-1, groups, size))
    split = ops.pad(split, ((0, 0), (0, 0), (0, padding)))
    return ops.reshape(split, (*leading(inputs), groups * (size + padding)))


def _crop_groups(outputs, groups: int, size: int, padding: int):
    """Cut the padded channels of each group off."""
    if not padding:
        return outputs
    split = ops.reshape(outputs, (-1, groups, size + padding))[..., :size]
    return ops.reshape(split, (*leading(outputs), math.prod((groups, size))))
