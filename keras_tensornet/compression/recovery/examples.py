"""The examples that recovery trains on: read once, split, and drawn in batches."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_tensornet.reading import read_inputs

READ = 256
# Examples beyond these are not read: they are all kept in memory.
MOST_EXAMPLES = 20_000
FEWEST_EXAMPLES = 8


@dataclass(frozen=True)
class Examples:
    """Inputs of a model in memory.

    Attributes:
        groups: structures of arrays with the same first axis. Sequences of different lengths come
            in different groups.
    """

    groups: tuple[Any, ...]

    @classmethod
    def read(cls, model: keras.Model, data: Any) -> Examples:
        """The first `MOST_EXAMPLES` of calibration data, labels left out."""
        parts: dict[Any, list[Any]] = {}
        count = 0
        for batch in read_inputs(model, data, READ).inputs():
            batch = keras.tree.map_structure(_array, batch)
            leaves = keras.tree.flatten(batch)
            key = tuple((leaf.shape[1:], str(leaf.dtype)) for leaf in leaves)
            parts.setdefault(key, []).append(batch)
            count += len(leaves[0])
            if count >= MOST_EXAMPLES:
                break
        return cls(tuple(_joined(found) for found in parts.values()))

    def __len__(self) -> int:
        return sum(size_of(group) for group in self.groups)

    def split(self, share: float, random: np.random.Generator) -> tuple[Examples, Examples]:
        """Those to train on, and those that are held out."""
        wanted = max(1, round(share * len(self)))
        chosen = random.permutation(len(self)) < wanted
        kept: list[Any] = []
        held: list[Any] = []
        start = 0
        for group in self.groups:
            mask = chosen[start : start + size_of(group)]
            start += len(mask)
            for found, part in ((kept, ~mask), (held, mask)):
                if part.any():
                    found.append(take(group, np.flatnonzero(part)))
        return Examples(tuple(kept)), Examples(tuple(held))

    def epochs(
        self, batch_size: int, random: np.random.Generator, others: tuple[Any, ...] = ()
    ) -> Iterator[tuple[Any, ...]]:
        """Endless batches `(inputs, others)`, each example once before any comes again.

        Args:
            batch_size: of full batches; the last one of a group is filled up from the others.
            random: gives the order.
            others: structures beside the groups, cut in the same way, such as targets.
        """
        others = others or (None,) * len(self.groups)
        while True:
            places = []
            for number, group in enumerate(self.groups):
                order = random.permutation(size_of(group))
                size = min(batch_size, len(order))
                order = np.concatenate([order, order[: -len(order) % size]])
                places += [(number, part) for part in np.split(order, len(order) // size)]
            for place in random.permutation(len(places)):
                number, part = places[place]
                other = others[number]
                yield (
                    take(self.groups[number], part),
                    None if other is None else take(other, part),
                )

    def steps(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return sum(-(-size_of(group) // batch_size) for group in self.groups)


def augmented(augment: Any, inputs: Any, random: np.random.Generator) -> Any:
    """A batch after the user's augmentation.

    Raises:
        ValueError: if it gives another structure or another number of examples.
    """
    if augment is None:
        return inputs
    if isinstance(augment, keras.layers.Layer):
        result = augment(inputs, training=True)
    elif _takes_random(augment):
        result = augment(inputs, random)
    else:
        result = augment(inputs)
    result = keras.tree.map_structure(_array, result)
    try:
        keras.tree.assert_same_structure(inputs, result)
        fits = size_of(result) == size_of(inputs)
    except (ValueError, TypeError):
        fits = False
    if not fits:
        raise ValueError(
            "`augment` must give inputs of the structure and number that it received: "
            f"{keras.tree.map_structure(np.shape, inputs)}. Received from it: "
            f"{keras.tree.map_structure(np.shape, result)}."
        )
    return keras.tree.map_structure(lambda new, old: new.astype(old.dtype), result, inputs)


def size_of(group: Any) -> int:
    """Examples in a structure of arrays."""
    return len(keras.tree.flatten(group)[0])


def take(group: Any, places: Any) -> Any:
    """Some examples of a structure of arrays."""
    return keras.tree.map_structure(lambda leaf: leaf[places], group)


def _takes_random(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in positional]
    return len(needed) > 1 or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)


def _array(leaf: Any) -> np.ndarray:
    return leaf if isinstance(leaf, np.ndarray) else keras.ops.convert_to_numpy(leaf)


def _joined(found: list[Any]) -> Any:
    return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *found)
