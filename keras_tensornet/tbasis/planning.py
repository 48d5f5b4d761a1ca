"""Which layers of a model share the basis, and what that costs: a table that prints itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import keras

from keras_tensornet.layers.tbasis.envelopes import envelope
from keras_tensornet.rewriting.choice import chosen_paths
from keras_tensornet.rewriting.kernels import HeldKernel, other_kernels
from keras_tensornet.rewriting.walker import walk_layers

FIRST_CONVOLUTION = "first convolution (paper, section 4.1)"
SHARING = (keras.layers.Dense, keras.layers.Conv2D)
# How many layers an error lists.
NAMED = 6
Exclude = str | Iterable[str] | Callable[[keras.layers.Layer, str], bool] | None


@dataclass(frozen=True)
class TBasisRow:
    """One layer with a kernel.

    Attributes:
        path: the layer's name, after the names of the models that hold it.
        kernel_shape: the dense kernel in Keras layout.
        num_cores: rows of coefficients and adapters; 0 for a layer that stays dense.
        params: of the kernel, coefficients and adapters or the dense kernel; without the basis.
        reason: why the layer stays dense, "" for one that shares the basis.
    """

    path: str
    kernel_shape: tuple[int, ...]
    num_cores: int
    params: int
    reason: str = ""


@dataclass(frozen=True)
class TBasisPlan:
    """What `tbasis_model` will do: one row for each kernel, in the model's order.

    Attributes:
        size, rank, mode: of the basis.
        rows: the layers.
    """

    size: int
    rank: int
    mode: int
    rows: tuple[TBasisRow, ...]

    @property
    def shared(self) -> tuple[TBasisRow, ...]:
        """The rows of the layers that share the basis."""
        return tuple(row for row in self.rows if not row.reason)

    @property
    def basis_params(self) -> int:
        """B N R^2"""
        return self.size * self.mode * self.rank**2

    @property
    def core_params(self) -> int:
        """Coefficients and adapters of all layers, D (B + R)."""
        return sum(row.params for row in self.shared)

    @property
    def dense_params(self) -> int:
        """What the kernels that share the basis have when they are dense."""
        return sum(math.prod(row.kernel_shape) for row in self.shared)

    def __str__(self) -> str:
        width = max(len(row.path) for row in self.rows)
        lines = [
            f"T-Basis of {self.size} tensors, rank {self.rank}, mode {self.mode}: "
            f"{self.dense_params:,} kernel parameters -> {self.core_params:,} + "
            f"{self.basis_params:,} of the basis"
        ]
        for row in self.rows:
            shape = "x".join(str(extent) for extent in row.kernel_shape)
            what = f"dense: {row.reason}" if row.reason else f"{row.num_cores} cores"
            dense = math.prod(row.kernel_shape)
            lines.append(
                f"  {row.path:{width}}  {shape:>14}  {dense:>9,} -> {row.params:>9,}  {what}"
            )
        return "\n".join(lines)


def plan_tbasis(
    model: keras.Model,
    size: int,
    rank: int,
    mode: int = 9,
    exclude: Exclude = None,
    adapters: str = "exp",
) -> TBasisPlan:
    """Decide which layers of a model share the basis; print the result to see it.

    Every `Dense` and `Conv2D` does, except: the first convolution, those excluded, those with a
    kernel constraint, quantised ones, those whose coefficients would outnumber their weights, and
    those that stand inside another layer. Other layers with kernels are listed as not supported.

    Args:
        model: a built model of any kind.
        size, rank, mode: of the basis.
        exclude: layers that stay dense: names, paths or regular expressions of them, or a function
            `(layer, path) -> bool`.
        adapters: "none" saves `rank` parameters a core.

    Raises:
        TypeError: if it is no model.
        ValueError: if it is not built, a kernel does not fit into the mode, an entry of `exclude`
            matches no layer, or no layer can share the basis.
    """
    excluded = _excluder(model, exclude)
    first = next(
        (id(layer) for _, layer in walk_layers(model) if type(layer) is keras.layers.Conv2D), None
    )
    rows = {}
    known = {path: layer for path, layer in walk_layers(model) if type(layer) in SHARING}
    for path, layer in known.items():
        reason = FIRST_CONVOLUTION if id(layer) == first else _reason(layer)
        reason = "excluded" if excluded(layer, path) else reason
        per_core = size + (rank if adapters != "none" else 0)
        rows[path] = _row(layer, path, reason, mode, rank, per_core)
    order = {path: place for place, (path, _) in enumerate(walk_layers(model))}
    for kernel in other_kernels(model, known.values()):
        rows[kernel.path] = _unsupported(kernel)
        order.setdefault(kernel.path, order.get(kernel.layer_path, len(order)))
    plan = TBasisPlan(
        size, rank, mode, tuple(sorted(rows.values(), key=lambda row: order[row.path]))
    )
    if not plan.shared:
        raise ValueError(
            "No layer of the model can share a basis: there is no Dense or Conv2D layer left "
            f"besides the first convolution. Received: {model.name} with exclude={exclude!r}."
            + "".join(f"\n  '{row.path}': {row.reason}" for row in plan.rows[:NAMED])
            + (f"\n  and {len(plan.rows) - NAMED} more" if plan.rows[NAMED:] else "")
        )
    return plan


def _unsupported(kernel: HeldKernel) -> TBasisRow:
    shape, name = tuple(kernel.variable.shape), type(kernel.layer).__name__
    inside = type(kernel.layer) in SHARING
    reason = f"{name} inside another layer" if inside else "a basis is for Dense and Conv2D"
    return TBasisRow(kernel.path, shape, 0, math.prod(shape), f"not supported, {reason}")


def _row(
    layer: keras.Layer, path: str, reason: str, mode: int, rank: int, per_core: int
) -> TBasisRow:
    shape = tuple(layer.kernel.shape)
    dense = math.prod(shape)
    if reason:
        return TBasisRow(path, shape, 0, dense, reason)
    try:
        ring = envelope(shape, mode, rank)
    except ValueError as error:
        raise ValueError(f"Layer '{path}' cannot share the basis. {error}") from error
    params = ring.num_cores * per_core
    if params > dense:
        return TBasisRow(path, shape, 0, dense, f"{params:,} coefficients and adapters are more")
    return TBasisRow(path, shape, ring.num_cores, params)


def _reason(layer: keras.Layer) -> str:
    if layer.kernel_constraint is not None:
        return "has a kernel constraint"
    if layer.quantization_mode is not None:
        return f"quantised to {layer.quantization_mode}"
    return ""


def _excluder(model: keras.Model, exclude: Exclude) -> Callable[[keras.layers.Layer, str], bool]:
    if exclude is None:
        return lambda layer, path: False
    layers = list(walk_layers(model))
    if callable(exclude) and not isinstance(exclude, type):
        chosen = {path for path, layer in layers if exclude(layer, path)}
        if not chosen:
            raise ValueError(
                "`exclude` must describe layers of the model. Received: a function that is false "
                f"for all of {', '.join(repr(path) for path, _ in layers)}."
            )
    else:
        chosen = chosen_paths("exclude", exclude, layers, f"layers of model '{model.name}'")
    return lambda layer, path: path in chosen
