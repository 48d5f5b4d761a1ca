"""Canonical polyadic (CP) decomposition: alternating least squares on the compressed tensor.

The tensor is first reduced by a Tucker decomposition to at most `rank` in every mode (Bro and
Andersson 1998), where sweeps are cheap; a few sweeps on the full tensor then recover what the
reduction lost. Every sweep costs two large matrix products, whatever the number of modes: the modes
are split into two halves and each half shares one product (Phan, Tichavsky and Cichocki 2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_tensornet.decompositions import arguments, svd, tucker
from keras_tensornet.decompositions.cp_sweeps import Sweeps, condition, khatri_rao, normalized
from keras_tensornet.decompositions.shares import refuse_nuclear
from keras_tensornet.decompositions.types import Array, ArrayLike

FINAL_SWEEPS = 5
CONDITION_SWEEPS = 15


def cp_als(
    tensor: ArrayLike,
    rank: int | None = None,
    eps: float | None = None,
    energy: float | None = None,
    *,
    num_iter: int = 200,
    tol: float = 1e-6,
    slack: float = 0.01,
    seed: int = 0,
) -> list[Array]:
    """Return the CP factors of `tensor`, the weights shared evenly between them.

    Least squares alone often ends in rank-one terms that are huge and cancel, and fine-tuning such
    factors diverges. So the terms' norms are lowered afterwards while the error may grow by
    at most `slack` (error-preserving correction: Phan et al. 2020, "Stable low-rank
    tensor decomposition for compression of convolutional neural network").

    Args:
        tensor: array-like of shape (n_1, ..., n_d).
        rank: number of rank-one terms. From prod(n) / max(n) on the result is exact.
        eps: use the smallest rank found (by doubling and bisection) whose relative error is at
            most `eps`.
        energy: use the smallest rank found whose 1 - error**2 exceeds `energy`.
        num_iter: largest number of sweeps over the modes.
        tol: stop when a sweep lowers the relative error by less than this.
        slack: share by which the error may grow for better conditioned terms; 0 leaves it out.
        seed: seed of the starting factors.

    Returns:
        A list of d factors of shape (n_k, rank), in the dtype of `tensor`. Each term has the
        same norm in every factor.

    Raises:
        ValueError: for no rule or several, a rule out of its range, NaN, no axes.
        TypeError: for a tensor that is not real, a rank that is not an int.

    Examples:
        >>> [factor.shape for factor in cp_als(np.ones((3, 4, 5)), rank=2)]
        [(3, 2), (4, 2), (5, 2)]
    """
    tensor, dtype = arguments.read_tensor(tensor)
    arguments.read_rule(rank, eps, energy, ranks_name="rank")
    refuse_nuclear(energy, "CP")
    num_iter = arguments.read_count(num_iter, "num_iter")
    options = (num_iter, tol, slack, seed)
    if rank is not None:
        factors = _fixed_rank(tensor, arguments.read_count(rank, "rank"), *options)
    else:
        bound = math.sqrt(1 - energy) if energy is not None else (eps or 0.0)
        factors = _smallest_rank(tensor, bound, eps is None, options)
    return arguments.to_dtype(factors, dtype)


def _fixed_rank(
    tensor: Array, rank: int, num_iter: int, tol: float, slack: float, seed: int
) -> list[Array]:
    exact_rank = tensor.size // max(tensor.shape)
    if tensor.ndim <= 2:
        return _from_svd(tensor, rank, seed)
    if not tensor.any():
        nothing = [np.zeros((size, 0)) for size in tensor.shape]
        return _spread(*_fill(nothing, np.zeros(0), rank, seed))
    if rank >= exact_rank:
        return _spread(*_fibres(tensor, rank, seed))
    factors, weights = _fit(tensor, rank, num_iter, tol, seed)
    if slack > 0:
        sweeps = Sweeps(tensor)
        factors, weights = condition(sweeps, factors, weights, slack, CONDITION_SWEEPS)
    return _spread(factors, weights)


def _fit(
    tensor: Array, rank: int, num_iter: int, tol: float, seed: int
) -> tuple[list[Array], Array]:
    """Least squares on the Tucker core, then a few sweeps on the tensor itself if it lost some."""
    axes = [axis for axis, size in enumerate(tensor.shape) if size > rank]
    core, bases = tucker.project(tensor, axes, [{"rank": rank}] * len(axes))
    random = np.random.default_rng(seed)
    start = [normalized(random.standard_normal((size, rank)))[0] for size in core.shape]
    factors, weights = Sweeps(core).run(start, num_iter, tol)
    for axis, basis in zip(axes, bases, strict=True):
        factors[axis] = basis @ factors[axis]
    if axes:
        factors, weights = Sweeps(tensor).run(factors, FINAL_SWEEPS, 0.0)
    return factors, weights


def _from_svd(tensor: Array, rank: int, seed: int) -> list[Array]:
    """CP of a vector or a matrix: the SVD, with noise times zero for the terms beyond its rank."""
    left, values, right = svd.split(tensor.reshape(tensor.shape[0], -1), rank=rank, seed=seed)
    factors = [left, right.T][: tensor.ndim]
    if tensor.ndim == 1:
        left *= right[0]
    return _spread(*_fill(factors, values, rank, seed))


def _fibres(tensor: Array, rank: int, seed: int) -> tuple[list[Array], Array]:
    """The exact CP by the fibres of the largest mode, one term for each index of the others."""
    longest = int(np.argmax(tensor.shape))
    others = [size for axis, size in enumerate(tensor.shape) if axis != longest]
    fibres, weights = normalized(tucker.unfold(tensor, longest))
    units = [np.eye(size)[index] for size, index in zip(others, np.indices(others), strict=True)]
    factors = [unit.reshape(-1, unit.shape[-1]).T for unit in units]
    factors.insert(longest, fibres)
    return _fill(factors, weights, rank, seed)


def _fill(
    factors: Sequence[Array], weights: Array, rank: int, seed: int
) -> tuple[list[Array], Array]:
    """Add terms of weight 0, whose first factor still receives a gradient, up to `rank`."""
    random = np.random.default_rng(seed)
    missing = rank - len(weights)
    grown = [
        np.hstack([factor, normalized(random.standard_normal((len(factor), missing)))[0]])
        for factor in factors
    ]
    return grown, np.append(weights, np.zeros(missing))


def _spread(factors: Sequence[Array], weights: Array) -> list[Array]:
    """Share each weight evenly: factor k times weight ** (1 / d).

    A term of weight zero keeps the other factors at the scale of the rest, so that it can train.
    """
    share = weights ** (1 / len(factors))
    typical = share[share > 0].mean() if (share > 0).any() else 1.0
    kept = np.where(share > 0, share, typical)
    return [factors[0] * share, *(factor * kept for factor in factors[1:])]


def _smallest_rank(
    tensor: Array, bound: float, strict: bool, options: tuple[int, float, float, int]
) -> list[Array]:
    """Double the rank until the error meets the bound, then bisect down to the smallest."""
    most = tensor.size // max(tensor.shape)

    def attempt(rank: int) -> list[Array] | None:
        factors = _fixed_rank(tensor, rank, *options)
        error = relative_error(tensor, factors)
        return factors if (error < bound if strict else error <= bound) else None

    failed, rank, best = 0, 1, None
    while best is None and rank < most:
        best = attempt(rank)
        if best is None:
            failed, rank = rank, 2 * rank
    if best is None:
        best, rank = _fixed_rank(tensor, most, *options), most
    while rank - failed > 1:
        middle = (failed + rank) // 2
        found = attempt(middle)
        if found is None:
            failed = middle
        else:
            best, rank = found, middle
    return best


def relative_error(tensor: Array, factors: Sequence[Array]) -> float:
    """Return |tensor - CP(factors)| / |tensor|, computed from the difference itself."""
    half = len(factors) // 2 or 1
    left = khatri_rao(factors[:half])
    right = khatri_rao(factors[half:]) if factors[half:] else np.ones((1, left.shape[1]))
    difference = tensor.reshape(len(left), -1) - left @ right.T
    norm = float(np.linalg.norm(tensor))
    return (
        float(np.linalg.norm(difference)) / norm if norm > 0 else float(np.linalg.norm(difference))
    )
