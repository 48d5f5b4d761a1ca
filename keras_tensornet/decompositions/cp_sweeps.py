"""The sweeps under `cp_als`: least squares for one factor at a time, and the conditioning.

Notation as in Kolda and Bader (2009), section 3.4: for mode k, with all other factors' columns
normalized, `gram` is the Hadamard product of their Gram matrices, `moment` is the tensor's
unfolding times their Khatri-Rao product (MTTKRP), and the best factor is moment @ pinv(gram).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from keras_tensornet.decompositions.least_squares import solve_gram
from keras_tensornet.decompositions.types import Array

RIDGE = 1e-12
# (gram, moment) -> the new factor, its weights in its columns
Update: TypeAlias = Callable[[Array, Array], Array]


class Sweeps:
    """A tensor prepared for sweeps over the modes of its CP decomposition.

    Args:
        tensor: float64 array (n_1, ..., n_d), d >= 2.
    """

    def __init__(self, tensor: Array) -> None:
        shape = tensor.shape
        cuts = range(1, tensor.ndim)
        self.half = min(cuts, key=lambda k: math.prod(shape[:k]) + math.prod(shape[k:]))
        self.shape = shape
        self.matrix = tensor.reshape(math.prod(shape[: self.half]), -1)
        self.norm = float(np.linalg.norm(tensor))

    def run(self, factors: list[Array], num_iter: int, tol: float) -> tuple[list[Array], Array]:
        """Sweep with plain least squares; return unit factors and the weights of the terms."""
        error = math.inf
        for _ in range(num_iter):
            factors, weights, new_error = self.sweep(factors, solve_gram)
            if error - new_error < tol:
                break
            error = new_error
        return factors, weights

    def sweep(self, factors: Sequence[Array], update: Update) -> tuple[list[Array], Array, float]:
        """Update every factor once.

        Args:
            factors: unit-column factors (n_k, rank).
            update: function of (gram, moment) that returns the new factor with its weights.

        Returns:
            Unit-column factors, the weights (rank,) and the relative error.
        """
        factors, half = list(factors), self.half
        for modes in (range(half), range(half, len(factors))):
            partial = self._contract_other_half(factors, modes)
            for k in modes:
                gram = _gram(factors, k)
                moment = _contract_rest(partial, factors, modes, k)
                scaled = update(gram, moment)
                factors[k], weights = normalized(scaled)
        squared = self.norm**2 - 2 * np.sum(scaled * moment) + np.sum((scaled @ gram) * scaled)
        return factors, weights, math.sqrt(max(squared, 0.0)) / self.norm

    def _contract_other_half(self, factors: Sequence[Array], modes: Sequence[int]) -> Array:
        """Return (n of each mode in this half, rank), the other half's modes contracted."""
        if modes[0] == 0:
            partial = self.matrix @ khatri_rao(factors[self.half :])
        else:
            partial = self.matrix.T @ khatri_rao(factors[: self.half])
        return partial.reshape(*(self.shape[k] for k in modes), -1)


def _contract_rest(partial: Array, factors: Sequence[Array], modes: Sequence[int], k: int) -> Array:
    """Contract every mode of the half but k: (n_a, ..., n_z, rank) -> (n_k, rank)."""
    axis = len(modes) - 1
    for mode in reversed(modes):
        if mode != k:
            partial = np.einsum("...nr,nr->...r", np.moveaxis(partial, axis, -2), factors[mode])
        axis -= 1
    return partial


def _gram(factors: Sequence[Array], k: int) -> Array:
    rank = factors[0].shape[1]
    product = np.ones((rank, rank))
    for mode, factor in enumerate(factors):
        if mode != k:
            product = product * (factor.T @ factor)
    return product


def condition(
    sweeps: Sweeps, factors: list[Array], weights: Array, slack: float, num_iter: int
) -> tuple[list[Array], Array]:
    """Lower the norms of the rank-one terms while the error grows by at most `slack` of itself.

    With the other factors at unit columns, the sensitivity of mode k is |factor_k|^2, the sum of
    the terms' squared norms. Each update solves min |factor|^2 subject to error <= bound: a ridge
    regression whose ridge is where the error meets the bound (Phan et al. 2020).
    """
    _, _, error = sweeps.sweep(factors, solve_gram)
    bound = ((1 + slack) * error * sweeps.norm) ** 2

    def smallest(gram: Array, moment: Array) -> Array:
        return _smallest_factor(gram, moment, bound - sweeps.norm**2)

    for _ in range(num_iter):
        trial, trial_weights, _ = sweeps.sweep(factors, smallest)
        done = np.sum(trial_weights**2) > 0.999 * np.sum(weights**2)
        factors, weights = trial, trial_weights
        if done:
            break
    return factors, weights


def _smallest_factor(gram: Array, moment: Array, level: float) -> Array:
    """Return the factor of least norm with <factor gram, factor> - 2 <factor, moment> <= level."""
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, RIDGE * values[-1])
    turned = moment @ vectors
    squares = np.sum(turned**2, axis=0)

    def loss(ridge: float) -> float:
        # With factor = turned / (values + ridge):
        return -float(np.sum(squares * (values + 2 * ridge) / (values + ridge) ** 2))

    low, high = math.log(RIDGE * values[-1]), math.log(1e3 * values[-1])
    for _ in range(60):
        middle = (low + high) / 2
        if loss(math.exp(middle)) <= level:
            low = middle
        else:
            high = middle
    return (turned / (values + math.exp(low))) @ vectors.T


def normalized(factor: Array) -> tuple[Array, Array]:
    """Return `factor` with unit columns and the columns' norms; a zero column stays zero."""
    norms = np.linalg.norm(factor, axis=0)
    return factor / np.where(norms > 0, norms, 1.0), norms


def khatri_rao(factors: Sequence[Array]) -> Array:
    """Return the column-wise Kronecker product (n_1 ... n_k, rank), the last mode fastest."""
    product = factors[0]
    for factor in factors[1:]:
        product = (product[:, None, :] * factor[None, :, :]).reshape(-1, factor.shape[1])
    return product
