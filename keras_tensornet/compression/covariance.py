"""Gram matrices of the input patches of layers, streamed over calibration data.

The model itself runs on the data, batch by batch, while its layers are listened to (see
`recording`). Nothing but sums is kept, so memory does not grow with the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet.compression.patches import RECURRENT, RECURRENT_KERNEL, Geometry
from keras_tensornet.compression.recording import Recorder, listening
from keras_tensornet.reading import Batches, read_inputs
from keras_tensornet.rewriting.walker import walk_layers

BATCH = 64
# Variables with more entries than this are weights of a frozen layer, not states.
LARGEST_STATE = 1 << 20


def patch_moments(
    model: keras.Model, paths: Iterable[str], data: Any, batch_size: int = BATCH
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """First and second moments of the input patches of some layers, over calibration data.

    Args:
        model: a built model; it stays as it was.
        paths: of layers whose patches a `Geometry` describes, as `walk_layers` gives them, or
            `path -> Geometry` where the layers' kinds have their own; a
            recurrent layer's path stands for its input kernel, and with "/recurrent_kernel" after
            it for the kernel that its hidden states are multiplied by. Positions of a sequence
            that Keras' mask leaves out do not count, nor those that an input of the model named
            "padding_mask" leaves out, as models of KerasHub have it.
        data: inputs of the model, as in `reading.read_inputs`.
        batch_size: that the data is read in.

    Returns:
        `path -> (E[x x^T], E[x])` of shapes (groups, patch, patch) and (groups, patch), of the
        paths whose layers were called. Layers that are given one tensor have one array.

    Raises:
        TypeError, ValueError: if the data does not fit the model, or holds no batch.
    """
    layers = _layers(model, paths)
    data = read_inputs(model, data, batch_size, name="calibration_data")
    recorder = _recorded(model, layers, data, Recorder())
    if recorder.unsteady:
        recorder = _recorded(model, layers, data, Recorder(share=False))
    recorded = ((path, recorder.moments(path)) for path in layers)
    found = {path: moments for path, moments in recorded if moments is not None}
    for path, (gram, _) in found.items():
        if not np.isfinite(gram).all():
            raise ValueError(
                f"On finite calibration data layer '{path}' is given NaN or infinite inputs, so "
                "the model itself makes them. Look at the layers before it, and at how the data "
                "is scaled."
            )
    return found


def _recorded(model: keras.Model, layers: Any, data: Batches, recorder: Recorder) -> Recorder:
    with unchanged(model), listening(recorder, layers):
        for batch in data.inputs():
            _check_finite(batch)
            recorder.start(batch)
            _call(model, batch)
            if recorder.unsteady:
                return recorder
    return recorder


def _call(model: keras.Model, batch: Any) -> None:
    try:
        model(batch, training=False)
    except Exception as error:
        shapes = ", ".join(str(np.shape(leaf)) for leaf in keras.tree.flatten(batch))
        raise ValueError(
            f"'{model.name}' cannot compute on `calibration_data`, of which a batch has shape "
            f"{shapes}: {' '.join(str(error).split())[:400]}"
        ) from error


def _check_finite(batch: Any) -> None:
    for leaf in keras.tree.flatten(batch):
        array = np.asarray(leaf)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            raise ValueError(
                f"`calibration_data` must be finite. Received: {count} NaN or infinite values in a "
                f"batch of shape {array.shape}."
            )


@contextmanager
def unchanged(model: keras.Model) -> Iterator[None]:
    """Put back what a call of the model changes, such as the states of stateful layers."""
    # Keras does not count the states of recurrent layers among a model's variables.
    states = [getattr(layer, "states", None) or [] for _, layer in walk_layers(model)]
    variables = [*model.non_trainable_variables, *keras.tree.flatten(states)]
    held = [
        (variable, ops.copy(variable.value))
        for variable in variables
        if math.prod(variable.shape) <= LARGEST_STATE
    ]
    try:
        yield
    finally:
        for variable, value in held:
            variable.assign(value)


def _layers(model: keras.Model, paths: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """`path -> (layer, geometry, recurrent)`."""
    known = dict(walk_layers(model))
    given = paths if isinstance(paths, Mapping) else {}
    found = {}
    for path in paths:
        layer = known.get(path.removesuffix(f"/{RECURRENT_KERNEL}"))
        recurrent = path not in known and isinstance(layer, RECURRENT)
        found[path] = layer, given.get(path) or Geometry(layer, recurrent), recurrent
    return found
