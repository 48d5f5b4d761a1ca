"""Moving a basis between networks: save it alone, load it frozen, train coefficients only."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_tensornet import keras_internals
from keras_tensornet.files import write_whole
from keras_tensornet.layers.tbasis import TBasis

SUFFIX = ".npz"


def find_basis(model: keras.Model) -> TBasis:
    """The one basis of a model.

    Raises:
        ValueError: if the model has no TBasis layer, or several.
    """
    layers = [layer for layer in keras_internals.flatten_layers(model) if isinstance(layer, TBasis)]
    if len(layers) != 1:
        raise ValueError(
            f"Model '{model.name}' must have exactly one TBasis layer. It has {len(layers)}. Use "
            "`model.get_layer(name)` to pick one."
        )
    return layers[0]


def save_basis(source: keras.Model | TBasis, path: str | os.PathLike[str]) -> None:
    """Save the basis of a model alone, in one `.npz` file; written whole or not at all.

    Args:
        source: a model with one TBasis layer, or the layer.
        path: of the file, ending in ".npz".

    Raises:
        ValueError: if the path ends otherwise, or the model has no basis or several.
    """
    path = os.fspath(path)
    if not path.endswith(SUFFIX):
        raise ValueError(f'`path` must end in "{SUFFIX}". Received: path={path!r}.')
    layer = source if isinstance(source, TBasis) else find_basis(source)
    values = ops.convert_to_numpy(layer.basis)

    def write(temporary: Path) -> None:
        np.savez(temporary, basis=values)

    write_whole(path, write)


def load_basis(
    path: str | os.PathLike[str], trainable: bool = False, name: str | None = None
) -> TBasis:
    """Load a basis that `save_basis` wrote, frozen by default.

    Args:
        path: of the file.
        trainable: True to go on training the basis in its new network.
        name: of the layer.

    Returns:
        A built TBasis layer: give it to `tbasis_model(model, basis=...)`, or call it in a
        functional model.

    Raises:
        ValueError: if the file holds no basis.
    """
    with np.load(path) as file:
        values: np.ndarray = file["basis"] if "basis" in file else np.empty(0)
    if values.ndim != 4 or values.shape[1] != values.shape[3]:
        raise ValueError(
            "The file must hold a basis of shape (size, rank, mode, rank), as `save_basis` writes "
            f"it. Received: {os.fspath(path)!r} with shape {values.shape}."
        )
    size, rank, mode, _ = values.shape
    layer = TBasis(size, rank, mode, trainable=trainable, seed=0, name=name)
    layer.build()
    layer.basis.assign(values)
    return layer
