"""Contractions of two tensors at a time, prepared once from labels and sizes.

A `PairStep` holds everything that can be known before there are numbers: how each operand is
transposed and reshaped into a stack of matrices, and the shape of the result. Running it is four
calls (transpose, reshape, matmul, reshape) of any array module that has them, NumPy or
`keras.ops` alike, so that exported graphs contain built-in operations only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from keras_tensornet.types import Tensor

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Operand:
    """One side of a pair: `transpose` (None where nothing moves), then `reshape` to matrices."""

    transpose: tuple[int, ...] | None
    shape: tuple[int, ...]

    def prepare(self, array: Tensor, xp: ModuleType) -> Tensor:
        """The operand as matrices: a matrix, or a stack of them."""
        if self.transpose is not None:
            array = xp.transpose(array, self.transpose)
        return xp.reshape(array, self.shape)


@dataclass(frozen=True)
class PairStep:
    """Contract operands `left` and `right` (positions in a growing list) into a new one.

    Attributes:
        left, right: positions of the operands.
        labels: labels of the result.
        shape: shape of the result.
        left_operand, right_operand: how each becomes matrices (B, M, K) and (B, K, N).
        flops: multiply-adds times two.
    """

    left: int
    right: int
    labels: Labels
    shape: tuple[int, ...]
    left_operand: Operand
    right_operand: Operand
    flops: int

    def run(self, left: Tensor, right: Tensor, xp: ModuleType) -> Tensor:
        """The contracted tensor, with axes `labels`."""
        product = xp.matmul(
            self.left_operand.prepare(left, xp), self.right_operand.prepare(right, xp)
        )
        return xp.reshape(product, self.shape)


def pair_step(
    left: int,
    right: int,
    left_labels: Labels,
    right_labels: Labels,
    keep: frozenset[str] | set[str],
    size: Mapping[str, int],
    wanted: Sequence[str] = (),
) -> PairStep:
    """Prepare the contraction of two operands, keeping the labels that others still need.

    The result's labels are: shared labels that are kept, then the left's own, then the right's,
    each in the order `wanted` where that is given: then the operands are transposed, and not the
    result, which is larger.
    Both operands must already be free of labels that nobody else has and nobody keeps.
    """
    if wanted and next((label for label in wanted if label not in left_labels), "") == wanted[0]:
        left, right, left_labels, right_labels = right, left, right_labels, left_labels
    shared = [label for label in left_labels if label in right_labels]
    stacked = [label for label in shared if label in keep]
    summed = [label for label in shared if label not in keep]
    rows = [label for label in left_labels if label not in shared]
    columns = [label for label in right_labels if label not in shared]
    for group in (stacked, rows, columns) if wanted else ():
        group.sort(key=wanted.index)
    labels = (*stacked, *rows, *columns)
    batch, m, k, n = (_count(group, size) for group in (stacked, rows, summed, columns))
    stack = (batch,) if stacked else ()
    return PairStep(
        left=left,
        right=right,
        labels=labels,
        shape=tuple(size[label] for label in labels),
        left_operand=Operand(_moves(left_labels, [*stacked, *rows, *summed]), (*stack, m, k)),
        right_operand=Operand(_moves(right_labels, [*stacked, *summed, *columns]), (*stack, k, n)),
        flops=2 * batch * m * k * n,
    )


def arrange(labels: Labels, wanted: Sequence[str], size: Mapping[str, int]) -> Operand:
    """The transposition and shape that bring `labels` into the order `wanted`."""
    return Operand(_moves(labels, wanted), tuple(size[label] for label in wanted))


def _moves(labels: Labels, wanted: Sequence[str]) -> tuple[int, ...] | None:
    axes = tuple(labels.index(label) for label in wanted)
    return None if axes == tuple(range(len(axes))) else axes


def _count(labels: Sequence[str], size: Mapping[str, int]) -> int:
    return math.prod(size[label] for label in labels)
