"""What recurrent cells share whose input kernel, and if wanted recurrent kernel, is a network.

The gates are folded into the first output mode: units of modes (4, 4, 4, 4) and the four gates of
an LSTM give a kernel with output modes (16, 4, 4, 4) (Yang et al., "Tensor-train recurrent neural
networks for video classification", 2017, equations 10 and 11).

A cell does one step. Within a sequence the layers of `keras_tensornet.layers.recurrent` first call
`FactorizedCell.sequence`, which does all that is the same for every step once: the product of all
inputs with the input kernel, the dropout masks, and the merging of the recurrent kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import activations, constraints, initializers, ops, regularizers

from keras_tensornet import formats, keras_internals, validation
from keras_tensornet.contraction import IMPLEMENTATIONS, Workload, make_plan
from keras_tensornet.execution import run_matmul, stage_kernels
from keras_tensornet.initializers import MergedVarianceScaling
from keras_tensornet.kernels import FactorizedKernel
from keras_tensornet.layers.arguments import resolve_mode_argument
from keras_tensornet.layers.common import FactorizedMethods
from keras_tensornet.layers.implementation import FACTORIZED, choices
from keras_tensornet.layers.recurrence import Recurrence
from keras_tensornet.modes import KernelModes, balanced_modes, kernel_modes, resolve_modes
from keras_tensornet.networks import Network, clip_ranks
from keras_tensornet.shapes import BATCH_HINT, rows_of
from keras_tensornet.types import Config, Identifier, Implementation, Modes, Rank, Shape, Tensor

MASKED_CELL: Any = keras_internals.masked_cell()


class FactorizedCell(FactorizedMethods, keras.layers.Layer, MASKED_CELL):
    """What `FactorizedLSTMCell` and `FactorizedGRUCell` share; `gates` is their number of gates."""

    gates: int
    # Of the layer that the cell is in, which sets it; None for a bare cell.
    sequence_shape: tuple[int | None, ...] | None = None

    def __init__(
        self,
        units: int,
        *,
        rank: Rank = None,
        format: str | None = None,
        network: Network | None = None,
        in_modes: Modes = None,
        out_modes: Modes = None,
        recurrent_rank: Rank = None,
        recurrent_format: str | None = None,
        recurrent_modes: Modes = None,
        activation: Identifier = "tanh",
        recurrent_activation: Identifier = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Identifier = "glorot_uniform",
        recurrent_initializer: Identifier = "orthogonal",
        bias_initializer: Identifier = "zeros",
        kernel_regularizer: Identifier = None,
        recurrent_regularizer: Identifier = None,
        bias_regularizer: Identifier = None,
        kernel_constraint: Identifier = None,
        recurrent_constraint: Identifier = None,
        bias_constraint: Identifier = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        implementation: Implementation = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = validation.positive_int("units", units)
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
        self.recurrent_rank: Any = self._resolve_recurrent_rank(recurrent_rank)
        self.recurrent_format = recurrent_format and formats.get(recurrent_format).name
        self.recurrent_modes = resolve_mode_argument("recurrent_modes", recurrent_modes)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.recurrent_regularizer = regularizers.get(recurrent_regularizer)
        self.recurrent_constraint = constraints.get(recurrent_constraint)
        self.dropout = validation.rate("dropout", dropout)
        self.recurrent_dropout = validation.rate("recurrent_dropout", recurrent_dropout)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.state_size: int | list[int] = self.units
        self.output_size = self.units
        self._running: Recurrence | None = None
        self._input_mask: Tensor | None = None
        self._recurrent_masks: tuple[Tensor, ...] | None = None

    def _resolve_recurrent_rank(self, rank: Rank) -> int | tuple[int, ...] | None:
        if rank is None:
            return None
        if self.network_argument is not None:
            raise ValueError(
                "A `recurrent_rank` needs a `format`, which a layer with its own `network` lacks. "
                f"Received: recurrent_rank={rank!r}. Leave the recurrent kernel dense."
            )
        if isinstance(rank, (list, tuple)):
            return validation.int_tuple("recurrent_rank", rank)
        return validation.positive_int("recurrent_rank", rank)

    def build(self, input_shape: Shape) -> None:
        """Create cores, recurrent kernel and bias for inputs (batch, features)."""
        features = input_shape[-1]
        if features is None:
            raise ValueError(
                "The last axis of the inputs must be known when the layer is built. Received: "
                f"input shape {tuple(input_shape)}."
            )
        self._build_cores(self.gated_modes(features))
        self._recurrent_variable = self._recurrent_cores = None
        if self.recurrent_rank is None:
            self._recurrent_variable = self.add_weight(
                name="recurrent_kernel",
                shape=(self.units, self.gates * self.units),
                initializer=self.recurrent_initializer,
                regularizer=self.recurrent_regularizer,
                constraint=self.recurrent_constraint,
            )
        else:
            self._recurrent_cores = self._build_recurrent_cores()
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=self._bias_shape(),
                initializer=self._initial_bias,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self._finish_build(input_shape)

    def gated_modes(self, features: int) -> KernelModes:
        """The modes of a kernel (features, gates * units), the gates in the first output mode.

        Units without balanced factors have no modes that multiply to them exactly; then the modes
        cover all gates * units columns together, padded at the end.
        """
        columns = self.gates * self.units
        own = self.network_argument
        if own is not None:
            spanned = own.kernel_modes()
            return kernel_modes(features, columns, spanned.in_modes, spanned.out_modes)
        rows = resolve_modes("in_modes", self.in_modes, features, "the number of features")
        out_modes = resolve_modes("out_modes", self.out_modes, self.units, "`units`") or (1,)
        return self._folded(features, rows, out_modes)

    def _folded(
        self, rows: int, in_modes: tuple[int, ...], out_modes: tuple[int, ...]
    ) -> KernelModes:
        """Modes of a kernel with these rows, the gates in the first of the units' modes."""
        columns = self.gates * self.units
        if math.prod(out_modes) == self.units:
            folded = (self.gates * out_modes[0], *out_modes[1:])
        else:
            folded = balanced_modes(columns, len(out_modes))
        return KernelModes(rows, columns, in_modes, folded)

    def _build_recurrent_cores(self) -> FactorizedKernel:
        modes = self._recurrent_modes()
        format = formats.get(self.recurrent_format or self._format)
        network = format.build(modes, self.recurrent_rank)
        clipped = clip_ranks(network)
        if clipped is not network:
            network, self.recurrent_rank = clipped, format.rank_argument(clipped)
        holder = FactorizedKernel(
            network,
            modes,
            _low_rank_initializer(self.recurrent_initializer),
            self.recurrent_regularizer,
            self.recurrent_constraint,
            self.bond_dropout,
            None if self.seed is None else self.seed + 1,
            name="recurrent_kernel",
            dtype=self.dtype_policy,
        )
        holder.build()
        return holder

    def _recurrent_modes(self) -> KernelModes:
        """The modes of the recurrent kernel: those of the units, and the folded ones."""
        if self.recurrent_modes is not None:
            rows = resolve_modes("recurrent_modes", self.recurrent_modes, self.units, "`units`")
            return self._folded(self.units, rows or (1,), rows or (1,))
        out_modes = self._kernel.modes.out_modes
        wanted = self.out_modes if isinstance(self.out_modes, tuple) else len(out_modes)
        rows = resolve_modes("out_modes", wanted, self.units, "`units`")
        return KernelModes(self.units, self.gates * self.units, rows or (1,), out_modes)

    @property
    def recurrent_kernel(self) -> Tensor:
        """The recurrent kernel (units, gates * units): a variable, or merged from its cores."""
        self._built_kernel()
        if self._recurrent_cores is None:
            return self._recurrent_variable
        return self._recurrent_cores.value()

    @property
    def recurrent_cores(self) -> list[keras.Variable]:
        """The cores of the recurrent kernel; empty where it is dense."""
        self._built_kernel()
        return [] if self._recurrent_cores is None else list(self._recurrent_cores.cores)

    def rank_holders(self) -> dict[str, FactorizedKernel]:
        """The kernels that are networks, by the argument that takes their ranks."""
        recurrent = self._recurrent_cores
        return super().rank_holders() | ({"recurrent_rank": recurrent} if recurrent else {})

    def get_initial_state(self, batch_size: int | None = None) -> list[Tensor]:
        """Zeros (batch, units), one for each state."""
        count = len(self.state_size) if isinstance(self.state_size, list) else 1
        # One tensor each: stateful layers make variables of them, which on PyTorch share memory.
        return [ops.zeros((batch_size, self.units), dtype=self.compute_dtype) for _ in range(count)]

    def _usual_shape(self) -> tuple[int | None, ...]:
        """Within a layer the shape of its sequences, all steps of which are projected at once."""
        return self.sequence_shape or self.built_shape

    def tuned_call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """The product with the input kernel, which is what the plan computes."""
        return self.project(inputs, training)

    def workload(
        self, input_shape: Shape, training: bool = False, merged: bool = False
    ) -> Workload:
        """What plans need to know of inputs of that shape: all axes but the last are rows."""
        rows = rows_of(input_shape[:-1])
        return Workload(rows=rows, training=training, merged=merged)

    @contextmanager
    def sequence(
        self, inputs: Tensor, initial_state: list[Tensor], training: bool
    ) -> Iterator[Tensor]:
        """Prepare a whole sequence; within the context the cell expects projected inputs.

        Args:
            inputs: (batch, time, features).
            initial_state: list of tensors (batch, units), for the shape of the dropout mask.
            training: whether dropout is on.

        Yields:
            (batch, time, gates * units): inputs times the input kernel, plus bias.
        """
        if training and self.dropout:
            inputs = inputs * ops.expand_dims(self.get_dropout_mask(inputs[:, 0, :]), 1)
        if training and self.recurrent_dropout:
            self.get_recurrent_dropout_mask(initial_state[0])
        projected = self.project(inputs, training)
        self._running = self._recurrence(tuple(inputs.shape), training)
        try:
            yield projected
        finally:
            self._running = None
            self.reset_dropout_mask()
            self.reset_recurrent_dropout_mask()

    def project(self, inputs: Tensor, training: bool = False) -> Tensor:
        """(..., features) -> (..., gates * units): the input kernel and its bias."""
        plan, kernels = self._plan_and_kernels(tuple(inputs.shape), bool(training))
        outputs = run_matmul(plan, inputs, kernels, self.network.size, self.modes)
        bias = self._input_bias()
        return outputs if bias is None else ops.add(outputs, ops.cast(bias, outputs.dtype))

    def _check_chain(self) -> None:
        super()._check_chain()
        holder = self._recurrent_cores if self.built else None
        if holder is None or FACTORIZED not in choices(self.implementation):
            return
        if holder.kernel_constraint is not None or self.recurrent_dropout:
            raise ValueError(
                "With implementation='factorized' no call merges a kernel; `recurrent_dropout` and "
                "`recurrent_constraint` need it merged. Received: recurrent_dropout="
                f"{self.recurrent_dropout} and {holder.kernel_constraint}. Use 'auto'."
            )

    def _recurrence(self, input_shape: Shape, training: bool) -> Recurrence:
        """The recurrent kernel, merged as far as pays, since it is merged once per sequence."""
        if self._recurrent_cores is None:
            kernel = ops.convert_to_tensor(self._recurrent_variable)
            return Recurrence(None, [kernel], None, self.units)
        holder = self._recurrent_cores
        chosen = self.implementation
        if isinstance(chosen, dict):
            chosen = chosen["training" if training else "inference"]
        whole = holder.kernel_constraint is not None or (training and self.recurrent_dropout)
        if whole or chosen not in IMPLEMENTATIONS:
            # Each gate has its own mask, and so a product of its own; a chain is another network's.
            chosen = "reconstructed" if whole else "auto"
        workload = Workload(rows=input_shape[0] or BATCH_HINT, training=training, merged=True)
        plan = make_plan(holder.network, workload, chosen)
        if plan.implementation == "reconstructed":
            return Recurrence(None, [holder.merged(training)], None, self.units)
        kernels = stage_kernels(plan, holder.values(training))
        return Recurrence(plan, kernels, holder, self.units)

    def call(self, inputs: Tensor, states: Sequence[Tensor], training: bool = False) -> Any:
        """One step: inputs (batch, features), states of (batch, units) each."""
        recurrence = self._running
        if recurrence is None:
            recurrence = self._recurrence(tuple(inputs.shape), training)
            if training and self.dropout:
                inputs = inputs * self.get_dropout_mask(inputs)
            inputs = self.project(inputs, training)
        masks = self.get_recurrent_dropout_mask(states[0]) if training else None
        return self._step(inputs, states, recurrence, masks)

    def get_dropout_mask(self, step_input: Tensor) -> Tensor | None:
        """The mask of the inputs, the same in all steps of a sequence; None without dropout."""
        if self._input_mask is None and self.dropout:
            self._input_mask = self._mask(step_input, self.dropout)
        return self._input_mask

    def get_recurrent_dropout_mask(self, step_input: Tensor) -> tuple[Tensor, ...] | None:
        """One mask of the state for each gate, the same in all steps of a sequence."""
        if self._recurrent_masks is None and self.recurrent_dropout:
            self._recurrent_masks = tuple(
                self._mask(step_input, self.recurrent_dropout) for _ in range(self.gates)
            )
        return self._recurrent_masks

    def _mask(self, like: Tensor, rate: float) -> Tensor:
        return keras.random.dropout(ops.ones_like(like), rate, seed=self.seed_generator)

    def reset_dropout_mask(self) -> None:
        """Forget the mask; a new sequence draws a new one."""
        self._input_mask = None

    def reset_recurrent_dropout_mask(self) -> None:
        """Forget the masks; a new sequence draws new ones."""
        self._recurrent_masks = None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """(batch, units)"""
        return (input_shape[0], self.units)

    def get_config(self) -> Config:
        """All arguments as plain values."""
        common = self._common_config()
        del common["activity_regularizer"]
        return {
            **super().get_config(),
            "units": self.units,
            **common,
            "recurrent_rank": self.recurrent_rank,
            "recurrent_format": self.recurrent_format,
            "recurrent_modes": self.recurrent_modes,
            "recurrent_activation": activations.serialize(self.recurrent_activation),
            "recurrent_initializer": initializers.serialize(self.recurrent_initializer),
            "recurrent_regularizer": regularizers.serialize(self.recurrent_regularizer),
            "recurrent_constraint": constraints.serialize(self.recurrent_constraint),
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
        }


def _low_rank_initializer(initializer: keras.Initializer) -> keras.Initializer:
    """An initializer for cores: orthogonal kernels have no low rank, but a variance to keep.

    An orthogonal (units, gates * units) kernel has entries of variance gain^2 / (gates * units).
    """
    if isinstance(initializer, initializers.Orthogonal):
        return MergedVarianceScaling(initializer.gain**2, "fan_out", seed=initializer.seed)
    return initializer
