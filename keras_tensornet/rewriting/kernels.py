"""The kernels of a model by the layers that hold them, whatever these compute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

from keras_tensornet import keras_internals
from keras_tensornet.rewriting.walker import walk_layers
from keras_tensornet.shapes import is_kernel
from keras_tensornet.types import Tensor

NORMALISATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.RMSNormalization,
)


@dataclass(frozen=True)
class HeldKernel:
    """A weight with two extents above one, which is no scale or statistic of a normalisation.

    Attributes:
        path: of its layer, with the name of the weight behind it where it is not the layer's first;
            that of the weight itself where a model of a class of its own holds it.
        layer_path: of the layer; "" where a model itself holds the weight.
        layer: that holds it, or the model.
        variable: the weight.
    """

    path: str
    layer_path: str
    layer: keras.layers.Layer
    variable: keras.Variable


def other_kernels(model: keras.Model, reached: Iterable[keras.layers.Layer]) -> list[HeldKernel]:
    """The kernels of a model that are in none of the layers given, in the model's order.

    Args:
        model: as `walk_layers` takes it.
        reached: layers of the model.
    """
    reached = {id(layer) for layer in reached}
    layers = list(walk_layers(model))
    counted = {id(one) for _, layer in layers if id(layer) in reached for one in _weights(layer)}
    found = []
    # What a layer holds in a layer below is that one's: from the inside out.
    for path, layer in reversed(layers):
        own = [one for one in _weights(layer) if id(one) not in counted]
        counted |= {id(one) for one in own}
        found.append(_named(path, layer, [one for one in own if _is_kernel(one)]))
    held = [one for one in _weights(model) if id(one) not in counted and _is_kernel(one)]
    return [
        *(kernel for kernels in reversed(found) for kernel in kernels),
        *(HeldKernel(one.path, "", _holder(model, one), one) for one in held),
    ]


def _holder(model: keras.Model, variable: Any) -> keras.layers.Layer:
    """The innermost model that holds a weight."""
    models = [one for one in keras_internals.flatten_layers(model) if isinstance(one, keras.Model)]
    holding = [one for one in models if any(variable is weight for weight in one.weights)]
    return min(holding, key=lambda one: len(keras_internals.flatten_layers(one)), default=model)


def _is_kernel(weight: keras.Variable) -> bool:
    """Of the shape of a kernel; a GRU has a bias of two rows."""
    return is_kernel(weight.shape) and not weight.name.endswith("bias")


def _weights(layer: keras.Layer) -> list[keras.Variable]:
    return [weight for weight in layer.weights if isinstance(weight, keras.Variable)]


def _named(path: str, layer: keras.Layer, kernels: list[Tensor]) -> list[HeldKernel]:
    if isinstance(layer, NORMALISATIONS):
        return []
    taken: dict[str, HeldKernel] = {}
    for place, kernel in enumerate(kernels):
        name = f"{path}/{kernel.name}" if place else path
        name = f"{name}_{place}" if name in taken else name
        taken[name] = HeldKernel(name, path, layer, kernel)
    return list(taken.values())
