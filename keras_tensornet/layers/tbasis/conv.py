"""2D convolution on a shared basis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_tensornet.contraction import Plan, Workload
from keras_tensornet.execution import leading, run_plan, stage_kernels
from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.tbasis.basis import TBasis
from keras_tensornet.layers.tbasis.common import TBasisMethods
from keras_tensornet.shapes import BATCH_HINT, filled
from keras_tensornet.types import Config, Identifier, Implementation, Shape, Tensor


@serialisable
class TBasisConv2D(TBasisMethods, keras.layers.Layer):
    """A `keras.layers.Conv2D` whose kernel is a ring of cores from a shared basis.

    Call it as `layer(x, basis=basis)`, where `basis = TBasis(size, rank, mode)(x)` is the same
    tensor for all layers of the network. Its own parameters are `size + rank` a core and the bias.
    A kernel of C input channels and T filters has max(ceil(log_n C), ceil(log_n T)) cores, and one
    for its spatial positions unless it is 1 x 1.

    Args:
        filters: number of output channels.
        kernel_size: int or (height, width); height times width is at most the basis' mode.
        kernel_initializer: of the merged kernel, of which only the variance counts; He's by
            default, as in the paper.
        kernel_regularizer: of the merged kernel; where the kernel is not merged, an L2 penalty is
            computed from the cores.
        adapters: rank adapters, "exp", "linear" or "none"; see `TBasisCores`.
        implementation: "reconstructed" merges the kernel and runs the dense convolution,
            "factorized" applies the cores in stages (the paper's direct mapping), "auto" chooses
            by predicted time. A grouped convolution is always merged.
        seed: integer, for the coefficients.
        shared_basis: a `TBasis` layer that this layer and others hold, and are then called with
            their inputs alone; `tbasis_model` makes such layers inside of composite layers.
        strides, padding, data_format, dilation_rate, groups, activation, use_bias,
            bias_initializer, bias_regularizer, activity_regularizer, bias_constraint, **kwargs:
            as in `keras.layers.Conv2D`.

    Input shape:
        As `keras.layers.Conv2D`, and `basis`: (size, rank, mode, rank), or `cores`: (cores, rank,
        mode, rank), the layer's share of what a `TBasisCores` layer returns.

    Output shape:
        As `keras.layers.Conv2D`.

    Raises:
        ValueError: if called with neither basis nor cores, with one of another rank or mode than
            the layer was built for, or with a mode that is smaller than the kernel.

    Source: Obukhov et al. 2020, sections 3 and 4.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        *,
        strides: int | Sequence[int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        groups: int = 1,
        activation: Identifier = None,
        use_bias: bool = True,
        kernel_initializer: Identifier = None,
        bias_initializer: Identifier = "zeros",
        kernel_regularizer: Identifier = None,
        bias_regularizer: Identifier = None,
        activity_regularizer: Identifier = None,
        bias_constraint: Identifier = None,
        adapters: str = "exp",
        implementation: Implementation = "auto",
        seed: int | None = None,
        shared_basis: TBasis | None = None,
        **kwargs: Any,
    ) -> None:
        # Only the inputs are cast, in `call`: the cores stay in the variable dtype.
        super().__init__(activity_regularizer=activity_regularizer, autocast=False, **kwargs)
        # The stock layer checks what both layers take, with Keras' own errors.
        stock = keras.layers.Conv2D(
            filters, kernel_size, strides, padding, data_format, dilation_rate, groups
        )
        self.filters, self.kernel_size, self.strides = filters, stock.kernel_size, stock.strides
        self.padding, self.data_format = stock.padding, stock.data_format
        self.dilation_rate, self.groups = stock.dilation_rate, groups
        self._set_arguments(
            activation,
            use_bias,
            kernel_initializer,
            bias_initializer,
            kernel_regularizer,
            bias_regularizer,
            bias_constraint,
            adapters,
            implementation,
            seed,
            shared_basis,
        )
        if groups > 1:
            self._forced = "reconstructed"

    def _checked_implementation(self, implementation: Implementation) -> str:
        if self.groups > 1 and implementation == "factorized":
            raise ValueError(
                "A grouped convolution on a basis merges its kernel, because its groups need not "
                f"be powers of n. Received: groups={self.groups}, implementation='factorized'. Use "
                "implementation='auto' or 'reconstructed'."
            )
        return super()._checked_implementation(implementation)

    def build(
        self,
        inputs_shape: Shape,
        basis_shape: Shape | None = None,
        cores_shape: Shape | None = None,
    ) -> None:
        """Create coefficients, unless cores are given, and the bias."""
        channels = inputs_shape[self._channel_axis]
        if channels is None:
            raise ValueError(
                "The channels of the inputs must be known when the layer is built. Received: "
                f"input shape {tuple(inputs_shape)} with data_format={self.data_format!r}."
            )
        if channels % self.groups:
            raise ValueError(
                "`groups` must divide the input channels. Received: "
                f"groups={self.groups}, channels={channels}."
            )
        kernel_shape = (*self.kernel_size, channels // self.groups, self.filters)
        self._build_ring(kernel_shape, basis_shape, cores_shape)
        self._extents = self._spatial_part(tuple(inputs_shape))
        self.built = True

    def plan_for(
        self,
        batch_size: int | None = None,
        training: bool = False,
        extents: Shape | None = None,
    ) -> Plan:
        """The plan for a batch size and spatial extents, forward or training."""
        spatial = filled(extents or self._extents)
        channels = self.kernel_shape[-2] * self.groups
        shape = (batch_size, *spatial, channels)
        if self.data_format == "channels_first":
            shape = (batch_size, channels, *spatial)
        workload = Workload(
            rows=batch_size or BATCH_HINT,
            spatial_in=spatial,
            spatial_out=filled(self._spatial_part(self.compute_output_shape(shape))),
            strides=self.strides,
            training=training,
        )
        return self._plan(workload)

    def call(
        self,
        inputs: Tensor,
        basis: Tensor | None = None,
        cores: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """Apply the cores by the plan for these shapes, then bias and activation."""
        inputs = ops.cast(inputs, self.compute_dtype)
        batch, extents = inputs.shape[0], self._spatial_part(tuple(inputs.shape))
        plan, cores, kernel = self._evaluation(
            basis, cores, training, batch_size=batch, extents=extents
        )
        if kernel is not None:
            kernel = ops.cast(kernel, inputs.dtype)
            outputs = ops.conv(inputs, kernel, **self._settings(self.data_format))
        else:
            outputs = self._direct(inputs, cores, plan)
        if self.bias is not None:
            last = self.data_format == "channels_last"
            bias = ops.reshape(self.bias, (1, 1, 1, -1) if last else (1, -1, 1, 1))
            outputs = ops.add(outputs, ops.cast(bias, outputs.dtype))
        return outputs if self.activation is None else self.activation(outputs)

    def _direct(self, inputs: Tensor, cores: list[Tensor], plan: Plan) -> Tensor:
        """Stages on channels-last activations; padded channels are zero before, cut after."""
        if self.data_format == "channels_first":
            inputs = ops.transpose(inputs, (0, 2, 3, 1))
        in_padding, out_padding = self.ring.modes.padding
        if in_padding:
            # As a matrix: TensorFlow would fold a padding of images into the convolution after it,
            # the channels' with it, and then find too few of them.
            channels = inputs.shape[-1]
            flat = ops.pad(ops.reshape(inputs, (-1, channels)), ((0, 0), (0, in_padding)))
            inputs = ops.reshape(flat, (*leading(inputs), channels + in_padding))
        size, kernels = self.ring.network.size, stage_kernels(plan, cores)
        outputs = run_plan(plan, inputs, kernels, size, self._convolve, self._depthwise_convolve)
        if out_padding:
            outputs = outputs[..., : self.filters]
        if self.data_format == "channels_first":
            outputs = ops.transpose(outputs, (0, 3, 1, 2))
        return outputs

    def _convolve(self, inputs: Tensor, kernel: Tensor, axes: tuple[int, ...]) -> Tensor:
        return ops.conv(inputs, kernel, **self._settings("channels_last"))

    def _depthwise_convolve(self, inputs: Tensor, kernel: Tensor, axes: tuple[int, ...]) -> Tensor:
        return ops.depthwise_conv(inputs, kernel, **self._settings("channels_last"))

    def _settings(self, data_format: str) -> dict[str, Any]:
        # The spatial positions are one core, so the stage that has it handles both axes.
        return {
            "strides": self.strides,
            "dilation_rate": self.dilation_rate,
            "padding": self.padding,
            "data_format": data_format,
        }

    @property
    def _channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def _spatial_part(self, shape: Shape) -> Shape:
        return shape[1:-1] if self.data_format == "channels_last" else shape[2:]

    def compute_output_shape(
        self,
        inputs_shape: Shape,
        basis_shape: Shape | None = None,
        cores_shape: Shape | None = None,
    ) -> Shape:
        """As `keras.layers.Conv2D`."""
        return self._stock_layer().compute_output_shape(tuple(inputs_shape))

    def _stock_layer(self, **replaced: Any) -> keras.layers.Layer:
        config = {"name": self.name, "dtype": self.dtype_policy}
        return keras.layers.Conv2D(**config | self._conv_config() | self._stock_config() | replaced)

    def _stock_input_shape(self) -> Shape:
        channels = self.kernel_shape[-2] * self.groups
        if self.data_format == "channels_last":
            return (None, None, None, channels)
        return (None, channels, None, None)

    def _conv_config(self) -> Config:
        return {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
        }

    def get_config(self) -> Config:
        """All arguments as plain values."""
        return {
            **super().get_config(),
            **self._conv_config(),
            **self._stock_config(),
            **self._own_config(),
        }
