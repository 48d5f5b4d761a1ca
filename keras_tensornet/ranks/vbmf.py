"""Ranks by variational Bayes: the analytic empirical solution (EVBMF) for a noisy matrix.

Nakajima, Sugiyama, Babacan and Tomioka, "Global analytic solution of fully-observed variational
Bayesian matrix factorization" (JMLR 14, 2013). Nothing has to be chosen, which is why Kim et al.
(2015) take the Tucker-2 ranks of a convolution from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from keras_tensornet.decompositions import arguments, tucker
from keras_tensornet.decompositions.types import Array, ArrayLike, Axes

# tau at the detection threshold of a large matrix is this times sqrt(alpha).
THRESHOLD = 2.5129
GRID = 64
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclasses.dataclass(frozen=True)
class Evbmf:
    """What EVBMF finds in a matrix.

    Attributes:
        rank: number of singular values above the noise; may be 0.
        sigma2: noise variance of an entry, given or estimated.
        free_energy: negative log of the evidence's lower bound, in nats.
        singular_values: the shrunk values, shape (rank,), falling.
    """

    rank: int
    sigma2: float
    free_energy: float
    singular_values: tuple[float, ...]


def evbmf(matrix: ArrayLike, sigma2: float | None = None) -> Evbmf:
    """Return rank, noise variance, free energy and shrunk singular values of a noisy matrix.

    Args:
        matrix: array-like of shape (m, n); a tall one is transposed, as the theory needs m <= n.
        sigma2: noise variance of an entry; None estimates it.

    Returns:
        An `Evbmf` record.

    Raises:
        ValueError: for a matrix without two axes, NaN, all zeros, or a `sigma2` not above 0.
        TypeError: for a matrix that is not real.

    Examples:
        >>> random = np.random.default_rng(0)
        >>> signal = random.standard_normal((20, 3)) @ random.standard_normal((3, 50))
        >>> evbmf(signal + 0.1 * random.standard_normal((20, 50))).rank
        3
    """
    matrix, _ = arguments.read_tensor(matrix, "matrix")
    if matrix.ndim != 2:
        raise ValueError(f"`matrix` must have two axes. Received: shape {matrix.shape}.")
    if sigma2 is not None and not sigma2 > 0:
        raise ValueError(f"`sigma2` must be positive, or None. Received: sigma2={sigma2}.")
    if not matrix.any():
        raise ValueError("`matrix` must not be all zeros: it has no noise to tell a rank from.")
    short, long = sorted(matrix.shape)
    values = np.linalg.svd(matrix, compute_uv=False)
    if sigma2 is None:
        sigma2 = _noise_variance(values, short, long)
    return _solution(values, short, long, float(sigma2))


def evbmf_rank(matrix: ArrayLike, sigma2: float | None = None) -> int:
    """Return the EVBMF rank of `matrix`, at least 1: a layer of rank 0 would compute nothing."""
    return max(1, evbmf(matrix, sigma2).rank)


def vbmf_ranks(tensor: ArrayLike, axes: Axes = None) -> tuple[int, ...]:
    """Return the EVBMF rank of the tensor's unfolding along each of `axes`, at least 1 each.

    Args:
        tensor: array-like of shape (n_1, ..., n_d).
        axes: the axes to unfold along; None for all. Kim et al. use the channel axes (2, 3) of a
            kernel (kh, kw, in_channels, filters).

    Returns:
        A tuple of ranks in the order of `axes`.

    Raises:
        ValueError, TypeError: as `evbmf`, and for axes that are not distinct.
    """
    tensor, _ = arguments.read_tensor(tensor)
    axes = arguments.read_axes(axes, tensor.ndim)
    return tuple(evbmf_rank(tucker.unfold(tensor, axis)) for axis in axes)


def _tau(x: Array, alpha: float) -> Array:
    """The larger root of x = (1 + tau) (1 + alpha / tau)."""
    excess = x - (1 + alpha)
    return (excess + np.sqrt(excess**2 - 4 * alpha)) / 2


def _detection(alpha: float) -> float:
    """The normalized squared singular value above which a component counts."""
    tau = THRESHOLD * math.sqrt(alpha)
    return (1 + tau) * (1 + alpha / tau)


def _solution(values: Array, short: int, long: int, sigma2: float) -> Evbmf:
    """Keep what lies above the threshold, shrink it, and add up the free energy."""
    alpha = short / long
    kept = values[values**2 > long * sigma2 * _detection(alpha)]
    noise = (short + long) * sigma2 / kept**2
    spread = (1 - noise) ** 2 - 4 * short * long * sigma2**2 / kept**4
    shrunk = kept / 2 * (1 - noise + np.sqrt(spread))
    tau = shrunk * kept / (long * sigma2)
    energy = short * long * math.log(2 * math.pi * sigma2) + np.sum(values**2) / sigma2
    energy += np.sum(long * np.log1p(tau) + short * np.log1p(tau / alpha) - long * tau)
    return Evbmf(len(kept), sigma2, float(energy) / 2, tuple(shrunk.tolist()))


def _noise_variance(values: Array, short: int, long: int) -> float:
    """The variance with the least free energy, between bounds that hold the minimum."""
    alpha, detection = short / long, _detection(short / long)
    # A matrix of exactly low rank has zeros, whose logarithm would be infinite.
    squares = np.maximum(values, np.finfo(np.float64).eps * values[0]) ** 2
    most = math.ceil(short / (1 + alpha)) - 1
    upper = np.mean(squares) / long
    lower = max(squares[most] / (long * detection), np.mean(squares[most:]) / long)
    if lower >= upper:
        return upper

    def free_energy(log_sigma2: float) -> float:
        return _reduced_energy(squares / (long * math.exp(log_sigma2)), alpha, detection)

    # The free energy may have several valleys: a grid finds the deepest.
    grid = np.linspace(math.log(lower), math.log(upper), GRID)
    deepest = int(np.argmin([free_energy(point) for point in grid]))
    low, high = grid[max(deepest - 1, 0)], grid[min(deepest + 1, GRID - 1)]
    return math.exp(_golden_section(free_energy, low, high))


def _reduced_energy(x: Array, alpha: float, detection: float) -> float:
    """The free energy up to constants and a factor, for x_h = s_h^2 / (long sigma2)."""
    above = x[x > detection]
    tau = _tau(above, alpha)
    gain = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
    return np.sum(x - np.log(x)) + np.sum(gain)


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where `function` is least in [low, high]."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-9:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2
