"""Dense layer on a shared basis."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tensornet import validation
from keras_tensornet.contraction import Plan, Workload
from keras_tensornet.execution import leading, run_plan, stage_kernels
from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.tbasis.basis import TBasis
from keras_tensornet.layers.tbasis.common import TBasisMethods
from keras_tensornet.shapes import BATCH_HINT, rows_of
from keras_tensornet.types import Config, Identifier, Implementation, Shape, Tensor


@serialisable
class TBasisDense(TBasisMethods, keras.layers.Layer):
    """A `keras.layers.Dense` whose kernel is a ring of cores from a shared basis.

    Call it as `layer(x, basis=basis)`, where `basis = TBasis(size, rank, mode)(x)` is the same
    tensor for all layers of the network. Its own parameters are `size + rank` a core and the bias;
    a kernel of I x O has max(ceil(log_n I), ceil(log_n O)) cores.

    Args:
        units: size of the output.
        kernel_initializer: of the merged kernel, of which only the variance counts; He's by
            default, as in the paper.
        kernel_regularizer: of the merged kernel; where the kernel is not merged, an L2 penalty is
            computed from the cores.
        adapters: rank adapters, "exp", "linear" or "none"; see `TBasisCores`.
        implementation: "reconstructed" merges the kernel and runs the dense product,
            "factorized" applies the cores in stages (the paper's direct mapping), "auto" chooses
            by predicted time.
        seed: integer, for the coefficients.
        shared_basis: a `TBasis` layer that this layer and others hold, and are then called with
            their inputs alone; `tbasis_model` makes such layers inside of composite layers.
        activation, use_bias, bias_initializer, bias_regularizer, activity_regularizer,
            bias_constraint, **kwargs: as in `keras.layers.Dense`.

    Input shape:
        (batch, ..., input size), and `basis`: (size, rank, mode, rank), or `cores`: (cores, rank,
        mode, rank), the layer's share of what a `TBasisCores` layer returns.

    Output shape:
        (batch, ..., units)

    Raises:
        ValueError: if called with neither basis nor cores, or with one of another rank or mode
            than the layer was built for.

    Source: Obukhov et al. 2020, sections 3 and 4.
    """

    def __init__(
        self,
        units: int,
        *,
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
        self.units = validation.positive_int("units", units)
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
        self.supports_masking = True

    def build(
        self,
        inputs_shape: Shape,
        basis_shape: Shape | None = None,
        cores_shape: Shape | None = None,
    ) -> None:
        """Create coefficients, unless cores are given, and the bias."""
        in_size = inputs_shape[-1]
        if in_size is None:
            raise ValueError(
                "The last axis of the inputs must be known when the layer is built. Received: "
                f"input shape {tuple(inputs_shape)}."
            )
        self._build_ring((in_size, self.units), basis_shape, cores_shape)
        self.built = True

    def plan_for(self, batch_size: int | None = None, training: bool = False) -> Plan:
        """The plan for a batch size (times all axes but the last), forward or training."""
        return self._plan(Workload(rows=batch_size or BATCH_HINT, training=training))

    def call(
        self,
        inputs: Tensor,
        basis: Tensor | None = None,
        cores: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """Apply the cores by the plan for this batch, then bias and activation."""
        inputs = ops.cast(inputs, self.compute_dtype)
        rows = rows_of(inputs.shape[:-1])
        plan, cores, kernel = self._evaluation(basis, cores, training, batch_size=rows)
        if kernel is not None:
            outputs = ops.matmul(inputs, ops.cast(kernel, inputs.dtype))
        else:
            outputs = self._direct(inputs, cores, plan)
        if self.bias is not None:
            outputs = ops.add(outputs, ops.cast(self.bias, outputs.dtype))
        return outputs if self.activation is None else self.activation(outputs)

    def _direct(self, inputs: Tensor, cores: list[Tensor], plan: Plan) -> Tensor:
        in_padding, _ = self.ring.modes.padding
        flat = ops.reshape(inputs, (-1, self.ring.modes.in_size))
        if in_padding:
            flat = ops.pad(flat, ((0, 0), (0, in_padding)))
        outputs = run_plan(plan, flat, stage_kernels(plan, cores), self.ring.network.size)
        return ops.reshape(outputs[:, : self.units], (*leading(inputs), self.units))

    def compute_output_shape(
        self,
        inputs_shape: Shape,
        basis_shape: Shape | None = None,
        cores_shape: Shape | None = None,
    ) -> Shape:
        """(batch, ..., units)"""
        return (*inputs_shape[:-1], self.units)

    def _stock_layer(self, **replaced: Any) -> keras.layers.Layer:
        config = {"name": self.name, "dtype": self.dtype_policy, "units": self.units}
        return keras.layers.Dense(**config | self._stock_config() | replaced)

    def _stock_input_shape(self) -> Shape:
        return (None, self.kernel_shape[0])

    def get_config(self) -> Config:
        """All arguments as plain values."""
        return {
            **super().get_config(),
            "units": self.units,
            **self._stock_config(),
            **self._own_config(),
        }
