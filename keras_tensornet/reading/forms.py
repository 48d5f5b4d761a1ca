"""Which of the readings of a value fits a model: arrays, (x, y, w), batches, datasets, iterators.

Each reading is tried against the inputs of the model; what fits in two ways that differ is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras

from keras_tensornet.reading.arrays import in_words, is_array, is_leaf, shape_of
from keras_tensornet.reading.signature import Misfit, Signature, has_rows
from keras_tensornet.reading.sources import ArraySource, OnceSource, StreamSource

NOTHING = (None, None)
Source = ArraySource | StreamSource


def find_source(signature: Signature, data: Any, name: str, targets: bool) -> Source:
    """The source that data is.

    Args:
        signature: of the model.
        data: as in `read_inputs` and `read_examples`.
        name: of the argument, for errors.
        targets: whether targets are wanted; else they are left out.

    Raises:
        TypeError: for what `fit` and `predict` do not take.
        ValueError: if it does not fit the model, is ambiguous or empty.
    """
    reader = _Reader(signature, name, targets)
    try:
        return reader.source(data)
    except Misfit as error:
        raise ValueError(
            f"`{name}` does not fit '{signature.model}': {error}. Received: {in_words(data)}."
        ) from error


class _Reader:
    """The readings of a value for one model and one purpose."""

    def __init__(self, signature: Signature, name: str, targets: bool) -> None:
        self.signature, self.name, self.targets = signature, name, targets

    def source(self, data: Any) -> Source:
        """The source of the reading that fits."""
        if data is None or isinstance(data, (str, bytes, bool, int, float)):
            raise TypeError(self._no_form(data))
        if is_array(data) or isinstance(data, Mapping):
            if self.targets:
                raise Misfit("it has no targets; give (x, y) or (x, y, sample_weight)")
            return self._whole(data, NOTHING)
        if isinstance(data, (list, tuple)):
            return self._sequence(data)
        return self._iterable(data)

    def _whole(self, x: Any, rest: tuple[Any, ...]) -> ArraySource:
        leaves = self.signature.arranged(x)
        self.signature.kind(leaves, rows_too=False)
        return ArraySource(self.signature, leaves, rest)

    def _tuple(self, data: Any) -> ArraySource:
        """(x, y) or (x, y, sample_weight), arrays."""
        if not (2 if self.targets else 1) <= len(data) <= 3:
            raise Misfit("it has no targets" if len(data) < 2 else f"it has {len(data)} entries")
        x, *rest = data
        whole = self._whole(x, (*rest, None, None)[:2])
        if not has_rows(rest, whole.count):
            raise Misfit(f"targets and sample weights need {whole.count} rows, as the inputs have")
        if self.targets and rest[0] is None:
            raise Misfit("its targets are None")
        return whole if self.targets else ArraySource(self.signature, whole.leaves, NOTHING)

    def _sequence(self, data: Any) -> Source:
        """The one reading of a list or tuple that fits."""
        if not data:
            raise Misfit("it is empty, and at least one batch is needed")
        ways: dict[str, Callable[[], Source]] = {
            "as (x, y, sample_weight)": lambda: self._tuple(data),
            "as batches": lambda: self._batches(data),
        }
        if not self.targets:
            ways["as the inputs of one batch"] = lambda: self._whole(data, NOTHING)
        found, reasons = {}, []
        for way, read in ways.items():
            try:
                found[way] = read()
            except Misfit as error:
                reasons.append(f"{way}, {error}")
        if not found:
            raise Misfit("; ".join(reasons))
        if len(found) > 1 and len(data) > 1:
            if isinstance(data, list) and "as batches" in found and not self.targets:
                return found["as batches"]  # Keras has no (x, y) in a list
            if data[1] is not data[0]:
                raise Misfit(
                    f"it can be read {' and '.join(found)}. Give the inputs alone, or batches as a "
                    "list" + (" of tuples (x, y)" if self.targets else "")
                )
        return next(iter(found.values()))

    def _batches(self, data: Any) -> StreamSource:
        """Every entry is a batch, or an example, of its own; all in one way."""
        kinds = {self._looked_at(element, place) for place, element in enumerate(data)}
        if len(kinds) > 1:
            raise Misfit("some entries are batches and some single examples")
        return StreamSource(self.signature, lambda: data, self.element, steps=len(data))

    def _looked_at(self, element: Any, place: int) -> str:
        try:
            if isinstance(element, list) and len(element) > 1 and not self.targets:
                self._refuse_lists(element)
            return self.element(element)[2]
        except Misfit as error:
            raise Misfit(f"entry {place}: {error}") from error

    def _refuse_lists(self, element: list[Any]) -> None:
        """A list whose entries are all inputs could be (x, y) or examples to be stacked."""
        try:
            kinds = {
                self.signature.kind(self.signature.arranged(entry), rows_too=True)
                for entry in element
            }
        except Misfit:
            return
        if len(kinds) > 1:
            return
        raise Misfit("a list of inputs within a list; stack its arrays, or give (x, y) as a tuple")

    def element(self, element: Any) -> tuple[list[Any], tuple[Any, ...], str]:
        """The inputs, targets and kind of one element of a stream; as `fit` reads a batch.

        Raises:
            Misfit: if it fits in no way.
        """
        reasons = []
        if isinstance(element, (list, tuple)) and (2 if self.targets else 1) <= len(element) <= 3:
            x, *rest = element
            try:
                return self._element(x, (*rest, None, None)[:2])
            except Misfit as error:
                reasons.append(str(error))
        if self.targets:
            raise Misfit("; ".join(reasons) or "it has no targets: it gives no tuples (x, y)")
        try:
            return self._element(element, NOTHING)
        except Misfit as error:
            raise Misfit("; ".join(dict.fromkeys([*reasons, str(error)]))) from error

    def _element(self, x: Any, rest: tuple[Any, ...]) -> tuple[list[Any], tuple[Any, ...], str]:
        leaves = self.signature.arranged(x)
        kind = self.signature.kind(leaves, rows_too=True)
        if not self.targets:
            return leaves, NOTHING, kind
        if rest[0] is None:
            raise Misfit("its targets are None")
        count = next(shape_of(leaf)[:1] for leaf in leaves if leaf is not None)
        if kind == "batch" and not has_rows(rest, *count):
            raise Misfit(f"targets and sample weights need {count[0]} rows, as the inputs have")
        if not all(is_leaf(leaf) for leaf in keras.tree.flatten(rest)):
            raise Misfit(f"its targets are {in_words(rest[0])}, no arrays")
        return leaves, rest, kind

    def _iterable(self, data: Any) -> Source:
        if isinstance(data, keras.utils.PyDataset):
            steps = data.num_batches
            steps = float("inf") if steps is None else steps
            return self._stream(data, lambda: _entries(data, steps), steps, data)
        if hasattr(data, "element_spec") and hasattr(data, "cardinality"):  # tf.data
            steps = int(data.cardinality())
            steps = {-1: float("inf"), -2: None}.get(steps, steps)
            return self._stream(data, lambda: data, steps, data)
        if isinstance(data, Iterator):
            first = list(itertools.islice(data, 1))
            if not first:
                raise Misfit("it gives no batch; an iterator can be read once only: make a new one")
            self.element(first[0])
            return OnceSource(self.signature, first, data, self.element, self.name)
        if isinstance(data, Iterable):
            steps = _length(data)
            loader = type(data).__module__.partition(".")[0] in ("torch", "grain")
            return self._stream(data, lambda: data, steps, data if loader else None)
        if hasattr(data, "__getitem__") and _length(data) is not None:
            return self._stream(data, lambda: _entries(data, len(data)), len(data), None)
        raise TypeError(self._no_form(data))

    def _stream(self, data: Any, again: Any, steps: Any, given: Any) -> StreamSource:
        first = next(iter(again()), None)
        if first is None:
            raise Misfit("it gives no batch, and at least one is needed")
        kind = self.element(first)[2]
        given = given if kind == "batch" else None
        return StreamSource(self.signature, again, self.element, given, steps)

    def _no_form(self, data: Any) -> str:
        way = "; call it: an iterator is what is read" if callable(data) else ""
        wanted = "(x, y) or (x, y, sample_weight)" if self.targets else "arrays"
        return (
            f"`{self.name}` must be {wanted}, batches in a list, a tf.data.Dataset, a PyDataset, a "
            f"DataLoader or an iterator, as `fit` takes them{way}. Received: {in_words(data)}."
        )


def _entries(data: Any, steps: Any) -> Iterator[Any]:
    places = itertools.count() if steps == float("inf") else range(int(steps))
    return (data[place] for place in places)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:
        return None
