"""Recurrent layers, whose cell holds two kernels: that of the inputs, and that of the states.

Each is a target of its own, because each may be worth another rank, or none: where only the
recurrent kernel is decomposed the input kernel is the one core of its network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_tensornet import validation
from keras_tensornet.compression.kind import Kind, Piece
from keras_tensornet.compression.patches import RECURRENT_KERNEL, Geometry
from keras_tensornet.contraction import Workload
from keras_tensornet.shapes import built_shape
from keras_tensornet.types import Tensor


class RecurrentKind(Kind):
    """Recurrent layers: their cell holds the kernels."""

    def kernels(self, layer: keras.Layer) -> dict[str, keras.Variable]:
        """The kernel of the inputs, and that of the states."""
        return {"rank": layer.cell.kernel, "recurrent_rank": layer.cell.recurrent_kernel}

    def shell(self, layer: keras.Layer, arguments: dict[str, Any]) -> keras.Layer:
        """The factorized layer, built, with recurrent kernel and biases, the cores unset."""
        result = self._built(layer, arguments)
        result.assign_recurrence_of(layer)
        return result

    def holder(self, factorized: keras.Layer) -> Any:
        """The cell."""
        return factorized.cell

    def parts(self) -> dict[str, Kind]:
        """The recurrent kernel."""
        return {RECURRENT_KERNEL: StateKind(self)}

    def bias(self, layer: keras.Layer) -> tuple[keras.Variable, int | None] | None:
        """The cell's; a GRU that resets after the product has one of its own for the inputs."""
        bias = layer.cell.bias
        return None if bias is None else (bias, 0 if len(bias.shape) == 2 else None)

    def assemble(self, layer: keras.Layer, pieces: Mapping[str, Piece]) -> keras.Layer:
        """The factorized layer with the cores of one kernel or of both."""
        if RECURRENT_KERNEL not in pieces:
            return super().assemble(layer, pieces)
        state = pieces[RECURRENT_KERNEL]
        kernel = ops.convert_to_numpy(layer.cell.kernel)
        piece = pieces.get("") or Piece(*KEPT_WHOLE, [kernel[None, :, :, None]])
        result = self._built(layer, piece.all_arguments | recurrent_arguments(state.all_arguments))
        if layer.cell.bias is not None:
            result.cell.bias.assign(ops.copy(layer.cell.bias))
        result.cell.assign_cores(piece.cores)
        StateKind(self).holder(result).assign_cores(state.cores)
        return result

    def _built(self, layer: keras.Layer, arguments: dict[str, Any]) -> keras.Layer:
        with validation.quietly():
            result = self.factorized.from_config(self.dense.get_config(layer) | arguments)
            result.build(built_shape(layer) or (None, None, layer.cell.kernel.shape[0]))
        return result


# A kernel that stays dense in a factorized layer: one core, which is the kernel.
KEPT_WHOLE = ("ttm", 1, {"in_modes": 1, "out_modes": 1})


def recurrent_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a kernel of its own as those of a recurrent layer for its recurrent kernel.

    Raises:
        ValueError: for modes of the two sides that differ.
    """
    given = {name: value for name, value in arguments.items() if name != "in_modes"}
    rows, columns = arguments.get("in_modes"), given.pop("out_modes", None)
    if rows is not None and rows != columns:
        raise ValueError(
            "Both sides of a recurrent kernel have the modes of `units`. Received: "
            f"in_modes={rows}, out_modes={columns}. Give both alike, or `out_modes` only."
        )
    # Said even where it was not: the layer's own default follows the modes of its input kernel.
    found = {"recurrent_modes": 1 if columns is None else columns}
    return found | {f"recurrent_{name}": value for name, value in given.items()}


class StateKind(Kind):
    """The recurrent kernel of a recurrent layer, which its states are multiplied by."""

    def __init__(self, whole: RecurrentKind) -> None:
        super().__init__(whole.dense, whole.factorized, whole.family, whole.arranged)
        self.whole = whole

    def kernels(self, layer: keras.Layer) -> dict[str, keras.Variable]:
        """The recurrent kernel."""
        return {"recurrent_rank": layer.cell.recurrent_kernel}

    def shell(self, layer: keras.Layer, arguments: dict[str, Any]) -> keras.Layer:
        """The factorized layer with the input kernel as it is and unset recurrent cores."""
        format, rank, more = KEPT_WHOLE
        kept = {"format": format, "rank": rank, **more}
        return self.whole._built(layer, kept | recurrent_arguments(arguments))

    def fresh(self, layer: keras.Layer, arguments: dict[str, Any]) -> keras.Layer:
        """The same: its initializers make all weights."""
        return self.shell(layer, arguments)

    def holder(self, factorized: keras.Layer) -> Any:
        """What holds the recurrent cores."""
        return RecurrentHolder(factorized.cell)

    def workload(self, layer: keras.Layer, holder: Any, batch_size: int) -> Workload | None:
        """As that of the input kernel, though its steps come one after another."""
        shape = built_shape(layer) or (None, None, layer.cell.kernel.shape[0])
        return holder.cell.workload((batch_size, *shape[1:-1], layer.units), merged=True)

    def geometry(self, layer: keras.Layer) -> Geometry | None:
        """The hidden states."""
        return Geometry(layer, recurrent=True)

    def bias(self, layer: keras.Layer) -> tuple[keras.Variable, int | None] | None:
        """That of the product with the states; None where a gate multiplies them beforehand."""
        bias = layer.cell.bias
        if bias is None or not getattr(layer.cell, "reset_after", True):
            return None
        return bias, 1 if len(bias.shape) == 2 else None


class RecurrentHolder:
    """The recurrent cores of a cell, as a factorized layer has its cores."""

    def __init__(self, cell: keras.Layer) -> None:
        self.cell = cell
        self.network, self.modes = cell._recurrent_cores.network, cell._recurrent_cores.modes

    def assign_cores(self, cores: list[Tensor]) -> None:
        """Set the cores from arrays of their shapes."""
        self.cell._recurrent_cores.assign(cores)
