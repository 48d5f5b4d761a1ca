"""Grow cores to exactly the asked bond sizes without changing what they represent.

A layer owns cores of fixed shapes, and an SVD often needs fewer components than asked. Zeros on
both sides of a bond would never train: the gradient of each side is a product with the other.
So one side gets small noise and the other zeros. The product stays exactly the same and the
zero side receives a gradient from the first step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_tensornet.decompositions.types import Array

NOISE = 0.1


def pad_pair(
    left: Array,
    right: Array,
    left_axis: int,
    right_axis: int,
    size: int,
    random: np.random.Generator,
) -> tuple[Array, Array]:
    """Grow one bond to `size`: noise on the left side, zeros on the right.

    Args:
        left: array whose axis `left_axis` is the bond.
        right: array whose axis `right_axis` is the same bond; may be the same array as `left`
            only in a ring of one core, which this does not serve.
        size: the new bond size, at least the present one.
        random: a NumPy generator.

    Returns:
        The grown `(left, right)`.
    """
    extra = size - left.shape[left_axis]
    if extra <= 0:
        return left, right
    noise_shape = left.shape[:left_axis] + (extra,) + left.shape[left_axis + 1 :]
    scale = NOISE * np.sqrt(np.mean(left**2))
    noise = scale * random.standard_normal(noise_shape)
    zeros_shape = right.shape[:right_axis] + (extra,) + right.shape[right_axis + 1 :]
    left = np.concatenate([left, noise], axis=left_axis)
    return left, np.concatenate([right, np.zeros(zeros_shape)], axis=right_axis)


def pad_ring(cores: Sequence[Array], bonds: Sequence[int], seed: int) -> list[Array]:
    """Grow the bonds of a train or ring of cores (r_{k-1}, ..., r_k).

    Args:
        cores: list of d arrays; the last axis of core k meets the first axis of core k + 1, and
            in a ring the last core meets the first.
        bonds: (r_0, ..., r_{d-1}), r_k lying before core k. r_0 = 1 for a train.
        seed: seed of the noise.
    """
    random = np.random.default_rng(seed)
    cores = list(cores)
    if len(cores) == 1:
        return [_pad_trace(cores[0], bonds[0], random)]
    for k, size in enumerate(bonds):
        axis = cores[k - 1].ndim - 1
        cores[k - 1], cores[k] = pad_pair(cores[k - 1], cores[k], axis, 0, size, random)
    return cores


def _pad_trace(core: Array, size: int, random: np.random.Generator) -> Array:
    """Grow a ring of one core (r, n, r): noise above the diagonal has no trace."""
    old = core.shape[0]
    grown = np.zeros((size, *core.shape[1:-1], size))
    grown[:old, ..., :old] = core
    noise = random.standard_normal((old, *core.shape[1:-1], size - old))
    grown[:old, ..., old:] = NOISE * np.sqrt(np.mean(core**2)) * noise
    return grown
