"""Slow plain references: tensors to decompose and the merges of each layout, in einsum only."""

import numpy as np
from hypothesis import strategies as st


def shapes(least=1, most=4, size=5):
    """Small odd shapes, modes of 1 among them."""
    return st.lists(st.integers(1, size), min_size=least, max_size=most).map(tuple)


def tensor_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def hilbert():
    """T = 1 / (i + j + k + l - 1) with indices from 1 to 6: the fixture of several libraries."""
    index = np.indices((6,) * 4).sum(axis=0) + 4
    return 1.0 / (index - 1)


def relative_error(expected, received):
    expected = np.asarray(expected, dtype=np.float64)
    difference = np.linalg.norm(expected - np.asarray(received, dtype=np.float64))
    return difference / max(np.linalg.norm(expected), np.finfo(np.float64).tiny)


def merge_ring(cores):
    """Contract cores (r_{k-1}, ..., r_k) of a ring; the last bond meets the first."""
    merged = np.asarray(cores[0], dtype=np.float64)
    for core in cores[1:]:
        merged = np.einsum("...r,rz->...z", merged, core.reshape(core.shape[0], -1)).reshape(
            *merged.shape[:-1], *core.shape[1:]
        )
    return np.einsum("r...r->...", merged)


merge_train = merge_ring  # a train is a ring whose closing bond is 1


def merge_cp(factors):
    letters = "abcdefgh"[: len(factors)]
    return np.einsum(",".join(f"{x}z" for x in letters) + "->" + letters, *factors)


def merge_tucker(parts, axes=None):
    core, *factors = parts
    axes = range(len(factors)) if axes is None else axes
    for axis, factor in zip(axes, factors, strict=True):
        core = np.moveaxis(np.einsum("r...,nr->n...", np.moveaxis(core, axis, 0), factor), 0, axis)
    return core
