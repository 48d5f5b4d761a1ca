"""The inputs that a model takes, and whether something that was given fits them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_tensornet.reading import calls
from keras_tensornet.reading.arrays import in_words, is_array, is_leaf, shape_of


class Misfit(ValueError):
    """One reading of a value does not fit; its words go into the error if no other does."""


@dataclass(frozen=True)
class Signature:
    """The inputs of a model in its own order.

    Attributes:
        names: of the input tensors.
        shapes: with the batch axis, open extents as None.
        dtypes: as Keras names them; None where any is taken, for a model without a graph.
        optional: whether None may be given.
        structure: nest of places in this order, as the model is called.
        model: its name, for errors.
        usual: `(shapes, dtypes)` to make examples of, where those above leave them open.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    dtypes: tuple[str | None, ...]
    optional: tuple[bool, ...]
    structure: Any
    model: str
    usual: Any = None

    @classmethod
    def of(cls, model: keras.Model) -> Signature:
        """The signature of a built model; of one without a graph what it was built with.

        Raises:
            TypeError: for a model whose inputs are not known.
        """
        try:
            tensors = list(keras.tree.flatten(model.inputs or ()))
        except (AttributeError, ValueError):
            tensors = []
        if not tensors:
            return cls._of_calls(model)
        places = {id(tensor): place for place, tensor in enumerate(tensors)}
        nest = tensors[0] if isinstance(model, keras.Sequential) else model.input
        if not all(id(tensor) in places for tensor in keras.tree.flatten(nest)):
            nest = tensors[0] if len(tensors) == 1 else tensors
        makers = [tensor._keras_history.operation for tensor in tensors]
        return cls(
            tuple(tensor.name for tensor in tensors),
            tuple(tuple(tensor.shape) for tensor in tensors),
            tuple(keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors),
            tuple(bool(getattr(maker, "optional", False)) for maker in makers),
            keras.tree.map_structure(lambda tensor: places[id(tensor)], nest),
            model.name,
        )

    @classmethod
    def _of_calls(cls, model: keras.Model) -> Signature:
        nest = calls.built_with(model) if getattr(model, "built", False) else None
        if nest is None:
            raise TypeError(
                "`model` must be a built Keras model, which says what its inputs are. Received: "
                f"'{getattr(model, 'name', model)}' of type {type(model).__name__}. Begin it with "
                "a keras.Input, or call it on data once."
            )
        named = calls.shapes_in(nest)
        count, shapes = len(named), tuple((None, *shape[1:]) for _, shape in named)
        return cls(
            tuple(name for name, _ in named),
            tuple((None,) * len(shape) for shape in shapes),
            (None,) * count,
            (False,) * count,
            calls.places_of(nest),
            model.name,
            functools.partial(calls.dtypes_of, model, shapes),
        )

    def examples(self) -> list[tuple[tuple[int | None, ...], str]]:
        """`(shape, dtype)` of each input, to make examples of."""
        if self.usual is None:
            return list(zip(self.shapes, map(str, self.dtypes), strict=True))
        shapes = self.usual.args[1]
        return list(zip(shapes, self.usual(self.pack), strict=True))

    @property
    def batch_size(self) -> int | None:
        """The batch size that the model is fixed to, or None."""
        return next((shape[0] for shape in self.shapes if shape[:1] != (None,)), None)

    def pack(self, leaves: Sequence[Any]) -> Any:
        """Arrays in the order of the inputs as the model is called with them."""
        return keras.tree.map_structure(lambda place: leaves[place], self.structure)

    def arranged(self, given: Any) -> list[Any]:
        """What was given as a flat list in the order of the inputs.

        Raises:
            Misfit: if it has another structure.
        """
        found: dict[int, Any] = {}
        self._match(self.structure, given, found, top=True)
        for place, leaf in found.items():
            if leaf is None and not self.optional[place]:
                raise Misfit(f"input '{self.names[place]}' is None")
        return [found[place] for place in range(len(self.names))]

    def _match(self, nest: Any, given: Any, found: dict[int, Any], top: bool = False) -> None:
        if isinstance(nest, int):
            given = self._only(given, nest) if top else given
            if not is_leaf(given):
                raise Misfit(f"input '{self.names[nest]}' is {in_words(given)}, no array")
            found[nest] = given
        elif isinstance(nest, Mapping) and isinstance(given, Mapping):
            missing = [key for key in nest if key not in given]
            if missing:
                raise Misfit(f"it has no {', '.join(map(repr, missing))}")
            for key in nest:
                self._match(nest[key], given[key], found)
        elif top and isinstance(given, Mapping):
            self._match_names(given, found)
        elif len(nest) == 1 and is_array(given):
            (only,) = nest.values() if isinstance(nest, Mapping) else nest
            self._match(only, given, found)
        elif isinstance(given, (list, tuple)) and len(given) == len(nest):
            if isinstance(nest, Mapping) and list(nest) != sorted(nest):
                raise Misfit("its inputs are named, and in no order: give a dict")
            entries = nest.values() if isinstance(nest, Mapping) else nest
            for entry, part in zip(entries, given, strict=True):
                self._match(entry, part, found)
        else:
            raise Misfit(f"the model takes {self._takes()}")

    def _only(self, given: Any, place: int) -> Any:
        """The one array of a model with one input, given bare, in a list or by name."""
        if isinstance(given, Mapping):
            if self.names[place] not in given:
                raise Misfit(f"it has no {self.names[place]!r}")
            return given[self.names[place]]
        return given[0] if isinstance(given, (list, tuple)) and len(given) == 1 else given

    def _match_names(self, given: Mapping[str, Any], found: dict[int, Any]) -> None:
        missing = [name for name in self.names if name not in given]
        if missing:
            raise Misfit(f"it has no {', '.join(map(repr, missing))}")
        found.update((place, given[name]) for place, name in enumerate(self.names))

    def _takes(self) -> str:
        count = len(self.names)
        named = ", ".join(map(repr, self.names))
        return f"the input {named}" if count == 1 else f"{count} inputs, {named}"

    def kind(self, leaves: Any, rows_too: bool) -> str:
        """Whether arranged arrays are a "batch", or the inputs of one example, a "row".

        As Keras does it, a last axis of 1 may be missing or too many.

        Args:
            leaves: from `arranged`.
            rows_too: whether one example without its batch axis is taken.

        Raises:
            Misfit: if they are neither, or could be both.
        """
        shapes = [(place, shape_of(leaf)) for place, leaf in enumerate(leaves) if leaf is not None]
        fits = {
            (kind, exact): all(
                self._fits(place, ((1,) if kind == "row" else ()) + shape, exact)
                for place, shape in shapes
            )
            for kind in ("batch", "row")
            for exact in (True, False)
        }
        if fits["batch", True] or (fits["batch", False] and not rows_too):
            return self._equal_rows(shapes)
        if fits["batch", False] and fits["row", True]:
            if all(shape[:1] == (1,) for _, shape in shapes):
                return "row"  # either way the same
            raise Misfit(
                f"shape {shapes[0][1]} could be a batch without its last axis or one example; "
                "add the axis that is missing"
            )
        if fits["batch", False]:
            return self._equal_rows(shapes)
        if rows_too and (fits["row", True] or fits["row", False]):
            return "row"
        place, shape = next(((p, s) for p, s in shapes if not self._fits(p, s, False)), shapes[0])
        single = self._fits(place, (1, *shape), True) and not rows_too
        raise Misfit(
            f"input '{self.names[place]}' takes {self._shape_in_words(place)}, not {shape}"
            + (": one example needs a batch axis, x[None]" if single else "")
        )

    def _equal_rows(self, shapes: Any) -> str:
        counts = {shape[0] for _, shape in shapes}
        if len(counts) > 1:
            raise Misfit(f"its inputs have {sorted(counts)} rows")
        return "batch"

    def _fits(self, place: int, shape: tuple[int, ...], exact: bool) -> bool:
        wanted = self.shapes[place]
        if not shape:
            return False
        if not exact:
            if len(shape) == len(wanted) + 1 and shape[-1] == 1:
                shape = shape[:-1]
            elif len(shape) == len(wanted) - 1 and wanted[-1] == 1:
                shape = (*shape, 1)
        return len(shape) == len(wanted) and all(
            extent is None or extent == given
            for extent, given in zip(wanted[1:], shape[1:], strict=True)
        )

    def _shape_in_words(self, place: int) -> str:
        extents = ["batch", *("any" if e is None else str(e) for e in self.shapes[place][1:])]
        return f"({', '.join(extents)})"

    def cast(self, place: int, array: np.ndarray | None) -> np.ndarray | None:
        """An array in the rank and type of an input.

        Raises:
            Misfit: if its values are of another kind.
        """
        if array is None:
            return None
        wanted, dtype = self.shapes[place], self.dtypes[place]
        if array.ndim == len(wanted) + 1:
            array = array[..., 0]
        elif array.ndim == len(wanted) - 1:
            array = array[..., None]
        if array.dtype.kind in "cmMV":  # NumPy would cast them, and drop what they mean
            raise Misfit(f"input '{self.names[place]}' takes {dtype}, not {array.dtype}")
        text = array.dtype.kind in "US" or (array.dtype == object and _holds_text(array))
        if dtype is not None and text != (dtype == "string"):
            raise Misfit(
                f"input '{self.names[place]}' takes {dtype}, not {'text' if text else array.dtype}"
            )
        if text or dtype is None:
            return array.astype("float32") if array.dtype == "float64" else array
        if dtype in ("bfloat16", "float16"):
            dtype = "float32"  # Keras rounds when the model is called
        try:
            cast = array.astype(dtype)
        except (TypeError, ValueError) as error:
            raise Misfit(f"input '{self.names[place]}' takes {dtype}: {error}") from error
        if "int" in dtype and array.dtype.kind in "fO" and not np.array_equal(cast, array):
            raise Misfit(
                f"input '{self.names[place]}' takes whole numbers ({dtype}), and there are others"
            )
        return cast


def _holds_text(array: np.ndarray) -> bool:
    return array.size > 0 and isinstance(array.reshape(-1)[0], (str, bytes))


def has_rows(nest: Any, count: int) -> bool:
    """Whether every array of targets or weights has that many rows."""
    leaves = [leaf for leaf in keras.tree.flatten(nest) if leaf is not None]
    return all(is_array(leaf) and shape_of(leaf)[:1] == (count,) for leaf in leaves)
