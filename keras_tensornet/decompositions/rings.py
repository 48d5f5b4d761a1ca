"""Tensor rings by successive SVDs, with the best circular shift and the best first split.

Zhao et al., "Tensor ring decomposition" (2016), the TR-SVD. A ring has no first core: the SVDs may
start at any axis, and the rank of the first SVD may be shared between its two bonds in
several ways. Both choices change the error at given ranks a good deal, so they are tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from keras_tensornet.decompositions import arguments, padding, svd, tucker
from keras_tensornet.decompositions.shares import energy_share
from keras_tensornet.decompositions.trains import cut_train
from keras_tensornet.decompositions.types import Array, ArrayLike, Ranks, Rule

T = TypeVar("T")

MAX_SPLITS = 8


def tr_svd(
    tensor: ArrayLike,
    ranks: Ranks = None,
    eps: float | None = None,
    energy: float | None = None,
    *,
    energy_norm: str = "frobenius",
    shift: int | None = None,
    seed: int = 0,
) -> list[Array]:
    """Return a tensor ring of `tensor`: one core of shape (r_{k-1}, n_k, r_k) for each axis.

    Fixed ranks are always met exactly: a bond of which the SVDs need less is padded without
    changing the result. A tensor train is a ring with one bond of 1 and is among what is tried,
    so ranks that suffice for a train at some cut, or for the ring SVD, give an exact result.

    Args:
        tensor: array-like of shape (n_1, ..., n_d).
        ranks: int, or the d bond sizes (r_0, ..., r_{d-1}): r_0 lies between the last core and the
            first, r_k between core k and core k + 1.
        eps: the result's relative Frobenius error is at most `eps`; the first cut may lose
            sqrt(2 / d) eps |tensor| and the others sqrt(1 / d) eps |tensor|.
        energy: each unfolding keeps the fewest singular values whose squares hold more than this
            share of the sum of squares.
        energy_norm: "nuclear" takes the share of the sum of singular values instead of squares.
        shift: the axis at which the SVDs start. None tries all and keeps the least error at given
            ranks, or the fewest parameters at given `eps` or `energy`.
        seed: seed of the padding.

    Returns:
        A list of d arrays with r_d = r_0, core k belonging to axis k, in the dtype of `tensor`.

    Raises:
        ValueError: for no rule or several, a rule out of its range, NaN, no axes, a bad shift.
        TypeError: for a tensor that is not real, ranks that are not ints.

    Examples:
        >>> cores = tr_svd(np.ones((4, 5, 6)), ranks=(2, 1, 3))
        >>> [core.shape for core in cores]
        [(2, 4, 1), (1, 5, 3), (3, 6, 2)]
    """
    energy = energy_share(energy, energy_norm)
    tensor, dtype = arguments.read_tensor(tensor)
    arguments.read_rule(ranks, eps, energy)
    ndim = tensor.ndim
    if shift is not None and not 0 <= arguments.read_count(shift, "shift", 0) < ndim:
        raise ValueError(f"`shift` must be an axis in [0, {ndim}). Received: shift={shift}.")
    if ranks is not None:
        bonds = arguments.read_ranks(ranks, ndim, f"the {ndim} bonds, r_0 first")
        cores = ring_with_bonds(tensor, bonds, shift, seed)
    else:
        shifts = range(ndim) if shift is None else [shift]
        rings = (ring_by_rule(tensor, eps, energy, start) for start in shifts)
        cores = min(rings, key=num_params)
    return arguments.to_dtype(cores, dtype)


def ring_with_bonds(
    tensor: Array, bonds: Sequence[int], shift: int | None = None, seed: int = 0
) -> list[Array]:
    """Return the best ring SVD of a float64 tensor with exactly the given bond sizes."""
    if tensor.ndim == 1:
        return padding.pad_ring([tensor.reshape(1, -1, 1)], bonds, seed)
    start, first = _search(tensor, bonds, shift)
    cores = _ring(tensor, bonds, start, first)
    return padding.pad_ring(cores, bonds, seed)


def _search(tensor: Array, bonds: Sequence[int], shift: int | None) -> tuple[int, int]:
    """Return the shift and the share of the first rank given to the bond before it."""
    small = _reduced(tensor, bonds)
    scores = {}

    def score(start: int, first: int) -> float:
        if (start, first) not in scores:
            last = _ring(small, bonds, start, first)[start - 1]
            # All cores but the last are orthonormal, so its norm is the norm that is kept.
            scores[start, first] = float(np.linalg.norm(last))
        return scores[start, first]

    shifts = range(tensor.ndim) if shift is None else [shift]
    ends = ((start, first) for start in shifts for first in (bonds[start], 1))
    best = max(ends, key=lambda pair: score(*pair))
    splits = ((start, first) for start in [best[0]] for first in _splits(bonds[start]))
    better = max(splits, key=lambda pair: score(*pair))
    return better if score(*better) > score(*best) else best


def _splits(size: int) -> Sequence[int]:
    """Return sizes from 1 to `size`: all of them, or a geometric choice of `MAX_SPLITS`."""
    if size <= MAX_SPLITS:
        return range(1, size + 1)
    return sorted({round(size ** (k / (MAX_SPLITS - 1))) for k in range(MAX_SPLITS)})


def _reduced(tensor: Array, bonds: Sequence[int]) -> Array:
    """Return `tensor` with mode k cut to r_{k-1} r_k, all that a ring can use of it."""
    most = [min(n, a * b) for n, a, b in zip(tensor.shape, bonds, _rotate(bonds, 1), strict=True)]
    axes = [axis for axis, size in enumerate(most) if size < tensor.shape[axis]]
    return tucker.project(tensor, axes, [{"rank": most[axis]} for axis in axes])[0]


def _ring(tensor: Array, bonds: Sequence[int], start: int, first: int) -> list[Array]:
    """Cut the ring that starts at axis `start`, at most `first` of whose closing bond is used."""
    closing, second, *inner = _rotate(bonds, start)
    turned = tensor.transpose(_rotate(range(tensor.ndim), start))
    rank = min(turned.shape[0], turned.size // turned.shape[0], first * second)
    left, values, right = svd.split(turned.reshape(turned.shape[0], -1), rank=rank)
    first = min(first, closing, len(values))
    second = math.ceil(len(values) / first)
    rules = [{"rank": size} for size in inner]
    return _rotate(_close(turned.shape, left, values, right, first, second, rules), -start)


def ring_by_rule(tensor: Array, eps: float | None, energy: float | None, start: int) -> list[Array]:
    """Return the ring with the fewest parameters that the rule gives from axis `start`."""
    ndim, norm = tensor.ndim, float(np.linalg.norm(tensor))
    if ndim == 1:
        return [tensor.reshape(1, -1, 1)]
    turned = tensor.transpose(_rotate(range(ndim), start))
    head: Rule = {"energy": energy}
    rest: Rule = head
    if eps is not None:
        # d - 1 cuts, the first with a double share: 2/d + (d - 2)/d = 1.
        head, rest = ({"delta": math.sqrt(share / ndim) * eps * norm} for share in (2, 1))
    left, values, right = svd.split(turned.reshape(turned.shape[0], -1), **head)
    rings = []
    for first in range(1, len(values) + 1):
        if len(values) % first == 0:
            parts = (first, len(values) // first, [rest] * (ndim - 2))
            rings.append(_close(turned.shape, left, values, right, *parts))
    return _rotate(min(rings, key=num_params), -start)


def _close(
    shape: Sequence[int],
    left: Array,
    values: Array,
    right: Array,
    first: int,
    second: int,
    rules: Sequence[Rule],
) -> list[Array]:
    """Fold the first SVD into the ring's first core and cut the rest as a train with open ends.

    left: (n_1, rank), right: (rank, n_2 ... n_d); rank <= first * second, filled up with zeros.
    The cuts that follow depend on the signs of the singular vectors, which an SVD leaves open:
    the largest entry of each left vector is made positive.
    """
    signs = np.sign(left[np.argmax(np.abs(left), axis=0), np.arange(len(values))])
    left, right = left * signs, right * signs[:, None]
    missing = first * second - len(values)
    head = np.pad(left, ((0, 0), (0, missing))).reshape(-1, first, second)
    rest = np.pad(values[:, None] * right, ((0, missing), (0, 0)))
    # (first second, n_2 ... n_d) -> (second, n_2, ..., n_d, first)
    rest = np.moveaxis(rest.reshape(first, second, *shape[1:]), 0, -1)
    return [head.transpose(1, 0, 2), *cut_train(rest, rules)]


def _rotate(items: Iterable[T], shift: int) -> list[T]:
    items = list(items)
    return items[shift:] + items[:shift]


def num_params(cores: Iterable[Array]) -> int:
    return sum(core.size for core in cores)
