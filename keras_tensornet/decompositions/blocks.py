"""Block-term decomposition: a sum of Tucker blocks, each fitted to what the others leave.

De Lathauwer, "Decompositions of a higher-order tensor in block terms" (SIAM J. Matrix Anal. Appl.
30, 2008). Each update is one sweep of orthogonal iteration on the residual of the other blocks,
so the error never rises.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_tensornet.decompositions import arguments, padding, tucker
from keras_tensornet.decompositions.types import Array, ArrayLike, Axes, Block

START_SWEEPS = 5
FINAL_SWEEPS = 2


def block_term(
    tensor: ArrayLike,
    ranks: int | Sequence[int],
    num_blocks: int,
    axes: Axes = None,
    *,
    num_iter: int = 50,
    tol: float = 1e-6,
    pad: bool = False,
    seed: int = 0,
) -> list[Array]:
    """Return a sum of `num_blocks` Tucker blocks, stacked along a leading block axis.

    The blocks start one after the other from the residual so far. A block that finds nothing left
    (at full rank) has a core of zeros and factors with orthonormal columns: it changes
    nothing, and its core receives a gradient from the first training step.

    Args:
        tensor: array-like of shape (n_1, ..., n_d).
        ranks: int, or one rank for each of `axes`; the same in every block.
        num_blocks: number of blocks b.
        axes: the axes that get factors; None for all. The others stay whole in the core.
        num_iter: largest number of sweeps over the blocks.
        tol: stop when a sweep lowers the relative error by less than this.
        pad: meet `ranks` exactly, where the modes allow less; else lower them with a warning.
        seed: seed of the padding and of blocks that find nothing left.

    Returns:
        `[core, factor_1, factor_2, ...]` in the dtype of `tensor`: core (b, r_1, ..., r_d) with
        full sizes off `axes`, factor k of shape (b, n_k, r_k).

    Raises:
        ValueError: for ranks or blocks below 1, NaN, no axes.
        TypeError: for a tensor that is not real, ranks that are not ints.

    Examples:
        >>> parts = block_term(np.ones((4, 5, 6)), ranks=(2, 3, 2), num_blocks=2)
        >>> [part.shape for part in parts]
        [(2, 2, 3, 2), (2, 4, 2), (2, 5, 3), (2, 6, 2)]
    """
    tensor, dtype = arguments.read_tensor(tensor)
    num_blocks = arguments.read_count(num_blocks, "num_blocks")
    num_iter = arguments.read_count(num_iter, "num_iter", least=0)
    axes = arguments.read_axes(axes, tensor.ndim)
    wanted = arguments.read_ranks(ranks, len(axes), f"the axes {axes}")
    used = tucker.reachable_ranks(tensor.shape, axes, wanted)
    if not pad:
        arguments.clip_ranks(wanted, used, "factor", stacklevel=3)
    random = np.random.default_rng(seed)
    blocks = _fit(tensor, axes, used, num_blocks, num_iter, tol, random)
    if pad:
        blocks = [_grow(core, factors, axes, wanted, random) for core, factors in blocks]
    parts = zip(*([core, *factors] for core, factors in blocks), strict=True)
    return arguments.to_dtype([np.stack(part) for part in parts], dtype)


def _fit(
    tensor: Array,
    axes: Sequence[int],
    ranks: Sequence[int],
    num_blocks: int,
    num_iter: int,
    tol: float,
    random: np.random.Generator,
) -> list[Block]:
    """Fit the blocks to all they can use of each mode, size b r; then to the whole tensor."""
    sizes = [min(tensor.shape[a], num_blocks * r) for a, r in zip(axes, ranks, strict=True)]
    small, bases = tucker.project(tensor, axes, [{"rank": size} for size in sizes])
    blocks = _start(small, axes, ranks, num_blocks, random)
    blocks = _refine(small, axes, blocks, num_iter, tol)
    blocks = [
        (core, [basis @ factor for basis, factor in zip(bases, factors, strict=True)])
        for core, factors in blocks
    ]
    final = FINAL_SWEEPS if small.shape != tensor.shape else 0
    return _refine(tensor, axes, blocks, final, tol)


def _start(
    tensor: Array,
    axes: Sequence[int],
    ranks: Sequence[int],
    num_blocks: int,
    random: np.random.Generator,
) -> list[Block]:
    """Fit each block to the residual of those before it."""
    residual, blocks = tensor, []
    rules = [{"rank": rank} for rank in ranks]
    negligible = 1e-12 * float(np.linalg.norm(tensor))
    for _ in range(num_blocks):
        if np.linalg.norm(residual) > negligible:
            core, factors = tucker.project(residual, axes, rules)
            core, factors = tucker.iterate(residual, axes, factors, START_SWEEPS, 0.0, core)
        else:
            factors = [
                np.linalg.qr(random.standard_normal((tensor.shape[axis], rank)))[0]
                for axis, rank in zip(axes, ranks, strict=True)
            ]
            core = np.zeros_like(_onto(residual, axes, factors))
        residual = residual - _expand(core, axes, factors)
        blocks.append((core, factors))
    return blocks


def _refine(
    tensor: Array, axes: Sequence[int], blocks: list[Block], num_iter: int, tol: float
) -> list[Block]:
    """Refit one block at a time to the residual of all the others."""
    norm = float(np.linalg.norm(tensor))
    residual = tensor - sum(_expand(core, axes, factors) for core, factors in blocks)
    error = np.linalg.norm(residual)
    for _ in range(num_iter if error > 1e-12 * norm else 0):
        for b, (core, factors) in enumerate(blocks):
            target = residual + _expand(core, axes, factors)
            core = _onto(target, axes, factors)
            core, factors = tucker.iterate(target, axes, factors, 1, 0.0, core)
            residual = target - _expand(core, axes, factors)
            blocks[b] = (core, factors)
        gain, error = error - np.linalg.norm(residual), np.linalg.norm(residual)
        if gain < tol * norm:
            break
    return blocks


def _onto(tensor: Array, axes: Sequence[int], factors: Sequence[Array]) -> Array:
    for axis, factor in zip(axes, factors, strict=True):
        tensor = tucker.multiply(tensor, factor.T, axis)
    return tensor


def _expand(core: Array, axes: Sequence[int], factors: Sequence[Array]) -> Array:
    for axis, factor in zip(axes, factors, strict=True):
        core = tucker.multiply(core, factor, axis)
    return core


def _grow(
    core: Array,
    factors: Sequence[Array],
    axes: Sequence[int],
    ranks: Sequence[int],
    random: np.random.Generator,
) -> Block:
    grown = []
    for axis, factor, rank in zip(axes, factors, ranks, strict=True):
        factor, core = padding.pad_pair(factor, core, 1, axis, rank, random)
        grown.append(factor)
    return core, grown
