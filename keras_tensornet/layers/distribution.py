"""Where the variables of a model lie on a mesh of devices: `layout_map` for keras.distribution.

Cores are small: each device keeps all of them, and computes with its part of the batch. What is
worth parting are the kernels and tables that stayed dense, and cores that are large all the same
(those of whole modes). They are parted along an axis that is not summed over, so that the product
needs no sum over devices: the last axis of a kernel in Keras layout, of a core its largest mode.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import keras

from keras_tensornet import keras_internals, validation
from keras_tensornet.kernels import FactorizedKernel

# Entries of a variable from which on it is parted: 256 KiB in float32.
LEAST = 65536


def layout_map(
    model: keras.Layer,
    mesh: keras.distribution.DeviceMesh,
    axis: str = "model",
    least: int = LEAST,
) -> keras.distribution.LayoutMap:
    """A `LayoutMap` for `keras.distribution.ModelParallel`.

    Variables are laid out when they are made. So build the model once for the map, set the
    distribution, and build it again; variables are found by their paths, so give layers names.

        mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], devices)
        layouts = layout_map(build(), mesh)
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
        )
        model = build()

    Args:
        model: a built model or layer.
        mesh: of the devices.
        axis: name of the axis of the mesh that variables are parted along.
        least: entries from which on a variable is parted; smaller ones lie whole on each device.

    Returns:
        A map from the paths of the variables that are parted to their layouts.

    Raises:
        ValueError: if the mesh has no such axis, or the model is not built.
    """
    validation.positive_int("least", least)
    if axis not in mesh.axis_names:
        raise ValueError(
            f"`axis` must be one of the mesh's axes, {list(mesh.axis_names)}. Received: "
            f"axis={axis!r}."
        )
    if not model.built:
        raise ValueError(
            f"Layer '{model.name}' is not built, so its variables are not known yet. Call it on "
            "data or `build` it first."
        )
    parts = mesh.shape[mesh.axis_names.index(axis)]
    found = keras.distribution.LayoutMap(mesh)
    modes = {id(core): places for core, places in _modes_of_cores(model)}
    for variable in model.variables:
        shape = tuple(variable.shape)
        if len(shape) < 2 or math.prod(shape) < least:
            continue
        places = modes.get(id(variable), [len(shape) - 1])
        fitting = [place for place in places if shape[place] % parts == 0]
        if fitting:
            chosen = max(fitting, key=lambda place: shape[place])
            layout = [axis if place == chosen else None for place in range(len(shape))]
            found[f"^{re.escape(variable.path)}$"] = tuple(layout)
    return found


def _modes_of_cores(model: keras.Layer) -> Iterator[tuple[keras.Variable, list[int]]]:
    """The cores, and the places of their modes: output modes where there are any."""
    for layer in keras_internals.flatten_layers(model):
        if not isinstance(layer, FactorizedKernel):
            continue
        network = layer.network
        for labels, core in zip(network.cores, layer.cores, strict=True):
            outer = [place for place, label in enumerate(labels) if label in network.out_labels]
            modes = [place for place, label in enumerate(labels) if label in network.mode_labels]
            yield core, outer or modes
