"""Tensor rings by alternating least squares, from the best SVD start.

Zhao et al., "Tensor ring decomposition" (2016), the TR-ALS: with all cores but one fixed, the
ring is linear in that core. The normal equations are built from the cores' transfer matrices, so a
sweep costs one contraction with the tensor for each core and never forms the design matrix. They
grow with the fourth power of the bonds: a ring with equations past `LARGEST` stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_tensornet.decompositions import arguments
from keras_tensornet.decompositions.least_squares import solve_gram
from keras_tensornet.decompositions.rings import ring_with_bonds
from keras_tensornet.decompositions.types import Array, ArrayLike

# Entries of the normal equations of one core: two bonds of 64.
LARGEST = 1 << 24


def tr_als(
    tensor: ArrayLike,
    ranks: int | Sequence[int],
    *,
    num_iter: int = 50,
    tol: float = 1e-6,
    seed: int = 0,
) -> list[Array]:
    """Return a tensor ring refined by alternating least squares.

    Starts from `tr_svd` with its best shift and split, and never returns a larger error.

    Args:
        tensor: array-like of shape (n_1, ..., n_d).
        ranks: int, or the d bond sizes (r_0, ..., r_{d-1}) as in `tr_svd`; always met exactly.
        num_iter: largest number of sweeps over the cores.
        tol: stop when a sweep lowers the relative error by less than this.
        seed: seed of the padding that bonds beyond the SVD's need start from.

    Returns:
        A list of d cores (r_{k-1}, n_k, r_k) with r_d = r_0, in the dtype of `tensor`.

    Raises:
        ValueError, TypeError: as `tr_svd`.

    Examples:
        >>> [core.shape for core in tr_als(np.ones((4, 5, 6)), ranks=(2, 1, 3))]
        [(2, 4, 1), (1, 5, 3), (3, 6, 2)]
    """
    tensor, dtype = arguments.read_tensor(tensor)
    num_iter = arguments.read_count(num_iter, "num_iter", least=0)
    bonds = arguments.read_ranks(ranks, tensor.ndim, f"the {tensor.ndim} bonds, r_0 first")
    cores = ring_with_bonds(tensor, bonds, seed=seed)
    return arguments.to_dtype(improve_ring(tensor, cores, num_iter, tol), dtype)


def improve_ring(tensor: Array, cores: Sequence[Array], num_iter: int, tol: float) -> list[Array]:
    """Return the better of `cores` and what sweeps from them reach; bond sizes stay."""
    if tensor.ndim == 1 or not tensor.any():
        return list(cores)
    norm = float(np.linalg.norm(tensor))
    start_error = float(np.linalg.norm(tensor - merge_ring(cores))) / norm
    if start_error < tol:  # no sweep can gain more than that
        return list(cores)
    if max(core.shape[0] * core.shape[2] for core in cores) ** 2 > LARGEST:
        return list(cores)
    # Cut the ring at its thinnest bond: what is kept of the cores on either side is smallest then.
    first = min(range(len(cores)), key=lambda k: cores[k].shape[0])
    order = [*range(first, len(cores)), *range(first)]
    turned, trial, error = tensor.transpose(order), [cores[k] for k in order], start_error
    for _ in range(num_iter):
        new_error = _sweep(turned, trial, norm)
        if error - new_error < tol:
            break
        error = new_error
    trial = [trial[order.index(k)] for k in range(len(cores))]
    reached = np.linalg.norm(tensor - merge_ring(trial)) / norm
    return trial if reached < start_error else list(cores)


def merge_ring(cores: Sequence[Array]) -> Array:
    """Contract cores (r_{k-1}, n_k, r_k) of a ring into the dense tensor (n_1, ..., n_d)."""
    shape = [core.shape[1] for core in cores]
    if len(cores) == 1:
        return np.trace(cores[0], axis1=0, axis2=2)
    # In two halves, as alike as their modes allow: no intermediate has more entries than a half.
    half = min(range(1, len(cores)), key=lambda k: max(math.prod(shape[:k]), math.prod(shape[k:])))
    near, far = _merge_chain(cores[:half]), _merge_chain(cores[half:])
    return np.tensordot(near, far, axes=((0, 2), (2, 0))).reshape(shape)


def _sweep(tensor: Array, cores: list[Array], norm: float) -> float:
    """Update every core; return the relative error after the last."""
    # What follows each core, before the sweep; what precedes it grows as the sweep goes on.
    following: list[_Transfer | None] = [None] * len(cores)
    for k in range(len(cores) - 1, 0, -1):
        following[k - 1] = _Transfer.of(cores[k]) @ following[k]
    preceding: _Transfer | None = None
    for k, core in enumerate(cores):
        left, mode, right = core.shape
        around = [chain for chain in (following[k], preceding) if chain is not None]
        others = around[0] @ around[1] if len(around) == 2 else around[0]
        following[k] = None
        moment = _moment(tensor, cores, k).reshape(mode, left * right)
        gram = others.full().transpose(2, 0, 3, 1).reshape(left * right, left * right)
        previous = core.transpose(1, 0, 2).reshape(moment.shape)
        update = solve_gram(gram, moment, previous)
        cores[k] = update.reshape(mode, left, right).transpose(1, 0, 2)
        here = _Transfer.of(cores[k])
        preceding = preceding @ here if preceding else here
    _balance(cores)
    squared = norm**2 - 2 * np.sum(update * moment) + np.sum((update @ gram) * update)
    return math.sqrt(max(squared, 0.0)) / norm


def _moment(tensor: Array, cores: Sequence[Array], k: int) -> Array:
    """Contract the tensor with every core but k: (n_k, r_{k-1}, r_k).

    The other cores are merged in two halves, so that no intermediate is much larger than the
    tensor's square root times the bonds.
    """
    order = [*range(k + 1, len(cores)), *range(k)]
    near = _merge_chain([cores[j] for j in order[: (len(order) + 1) // 2]])
    # (n_k, near modes, far modes) x (r_k, near modes, r) -> (n_k, far modes, r_k, r)
    unfolded = tensor.transpose([k, *order]).reshape(tensor.shape[k], near.shape[1], -1)
    moment = np.tensordot(unfolded, near, axes=(1, 1))
    if len(order) == 1:
        return moment[:, 0].transpose(0, 2, 1)
    far = _merge_chain([cores[j] for j in order[(len(order) + 1) // 2 :]])
    # x (r, far modes, r_{k-1}) -> (n_k, r_k, r_{k-1})
    return np.tensordot(moment, far, axes=((1, 3), (1, 0))).transpose(0, 2, 1)


def _merge_chain(cores: Sequence[Array]) -> Array:
    """Contract neighbouring cores into (r_first, product of their modes, r_last)."""
    merged = cores[0]
    for core in cores[1:]:
        merged = np.tensordot(merged, core, 1).reshape(merged.shape[0], -1, core.shape[-1])
    return merged


@dataclass(frozen=True)
class _Transfer:
    """A chain of cores contracted with itself over its modes, a matrix of pairs of bonds.

    It maps symmetric pairs to symmetric ones and antisymmetric pairs to antisymmetric ones, so two
    matrices of half the size hold it, and a product of two takes a quarter of the time.

    Attributes:
        even: on the symmetric pairs (a <= a'), in an orthonormal basis.
        odd: on the antisymmetric pairs (a < a').
        bonds: sizes of the left and of the right bond.
    """

    even: np.ndarray
    odd: np.ndarray
    bonds: tuple[int, int]

    @classmethod
    def of(cls, core: Array) -> _Transfer:
        """The transfer matrix of one core (left, mode, right)."""
        left, _, right = core.shape
        # sum_n core[a, n, b] core[a', n, b'] as (a, a', b, b')
        full = np.tensordot(core, core, axes=(1, 1)).transpose(0, 2, 1, 3)
        upper = full[np.triu_indices(left)]
        b, b_other = np.triu_indices(right)
        straight, crossed = upper[:, b, b_other], upper[:, b_other, b]
        (rows, row_scale), (columns, column_scale) = _pairs(left), _pairs(right)
        even = (straight + crossed) * row_scale[:, None] * column_scale
        odd = (straight - crossed)[rows][:, columns]
        return cls(even, odd, (left, right))

    def __matmul__(self, other: _Transfer | None) -> _Transfer:
        """The chain of both; None is the empty chain."""
        if other is None:
            return self
        bonds = self.bonds[0], other.bonds[1]
        return _Transfer(self.even @ other.even, self.odd @ other.odd, bonds)

    def full(self) -> np.ndarray:
        """As (left, left', right, right')."""
        left, right = self.bonds
        (rows, row_scale), (columns, column_scale) = _pairs(left), _pairs(right)
        even = self.even / (row_scale[:, None] * column_scale)
        odd = np.zeros_like(even)
        odd[np.ix_(rows, columns)] = self.odd
        a, a_other = np.triu_indices(left)
        b, b_other = np.triu_indices(right)
        result = np.empty((left, left, right, right))
        straight, crossed = (even + odd) / 2, (even - odd) / 2
        for first, second, block, swapped in (
            (a, a_other, straight, crossed),
            (a_other, a, crossed, straight),
        ):
            result[first[:, None], second[:, None], b, b_other] = block
            result[first[:, None], second[:, None], b_other, b] = swapped
        return result


def _pairs(bond: int) -> tuple[Array, Array]:
    """Of the pairs (a <= a'): where a < a', and the scale of each in the even basis."""
    a, a_other = np.triu_indices(bond)
    return np.flatnonzero(a != a_other), np.where(a == a_other, math.sqrt(0.5), 1.0)


def _balance(cores: list[Array]) -> None:
    """Give all cores the same norm, which keeps the next sweep's equations well scaled."""
    norms = [float(np.linalg.norm(core)) for core in cores]
    if min(norms) > 0:
        common = math.exp(sum(math.log(norm) for norm in norms) / len(norms))
        for k, norm in enumerate(norms):
            cores[k] = cores[k] * (common / norm)
