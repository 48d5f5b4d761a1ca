"""The truncated SVD under every decomposition, and the two rules that choose its rank.

Three ways to the same factors, picked from the matrix's shape:

- LAPACK on the matrix: for small matrices and wherever full accuracy is asked.
- The Gram matrix of the short side: several times faster for large unfoldings. It resolves singular
  values down to about 1e-8 of the largest, so its answer is used only while everything it
  decides on lies above 1e-4 of the largest; otherwise LAPACK runs. Residuals then agree with
  LAPACK's to about 1e-12 of the norm.
- A randomized range finder (Halko, Martinsson and Tropp 2011, Algorithm 4.4) for a small rank of a
  very large matrix. With `POWER_ITERATIONS` its Frobenius error is at most 1 % above the best
  possible one, also on a flat spectrum, its worst case (a test holds it to that).
"""

from __future__ import annotations

import math

import numpy as np

from keras_tensornet.decompositions import arguments
from keras_tensornet.decompositions.shares import NuclearShare, energy_share
from keras_tensornet.decompositions.types import Array, ArrayLike, Triple

POWER_ITERATIONS = 3
OVERSAMPLING = 10
GRAM_FLOOR = 1e-4
_GRAM_SIZE = 1 << 14
_RANDOMIZED_SIDE = 1024
_RANDOMIZED_SHARE = 8


def truncated_svd(
    matrix: ArrayLike,
    rank: int | None = None,
    delta: float | None = None,
    energy: float | None = None,
    *,
    energy_norm: str = "frobenius",
    randomized: bool | None = None,
    seed: int = 0,
) -> Triple:
    """Return the leading singular triples of `matrix`, as many as one rule asks for.

    Args:
        matrix: array-like of shape (m, n).
        rank: number of triples; more than min(m, n) gives min(m, n).
        delta: largest allowed Frobenius norm of what is cut, in the matrix's own units.
        energy: keep the fewest triples whose share of squared singular values exceeds it.
        energy_norm: "nuclear" takes the share of their sum instead of their squares.
        randomized: None picks by size; True and False force or forbid the randomized method,
            which needs `rank`.
        seed: seed of the randomized method.

    Returns:
        `(left, values, right)` in float64 of shapes (m, r), (r,) and (r, n); `left` and `right.T`
        have orthonormal columns, `values` fall, and r is at least 1.

    Raises:
        ValueError: unless exactly one of `rank`, `delta`, `energy` is given, or if `matrix` does
            not have two axes.

    Examples:
        >>> left, values, right = truncated_svd([[3.0, 0.0], [0.0, 4.0]], rank=1)
        >>> values
        array([4.])
    """
    matrix, _ = arguments.read_tensor(matrix, "matrix")
    if matrix.ndim != 2:
        raise ValueError(
            f"`matrix` must have two axes. Received: shape {matrix.shape}. Unfold the tensor first."
        )
    if sum(rule is not None for rule in (rank, delta, energy)) != 1:
        raise ValueError(
            "Give exactly one of `rank`, `delta` and `energy`. "
            f"Received: rank={rank}, delta={delta}, energy={energy}."
        )
    energy = energy_share(energy, energy_norm)
    if randomized and rank is None:
        raise ValueError("`randomized=True` needs `rank`. Received: rank=None.")
    return split(matrix, rank, delta, energy, randomized=randomized, seed=seed)


def split(
    matrix: Array,
    rank: int | None = None,
    delta: float | None = None,
    energy: float | None = None,
    *,
    randomized: bool | None = None,
    seed: int = 0,
) -> Triple:
    """`truncated_svd` without the checks, for a float64 `matrix` that is known to be finite."""
    short = min(matrix.shape)
    if randomized is None:
        randomized = (
            rank is not None
            and short >= _RANDOMIZED_SIDE
            and (rank + OVERSAMPLING) * _RANDOMIZED_SHARE <= short
        )
    if randomized:
        return _randomized_svd(matrix, min(rank, short), seed)
    if matrix.size >= _GRAM_SIZE:
        triples = _gram_svd(matrix, rank, delta, energy)
        if triples is not None:
            return triples
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    kept = _choose_rank(values, rank, delta, energy)
    return left[:, :kept], values[:kept], right[:kept]


def rank_for_energy(
    singular_values: ArrayLike, energy: float, energy_norm: str = "frobenius"
) -> int:
    """Return the smallest rank whose share of squared singular values exceeds `energy`.

    Gabor and Zdunek 2022, equation 14: R = argmin_j { sum_{i<=j} s_i^2 / sum_i s_i^2 > energy }.
    `energy=1` keeps every singular value that differs from zero in float64. At least 1.

    Args:
        singular_values: falling values, shape (k,).
        energy: share in (0, 1].
        energy_norm: "nuclear" takes the share of their sum instead of their squares.
    """
    values = np.asarray(singular_values, dtype=np.float64)
    share = energy_share(energy, energy_norm)
    total = np.cumsum(values if isinstance(share, NuclearShare) else values**2)
    if total[-1] == 0:
        return 1
    # The share may never exceed 1: the numerical rank is then all there is to keep.
    nonzero = int(np.count_nonzero(values > _roundoff(values)))
    above = np.flatnonzero(total > energy * total[-1])
    return max(1, min(nonzero, int(above[0]) + 1 if above.size else nonzero))


def rank_for_error(singular_values: ArrayLike, delta: float) -> int:
    """Return the smallest rank whose cut values have a root sum of squares of at most `delta`.

    Oseledets 2011, Algorithm 1 (the delta-truncated SVD). What float64 cannot tell from zero
    counts as zero. At least 1.

    Args:
        singular_values: falling values, shape (k,).
        delta: Frobenius norm that may be lost, in the units of the values.
    """
    values = np.asarray(singular_values, dtype=np.float64)
    lost = np.sqrt(np.cumsum(values[::-1] ** 2)[::-1])  # lost[r]: the error of keeping r values
    return max(1, int(np.count_nonzero(lost > max(delta, _roundoff(values)))))


def _roundoff(values: Array) -> float:
    return float(values[0]) * len(values) * float(np.finfo(np.float64).eps)


def _choose_rank(values: Array, rank: int | None, delta: float | None, energy: float | None) -> int:
    if rank is not None:
        return min(rank, len(values))
    if energy is not None:
        return rank_for_energy(values, energy)
    return rank_for_error(values, delta or 0.0)


def _gram_svd(
    matrix: Array, rank: int | None, delta: float | None, energy: float | None
) -> Triple | None:
    """SVD through the short side's Gram matrix, or None where that is not accurate enough."""
    transpose = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if transpose else matrix
    squares, vectors = np.linalg.eigh(wide @ wide.T)
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    if delta is not None and delta < GRAM_FLOOR * values[0]:
        return None
    kept = _choose_rank(values, rank, delta, energy)
    if not values[kept - 1] > GRAM_FLOOR * values[0]:
        return None
    left = vectors[:, ::-1][:, :kept]
    carry = left.T @ wide  # equals diag(values) @ right
    values = np.linalg.norm(carry, axis=1)
    carry /= values[:, None]
    return (carry.T, values, left.T) if transpose else (left, values, carry)


def _randomized_svd(matrix: Array, rank: int, seed: int) -> Triple:
    """Halko, Martinsson and Tropp 2011, Algorithms 4.4 and 5.1."""
    random = np.random.default_rng(seed)
    width = min(rank + max(OVERSAMPLING, math.ceil(rank / 2)), min(matrix.shape))
    basis, _ = np.linalg.qr(matrix @ random.standard_normal((matrix.shape[1], width)))
    for _ in range(POWER_ITERATIONS):
        basis, _ = np.linalg.qr(matrix.T @ basis)
        basis, _ = np.linalg.qr(matrix @ basis)
    inner, values, right = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    return (basis @ inner)[:, :rank], values[:rank], right[:rank]
