"""Shapes with open extents: what stands in where Keras has None."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

# A batch, and the height or width of an image or the length of a sequence, that are not known.
BATCH_HINT = 32
EXTENT_HINT = 32


def filled(extents: Iterable[int | None]) -> tuple[int, ...]:
    """The extents, those that are open at `EXTENT_HINT`."""
    return tuple(extent or EXTENT_HINT for extent in extents)


def with_batch(shape: Iterable[int | None], batch_size: int) -> tuple[int, ...]:
    """A shape whose first axis is the batch, for a batch of that size."""
    _, *extents = shape
    return (batch_size, *filled(extents))


def built_shape(layer: Any) -> tuple[int | None, ...]:
    """The shape that a layer was built for; of several inputs (a sequence, its states) the first.

    Empty if the layer has not noted one.
    """
    config = layer.get_build_config() or {}
    shape = config.get("input_shape") or next(iter(config.get("shapes_dict", {}).values()), None)
    return tuple(shape or ())


def rows_of(shape: Iterable[int | None]) -> int:
    """How many rows a shape of batch axes holds, open ones at `BATCH_HINT`."""
    return math.prod(extent or BATCH_HINT for extent in shape)


def is_kernel(shape: Iterable[int]) -> bool:
    """Whether a weight of this shape is a matrix at least, and no bias, scale or statistic."""
    return sum(extent > 1 for extent in shape) > 1
