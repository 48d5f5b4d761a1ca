"""LSTM and GRU cells whose input kernel is a tensor network: the equations of one step.

Sources: Tensor-train recurrent neural networks (Yang et al. 2017) for the TT cells; Compressing
recurrent neural networks with tensor ring (Pan et al. 2019) for the TR cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_tensornet.layers.cells import FactorizedCell
from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.recurrence import Recurrence
from keras_tensornet.types import Config, Rank, Shape, Tensor


@serialisable
class FactorizedLSTMCell(FactorizedCell):
    """A `keras.layers.LSTMCell` whose input kernel is a tensor network; see `FactorizedLSTM`."""

    gates = 4

    def __init__(
        self, units: int, *, rank: Rank = None, unit_forget_bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(units, rank=rank, **kwargs)
        self.unit_forget_bias = unit_forget_bias
        self.state_size = [self.units, self.units]

    @staticmethod
    def dense_class() -> type[keras.layers.Layer]:
        """The dense twin."""
        return keras.layers.LSTMCell

    def _bias_shape(self) -> tuple[int, ...]:
        return (4 * self.units,)

    def _initial_bias(self, shape: Shape, dtype: Any = None) -> Tensor:
        if not self.unit_forget_bias:
            return self.bias_initializer(shape, dtype=dtype)
        parts = [self.bias_initializer((count * self.units,), dtype=dtype) for count in (1, 2)]
        return ops.concatenate([parts[0], ops.ones((self.units,), dtype), parts[1]])

    def _input_bias(self) -> Tensor | None:
        return self.bias

    def _step(
        self,
        projected: Tensor,
        states: Sequence[Tensor],
        recurrence: Recurrence,
        masks: tuple[Tensor, ...] | None,
    ) -> tuple[Tensor, list[Tensor]]:
        # i, f, o = s(.), c' = f c + i tanh(.), h' = o tanh(c')
        state, carry = states
        gates = projected + recurrence.masked(state, masks, 0, 4)
        entry, forget, candidate, exit = ops.split(gates, 4, axis=-1)
        carry = self.recurrent_activation(forget) * carry + self.recurrent_activation(
            entry
        ) * self.activation(candidate)
        state = self.recurrent_activation(exit) * self.activation(carry)
        return state, [state, carry]

    def get_config(self) -> Config:
        """All arguments as plain values."""
        return {**super().get_config(), "unit_forget_bias": self.unit_forget_bias}


@serialisable
class FactorizedGRUCell(FactorizedCell):
    """A `keras.layers.GRUCell` whose input kernel is a tensor network; see `FactorizedGRU`."""

    gates = 3

    def __init__(
        self, units: int, *, rank: Rank = None, reset_after: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(units, rank=rank, **kwargs)
        self.reset_after = reset_after

    @staticmethod
    def dense_class() -> type[keras.layers.Layer]:
        """The dense twin."""
        return keras.layers.GRUCell

    def _bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def _initial_bias(self, shape: Shape, dtype: Any = None) -> Tensor:
        return self.bias_initializer(shape, dtype=dtype)

    def _input_bias(self) -> Tensor | None:
        return self.bias if self.bias is None or not self.reset_after else self.bias[0]

    def _step(
        self,
        projected: Tensor,
        states: Sequence[Tensor],
        recurrence: Recurrence,
        masks: tuple[Tensor, ...] | None,
    ) -> tuple[Tensor, list[Tensor]]:
        # z, r = s(.), h' = z h + (1 - z) tanh(.)
        nested = isinstance(states, (list, tuple))
        state = states[0] if nested else states
        update_in, reset_in, candidate_in = ops.split(projected, 3, axis=-1)
        if self.reset_after:
            inner = recurrence.masked(state, masks, 0, 3)
            if self.bias is not None:
                inner = inner + ops.cast(self.bias[1], inner.dtype)
            update, reset, candidate = ops.split(inner, 3, axis=-1)
            reset = self.recurrent_activation(reset_in + reset)
            candidate = reset * candidate
        else:
            update, reset = ops.split(recurrence.masked(state, masks, 0, 2), 2, axis=-1)
            reset = self.recurrent_activation(reset_in + reset)
            candidate = recurrence.masked(reset * state, masks, 2, 3)
        update = self.recurrent_activation(update_in + update)
        candidate = self.activation(candidate_in + candidate)
        state = update * state + (1 - update) * candidate
        return state, [state] if nested else state

    def get_config(self) -> Config:
        """All arguments as plain values."""
        return {**super().get_config(), "reset_after": self.reset_after}


@serialisable
class TTLSTMCell(FactorizedLSTMCell):
    """LSTM cell with a TT-matrix input kernel (Yang et al. 2017); see `TTLSTM`."""

    format = "ttm"


@serialisable
class TRLSTMCell(FactorizedLSTMCell):
    """LSTM cell with a tensor-ring input kernel (Pan et al. 2019); see `TRLSTM`."""

    format = "tr"


@serialisable
class TTGRUCell(FactorizedGRUCell):
    """GRU cell with a TT-matrix input kernel (Yang et al. 2017); see `TTGRU`."""

    format = "ttm"


@serialisable
class TRGRUCell(FactorizedGRUCell):
    """GRU cell with a tensor-ring input kernel; see `TRGRU`."""

    format = "tr"
