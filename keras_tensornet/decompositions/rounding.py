"""Lower the ranks of cores that exist already: trains by QR and SVD, rings against their merge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from keras_tensornet.decompositions import arguments, svd
from keras_tensornet.decompositions.ring_als import improve_ring, merge_ring
from keras_tensornet.decompositions.rings import num_params, ring_by_rule, ring_with_bonds
from keras_tensornet.decompositions.shares import energy_share
from keras_tensornet.decompositions.types import Array, ArrayLike, Ranks


def tt_round(
    cores: Iterable[ArrayLike],
    ranks: Ranks = None,
    eps: float | None = None,
    energy: float | None = None,
    *,
    energy_norm: str = "frobenius",
    seed: int = 0,
) -> list[Array]:
    """Return a train with lower ranks that is close to the given one, without merging it.

    A QR sweep to the right, then an SVD sweep to the left (Oseledets 2011, Algorithm 2). All cores
    but the first come back with orthonormal rows.

    Args:
        cores: arrays (r_{k-1}, ..., r_k) with r_0 = r_d = 1 and any number of axes between, so
            TT-matrices are rounded too.
        ranks: int, or the d - 1 inner ranks; upper bounds, a bond that is smaller already stays.
        eps: relative error of the result with respect to the given train is at most `eps`.
        energy: each bond keeps the fewest singular values whose squares hold more than this share.
        energy_norm: "nuclear" takes the share of the sum of singular values instead of squares.
        seed: seed of the randomized SVD of very large cores.

    Returns:
        A list of d arrays with the modes of `cores`, in their dtype.

    Raises:
        ValueError: also when neighbouring cores do not share a bond size, or r_0 differs from 1.
    """
    energy = energy_share(energy, energy_norm)
    given, dtype = _read_cores(cores)
    if given[0].shape[0] != 1:
        raise ValueError(
            "A train must begin and end with bonds of size 1. Received: core shapes "
            f"{[core.shape for core in given]}. Use `tr_round` for a ring."
        )
    arguments.read_rule(ranks, eps, energy)
    inner = len(given) - 1
    if ranks is not None:
        ranks = arguments.read_ranks(ranks, inner, f"the {inner} inner bonds")
    shapes = [core.shape[1:-1] for core in given]
    train = _orthogonalize([core.reshape(len(core), -1, core.shape[-1]) for core in given])
    rules = arguments.cut_rules(float(np.linalg.norm(train[-1])), ranks, eps, energy, inner)
    for k in range(inner, 0, -1):
        # (r_{k-1}, n_k r_k) = left values right
        left, values, right = svd.split(
            train[k].reshape(len(train[k]), -1), **rules[k - 1], seed=seed
        )
        train[k] = right.reshape(len(values), -1, train[k].shape[-1])
        train[k - 1] = np.tensordot(train[k - 1], left * values, 1)
    return arguments.to_dtype(_with_modes(train, shapes), dtype)


def tr_round(
    cores: Iterable[ArrayLike],
    ranks: Ranks = None,
    eps: float | None = None,
    energy: float | None = None,
    *,
    energy_norm: str = "frobenius",
    num_iter: int = 50,
    tol: float = 1e-6,
    seed: int = 0,
) -> list[Array]:
    """Return a ring with lower bond sizes that is close to the given one.

    A ring has no canonical form in which a local cut is the best cut, so its dense merge serves
    as reference: at given ranks the better of two starts (bonds cut locally, and a fresh
    `tr_svd`) is refined by alternating least squares; with `eps` or `energy` the result is a fresh
    `tr_svd`, or the given cores where that has no fewer parameters.

    Args:
        cores: arrays (r_{k-1}, ..., r_k) with r_d = r_0 and any number of axes between.
        ranks: int, or the d bond sizes (r_0, ..., r_{d-1}); upper bounds.
        eps, energy: as in `tr_svd`, with respect to the given ring.
        energy_norm: "nuclear" takes the share of the sum of singular values instead of squares.
        num_iter, tol, seed: as in `tr_als`.

    Returns:
        A list of d arrays with the modes of `cores`, in their dtype.

    Raises:
        ValueError: also when neighbouring cores do not share a bond size.
    """
    energy = energy_share(energy, energy_norm)
    given, dtype = _read_cores(cores)
    arguments.read_rule(ranks, eps, energy)
    shapes = [core.shape[1:-1] for core in given]
    ring = [core.reshape(len(core), -1, core.shape[-1]) for core in given]
    tensor = merge_ring(ring)
    if ranks is None:
        fresh = (ring_by_rule(tensor, eps, energy, start) for start in range(len(ring)))
        ring = min([ring, *fresh], key=num_params)
    else:
        wanted = arguments.read_ranks(ranks, len(ring), f"the {len(ring)} bonds, r_0 first")
        bonds = [min(rank, len(core)) for rank, core in zip(wanted, ring, strict=True)]
        if bonds != [len(core) for core in ring]:
            starts = [_cut_locally(ring, bonds), ring_with_bonds(tensor, bonds, seed=seed)]
            rings = [improve_ring(tensor, start, num_iter, tol) for start in starts]
            ring = min(rings, key=lambda one: np.linalg.norm(tensor - merge_ring(one)))
    return arguments.to_dtype(_with_modes(ring, shapes), dtype)


def _read_cores(cores: Iterable[ArrayLike]) -> tuple[list[Array], np.dtype]:
    read = [arguments.read_tensor(core, "cores") for core in cores]
    if not read:
        raise ValueError("`cores` must hold at least one array. Received: an empty list.")
    arrays = [array for array, _ in read]
    shapes = [array.shape for array in arrays]
    meets = [len(shape) >= 2 for shape in shapes] + [
        shapes[k - 1][-1] == shape[0] for k, shape in enumerate(shapes)
    ]
    if not all(meets):
        raise ValueError(
            "The last axis of each core must have the size of the next core's first axis, around "
            f"to the first core. Received: core shapes {shapes}."
        )
    return arrays, np.result_type(*(dtype for _, dtype in read))


def _orthogonalize(cores: Sequence[Array]) -> list[Array]:
    """Make every core but the last left-orthonormal without changing the train."""
    cores = list(cores)
    for k in range(len(cores) - 1):
        before, _, after = cores[k].shape
        left, carry = np.linalg.qr(cores[k].reshape(-1, after))
        cores[k] = left.reshape(before, -1, left.shape[1])
        cores[k + 1] = np.tensordot(carry, cores[k + 1], 1)
    return cores


def _cut_locally(cores: Sequence[Array], bonds: Sequence[int]) -> list[Array]:
    """Cut each bond by the SVD of the two cores that share it."""
    cores = list(cores)
    for k, size in enumerate(bonds):
        first, second = cores[k - 1], cores[k]
        if size < len(second) and len(cores) > 1:
            # first: (a, n, r), second: (r, m, b) -> (a n, r) (r, m b)
            pair = first.reshape(-1, len(second)) @ second.reshape(len(second), -1)
            left, values, right = svd.split(pair, rank=size)
            root = np.sqrt(values)
            cores[k - 1] = (left * root).reshape(len(first), -1, len(values))
            cores[k] = (root[:, None] * right).reshape(len(values), -1, second.shape[-1])
        elif size < len(second):
            cores[k] = first[:size, :, :size]
    return cores


def _with_modes(cores: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    return [
        core.reshape(core.shape[0], *shape, core.shape[-1])
        for core, shape in zip(cores, shapes, strict=True)
    ]
