"""What a model without a graph is called with, read from how it was built.

A subclassed model says nothing of its inputs, but Keras keeps the shapes that it was built with.
Which extents may change, and of which type the inputs are, is known to its code alone: extents
count as open, and types are taken as they are given. Where an example has to be made up, it has the
shapes that the model was built with, and whole numbers where an embedding looks them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_tensornet import keras_internals
from keras_tensornet.shapes import with_batch
from keras_tensornet.types import Shape


def built_with(model: keras.Model) -> Any:
    """The nest of shapes that a model without a graph was built with; None where unknown."""
    shapes = keras_internals.built_shapes(model)
    return None if shapes is None or not _is_nest(shapes) else shapes


def shapes_in(nest: Any) -> list[tuple[str, Shape]]:
    """`(name, shape)` of a nest of shapes, in order; a name is made of the keys and places."""
    if _is_shape(nest):
        return [("inputs", tuple(nest))]
    return list(_named(nest, ""))


def _named(nest: Any, prefix: str) -> Iterator[tuple[str, Shape]]:
    if _is_shape(nest):
        yield prefix, tuple(nest)
        return
    entries = nest.items() if isinstance(nest, Mapping) else enumerate(nest)
    for key, one in entries:
        name = str(key) if isinstance(nest, Mapping) else f"inputs_{key}"
        yield from _named(one, f"{prefix}_{name}" if prefix else name)


def places_of(nest: Any) -> Any:
    """The same nest with the places of the shapes in it, in order."""
    counted = iter(range(len(shapes_in(nest))))

    def numbered(one: Any) -> Any:
        if _is_shape(one):
            return next(counted)
        if isinstance(one, Mapping):
            return {key: numbered(part) for key, part in one.items()}
        return [numbered(part) for part in one]

    return numbered(nest)


def dtypes_of(
    model: keras.Model, shapes: Sequence[Shape], pack: Callable[[Any], Any]
) -> tuple[str, ...]:
    """The types of examples that are made up: "int32" for what embeddings look up, else float32.

    Args:
        model: is called once, on zeros.
        shapes: of its inputs.
        pack: puts arrays into the structure that it is called with.
    """
    tables = [
        layer
        for layer in keras_internals.flatten_layers(model)
        if hasattr(layer, "input_dim") and hasattr(layer, "output_dim")
    ]
    dtypes = ["float32"] * len(shapes)
    if not tables:
        return tuple(dtypes)
    given = [keras.ops.convert_to_tensor(np.zeros(with_batch(s, 1), "int32")) for s in shapes]

    def looked_up(inputs: Any) -> None:
        for place, tensor in enumerate(given):
            if inputs is tensor:
                dtypes[place] = "int32"

    with keras_internals.calls_noted(tables, looked_up):
        try:
            model(pack(given))
        except Exception:  # whole numbers are not what it takes, or not in these shapes
            return tuple(dtypes)
    return tuple(dtypes)


def _is_nest(nest: Any) -> bool:
    if _is_shape(nest):
        return True
    if isinstance(nest, Mapping):
        return bool(nest) and all(map(_is_nest, nest.values()))
    return isinstance(nest, (list, tuple)) and bool(nest) and all(map(_is_nest, nest))


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(extent is None or isinstance(extent, int) for extent in value)
    )
