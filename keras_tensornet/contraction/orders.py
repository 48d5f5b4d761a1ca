"""Orders in which cores are merged: planned, hierarchical or sequential.

An order is a nested pair of core positions: `((0, 1), (2, 3))` merges 0 with 1, 2 with 3, and then
the two results. "planned" finds the cheapest such tree by dynamic programming over sets of cores;
"hierarchical" and "sequential" are the two orders of Tensor Ring Nets (Wang et al. 2018, section
3.1 and its Figure 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property

import opt_einsum

from keras_tensornet import validation
from keras_tensornet.contraction.cost import Machine
from keras_tensornet.networks import Network

ORDERS = ("planned", "hierarchical", "sequential")
Tree = int | tuple["Tree", "Tree"]

# Up to this many cores the planned order is exact; above it, opt_einsum's planner is asked.
MOST_EXACT_CORES = 12


def sequential_order(positions: Sequence[Tree]) -> Tree:
    """Merge from left to right: (((0, 1), 2), 3)."""
    tree: Tree = positions[0]
    for position in positions[1:]:
        tree = (tree, position)
    return tree


def hierarchical_order(positions: Sequence[int]) -> Tree:
    """Merge neighbours, then neighbours of the results: ((0, 1), (2, 3))."""
    if len(positions) == 1:
        return positions[0]
    middle = (len(positions) + 1) // 2
    return hierarchical_order(positions[:middle]), hierarchical_order(positions[middle:])


def merge_order(network: Network, order: str = "planned") -> Tree:
    """The tree in which all cores of a network are merged.

    Args:
        network: what is merged.
        order: "planned", "hierarchical" or "sequential".

    Raises:
        ValueError: for another order.
    """
    validation.one_of("order", order, ORDERS)
    positions = range(len(network.cores))
    if order == "hierarchical":
        return hierarchical_order(positions)
    if order == "sequential":
        return sequential_order(positions)
    planner = MergePlanner(network, wanted=network.kernel_labels)
    return planner.tree(planner.everything)


class MergePlanner:
    """Fastest merge trees of all sets of a network's cores; sets are bit masks.

    Labels of size 1 never matter for cost and are left out, but for those in `keep`. With `wanted`,
    the labels of the final result in order, a last step whose two sides do not follow one another
    in that order is charged the transposition of the result.
    """

    def __init__(
        self,
        network: Network,
        machine: Machine = Machine(),
        keep: frozenset[str] = frozenset(),
        wanted: tuple[str, ...] = (),
    ) -> None:
        self.network = network
        self.machine = machine
        self.size = network.size
        self.labels = [
            frozenset(label for label in core if self.size[label] > 1 or label in keep)
            for core in network.cores
        ]
        self.modes = frozenset(network.mode_labels)
        self.wanted = [label for label in wanted if self.size[label] > 1]
        self._best: dict[int, tuple[float, Tree]] = {}
        self._open: dict[int, frozenset[str]] = {}

    @cached_property
    def everything(self) -> int:
        """The set of all cores."""
        return (1 << len(self.labels)) - 1

    def open_labels(self, cores: int) -> frozenset[str]:
        """Labels that remain when this set is merged: modes, and bonds to the other cores."""
        if cores not in self._open:
            inside = frozenset().union(*(self.labels[k] for k in positions_in(cores)))
            outside = self.modes.union(
                *(self.labels[k] for k in positions_in(self.everything & ~cores))
            )
            self._open[cores] = inside & outside
        return self._open[cores]

    def count(self, labels: Iterable[str]) -> int:
        """The product of the sizes of some labels."""
        return math.prod(self.size[label] for label in labels)

    def seconds(self, cores: int) -> float:
        """Predicted seconds of merging a set."""
        return self._solve(cores)[0]

    def tree(self, cores: int) -> Tree:
        """The fastest order found for a set."""
        return self._solve(cores)[1]

    def _solve(self, cores: int) -> tuple[float, Tree]:
        if cores not in self._best:
            positions = positions_in(cores)
            if len(positions) == 1:
                self._best[cores] = (0.0, positions[0])
            elif len(positions) > MOST_EXACT_CORES:
                self._best[cores] = self._ask_opt_einsum(positions)
            else:
                self._best[cores] = min(
                    (self._pair(part, cores ^ part) for part in self._splits(cores)),
                    key=lambda solution: solution[0],
                )
        return self._best[cores]

    def _splits(self, cores: int) -> list[int]:
        """Halves of a set, each once; only those that share a label, where there are any."""
        lowest = cores & -cores
        rest = cores ^ lowest
        parts, part = [], rest
        while part:
            part = (part - 1) & rest
            parts.append(part | lowest)
        joined = [part for part in parts if self.open_labels(part) & self.open_labels(cores ^ part)]
        connected = [
            part for part in joined if self.connected(part) and self.connected(cores ^ part)
        ]
        return connected or joined or parts

    def connected(self, cores: int) -> bool:
        """Whether the cores of a set hang together by labels."""
        positions = positions_in(cores)
        reached, waiting = {positions[0]}, [positions[0]]
        while waiting:
            here = waiting.pop()
            for other in positions:
                if other not in reached and self.labels[here] & self.labels[other]:
                    reached.add(other)
                    waiting.append(other)
        return len(reached) == len(positions)

    def _pair(self, left: int, right: int) -> tuple[float, Tree]:
        left_cost, left_tree = self._solve(left)
        right_cost, right_tree = self._solve(right)
        open_left, open_right = self.open_labels(left), self.open_labels(right)
        result = self.open_labels(left | right)
        moved = sum(self.count(labels) for labels in (open_left, open_right, result))
        flops = 2 * self.count(open_left | open_right)
        seconds = left_cost + right_cost + self.machine.merge_step(flops, moved)
        if left | right == self.everything and not self._follow(open_left, open_right):
            seconds += self.machine.move(self.count(result))
        return seconds, (left_tree, right_tree)

    def _follow(self, left: frozenset[str], right: frozenset[str]) -> bool:
        """Whether the wanted order has all labels of one side before those of the other."""
        sides = [label in left for label in self.wanted if label not in left & right]
        return sides in (sorted(sides), sorted(sides, reverse=True))

    def _ask_opt_einsum(self, positions: tuple[int, ...]) -> tuple[float, Tree]:
        cores = sum(1 << position for position in positions)
        shapes = [[self.size[label] for label in sorted(self.labels[k])] for k in positions]
        symbol = {label: opt_einsum.get_symbol(n) for n, label in enumerate(self.size)}
        terms = ["".join(symbol[label] for label in sorted(self.labels[k])) for k in positions]
        result = "".join(symbol[label] for label in sorted(self.open_labels(cores)))
        path, info = opt_einsum.contract_path(
            ",".join(terms) + "->" + result, *shapes, shapes=True, optimize="greedy"
        )
        trees: list[Tree] = list(positions)
        for pair in path:
            parts = [trees.pop(place) for place in sorted(pair, reverse=True)]
            trees.append(sequential_order(parts) if len(parts) > 1 else parts[0])
        moved = int(info.largest_intermediate) * len(path)
        return self.machine.merge_step(int(info.opt_cost), moved), trees[0]


def positions_in(cores: int) -> tuple[int, ...]:
    """The members of a set given as a bit mask."""
    return tuple(position for position in range(cores.bit_length()) if cores >> position & 1)
