"""Where examples come from: arrays as a whole, something that is iterated, or an iterator, once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_tensornet.reading.arrays import in_words, is_table, rows, shape_of, to_numpy
from keras_tensornet.reading.signature import Misfit, Signature

# What is kept of an iterator, which can be read once only; more is refused.
MOST_KEPT = 2 * 2**30
# Examples that `peek` gives of arrays.
PEEK = 8


class Part:
    """Some examples: arrays of equal length.

    Attributes:
        x: arrays in the order of the model's inputs; None for an optional one.
        rest: targets and sample weights as flat arrays, in the structure of the source.
        count: the number of examples.
    """

    def __init__(self, x: list[Any], rest: list[Any]) -> None:
        self.x, self.rest = x, rest
        self.count = next(len(array) for array in x if array is not None)

    @property
    def arrays(self) -> list[Any]:
        """All arrays."""
        return [*self.x, *self.rest]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(array.nbytes for array in self.arrays if array is not None)

    def rows(self, start: int, stop: int) -> Part:
        """Some of the examples."""
        cut = slice(start, stop)
        return Part(
            [rows(array, cut) for array in self.x], [rows(array, cut) for array in self.rest]
        )

    def follows(self, other: Part) -> bool:
        """Whether the examples of both have the same shapes."""
        return all(
            (mine is None) == (its is None)
            and (mine is None or (mine.shape[1:], mine.dtype) == (its.shape[1:], its.dtype))
            for mine, its in zip(self.arrays, other.arrays, strict=True)
        )


def joined(parts: list[Part]) -> Part:
    """One part of several that follow each other."""
    if len(parts) == 1:
        return parts[0]

    def join(arrays: Any) -> Any:
        return None if arrays[0] is None else np.concatenate(arrays)

    return Part(
        [join(arrays) for arrays in zip(*(part.x for part in parts), strict=True)],
        [join(arrays) for arrays in zip(*(part.rest for part in parts), strict=True)],
    )


class ArraySource:
    """Examples in arrays, all at hand.

    Args:
        signature: of the model.
        leaves: of the inputs, in order.
        rest: `(targets, sample weights)`, None for what there is not.
        order: of the examples; as they lie if None.
    """

    def __init__(
        self, signature: Signature, leaves: list[Any], rest: tuple[Any, ...], order: Any = None
    ) -> None:
        self.signature, self.order = signature, order
        self.leaves = [_without_tables(leaf) for leaf in leaves]
        self.rest = keras.tree.map_structure(_without_tables, rest)
        self.structure = self.rest
        self.flat = keras.tree.flatten(self.rest)
        self.whole = next(shape_of(leaf)[0] for leaf in leaves if leaf is not None)
        self.count = self.whole if order is None else len(order)

    def parts(self, size: int) -> Iterator[Part]:
        """All examples, `size` at a time."""
        for start in range(0, self.count, size):
            cut = slice(start, min(start + size, self.count))
            wanted = cut if self.order is None else self.order[cut]
            x = [
                self.signature.cast(place, rows(leaf, wanted))
                for place, leaf in enumerate(self.leaves)
            ]
            yield Part(x, [rows(leaf, wanted) for leaf in self.flat])

    def peek(self) -> Part | None:
        """The first examples, if there are any."""
        return next(self.parts(PEEK), None)

    def reordered(self, order: np.ndarray) -> ArraySource:
        """The same arrays, other examples of them."""
        if self.order is not None:
            order = self.order[order]
        return ArraySource(self.signature, self.leaves, self.rest, order)


class StreamSource:
    """Examples from an iterable that can be iterated again.

    Args:
        again: gives a new iterator.
        read: `element -> (leaves, (targets, sample weights), kind)`, as `forms` reads elements.
        given: the object itself, where `fit` can take it as it is.
        steps: number of elements, where it is known.
    """

    def __init__(
        self,
        signature: Any,
        again: Callable[[], Iterable[Any]],
        read: Any,
        given: Any = None,
        steps: Any = None,
    ) -> None:
        self.signature, self.again, self.read = signature, again, read
        self.given, self.steps = given, steps
        self.structure: Any = None

    def parts(self, size: int) -> Iterator[Part]:
        """All examples as they come, single ones put together."""
        singles: list[Part] = []
        for place, element in enumerate(self.again()):
            part, kind = self._part(element, place)
            if singles and (len(singles) == size or not singles[-1].follows(part)):
                yield joined(singles)
                singles = []
            if kind == "row":
                singles.append(part)
            else:
                yield part
        if singles:
            yield joined(singles)

    def peek(self) -> Part | None:
        """The first examples, if there are any."""
        return next(iter(self.parts(1)), None)

    def _part(self, element: Any, place: int) -> tuple[Part, str]:
        try:
            leaves, rest, kind = self.read(element)
            if kind == "row":
                leaves = [None if leaf is None else to_numpy(leaf)[None] for leaf in leaves]
            everything = slice(None)
            x = [self.signature.cast(i, rows(leaf, everything)) for i, leaf in enumerate(leaves)]
        except Misfit as error:
            raise Misfit(f"element {place}: {error}") from error
        flat = keras.tree.flatten(rest)
        if self.structure is None:
            self.structure = rest
        keras.tree.assert_same_structure(self.structure, rest)
        if kind == "row":
            flat = [None if leaf is None else to_numpy(leaf)[None] for leaf in flat]
        return Part(x, [rows(leaf, everything) for leaf in flat]), kind


class OnceSource(StreamSource):
    """Examples from an iterator: read once, when they are first wanted, and kept.

    Args:
        first: the elements that were taken from the iterator to look at them.
        iterator: the rest.
        name: of the argument, for errors.
    """

    def __init__(
        self, signature: Any, first: list[Any], iterator: Iterator[Any], read: Any, name: str
    ) -> None:
        elements = itertools.chain(first, iterator)
        super().__init__(signature, lambda: elements, read)
        self.kept: list[Part] | None = None
        self.name = name

    def parts(self, size: int) -> Iterator[Part]:
        """All examples; the first time they are read and kept, as far as memory allows."""
        if self.kept is None:
            kept, total = [], 0
            for part in super().parts(size):
                kept.append(part)
                total += part.nbytes
                if total > MOST_KEPT:
                    raise ValueError(
                        f"`{self.name}` is an iterator, which can be read once only, so it is kept "
                        f"in memory, and it holds more than {MOST_KEPT / 2**30:.0f} GiB (or never "
                        "ends). Give arrays, a tf.data.Dataset, a PyDataset, or the first n "
                        "batches, itertools.islice(iterator, n)."
                    )
            self.kept = kept
        yield from self.kept

    def peek(self) -> Part | None:
        """The first examples; the iterator still gives them, and no more of it is read."""
        if self.kept is not None:
            return self.kept[0] if self.kept else None
        elements = iter(self.again())
        first = list(itertools.islice(elements, 1))
        rest = itertools.chain(first, elements)
        self.again = lambda: rest
        return self._part(first[0], 0)[0] if first else None


def _without_tables(leaf: Any) -> Any:
    """A table as an array, once; other arrays as they are."""
    return to_numpy(leaf) if is_table(leaf) else leaf


def refuse_endless(name: str, steps: Any, given: Any) -> None:
    """Raise where a source says itself that it has no end."""
    if steps == float("inf"):
        raise ValueError(
            f"`{name}` has no end, and all of it is read. Received: {in_words(given)}. Give a part "
            "of it: dataset.take(n)."
        )
