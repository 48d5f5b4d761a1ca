"""Tensor trains by successive SVDs: plain, paired (TT-matrix) and with any grouping of axes.

Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput. 33 (2011), Algorithm 1. The energy
rule is Algorithm 1 with equation 14 of Gabor and Zdunek (2022).

To minimise the error of a layer's output instead of its weights, decompose `root.T @ kernel` for
`root @ root.T = covariance of the inputs`, then multiply the inverse of `root.T` back into
the core that holds the input axis. The same works for every decomposition of this package.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from keras_tensornet.decompositions import arguments, padding, svd
from keras_tensornet.decompositions.shares import energy_share
from keras_tensornet.decompositions.types import Array, ArrayLike, Ranks, Rule


def tt_svd(
    tensor: ArrayLike,
    ranks: Ranks = None,
    eps: float | None = None,
    energy: float | None = None,
    *,
    energy_norm: str = "frobenius",
    pad: bool = False,
    seed: int = 0,
) -> list[Array]:
    """Return the tensor train of `tensor`: one core of shape (r_{k-1}, n_k, r_k) for each axis.

    Give exactly one of `ranks`, `eps`, `energy`. All cores but the last have orthonormal columns.

    Args:
        tensor: array-like of shape (n_1, ..., n_d).
        ranks: int, or the d - 1 inner ranks (r_1, ..., r_{d-1}). A rank above what the modes allow
            is lowered with a warning, or met by padding with `pad=True`.
        eps: the result's relative Frobenius error is at most `eps`; each of the d - 1 cuts may lose
            delta = eps * |tensor| / sqrt(d - 1).
        energy: each unfolding keeps the fewest singular values whose squares hold more than this
            share of the sum of squares.
        energy_norm: "nuclear" takes the share of the sum of singular values instead of squares.
        pad: meet `ranks` exactly: grow cores that need less without changing their product.
        seed: seed of the padding (and of the randomized SVD of very large unfoldings).

    Returns:
        A list of d arrays with r_0 = r_d = 1, in the dtype of `tensor`.

    Raises:
        ValueError: for no rule or several, a rule out of its range, NaN, no axes.
        TypeError: for a tensor that is not real, ranks that are not ints.

    Examples:
        >>> cores = tt_svd(np.ones((2, 3, 4)), ranks=1)
        >>> [core.shape for core in cores]
        [(1, 2, 1), (1, 3, 1), (1, 4, 1)]
    """
    energy = energy_share(energy, energy_norm)
    tensor, dtype = arguments.read_tensor(tensor)
    groups = tuple((axis,) for axis in range(tensor.ndim))
    return arguments.to_dtype(_train(tensor, groups, ranks, eps, energy, pad, seed), dtype)


def ttm_svd(
    tensor: ArrayLike,
    in_modes: Sequence[int],
    out_modes: Sequence[int],
    ranks: Ranks = None,
    eps: float | None = None,
    energy: float | None = None,
    *,
    energy_norm: str = "frobenius",
    pad: bool = False,
    seed: int = 0,
) -> list[Array]:
    """Return the TT-matrix of a kernel: cores (r_{k-1}, i_k, o_k, r_k), input and output paired.

    Novikov et al., "Tensorizing neural networks" (2015), section 3.1.

    Args:
        tensor: array-like of shape (prod(in_modes), prod(out_modes)), or already tensorized:
            (i_1, ..., i_m, o_1, ..., o_m).
        in_modes: (i_1, ..., i_m).
        out_modes: (o_1, ..., o_m), as many as `in_modes`.
        ranks, eps, energy, pad, seed: as in `tt_svd`; there are m - 1 inner ranks.
        energy_norm: "nuclear" takes the share of the sum of singular values instead of squares.

    Returns:
        A list of m arrays with r_0 = r_m = 1, in the dtype of `tensor`.

    Raises:
        ValueError: also when the modes do not fit the tensor's shape.

    Examples:
        >>> [core.shape for core in ttm_svd(np.eye(6), (2, 3), (3, 2), ranks=2)]
        [(1, 2, 3, 2), (2, 3, 2, 1)]
    """
    energy = energy_share(energy, energy_norm)
    tensor, dtype = arguments.read_tensor(tensor)
    in_modes, out_modes = _read_modes(in_modes, "in_modes"), _read_modes(out_modes, "out_modes")
    if len(in_modes) != len(out_modes):
        raise ValueError(
            "`in_modes` and `out_modes` must have the same length, one pair for each core. "
            f"Received: in_modes={in_modes}, out_modes={out_modes}. Fill the shorter with 1."
        )
    matrix_shape = (math.prod(in_modes), math.prod(out_modes))
    if tensor.shape not in (matrix_shape, in_modes + out_modes):
        raise ValueError(
            f"`tensor` must have shape {matrix_shape} or {in_modes + out_modes} for "
            f"in_modes={in_modes}, out_modes={out_modes}. Received: shape {tensor.shape}."
        )
    tensor = tensor.reshape(in_modes + out_modes)
    groups = tuple((k, k + len(in_modes)) for k in range(len(in_modes)))
    return arguments.to_dtype(_train(tensor, groups, ranks, eps, energy, pad, seed), dtype)


def grouped_tt_svd(
    tensor: ArrayLike,
    groups: Sequence[Sequence[int]],
    ranks: Ranks = None,
    eps: float | None = None,
    energy: float | None = None,
    *,
    energy_norm: str = "frobenius",
    pad: bool = False,
    seed: int = 0,
) -> list[Array]:
    """Return a tensor train whose core k carries the axes `groups[k]` of `tensor`.

    `tt_svd` has one axis in each group and `ttm_svd` two. A convolution's TT-matrix with a spatial
    core first (Garipov et al. 2016) is `groups=((0, 1), (2, 4), (3, 5))` on
    (kh, kw, i_1, i_2, o_1, o_2).

    Args:
        tensor: array-like of shape (n_1, ..., n_d).
        groups: tuples of axes; every axis of `tensor` in exactly one of them.
        ranks, eps, energy, pad, seed: as in `tt_svd`; there are len(groups) - 1 inner ranks.
        energy_norm: "nuclear" takes the share of the sum of singular values instead of squares.

    Returns:
        A list of len(groups) arrays (r_{k-1}, *sizes of the group's axes, r_k).

    Raises:
        ValueError: also when `groups` is not a partition of the axes.
    """
    energy = energy_share(energy, energy_norm)
    tensor, dtype = arguments.read_tensor(tensor)
    groups = tuple(tuple(group) for group in groups)
    axes = [axis for group in groups for axis in group]
    if sorted(axes) != list(range(tensor.ndim)) or not all(groups):
        raise ValueError(
            f"`groups` must hold each of the {tensor.ndim} axes of `tensor` exactly once, and no "
            f"empty group. Received: groups={groups}."
        )
    return arguments.to_dtype(_train(tensor, groups, ranks, eps, energy, pad, seed), dtype)


def max_tt_ranks(modes: Sequence[int]) -> tuple[int, ...]:
    """Return the inner ranks at which a train over `modes` represents every tensor exactly.

    r_k = min(n_1 ... n_k, n_{k+1} ... n_d) (Gabor and Zdunek 2022, equation 15).

    Examples:
        >>> max_tt_ranks((2, 3, 4))
        (2, 4)
    """
    modes = tuple(modes)
    return tuple(min(math.prod(modes[:k]), math.prod(modes[k:])) for k in range(1, len(modes)))


def _read_modes(modes: Iterable[int], name: str) -> tuple[int, ...]:
    return tuple(arguments.read_count(mode, name) for mode in modes)


def _train(
    tensor: Array,
    groups: Sequence[Sequence[int]],
    ranks: Ranks,
    eps: float | None,
    energy: float | None,
    pad: bool,
    seed: int,
) -> list[Array]:
    """Check the rule, cut the grouped tensor with it, and give each core its axes back."""
    arguments.read_rule(ranks, eps, energy)
    shapes = [tuple(tensor.shape[axis] for axis in group) for group in groups]
    modes = tuple(math.prod(shape) for shape in shapes)
    bonds = len(modes) - 1
    used = wanted = None
    if ranks is not None:
        wanted = arguments.read_ranks(ranks, bonds, f"the {bonds} inner bonds")
        allowed = _reachable_ranks(modes, wanted)
        used = [min(pair) for pair in zip(wanted, allowed, strict=True)]
        if not pad:
            arguments.clip_ranks(wanted, allowed, "bond")
    order = [axis for group in groups for axis in group]
    rules = arguments.cut_rules(float(np.linalg.norm(tensor)), used, eps, energy, bonds)
    cores = cut_train(tensor.transpose(order).reshape((1, *modes, 1)), rules, seed)
    if pad and wanted is not None:
        cores = padding.pad_ring(cores, (1, *wanted), seed)
    return [
        core.reshape((core.shape[0], *shape, core.shape[2]))
        for core, shape in zip(cores, shapes, strict=True)
    ]


def _reachable_ranks(modes: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Bound each rank by the modes to its right and by what the bond before it lets through."""
    allowed, before = [], 1
    for k, rank in enumerate(wanted):
        allowed.append(min(before * modes[k], math.prod(modes[k + 1 :])))
        before = min(rank, allowed[-1])
    return allowed


def cut_train(tensor: Array, rules: Sequence[Rule], seed: int = 0) -> list[Array]:
    """Cut a tensor with open ends (r_0, n_1, ..., n_d, r_d) into cores by d - 1 SVDs.

    Oseledets 2011, Algorithm 1. `rules[k]` is the keyword for the SVD of bond k + 1.
    """
    *_, end = tensor.shape
    modes = tensor.shape[1:-1]
    cores, rank, rest = [], tensor.shape[0], tensor
    for mode, rule in zip(modes[:-1], rules, strict=True):
        # (r_{k-1}, n_k, ..., n_d, r_d) -> (r_{k-1} n_k, n_{k+1} ... n_d r_d)
        left, values, right = svd.split(rest.reshape(rank * mode, -1), **rule, seed=seed)
        cores.append(left.reshape(rank, mode, -1))
        rank, rest = len(values), values[:, None] * right
    return [*cores, rest.reshape(rank, modes[-1], end)]
