"""Merging cores into one tensor: the steps, prepared once and run pair by pair.

`merge_plan` turns a tree of core positions into a `MergePlan`, which prints its steps with their
FLOPs and sizes and runs on any array module (`plan.run(cores, numpy)`, `plan.run(cores,
keras.ops)`). `kernel_plan` merges a whole network into the dense kernel in Keras layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

from keras_tensornet.contraction.orders import MergePlanner, Tree, merge_order
from keras_tensornet.contraction.pairwise import Labels, Operand, PairStep, arrange, pair_step
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.types import Tensor


@dataclass(frozen=True)
class MergePlan:
    """How some cores of a network are merged.

    Attributes:
        leaves: positions of the cores that take part.
        squeeze: per leaf, its shape without labels of size 1.
        steps: pairs of operands; operand `len(leaves) + s` is the result of step s.
        result: how the last operand is brought into the order and shape asked for.
        labels: labels of the result, without those of size 1.
    """

    leaves: tuple[int, ...]
    squeeze: tuple[tuple[int, ...], ...]
    steps: tuple[PairStep, ...]
    result: Operand
    labels: Labels

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiply and an add count as two."""
        return sum(step.flops for step in self.steps)

    @property
    def peak_elements(self) -> int:
        """Entries of the largest tensor that merging makes."""
        return max([math.prod(step.shape) for step in self.steps], default=0)

    @property
    def moved_elements(self) -> int:
        """Entries read and written by all steps."""
        shapes = [*self.squeeze, *(step.shape for step in self.steps)]
        return sum(
            math.prod(shapes[step.left]) + math.prod(shapes[step.right]) + math.prod(step.shape)
            for step in self.steps
        )

    def run(self, cores: Sequence[Tensor], xp: ModuleType) -> Tensor:
        """Merge the cores with an array module that has transpose, reshape and matmul.

        Args:
            cores: all cores of the network, in its order.
            xp: `numpy`, `keras.ops`, or anything with their `transpose`, `reshape` and `matmul`.
        """
        operands = [
            xp.reshape(cores[leaf], shape)
            for leaf, shape in zip(self.leaves, self.squeeze, strict=True)
        ]
        for step in self.steps:
            operands.append(step.run(operands[step.left], operands[step.right], xp))
            operands[step.left] = operands[step.right] = None
        return self.result.prepare(operands[-1], xp)

    def __str__(self) -> str:
        lines = [
            f"merge of {len(self.leaves)} cores: {self.flops:,} FLOPs, "
            f"largest tensor {self.peak_elements:,} entries"
        ]
        for number, step in enumerate(self.steps):
            names = [
                f"core {self.leaves[place]}"
                if place < len(self.leaves)
                else f"step {place - len(self.leaves)}"
                for place in (step.left, step.right)
            ]
            result = " ".join(step.labels) or "scalar"
            lines.append(f"  step {number}: {' x '.join(names)} -> ({result}) {step.flops:,} FLOPs")
        return "\n".join(lines)


def merge_plan(network: Network, tree: Tree, wanted: Sequence[str]) -> MergePlan:
    """Prepare the merge of a tree of cores.

    Args:
        network: whose cores are merged.
        tree: nested pairs of core positions, see `keras_tensornet.contraction.orders`.
        wanted: the order of labels of the result; labels of size 1 may be left out or named.
    """
    size = network.size
    planner = MergePlanner(network)
    leaves = tuple(sorted(_leaves(tree)))
    operands: list[tuple[Labels, int]] = [
        (tuple(label for label in network.cores[leaf] if size[label] > 1), 1 << leaf)
        for leaf in leaves
    ]
    steps: list[PairStep] = []
    order = [label for label in wanted if size[label] > 1]

    def build(node: Tree) -> int:
        if isinstance(node, int):
            return leaves.index(node)
        left, right = build(node[0]), build(node[1])
        members = operands[left][1] | operands[right][1]
        keep = planner.open_labels(members)
        last = order if node is tree else ()
        step = pair_step(left, right, operands[left][0], operands[right][0], keep, size, last)
        steps.append(step)
        operands.append((step.labels, members))
        return len(operands) - 1

    result = arrange(operands[build(tree)][0], order, size)
    shape = tuple(size[label] for label in wanted)
    return MergePlan(
        leaves=leaves,
        squeeze=tuple(
            tuple(size[label] for label in labels) for labels, _ in operands[: len(leaves)]
        ),
        steps=tuple(steps),
        result=Operand(result.transpose, shape),
        labels=tuple(order),
    )


@lru_cache(maxsize=512)
def kernel_plan(network: Network, order: str = "planned") -> MergePlan:
    """The merge of a whole network, its modes in the order spatial, inputs, outputs."""
    return merge_plan(network, merge_order(network, order), network.kernel_labels)


def to_keras_layout(kernel: Tensor, modes: KernelModes, xp: ModuleType) -> Tensor:
    """Bring a merged kernel (modes as axes) into Keras layout, cutting any padding off.

    Args:
        kernel: merged kernel, axes spatial modes, input modes, (groups,) output modes.
        modes: what the modes stand for.
        xp: array module.

    Returns:
        kernel: (*kernel_size, in_size, groups * out_size), or as `modes.split` and `modes.order`
            say.
    """
    padded_in, padded_out = math.prod(modes.in_modes), math.prod(modes.out_modes)
    if modes.padding != (0, 0):
        lead = modes.kernel_size
        kernel = xp.reshape(kernel, (*lead, padded_in, modes.groups, padded_out))
        kernel = kernel[..., : modes.in_size, :, : modes.out_size]
    if not modes.order:
        return xp.reshape(kernel, modes.plain_shape)
    return xp.transpose(xp.reshape(kernel, modes.split), modes.order)


def _leaves(tree: Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else _leaves(tree[0]) + _leaves(tree[1])
