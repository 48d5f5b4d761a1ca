"""Rows of a merged kernel without the kernel: what an embedding layer computes.

An index into the rows is written in the mixed radix of the input modes, one digit per mode. Fixing
those digits selects one slice of each core that carries an input mode; what is left is a network
of the bonds and output modes, much smaller than the table, that is contracted for all indices at
once, pair by pair. This works for every network, whichever cores carry the modes.

Sources: Hrinchuk et al., "Tensorized embedding layers" (2020); Yin et al., "TT-Rec" (2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import ModuleType

from keras_tensornet import validation
from keras_tensornet.contraction import constants
from keras_tensornet.contraction.cost import Machine
from keras_tensornet.contraction.merging import MergePlan, kernel_plan, merge_plan
from keras_tensornet.contraction.orders import merge_order
from keras_tensornet.contraction.pairwise import Operand
from keras_tensornet.contraction.plans import SURE
from keras_tensornet.contraction.stages import Workload
from keras_tensornet.networks import Labels, Network
from keras_tensornet.types import Tensor

CHOICES = ("auto", "factorized", "reconstructed")
ROW = "row"


@dataclass(frozen=True)
class Gather:
    """How the slices of one core are picked.

    Attributes:
        core: position of the core.
        digits: `(stride, size, wraps)` of each input mode that the core carries, most significant
            first: its digit of an index is `index // stride`, modulo `size` if it wraps.
        transpose: brings those modes to the front.
        slice_size: entries of one slice.
    """

    core: int
    digits: tuple[tuple[int, int, bool], ...]
    transpose: tuple[int, ...]
    slice_size: int

    def run(self, core: Tensor, indices: Tensor, xp: ModuleType) -> Tensor:
        """(entries of the input modes, slice) picked by indices (N,) -> (N, slice)."""
        table = xp.reshape(xp.transpose(core, self.transpose), (-1, self.slice_size))
        combined = None
        for stride, size, wraps in self.digits:
            digit = indices if stride == 1 else xp.floor_divide(indices, stride)
            digit = xp.mod(digit, size) if wraps else digit
            combined = digit if combined is None else combined * size + digit
        return xp.take(table, combined, axis=0)


@dataclass(frozen=True)
class RowPlan:
    """How rows are computed, chosen by predicted time.

    Attributes:
        implementation: "factorized", slices of cores contracted for each index, or
            "reconstructed", the table merged and its rows gathered.
        gathers: which slices are picked; a core without input modes is used whole.
        contraction: of the picked slices and the other cores, for an unknown number of rows.
        workload: the number of indices that the plan was chosen for.
        seconds, flops: predicted, merging included.
        candidates: `(implementation, predicted seconds)` of both.
    """

    implementation: str
    gathers: tuple[Gather, ...]
    contraction: MergePlan
    workload: Workload
    seconds: float
    flops: int
    candidates: tuple[tuple[str, float], ...]

    def run(self, cores: Sequence[Tensor], indices: Tensor, xp: ModuleType) -> Tensor:
        """Rows of the merged kernel without building it.

        Args:
            cores: all cores of the network.
            indices: (N,) integers; one that is too large is passed on to `xp.take`.
            xp: `numpy`, or `keras.ops`.

        Returns:
            (N, product of the output modes)
        """
        parts = list(cores)
        for gather in self.gathers:
            parts[gather.core] = gather.run(cores[gather.core], indices, xp)
        return self.contraction.run(parts, xp)

    def describe(self) -> str:
        """The plan in one word."""
        return self.implementation

    def __str__(self) -> str:
        lines = [
            f"{self.implementation} plan for {self.workload.rows} indices"
            f"{' in training' if self.workload.training else ''}: {self.flops:,} FLOPs, "
            f"predicted {self.seconds * 1e3:.3f} ms",
            "candidates, predicted ms:",
            *(f"  {seconds * 1e3:9.3f}  {name}" for name, seconds in self.candidates),
        ]
        return "\n".join(lines)


def row_plan(
    network: Network,
    workload: Workload,
    implementation: str = "auto",
    machine: Machine | None = None,
) -> RowPlan:
    """Choose between contracting slices and merging the table, by predicted time.

    Args:
        network: the cores; a row is one setting of all its input modes.
        workload: `rows` is the number of indices.
        implementation: "factorized" never builds the table, "reconstructed" always does, "auto"
            takes the faster.
        machine: rates for the prediction; by default those in use, see `constants`.

    Raises:
        ValueError: for another implementation.
    """
    return _row_plan(network, workload, implementation, machine or constants.machine())


@lru_cache(maxsize=512)
def _row_plan(
    network: Network, workload: Workload, implementation: str, machine: Machine
) -> RowPlan:
    validation.one_of("implementation", implementation, CHOICES)
    gathers = tuple(_gather(network, place) for place in _gathered(network))
    known, unknown = _contraction(network, max(2, workload.rows))
    table = kernel_plan(network)
    width = network.count(network.out_labels)
    machine = machine.training() if workload.training else machine
    picked = sum(machine.move(workload.rows * gather.slice_size) for gather in gathers)
    merging = 0.0 if workload.merged else _seconds(table, machine)
    costs = {
        "factorized": (picked + _seconds(known, machine), known.flops),
        "reconstructed": (
            merging + machine.move(workload.rows * width),
            0 if workload.merged else table.flops,
        ),
    }
    listed = sorted(((name, cost[0]) for name, cost in costs.items()), key=lambda pair: pair[1])
    chosen = listed[0][0] if implementation == "auto" else implementation
    if implementation == "auto" and workload.merged and listed[0][1] >= SURE * listed[1][1]:
        chosen = "reconstructed"
    return RowPlan(chosen, gathers, unknown, workload, *costs[chosen], tuple(listed))


def _gathered(network: Network) -> list[int]:
    inputs = set(network.in_labels)
    return [place for place, core in enumerate(network.cores) if inputs & set(core)]


def _gather(network: Network, place: int) -> Gather:
    core = network.cores[place]
    modes = [label for label in network.in_labels if label in core]
    rest = [label for label in core if label not in modes]
    digits = []
    for label in modes:
        place_in_index = network.in_labels.index(label)
        stride = network.count(network.in_labels[place_in_index + 1 :])
        # The most significant digit does not wrap, so that an index that is too large stays so.
        digits.append((stride, network.size[label], place_in_index > 0))
    return Gather(
        core=place,
        digits=tuple(digits),
        transpose=tuple(core.index(label) for label in (*modes, *rest)),
        slice_size=network.count(rest),
    )


def _contraction(network: Network, rows: int) -> tuple[MergePlan, MergePlan]:
    """The contraction for that many rows, and the same for an unknown number of them."""
    tree = merge_order(_row_network(network, rows))
    wanted = (ROW, *network.out_labels)
    known, two, three = (
        merge_plan(_row_network(network, count), tree, wanted) for count in (rows, 2, 3)
    )
    return known, _flat_result(_unknown_rows(two, three), network)


def _row_network(network: Network, rows: int) -> Network:
    """The network of the slices that an index selects, the index being its one input mode."""
    inputs = set(network.in_labels)
    cores: list[Labels] = []
    for core in network.cores:
        rest = tuple(label for label in core if label not in inputs)
        cores.append((ROW, *rest) if len(rest) < len(core) else core)
    sizes = {label: size for label, size in network.sizes if label not in inputs} | {ROW: rows}
    return Network(
        cores=tuple(cores),
        sizes=tuple(sizes.items()),
        in_labels=(ROW,),
        out_labels=network.out_labels,
        name=f"rows of {network.name}",
    )


def _unknown_rows(two: MergePlan, three: MergePlan) -> MergePlan:
    """-1 wherever the plan for two rows differs from the plan for three."""

    def shape(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(a if a == b else -1 for a, b in zip(left, right, strict=True))

    def operand(left: Operand, right: Operand) -> Operand:
        return replace(left, shape=shape(left.shape, right.shape))

    steps = tuple(
        replace(
            a,
            shape=shape(a.shape, b.shape),
            left_operand=operand(a.left_operand, b.left_operand),
            right_operand=operand(a.right_operand, b.right_operand),
        )
        for a, b in zip(two.steps, three.steps, strict=True)
    )
    squeeze = tuple(shape(a, b) for a, b in zip(two.squeeze, three.squeeze, strict=True))
    return replace(two, squeeze=squeeze, steps=steps, result=operand(two.result, three.result))


def _flat_result(plan: MergePlan, network: Network) -> MergePlan:
    width = network.count(network.out_labels)
    return replace(plan, result=replace(plan.result, shape=(-1, width)))


def _seconds(plan: MergePlan, machine: Machine) -> float:
    return machine.merge_step(plan.flops, plan.moved_elements, max(1, len(plan.steps)))
