"""`Batches`: examples in batches of one size, read as often as needed, from any form of data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_tensornet import validation
from keras_tensornet.reading.forms import find_source
from keras_tensornet.reading.signature import Misfit, Signature
from keras_tensornet.reading.sources import (
    ArraySource,
    OnceSource,
    Part,
    StreamSource,
    joined,
    refuse_endless,
)

Check = Callable[[str, np.ndarray], object]


class Batch(NamedTuple):
    """Some examples.

    Attributes:
        x: inputs in the structure that the model takes.
        y: targets in the structure in which they were given; None where only inputs are read.
        sample_weight: in the same way, or None.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None


def read_inputs(
    model: keras.Model,
    data: Any,
    batch_size: int = 64,
    *,
    name: str = "data",
    check: Check | None = None,
) -> Batches:
    """The inputs for a model in data of any form that `fit` or `predict` takes.

    Arrays, tensors and tables of pandas; for several inputs a list in the model's order or a dict
    by their names; `(x, y)` and `(x, y, sample_weight)`, of which x is taken; a list of batches
    (for a model of one input a list of arrays is that); a `tf.data.Dataset`, a `PyDataset`, a
    DataLoader of PyTorch or another iterable of batches, or of single examples; a generator or
    another iterator, which is read once and kept, up to 2 GiB.

    Every form of the same examples gives the same batches: they are put together, or cut, to
    `batch_size` examples, or to the batch size that the model is fixed to. The last batch may be
    smaller; where the model is fixed to a size it is left out, with a warning.

    Args:
        model: a built Sequential or Functional model.
        data: the inputs; `Batches` are taken as they are.
        batch_size: examples in a batch.
        name: of the argument, for errors.
        check: `(name of the input, array) -> None`, called with all that is read; it may raise.

    Raises:
        TypeError: for a model without known inputs, and for what is no form of data.
        ValueError: for data that does not fit the model's inputs, is empty, endless, or fits in
            two ways.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> x = np.zeros((6, 4))
    >>> print(*(batch.shape for batch in read_inputs(model, [x[:1], x[1:]], 4).inputs()))
    (4, 4) (2, 4)
    """
    return _read(model, data, batch_size, name, check, targets=False)


def read_examples(
    model: keras.Model,
    data: Any,
    batch_size: int = 64,
    *,
    name: str = "data",
    check: Check | None = None,
) -> Batches:
    """Inputs, targets and sample weights for a model, in any form that `fit` takes.

    As `read_inputs`, with targets: `(x, y)` or `(x, y, sample_weight)` as a tuple or a list, or
    batches of these. Targets may be nested as the model's outputs are.

    Args:
        model, data, batch_size, name, check: as in `read_inputs`.

    Raises:
        TypeError, ValueError: as in `read_inputs`, and for data without targets.
    """
    return _read(model, data, batch_size, name, check, targets=True)


def _read(
    model: keras.Model, data: Any, batch_size: Any, name: str, check: Any, targets: bool
) -> Batches:
    signature = Signature.of(model)
    if isinstance(data, Batches):
        if targets and not data.targets:
            raise ValueError(f"`{name}` has no targets: it was read by `read_inputs`.")
        if signature.shapes != data.signature.shapes or signature.dtypes != data.signature.dtypes:
            raise ValueError(
                f"`{name}` was read for the inputs of '{data.signature.model}', and those of "
                f"'{signature.model}' are others. Read the data again for this model."
            )
        return Batches(signature, data.source, batch_size, targets, name, check or data.check)
    source = find_source(signature, data, name, targets)
    batches = Batches(signature, source, batch_size, targets, name, check)
    if getattr(source, "count", None) == 0:
        raise ValueError(batches._too_few())
    return batches


class Batches:
    """Examples in batches, to be iterated any number of times; made by `read_inputs` and its kin.

    Iterating gives `Batch(x, y, sample_weight)`; `inputs()` gives x alone.

    Attributes:
        signature: of the model.
        source: where the examples come from.
        batch_size: examples in a batch.
        targets: whether targets and sample weights are read too.
        name: of the argument that the data was given as.
    """

    def __init__(
        self,
        signature: Any,
        source: Any,
        batch_size: int,
        targets: bool,
        name: str = "data",
        check: Any = None,
    ) -> None:
        size = validation.positive_int("batch_size", batch_size)
        self.signature: Signature = signature
        self.source: ArraySource | StreamSource = source
        self.batch_size: int = signature.batch_size or size
        self.targets, self.name, self.check = targets, name, check
        self._count: int | None = getattr(source, "count", None)

    def __iter__(self) -> Iterator[Batch]:
        refuse_endless(self.name, getattr(self.source, "steps", None), self.source)
        count = 0
        for part in self._cut():
            count += part.count
            yield self._batch(part)
        if not count:
            raise ValueError(self._too_few())

    def inputs(self) -> Iterator[Any]:
        """x of every batch."""
        return (batch.x for batch in self)

    @property
    def count(self) -> int:
        """The number of examples; where it is not known, the data is read for it once."""
        if self._count is None:
            refuse_endless(self.name, getattr(self.source, "steps", None), self.source)
            self._count = sum(part.count for part in self._parts())
        return self._count

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.batch_size)
        return whole + bool(rest and not self.signature.batch_size)

    def first(self, count: int) -> Batch:
        """The first examples, at most `count`, as one batch; nothing beyond them is read."""
        parts, missing = [], validation.positive_int("count", count)
        if self.signature.batch_size:
            missing = max(missing - missing % self.batch_size, self.batch_size)
        for part in self._parts():
            parts.append(part.rows(0, min(missing, part.count)))
            missing -= parts[-1].count
            if not missing:
                break
        return self._whole(parts)

    def peek(self) -> Any:
        """x of a few examples, to see what they look like; what is read once stays whole."""
        with self._named():
            part = self.source.peek()
        if part is None:
            raise ValueError(self._too_few())
        places = np.arange(self.signature.batch_size or part.count) % part.count
        return self.signature.pack([None if leaf is None else leaf[places] for leaf in part.x])

    def arrays(self) -> Batch:
        """All examples as one batch in memory."""
        refuse_endless(self.name, getattr(self.source, "steps", None), self.source)
        return self._whole(list(self._parts()))

    def in_memory(self) -> Batches:
        """The same examples, read once and kept as arrays."""
        if isinstance(self.source, ArraySource):
            return self
        kept = self.arrays()
        leaves = self.signature.arranged(kept.x)
        source = ArraySource(self.signature, leaves, (kept.y, kept.sample_weight))
        return self._on(source)

    def shuffled(self, seed: int) -> Batches:
        """The same examples in an order that the seed gives; what is no array is kept in memory."""
        kept = self.in_memory()
        return kept._chosen(np.random.default_rng(seed).permutation(kept.count))

    def split(self, share: float, seed: int) -> tuple[Batches, Batches]:
        """All but a share of the examples, and that share, drawn by the seed.

        Args:
            share: in (0, 1), of examples that are held out; at least one is, and one is not.
            seed: of the draw. What is no array is kept in memory, so that a data set which
                shuffles itself cannot mix the two.

        Raises:
            ValueError: for a share outside (0, 1), or fewer than two examples.
        """
        if not 0.0 < share < 1.0:
            raise ValueError(f"`share` must lie between 0 and 1. Received: share={share}.")
        kept = self.in_memory()
        if kept.count < 2:
            raise ValueError(f"`{self.name}` must hold at least two examples to be split.")
        held = min(max(1, round(share * kept.count)), kept.count - 1)
        order = np.random.default_rng(seed).permutation(kept.count)
        return kept._chosen(np.sort(order[held:])), kept._chosen(np.sort(order[:held]))

    def for_fit(self, steps_per_epoch: int | None = None) -> dict[str, Any]:
        """Keyword arguments of `fit` that give it these examples.

        Arrays stay arrays, so that `fit` shuffles them, and data sets stay what they are; what
        `fit` would misread or exhaust comes as a generator with its number of steps.
        """
        return self._arguments("steps_per_epoch", steps_per_epoch)

    def for_evaluate(self, steps: int | None = None) -> dict[str, Any]:
        """Keyword arguments of `evaluate`."""
        return self._arguments("steps", steps)

    def for_validation(self, steps: int | None = None) -> dict[str, Any]:
        """The keyword arguments of `fit` that say what to validate on."""
        given = self._arguments("validation_steps", steps)
        if "y" in given:
            rest = [part for part in (given["y"], given["sample_weight"]) if part is not None]
            return {
                "validation_data": (given["x"], *rest),
                "validation_batch_size": given["batch_size"],
            }
        return {"validation_data": given.pop("x"), **given}

    def steps(self, steps: int | None = None) -> int:
        """How many steps `fit` takes in an epoch of these examples."""
        if steps is not None:
            return validation.positive_int("steps", steps)
        known = getattr(self.source, "steps", None)
        as_given = getattr(self.source, "given", None) is not None and not self.signature.batch_size
        if as_given and known is not None:
            refuse_endless(self.name, known, self.source.given)  # type: ignore[union-attr]
            return int(known)
        if as_given:
            return len([None for _ in self.source.again()])  # type: ignore[union-attr]
        return len(self)

    def _arguments(self, steps_name: str, steps: int | None) -> dict[str, Any]:
        given = getattr(self.source, "given", None)
        if isinstance(self.source, ArraySource):
            batch = self.arrays() if self.signature.batch_size else self._as_given(self.source)
            arguments = batch._asdict() | {"batch_size": self.batch_size}
            return arguments | ({} if steps is None else {steps_name: steps})
        if given is not None and not self.signature.batch_size:
            return {"x": given} | ({} if steps is None else {steps_name: steps})
        if isinstance(self.source, OnceSource) and steps is not None:
            return {"x": self._once(), steps_name: steps}
        return {"x": self._endless(), steps_name: steps or len(self)}

    def _as_given(self, source: ArraySource) -> Batch:
        """The arrays, of which nothing is copied that can stay where it is."""
        if source.order is not None:
            return self.arrays()
        return Batch(self.signature.pack(source.leaves), *source.rest)

    def _endless(self) -> Iterator[tuple[Any, ...]]:
        while True:
            yield from (_as_tuple(batch) for batch in self)

    def _once(self) -> Iterator[tuple[Any, ...]]:
        return (_as_tuple(self._batch(part)) for part in self._cut(keep=False))

    def _parts(self, keep: bool = True) -> Iterator[Part]:
        source = self.source
        parts = source.parts(self.batch_size)
        if not keep and isinstance(source, OnceSource):
            parts = StreamSource.parts(source, self.batch_size)
        with self._named():
            for part in parts:
                if self.check is not None:
                    for input_name, array in zip(self.signature.names, part.x, strict=True):
                        if array is not None:
                            self.check(input_name, array)
                yield part

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Within it, what does not fit is said with the names of the data and the model."""
        try:
            yield
        except Misfit as error:
            raise ValueError(
                f"`{self.name}` does not fit '{self.signature.model}': {error}."
            ) from error

    def _cut(self, keep: bool = True) -> Iterator[Part]:
        """Parts of `batch_size` examples; smaller where shapes change and at the end."""
        held: list[Part] = []
        for part in self._parts(keep):
            if held and not held[-1].follows(part):
                yield from self._rest(held)
                held = []
            held.append(part)
            if sum(each.count for each in held) < self.batch_size:
                continue
            whole = joined(held)
            stop = whole.count - whole.count % self.batch_size
            for start in range(0, stop, self.batch_size):
                yield whole.rows(start, start + self.batch_size)
            held = [whole.rows(stop, whole.count)] if stop < whole.count else []
        yield from self._rest(held)

    def _rest(self, held: list[Part]) -> Iterator[Part]:
        part = joined(held) if held else None
        if part is not None and self.signature.batch_size is None:
            yield part
        elif part is not None:
            self._warn_of(part.count)

    def _warn_of(self, left_out: int) -> None:
        warnings.warn(
            f"The model '{self.signature.model}' takes batches of {self.batch_size}; the last "
            f"{left_out} examples of `{self.name}` are left out.",
            UserWarning,
            stacklevel=2,
        )

    def _too_few(self) -> str:
        if self._count == 0 or self.signature.batch_size is None:
            return f"`{self.name}` must hold at least one batch. Received: none."
        return (
            f"`{self.name}` must hold at least {self.batch_size} examples, the batch size that "
            f"'{self.signature.model}' is fixed to."
        )

    def _batch(self, part: Part) -> Batch:
        rest = keras.tree.pack_sequence_as(self.source.structure, part.rest)
        return Batch(self.signature.pack(part.x), *rest)

    def _whole(self, parts: list[Part]) -> Batch:
        if not parts:
            raise ValueError(self._too_few())
        if not all(part.follows(parts[0]) for part in parts):
            raise ValueError(
                f"`{self.name}` holds examples of several shapes, which are no one array. Pad them "
                "to one shape."
            )
        whole = joined(parts)
        if self.signature.batch_size:
            stop = whole.count - whole.count % self.batch_size
            if not stop:
                raise ValueError(self._too_few())
            if stop < whole.count:
                self._warn_of(whole.count - stop)
            whole = whole.rows(0, stop)
        return self._batch(whole)

    def _on(self, source: ArraySource) -> Batches:
        return Batches(self.signature, source, self.batch_size, self.targets, self.name, self.check)

    def _chosen(self, order: np.ndarray) -> Batches:
        return self._on(self.source.reordered(order))  # type: ignore[union-attr]


def _as_tuple(batch: Batch) -> tuple[Any, ...]:
    return tuple(batch) if batch.sample_weight is not None else (batch.x, batch.y)
