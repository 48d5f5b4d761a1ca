"""The product of a recurrent layer's state with its recurrent kernel, dense or factorized."""

from __future__ import annotations

from collections.abc import Sequence

from keras import ops

from keras_tensornet.contraction import Plan
from keras_tensornet.execution import run_matmul
from keras_tensornet.kernels import FactorizedKernel
from keras_tensornet.types import Tensor


class Recurrence:
    """The product of a state with the recurrent kernel, or with the columns of some gates."""

    def __init__(
        self, plan: Plan | None, kernels: list[Tensor], holder: FactorizedKernel | None, units: int
    ) -> None:
        self.plan, self.kernels, self.holder, self.units = plan, kernels, holder, units

    def __call__(self, state: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """(batch, units) -> (batch, (stop - start) * units)"""
        columns = slice(start * self.units, None if stop is None else stop * self.units)
        if self.plan is None or self.holder is None:
            kernel = ops.cast(self.kernels[0], state.dtype)
            return ops.matmul(state, kernel[:, columns])
        network, modes = self.holder.network, self.holder.modes
        outputs = run_matmul(self.plan, state, self.kernels, network.size, modes)
        return outputs[:, columns]

    def masked(
        self, state: Tensor, masks: Sequence[Tensor] | None, start: int, stop: int
    ) -> Tensor:
        """The same, with the state of each gate multiplied by its dropout mask."""
        if masks is None:
            return self(state, start, stop)
        parts = [self(state * masks[gate], gate, gate + 1) for gate in range(start, stop)]
        return ops.concatenate(parts, axis=-1)
