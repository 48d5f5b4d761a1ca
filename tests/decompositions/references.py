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


def merge_blocks(parts, axes=None):
    core, *factors = parts
    blocks = range(len(core))
    return sum(merge_tucker([core[b], *(factor[b] for factor in factors)], axes) for b in blocks)


def merge_tree(cores, tree):
    """Contract a hierarchical Tucker tree bottom-up: each node becomes (its modes..., rank)."""
    if len(cores) == 1:
        return cores[0]
    merged, modes = [], []
    for node, children in enumerate(tree):
        core = cores[node] if node < len(tree) - 1 else cores[node][..., None]
        if children:
            left, right = (merged[child] for child in children)
            core = np.einsum("Al,Br,lrp->ABp", _flat(left), _flat(right), core)
            core = core.reshape(*left.shape[:-1], *right.shape[:-1], -1)
        modes.append([mode for child in children for mode in modes[child]] or [node])
        merged.append(core)
    return merged[-1][..., 0].transpose(np.argsort(modes[-1]))


def _flat(node):
    return node.reshape(-1, node.shape[-1])
