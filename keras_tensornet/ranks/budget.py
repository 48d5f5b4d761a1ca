"""Spend one budget over many layers: choose one option for each so that the total error is least.

This is the multiple-choice knapsack problem. Layers are added one at a time; of all partial sums
only those are kept that no other beats in both cost and error (the Pareto front), and that leave
enough for the cheapest options of the layers to come. Without thinning that is exact; a front
longer than `FRONT` keeps the best sum in each of `FRONT` equal slices of the budget, which loses
at most a slice for each layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from keras_tensornet.decompositions.types import Array

FRONT = 4096


@dataclasses.dataclass(frozen=True)
class Allocation:
    """What `allocate` chose.

    Attributes:
        choices: for each layer the position of its option in the list that was given.
        cost: sum of the chosen costs, in the units given.
        error: sum of the chosen errors, in the units given.
        budget: the budget that was given.
    """

    choices: tuple[int, ...]
    cost: float
    error: float
    budget: float

    @property
    def spent(self) -> float:
        """Share of the budget that is used."""
        return self.cost / self.budget if self.budget else 1.0


def allocate(candidates: Iterable[Iterable[tuple[float, float]]], budget: float) -> Allocation:
    """Choose one option for each layer: total cost at most `budget`, total error least.

    Errors of different layers are added, so give them in units that add up, such as squared norms
    of what is lost, not their roots.

    Args:
        candidates: for each layer a list of `(cost, error)` pairs in any order, the dense layer
            with error 0 among them where it may stay.
        budget: largest total cost, in the units of the costs.

    Returns:
        An `Allocation`.

    Raises:
        ValueError: for a layer without options, a negative or non-finite number, or a budget below
            the sum of the cheapest options.

    Examples:
        >>> layers = [[(100, 0.0), (30, 0.2)], [(50, 0.0), (10, 0.4), (20, 0.1)]]
        >>> allocate(layers, budget=60).choices
        (1, 2)
    """
    layers = [_read_layer(options, number) for number, options in enumerate(candidates)]
    least = sum(layer[:, 0].min() for layer in layers)
    if not least <= budget:
        raise ValueError(
            "`budget` must be at least the sum of the cheapest options. "
            f"Received: budget={budget}, cheapest sum={least:g}. "
            "Raise the budget or offer smaller ranks."
        )
    steps, front = [], np.zeros((1, 2))
    for layer, reserve in zip(layers, _reserves(layers), strict=True):
        front, step = _add_layer(front, layer, budget - reserve, budget / FRONT)
        steps.append(step)
    # The front falls in error as cost rises, so its last sum is the best.
    choices = _trace(steps, len(front) - 1)
    chosen = np.array([layer[choice] for layer, choice in zip(layers, choices, strict=True)])
    cost, error = chosen.sum(axis=0).tolist() if len(chosen) else (0.0, 0.0)
    return Allocation(choices, cost, error, budget)


def _read_layer(options: Iterable[tuple[float, float]], number: int) -> Array:
    layer = np.array(list(options), dtype=np.float64)
    if layer.ndim != 2 or layer.shape[1] != 2 or not (np.isfinite(layer) & (layer >= 0)).all():
        raise ValueError(
            "Each layer needs at least one (cost, error) pair of finite numbers, none negative. "
            f"Received for layer {number}: {options}."
        )
    return layer


def _reserves(layers: Sequence[Array]) -> Array:
    """Return for each layer what the layers after it cost at least."""
    cheapest = np.array([layer[:, 0].min() for layer in layers])
    return cheapest[::-1].cumsum()[::-1] - cheapest


def _add_layer(front: Array, layer: Array, limit: float, slice_width: float) -> tuple[Array, Array]:
    """Return the Pareto front of all sums of `front` and `layer`, and where each came from.

    front: (sums, 2) costs and errors; layer: (options, 2). The second result is
    (sums of the new front, 2): positions in `front` and in `layer`.
    """
    sums = (front[:, None, :] + layer[None, :, :]).reshape(-1, 2)
    order = np.lexsort((sums[:, 1], sums[:, 0]))
    # Costs were added in another order than the reserve: allow for roundoff.
    order = order[sums[order, 0] <= limit * (1 + 1e-12) + 1e-300]
    errors = sums[order, 1]
    before = np.minimum.accumulate(np.append(np.inf, errors[:-1]))
    order = order[errors < before]
    order = _thin(order, sums[order, 0], slice_width)
    return sums[order], np.stack(np.divmod(order, len(layer)), axis=1)


def _thin(order: Array, costs: Array, slice_width: float) -> Array:
    """Keep the last sum of each slice of the budget, which has the least error in it."""
    if len(order) <= FRONT:
        return order
    slices = np.floor(costs / slice_width)
    return order[np.append(slices[1:] != slices[:-1], True)]


def _trace(steps: Sequence[Array], position: int) -> tuple[int, ...]:
    """Follow the front's positions back to the choice in each layer."""
    choices = []
    for step in reversed(steps):
        position, choice = step[position]
        choices.append(int(choice))
    return tuple(reversed(choices))
