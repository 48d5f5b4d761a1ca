"""One matrix basis for the kernels of several layers, fitted to what their inputs are.

Layers of one input size share a basis B, and each keeps coefficients of its own: W_l = B C_l (Wang
et al. 2024, "Basis sharing: cross-layer parameter sharing for large language model compression",
arXiv 2410.03765). With G_l = E[x x^T] of each layer's inputs, B and C_l minimise the mean relative
error of the outputs,

    sum_l  tr((W_l - B C_l)^T G_l (W_l - B C_l)) / tr(W_l^T G_l W_l).

The paper adds the G_l up and takes one SVD. Here that is where it starts: given B each C_l is
a least-squares problem with its own G_l, given all C_l so is B, and the two alternate.

Which layers share is found from the bottom up: each begins alone, and the two groups whose union
lowers the error most at equal size are joined until none does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_tensornet import validation

SWEEPS = 4
CG_STEPS = 8
# Share of the mean eigenvalue added to each G: directions that were not seen count a little.
RIDGE = 1e-3


@dataclass(frozen=True)
class SharedBasis:
    """The kernels of one group.

    Attributes:
        members: places of the kernels in the list that was given.
        basis: (inputs, size).
        coefficients: one (size, outputs) for each member.
        errors: relative error of each member's output, sqrt(tr(E^T G E) / tr(W^T G W)).
    """

    members: tuple[int, ...]
    basis: np.ndarray
    coefficients: tuple[np.ndarray, ...]
    errors: tuple[float, ...]

    @property
    def params(self) -> int:
        """Numbers stored."""
        return self.basis.size + sum(part.size for part in self.coefficients)

    def kernel(self, member: int) -> np.ndarray:
        """The merged kernel of a member, by its place in the list that was given."""
        return self.basis @ self.coefficients[self.members.index(member)]


def share_basis(
    kernels: Sequence[np.ndarray],
    grams: Sequence[np.ndarray],
    share: float,
    groups: Sequence[Sequence[int]] | None = None,
    largest: int = 6,
    sweeps: int = SWEEPS,
) -> list[SharedBasis]:
    """Fit shared bases to trained kernels, at a share of their parameters.

    Args:
        kernels: of shape (inputs, outputs) each.
        grams: E[x x^T] of each one's inputs, (inputs, inputs).
        share: of the kernels' entries that basis and coefficients of each group may take, (0, 1].
        groups: which kernels share, by their places; None finds it out.
        largest: kernels in a group that is found, at most.
        sweeps: alternations between basis and coefficients; 0 keeps the SVD's.

    Returns:
        One `SharedBasis` a group; every kernel is in exactly one.

    Raises:
        ValueError: for kernels and grams that do not fit, or a share that leaves no basis.

    Examples:

    >>> kernels = [np.eye(4), 2 * np.eye(4)]
    >>> print(*(group.members for group in share_basis(kernels, [np.eye(4)] * 2, share=1.0)))
    (0, 1)
    """
    share = validation.fraction("share", share)
    problem = _Problem(kernels, grams, share)
    if groups is None:
        groups = _grouped(problem, validation.positive_int("largest", largest))
    else:
        groups = [tuple(group) for group in groups]
        if sorted(place for group in groups for place in group) != list(range(len(kernels))):
            raise ValueError(
                "`groups` must hold every kernel's place exactly once. Received: "
                f"groups={groups} for {len(kernels)} kernels."
            )
    return [problem.fitted(tuple(group), sweeps) for group in groups]


class _Problem:
    """Kernels and what their errors count."""

    def __init__(self, kernels: Any, grams: Any, share: float) -> None:
        self.kernels = [np.asarray(kernel, "float64") for kernel in kernels]
        self.share = share
        if len(self.kernels) != len(grams) or not len(grams):
            raise ValueError(
                "Each kernel needs the Gram matrix of its inputs. Received: "
                f"{len(self.kernels)} kernels and {len(grams)} Gram matrices."
            )
        self.grams = []
        for place, (kernel, gram) in enumerate(zip(self.kernels, grams, strict=True)):
            gram = np.asarray(gram, "float64")
            if kernel.ndim != 2 or gram.shape != (len(kernel), len(kernel)):
                raise ValueError(
                    "Kernels are (inputs, outputs) and Gram matrices (inputs, inputs). Received at "
                    f"place {place}: {kernel.shape} and {gram.shape}."
                )
            ridge = RIDGE * (np.trace(gram) / len(gram) or 1.0)
            gram = gram + ridge * np.eye(len(gram))
            scale = float(np.vdot(kernel, gram @ kernel)) or 1.0
            self.grams.append(gram / scale)  # squared errors are then relative
        self.starts: dict[tuple[int, ...], np.ndarray] = {}

    def size(self, group: tuple[int, ...]) -> int:
        """Columns of a group's basis; below 1 where the share leaves none."""
        inputs = len(self.kernels[group[0]])
        outputs = sum(self.kernels[place].shape[1] for place in group)
        return min(math.floor(self.share * inputs * outputs / (inputs + outputs)), inputs, outputs)

    def start(self, group: tuple[int, ...]) -> np.ndarray:
        """The basis by one SVD in the metric of the added Gram matrices.

        Raises:
            ValueError: if the share leaves no basis, or the kernels have other input sizes.
        """
        if len({len(self.kernels[place]) for place in group}) > 1:
            raise ValueError(
                "Kernels that share a basis need one input size. Received: "
                f"{[self.kernels[place].shape for place in group]}."
            )
        size = self.size(group)
        if size < 1:
            raise ValueError(
                f"A share of {self.share} of the kernels at {group} leaves no basis. Raise `share`."
            )
        values, vectors = np.linalg.eigh(sum(self.grams[place] for place in group))
        root = np.sqrt(np.maximum(values, values.max() * 1e-12))
        # Kernels whose outputs are large must not rule: each Gram matrix is scaled by them, so
        # each kernel is scaled to its own.
        whitened = [
            (root[:, None] * vectors.T) @ self.kernels[place] * self._weight(place, group)
            for place in group
        ]
        _, left = np.linalg.eigh(sum(part @ part.T for part in whitened))
        return vectors @ (left[:, ::-1][:, :size] / root[:, None])

    def _weight(self, place: int, group: tuple[int, ...]) -> float:
        total = sum(np.trace(self.grams[other]) for other in group)
        return math.sqrt(np.trace(self.grams[place]) / total * len(group))

    def coefficients(self, group: tuple[int, ...], basis: np.ndarray) -> list[np.ndarray]:
        """C_l = (B^T G_l B)^-1 B^T G_l W_l, each in its own metric."""
        found = []
        for place in group:
            carried = self.grams[place] @ basis
            found.append(np.linalg.solve(basis.T @ carried, carried.T @ self.kernels[place]))
        return found

    def squared_errors(self, group: tuple[int, ...], basis: Any, coefficients: Any) -> list[float]:
        """The relative squared error of each member's output."""
        gaps = [self.kernels[p] - basis @ c for p, c in zip(group, coefficients, strict=True)]
        return [
            float(np.vdot(gap, self.grams[p] @ gap)) for p, gap in zip(group, gaps, strict=True)
        ]

    def quick_error(self, group: tuple[int, ...]) -> float:
        """Sum of squared errors after the SVD; infinite where the share leaves no basis."""
        if self.size(group) < 1:
            return math.inf
        if group not in self.starts:
            basis = self.start(group)
            errors = self.squared_errors(group, basis, self.coefficients(group, basis))
            self.starts[group] = np.array(sum(errors))
        return float(self.starts[group])

    def fitted(self, group: tuple[int, ...], sweeps: int) -> SharedBasis:
        """Basis and coefficients after the alternation."""
        basis = self.start(group)
        coefficients = self.coefficients(group, basis)
        for _ in range(sweeps if len(group) > 1 else 0):
            basis, _ = np.linalg.qr(self._improved(group, basis, coefficients))
            coefficients = self.coefficients(group, basis)
        errors = self.squared_errors(group, basis, coefficients)
        roots = tuple(math.sqrt(max(error, 0.0)) for error in errors)
        return SharedBasis(group, basis, tuple(coefficients), roots)

    def _improved(self, group: Any, basis: np.ndarray, coefficients: list[Any]) -> np.ndarray:
        """Conjugate gradients on sum_l G_l B C_l C_l^T = sum_l G_l W_l C_l^T, from B."""
        squares = [part @ part.T for part in coefficients]

        def normal(matrix: Any) -> Any:
            pairs = zip(group, squares, strict=True)
            return sum(self.grams[place] @ (matrix @ square) for place, square in pairs)

        wanted = sum(
            self.grams[place] @ (self.kernels[place] @ part.T)
            for place, part in zip(group, coefficients, strict=True)
        )
        residual = wanted - normal(basis)
        direction, power = residual, float(np.vdot(residual, residual))
        first = power
        for _ in range(CG_STEPS):
            if power <= 1e-20 * first or power == 0.0:
                break
            image = normal(direction)
            step = power / float(np.vdot(direction, image))
            basis, residual = basis + step * direction, residual - step * image
            before, power = power, float(np.vdot(residual, residual))
            direction = residual + (power / before) * direction
        return basis


def _grouped(problem: _Problem, largest: int) -> list[tuple[int, ...]]:
    """Groups from the bottom up: always the union that lowers the error most."""
    groups: list[tuple[int, ...]] = [(place,) for place in range(len(problem.kernels))]
    while True:
        best, gain = None, 0.0
        for one in range(len(groups)):
            for two in range(one + 1, len(groups)):
                union = tuple(sorted(groups[one] + groups[two]))
                inputs = {len(problem.kernels[place]) for place in union}
                if len(inputs) > 1 or len(union) > largest:
                    continue
                apart = problem.quick_error(groups[one]) + problem.quick_error(groups[two])
                together = problem.quick_error(union)
                if together < math.inf and apart - together > max(gain, 1e-12):
                    best, gain = (one, two, union), apart - together
        if best is None:
            return groups
        one, two, union = best
        groups = [group for place, group in enumerate(groups) if place not in (one, two)]
        groups.append(union)
