"""Tucker decompositions: truncated HOSVD and its refinement by orthogonal iteration.

De Lathauwer, De Moor and Vandewalle, "A multilinear singular value decomposition" and "On the best
rank-1 and rank-(R1, ..., RN) approximation of higher-order tensors" (SIAM J. Matrix Anal. Appl.
21, 2000). With `axes` only some axes get a factor: Tucker-2 of Kim et al. (2015) on a convolution
kernel is `axes=(2, 3)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_tensornet.decompositions import arguments, padding, svd
from keras_tensornet.decompositions.shares import energy_share
from keras_tensornet.decompositions.types import Array, ArrayLike, Axes, Ranks, Rule


def hosvd(
    tensor: ArrayLike,
    ranks: Ranks = None,
    eps: float | None = None,
    energy: float | None = None,
    axes: Axes = None,
    *,
    energy_norm: str = "frobenius",
    pad: bool = False,
    seed: int = 0,
) -> list[Array]:
    """Return the sequentially truncated HOSVD of `tensor`.

    Each axis is cut on the tensor that the axes before it have already reduced (Vannieuwenhoven,
    Vandebril and Meerbergen 2012): same error bound as the plain HOSVD, far less work.

    Args:
        tensor: array-like of shape (n_1, ..., n_d).
        ranks: int, or one rank for each of `axes`.
        eps: the result's relative Frobenius error is at most `eps`; each axis may lose
            eps * |tensor| / sqrt(len(axes)).
        energy: each unfolding keeps the fewest singular values whose squares hold more than this
            share of the sum of squares.
        energy_norm: "nuclear" takes the share of the sum of singular values instead of squares.
        axes: the axes that get a factor, in the order of the factors; None for all.
        pad: meet `ranks` exactly, where the modes allow less.
        seed: seed of the padding.

    Returns:
        `[core, factor_1, factor_2, ...]`: the core has size r on each of `axes` and its full size
        elsewhere, factor k has shape (n, r) and orthonormal columns (padded ones apart).

    Raises:
        ValueError: for no rule or several, a rule out of its range, NaN, no axes.
        TypeError: for a tensor that is not real, ranks that are not ints.

    Examples:
        >>> core, rows, columns = hosvd(np.ones((3, 4, 5)), ranks=1, axes=(1, 2))
        >>> core.shape, rows.shape, columns.shape
        ((3, 1, 1), (4, 1), (5, 1))
    """
    energy = energy_share(energy, energy_norm)
    tensor, dtype = arguments.read_tensor(tensor)
    axes = arguments.read_axes(axes, tensor.ndim)
    rules, wanted = _read(tensor, ranks, eps, energy, axes, pad)
    core, factors = project(tensor, axes, rules, seed)
    return arguments.to_dtype(_padded(core, factors, axes, wanted, seed), dtype)


def hooi(
    tensor: ArrayLike,
    ranks: Ranks = None,
    eps: float | None = None,
    energy: float | None = None,
    axes: Axes = None,
    *,
    energy_norm: str = "frobenius",
    num_iter: int = 50,
    tol: float = 1e-6,
    pad: bool = False,
    seed: int = 0,
) -> list[Array]:
    """Return the Tucker decomposition refined by higher-order orthogonal iteration.

    Starts from `hosvd`, whose ranks it keeps, and never returns a larger error.

    Args:
        tensor, ranks, eps, energy, axes, pad, seed: as in `hosvd`.
        energy_norm: "nuclear" takes the share of the sum of singular values instead of squares.
        num_iter: largest number of sweeps over the axes.
        tol: stop when a sweep lowers the relative error by less than this.

    Returns:
        `[core, factor_1, factor_2, ...]` as `hosvd`.

    Raises:
        ValueError, TypeError: as `hosvd`.
    """
    energy = energy_share(energy, energy_norm)
    tensor, dtype = arguments.read_tensor(tensor)
    num_iter = arguments.read_count(num_iter, "num_iter", least=0)
    axes = arguments.read_axes(axes, tensor.ndim)
    rules, wanted = _read(tensor, ranks, eps, energy, axes, pad)
    core, factors = project(tensor, axes, rules, seed)
    core, factors = iterate(tensor, axes, factors, num_iter, tol, core)
    return arguments.to_dtype(_padded(core, factors, axes, wanted, seed), dtype)


def _read(
    tensor: Array,
    ranks: Ranks,
    eps: float | None,
    energy: float | None,
    axes: Sequence[int],
    pad: bool,
) -> tuple[list[Rule], tuple[int, ...] | None]:
    """Return the SVD rule of each axis and, for padding, the ranks asked."""
    arguments.read_rule(ranks, eps, energy)
    used = wanted = None
    if ranks is not None:
        wanted = arguments.read_ranks(ranks, len(axes), f"the axes {axes}")
        allowed = reachable_ranks(tensor.shape, axes, wanted)
        used = [min(pair) for pair in zip(wanted, allowed, strict=True)]
        if not pad:
            arguments.clip_ranks(wanted, allowed, "factor")
    rules = arguments.cut_rules(float(np.linalg.norm(tensor)), used, eps, energy, len(axes))
    return rules, wanted if pad else None


def reachable_ranks(shape: Sequence[int], axes: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Bound each rank by its mode and by the product of all the other sizes of the core."""
    sizes = list(shape)
    for axis, rank in zip(axes, wanted, strict=True):
        sizes[axis] = min(rank, sizes[axis])
    for axis in axes:
        sizes[axis] = min(sizes[axis], math.prod(sizes[:axis] + sizes[axis + 1 :]))
    return [sizes[axis] for axis in axes]


def unfold(tensor: Array, axis: int) -> Array:
    """Return the unfolding (n_axis, all other axes in order)."""
    return np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1)


def multiply(tensor: Array, matrix: Array, axis: int) -> Array:
    """Return the mode product: axis of size n becomes m, for a `matrix` of shape (m, n)."""
    return np.moveaxis(np.tensordot(matrix, tensor, axes=(1, axis)), 0, axis)


def project(
    tensor: Array, axes: Sequence[int], rules: Sequence[Rule], seed: int = 0
) -> tuple[Array, list[Array]]:
    """Cut each of `axes` in turn; return the core and the orthonormal factors."""
    core, factors = tensor, []
    for axis, rule in zip(axes, rules, strict=True):
        left, _, _ = svd.split(unfold(core, axis), **rule, seed=seed)
        factors.append(left)
        core = multiply(core, left.T, axis)
    return core, factors


def iterate(
    tensor: Array,
    axes: Sequence[int],
    factors: list[Array],
    num_iter: int,
    tol: float,
    core: Array,
) -> tuple[Array, list[Array]]:
    """Improve each factor in turn with the others fixed (De Lathauwer et al. 2000, second paper).

    With orthonormal factors the squared error is |tensor|^2 - |core|^2, so a sweep that raises the
    core's norm lowers the error; ends when it no longer does.
    """
    norm = float(np.linalg.norm(tensor))
    error = _relative_error(norm, core)
    for _ in range(num_iter if len(axes) > 1 else 0):
        trial = list(factors)
        for k, axis in enumerate(axes):
            partial = tensor
            for other, factor in zip(axes, trial, strict=True):
                if other != axis:
                    partial = multiply(partial, factor.T, other)
            trial[k], _, _ = svd.split(unfold(partial, axis), rank=factors[k].shape[1])
            trial_core = multiply(partial, trial[k].T, axis)
        trial_error = _relative_error(norm, trial_core)
        if not trial_error < error:
            break
        gain, error, factors, core = error - trial_error, trial_error, trial, trial_core
        if gain < tol:
            break
    return core, factors


def _relative_error(norm: float, core: Array) -> float:
    lost = norm**2 - float(np.linalg.norm(core)) ** 2
    return math.sqrt(max(lost, 0.0)) / norm if norm > 0 else 0.0


def _padded(
    core: Array,
    factors: Sequence[Array],
    axes: Sequence[int],
    wanted: Sequence[int] | None,
    seed: int,
) -> list[Array]:
    if wanted is None:
        return [core, *factors]
    random = np.random.default_rng(seed)
    grown = []
    for axis, factor, rank in zip(axes, factors, wanted, strict=True):
        factor, core = padding.pad_pair(factor, core, 1, axis, rank, random)
        grown.append(factor)
    return [core, *grown]
