"""What counts as an array, and its rows in NumPy: NumPy, tensors of any backend, pandas, HDF5."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def is_array(value: Any) -> bool:
    """Whether a value is an array, a tensor or a table, as against a container of such."""
    if isinstance(value, (np.ndarray, np.generic)) or is_table(value):
        return True
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")


def is_table(value: Any) -> bool:
    """Whether it is a data frame or series, of pandas or of what is like it."""
    return hasattr(value, "to_numpy") and hasattr(value, "shape")


def is_leaf(value: Any) -> bool:
    """Whether `to_numpy` takes it: an array, a number, a text, or nothing at all."""
    return value is None or is_array(value) or isinstance(value, (bool, int, float, str, bytes))


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of an array or a number."""
    return tuple(int(extent) for extent in getattr(value, "shape", ()))


def to_numpy(value: Any) -> np.ndarray:
    """A NumPy array of any array, tensor, table or number."""
    if isinstance(value, np.ndarray):
        return value
    if is_table(value):
        return np.asarray(value.to_numpy())
    if hasattr(value, "detach"):  # PyTorch, which may want a gradient or lie on another device
        return value.detach().cpu().numpy()
    if hasattr(value, "toarray"):  # SciPy's sparse matrices
        return np.asarray(value.toarray())
    if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
        return np.asarray(keras.ops.convert_to_numpy(value))
    return np.asarray(value)


def rows(value: Any, wanted: slice | np.ndarray) -> np.ndarray | None:
    """Some rows of an array; of a file on disk nothing else is read."""
    if value is None:
        return None
    if is_table(value):
        value = to_numpy(value)
    if isinstance(wanted, slice) and not hasattr(value, "toarray"):
        return to_numpy(value[wanted])
    return to_numpy(value)[wanted]


def in_words(value: Any) -> str:
    """What a value is, for an error: its shape, or its kind and what it holds."""
    if is_array(value):
        return f"an array of shape {shape_of(value)}"
    if isinstance(value, dict):
        return f"a dict with keys {', '.join(map(repr, list(value)[:8]))}"
    if isinstance(value, (list, tuple)):
        parts = "; ".join(in_words(entry) for entry in value[:3])
        more = "; ..." if len(value) > 3 else ""
        return f"a {type(value).__name__} of {len(value)} ({parts}{more})"
    return f"{value!r:.60} of type {type(value).__name__}"
