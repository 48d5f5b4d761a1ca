"""Kernels of a model that no kind of layer stands for, and why they stay dense.

A plan lists them, so that a model whose weights are all in such layers does not come back as it was
without a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import keras

from keras_tensornet.compression.kinds import KINDS, Target, assigned_kernels, kind_of
from keras_tensornet.compression.plans import NOT_SUPPORTED
from keras_tensornet.layers.tbasis import TBasis, TBasisCores
from keras_tensornet.layers.tbasis.common import TBasisMethods
from keras_tensornet.rewriting.kernels import HeldKernel, other_kernels

FACTORIZED = "factorized already"
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
ASSIGNED = "SpectralNormalization assigns to it; put the layer itself in the wrapper's place"
OWN_KIND = "see `compression.kinds.register`"


@dataclass(frozen=True)
class Unreached:
    """One kernel, or the cores of one layer, that stay as they are.

    Attributes:
        path: as of a `HeldKernel`.
        layer_path: of the layer; "" where a model itself holds the kernel.
        layer: that holds it.
        kernel_shape: of the kernel.
        params: entries that are stored.
        reason: why no format stands for it.
    """

    path: str
    layer_path: str
    layer: keras.layers.Layer
    kernel_shape: tuple[int, ...]
    params: int
    reason: str

    @property
    def note(self) -> str:
        """What a plan says of it."""
        return self.reason if self.reason == FACTORIZED else NOT_SUPPORTED + self.reason


def unreached(model: keras.Model, targets: Iterable[Target]) -> list[Unreached]:
    """The kernels of a model that are in none of some targets, in the model's order."""
    rows: dict[str, Unreached] = {}
    assigned = assigned_kernels(model)
    for held in other_kernels(model, [target.layer for target in targets]):
        row = _row(held, ASSIGNED if id(held.layer) in assigned else reason_of(held.layer))
        if row.reason != FACTORIZED or held.path == held.layer_path:
            rows[row.path] = row
    return list(rows.values())


def _row(held: HeldKernel, reason: str) -> Unreached:
    shape = tuple(held.variable.shape)
    params = math.prod(shape)
    if reason == FACTORIZED:
        holder = getattr(held.layer, "cell", held.layer)
        shape, params = tuple(holder.kernel.shape), sum(math.prod(c.shape) for c in holder.cores)
    return Unreached(held.path, held.layer_path, held.layer, shape, params, reason)


def reason_of(layer: keras.Layer) -> str:
    """Why no format stands for the kernels of a layer, or of a model that holds them itself."""
    name = type(layer).__name__
    if getattr(layer, "quantization_mode", None):
        return f"quantised to {layer.quantization_mode}; compress first, then quantise"
    if hasattr(type(layer), "rank_holders"):
        return FACTORIZED
    if isinstance(layer, (TBasis, TBasisCores, TBasisMethods)):
        return "on a shared basis; `tbasis.to_dense_model` makes it dense again"
    if isinstance(layer, SEPARABLE):
        return "separable into two smaller kernels as it is"
    if isinstance(layer, DEPTHWISE):
        return "one small filter for each channel"
    if isinstance(layer, keras.Model):
        return f"a weight of the model itself, in none of its layers; {OWN_KIND}"
    kind = kind_of(layer)
    if kind is not None and kind.refusal(layer):
        return kind.refusal(layer)
    base = next((base for base in type(layer).__mro__ if base in KINDS), None)
    if base is not None and kind is None:
        return f"{name} changes what {base.__name__} computes; {OWN_KIND}"
    if type(layer).__module__.split(".")[0] == "keras":
        return f"there is no factorized {name}"
    return f"{name} has weights of its own; {OWN_KIND}"
