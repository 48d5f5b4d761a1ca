"""Stages: how one group of merged cores acts on the activations.

A layer is computed as a chain of stages. Each stage merges a group of cores into a small kernel
and applies it to the activations, whose channels are at that point indexed by labels. Against a
stage, those labels and the kernel's fall into four kinds:

    carried     in the activations only: they by-pass the stage (a ring's closing bond)
    contracted  in both, needed no more: summed over
    shared      in both, needed later: the stage acts on each value separately (CP, groups)
    new         in the kernel only: become channels

A stage without spatial labels is a matrix product; one with them is a convolution, where carried
labels go to the batch or a block-diagonal kernel and shared ones to a depthwise convolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from keras_tensornet.contraction.cost import Machine
from keras_tensornet.contraction.merging import MergePlan, merge_plan
from keras_tensornet.contraction.orders import MergePlanner, positions_in
from keras_tensornet.contraction.pairwise import Labels
from keras_tensornet.networks import Network


@dataclass(frozen=True)
class Workload:
    """The sizes that decide which plan is best.

    Attributes:
        rows: batch size; for dense layers times all other leading axes.
        spatial_in, spatial_out: extents of the activations before and after, `()` for dense.
        strides: of the convolution, `()` for dense.
        transposed: whether it is a transposed convolution.
        training: whether gradients are computed as well.
        merged: whether the kernels of all stages are merged beforehand (a frozen layer).
    """

    rows: int = 32
    spatial_in: tuple[int, ...] = ()
    spatial_out: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    transposed: bool = False
    training: bool = False
    merged: bool = False


@dataclass(frozen=True)
class Stage:
    """One group of cores, and how their merged kernel is applied.

    Attributes:
        cores: positions of the cores.
        op: "matmul", "scale", "stacked" (a stack of matrix products), "conv", "depthwise",
            "batched" (convolution with carried labels in the batch), "block" (convolution with a
            block-diagonal kernel), or "dense" (all cores merged, the dense layer's own operation).
        merge: merges the cores into (extents..., shared, contracted, new).
        before: labels of the channels before the stage, in order.
        carried, shared, contracted, new: see the module's text.
        after: labels of the channels after the stage, in order.
        axes: the spatial axes that the stage handles.
        extents: kernel extents over all spatial axes, 1 where another stage handles the axis.
        seconds: predicted time, merging included.
        flops: floating-point operations, merging included.
    """

    cores: tuple[int, ...]
    op: str
    merge: MergePlan
    before: Labels
    carried: Labels
    shared: Labels
    contracted: Labels
    new: Labels
    after: Labels
    axes: tuple[int, ...]
    extents: tuple[int, ...]
    seconds: float
    flops: int

    def __str__(self) -> str:
        cores = ",".join(str(core) for core in self.cores)
        kernel = "x".join(str(extent) for extent in self.extents) + " " if self.axes else ""
        names = [" ".join(labels) or "1" for labels in (self.before, self.after)]
        return f"cores {cores}: {kernel}{self.op} ({names[0]}) -> ({names[1]})"


class StageContext:
    """What all stages of one network and workload share: label sets and positions."""

    def __init__(self, network: Network, workload: Workload, machine: Machine) -> None:
        self.network = network
        self.workload = workload
        self.machine = machine.training() if workload.training else machine
        self.size = network.size
        self.axes_of = _active_axes(network, workload)
        self.planner = MergePlanner(network, self.machine, frozenset(self.axes_of))
        self.inputs = frozenset(self.start())
        self.outputs = frozenset(self.finish())

    def start(self) -> Labels:
        """The labels of the layer's input channels, in order."""
        group = (self.network.group_label,) if self.network.group_label else ()
        return self._wide((*group, *self.network.in_labels))

    def finish(self) -> Labels:
        """The labels of the layer's output channels, in order."""
        return self._wide(self.network.out_labels)

    def state(self, absorbed: int) -> frozenset[str]:
        """Labels of the channels after a set of cores has been absorbed."""
        rest = self.planner.everything & ~absorbed
        inside = self.inputs.union(*(self.planner.labels[k] for k in positions_in(absorbed)))
        needed = self.outputs.union(*(self.planner.labels[k] for k in positions_in(rest)))
        return (inside & needed) - self.axes_of.keys()

    def spatial(self, cores: int) -> list[str]:
        """Spatial labels of a set of cores that no core outside it carries."""
        return [label for label in self.axes_of if label in self.open(cores)]

    def open(self, cores: int) -> frozenset[str]:
        """Labels of the merged kernel of a set of cores."""
        return self.planner.open_labels(cores)

    def positions(self, absorbed: int) -> int:
        """Batch times spatial positions once a set of cores has been absorbed."""
        done = {axis for label in self.spatial(absorbed) for axis in self.axes_of[label]}
        extents = (
            out if axis in done else into
            for axis, (into, out) in enumerate(
                zip(self.workload.spatial_in, self.workload.spatial_out, strict=True)
            )
        )
        return self.workload.rows * math.prod(extents)

    def merge_seconds(self, cores: int) -> float:
        """Seconds of merging a set of cores; none where that is done beforehand."""
        return 0.0 if self.workload.merged else self.planner.seconds(cores)

    def _wide(self, labels: Iterable[str]) -> Labels:
        return tuple(label for label in labels if self.size[label] > 1)


def _active_axes(network: Network, workload: Workload) -> dict[str, tuple[int, ...]]:
    """The spatial axes of each spatial label, without 1x1 modes that do not stride."""
    active, axis = {}, 0
    for label, extents in network.spatial:
        axes = tuple(range(axis, axis + len(extents)))
        if network.size[label] > 1 or any(workload.strides[axis] > 1 for axis in axes):
            active[label] = axes
        axis += len(extents)
    return active


def make_stage(
    context: StageContext, absorbed: int, group: int, before: Labels, next_group: int, op: str
) -> Stage:
    """Prepare the stage that absorbs `group` after `absorbed`, as one of its `stage_ops`.

    Args:
        context: network, workload and machine.
        absorbed, group, next_group: sets of cores as bit masks; `next_group` (0 for none) decides
            the order of new labels, so that the next stage finds its own last.
        before: labels of the channels before the stage, in order.
        op: one of `stage_ops`.
    """
    kernel = context.open(group)
    later = context.state(absorbed | group)
    spatial = context.spatial(group)
    carried = tuple(label for label in before if label not in kernel)
    shared = tuple(label for label in before if label in kernel and label in later)
    contracted = tuple(label for label in before if label in kernel and label not in later)
    new = _order_new(context, kernel - {*before, *spatial}, absorbed | group, next_group)
    axes = tuple(axis for label in spatial for axis in context.axes_of[label])
    kernel_size = [extent for _, extents in context.network.spatial for extent in extents]
    merge = merge_plan(
        context.network, context.planner.tree(group), (*spatial, *shared, *contracted, *new)
    )
    sizes = [context.planner.count(labels) for labels in (carried, shared, contracted, new)]
    taps = context.planner.count(spatial)
    rows = context.positions(absorbed), context.positions(absorbed | group)
    seconds = predict(op, context.machine, rows, taps, *sizes)
    if (*carried, *shared, *contracted) != before:
        seconds += context.machine.move(rows[0] * math.prod(sizes[:3]))
    seconds += context.merge_seconds(group)
    positions = min(rows) if context.workload.transposed else rows[1]
    return Stage(
        cores=positions_in(group),
        op=op,
        merge=merge,
        before=before,
        carried=carried,
        shared=shared,
        contracted=contracted,
        new=new,
        after=(*carried, *shared, *new),
        axes=axes,
        extents=tuple(extent if axis in axes else 1 for axis, extent in enumerate(kernel_size)),
        seconds=seconds,
        flops=2 * positions * taps * math.prod(sizes)
        + (0 if context.workload.merged else merge.flops),
    )


def stage_ops(context: StageContext, absorbed: int, group: int) -> tuple[str, ...]:
    """The ways in which a group of cores can be applied."""
    if group == context.planner.everything:
        return ("dense",)
    state, kernel = context.state(absorbed), context.open(group)
    later = context.state(absorbed | group)
    carried, shared = state - kernel, state & kernel & later
    contracted = (state & kernel) - later
    if not context.spatial(group):
        if not shared:
            return ("matmul",)
        return ("stacked",) if contracted else ("scale",)
    if shared:
        return _shared_ops(context, context.spatial(group), bool(contracted))
    return ("batched", "block") if carried else ("conv",)


def _shared_ops(context: StageContext, spatial: list[str], contracted: bool) -> tuple[str, ...]:
    workload = context.workload
    plain = len(workload.spatial_in) <= 2 and not workload.transposed
    axes = {axis for label in spatial for axis in context.axes_of[label]}
    strides = {s if axis in axes else 1 for axis, s in enumerate(workload.strides)}
    if plain and not contracted and len(strides) == 1:  # TensorFlow's depthwise needs equal strides
        return ("depthwise", "block")
    return ("block",)


def predict(
    op: str,
    machine: Machine,
    rows: tuple[int, int],
    taps: int,
    carried: int,
    shared: int,
    contracted: int,
    new: int,
) -> float:
    """Seconds of applying a stage, from the sizes of its four kinds of labels."""
    into, out = rows
    if op == "matmul" or (op == "dense" and taps == 1):
        return machine.matmul(into * carried * shared, contracted, new)
    if op == "scale":
        return machine.move(into * carried * shared * (1 + new))
    if op == "stacked":
        moved = machine.move(into * carried * shared * (contracted + new))
        return machine.matmul(into * carried, contracted, new, shared) + moved
    if op in ("conv", "dense"):
        return shared * machine.conv(into, out, taps, contracted, new)
    if op == "depthwise":
        return machine.depthwise(into, out, taps, carried * shared, new)
    if op == "batched":
        moved = machine.move(into * carried * contracted) + machine.move(out * carried * new)
        return machine.conv(into * carried, out * carried, taps, contracted, new) + moved
    blocks = carried * shared
    # The block-diagonal kernel takes a few small operations to make.
    made = 3 * machine.call if blocks > 1 else 0.0
    return made + machine.conv(into, out, taps, blocks * contracted, blocks * new)


def _order_new(
    context: StageContext, new: frozenset[str], absorbed: int, next_group: int
) -> Labels:
    """New labels: those that the next stage leaves alone first, those it sums over last."""
    canonical = [label for label in context.size if label in new]
    if not next_group:
        return tuple(label for label in context.finish() if label in new)
    kernel, later = context.open(next_group), context.state(absorbed | next_group)

    def place(label: str) -> int:
        return 0 if label not in kernel else 1 if label in later else 2

    return tuple(sorted(canonical, key=place))
