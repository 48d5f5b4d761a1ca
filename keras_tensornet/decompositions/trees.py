"""Hierarchical Tucker: a binary tree of small cores over the modes, cut from leaves to root.

Grasedyck, "Hierarchical singular value decomposition of tensors" (SIAM J. Matrix Anal. Appl. 31,
2010), its truncation from the leaves to the root.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_tensornet.decompositions import arguments, padding, svd, tucker
from keras_tensornet.decompositions.shares import energy_share
from keras_tensornet.decompositions.types import Array, ArrayLike, Ranks, Rule


def dimension_tree(ndim: int) -> tuple[tuple[int, ...], ...]:
    """Return the balanced binary tree over `ndim` modes, as one tuple of children for each core.

    Nodes are numbered in the order of the cores. Node k < ndim is the leaf of mode k and has no
    children: (). The others follow level by level from the bottom: neighbours are paired from the
    left, and an odd last one moves up. The root is last. Node j of rank r_j has the core

        (n_j, r_j) for a leaf, (r_left, r_right, r_j) inside, (r_left, r_right) at the root,

    and for `ndim=1` the only leaf is the root, of shape (n,).

    Examples:
        >>> dimension_tree(4)
        ((), (), (), (), (0, 1), (2, 3), (4, 5))
        >>> dimension_tree(3)
        ((), (), (), (0, 1), (3, 2))
    """
    ndim = arguments.read_count(ndim, "ndim")
    tree: list[tuple[int, ...]] = [()] * ndim
    level = list(range(ndim))
    while len(level) > 1:
        above = []
        for left, right in zip(level[::2], level[1::2], strict=False):
            above.append(len(tree))
            tree.append((left, right))
        level = above + level[len(level) - len(level) % 2 :]
    return tuple(tree)


def hierarchical_tucker(
    tensor: ArrayLike,
    ranks: Ranks = None,
    eps: float | None = None,
    energy: float | None = None,
    *,
    energy_norm: str = "frobenius",
    pad: bool = False,
    seed: int = 0,
) -> list[Array]:
    """Return the hierarchical Tucker decomposition over `dimension_tree(tensor.ndim)`.

    Args:
        tensor: array-like of shape (n_1, ..., n_d).
        ranks: int, or one rank for each node but the root, in the order of the cores (2 d - 2). A
            rank above what the modes allow is lowered with a warning, or met by padding.
        eps: the result's relative Frobenius error is at most `eps`; each of the 2 d - 2 cuts may
            lose eps * |tensor| / sqrt(2 d - 2).
        energy: each cut keeps the fewest singular values whose squares hold more than this share
            of the sum of squares.
        energy_norm: "nuclear" takes the share of the sum of singular values instead of squares.
        pad: meet `ranks` exactly.
        seed: seed of the padding.

    Returns:
        A list of 2 d - 1 arrays in the dtype of `tensor`: leaves (n_k, r_k) in the order of the
        modes, then transfer tensors (r_left, r_right, r_parent), last the root (r_left, r_right).

    Raises:
        ValueError: for no rule or several, a rule out of its range, NaN, no axes.
        TypeError: for a tensor that is not real, ranks that are not ints.

    Examples:
        >>> [core.shape for core in hierarchical_tucker(np.ones((4, 5, 6)), ranks=1)]
        [(4, 1), (5, 1), (6, 1), (1, 1, 1), (1, 1)]
    """
    energy = energy_share(energy, energy_norm)
    tensor, dtype = arguments.read_tensor(tensor)
    tree = dimension_tree(tensor.ndim)
    arguments.read_rule(ranks, eps, energy)
    cuts, used, wanted = len(tree) - 1, None, None
    if ranks is not None:
        wanted = arguments.read_ranks(ranks, cuts, f"the {cuts} nodes below the root")
        used = _reachable_ranks(tree, tensor.shape, wanted)
        if not pad:
            arguments.clip_ranks(wanted, used, "node", first=0, stacklevel=3)
    rules = arguments.cut_rules(float(np.linalg.norm(tensor)), used, eps, energy, cuts)
    cores = _cut_tree(tree, tensor, rules, seed)
    if pad and wanted is not None:
        cores = _pad_tree(tree, cores, wanted, seed)
    return arguments.to_dtype(cores, dtype)


def _cut_tree(
    tree: Sequence[tuple[int, ...]], tensor: Array, rules: Sequence[Rule], seed: int
) -> list[Array]:
    """Cut every node in the order of the cores; what is left at the end is the root."""
    rest, nodes = tensor, list(range(tensor.ndim))
    cores: list[Array] = []
    for node, children in enumerate(tree[:-1]):
        if children:
            rest, nodes = _join(rest, nodes, node, children)
        axis = nodes.index(node)
        left, _, _ = svd.split(tucker.unfold(rest, axis), **rules[node], seed=seed)
        rest = tucker.multiply(rest, left.T, axis)
        sizes = [cores[child].shape[-1] for child in children] or [len(left)]
        cores.append(left.reshape(*sizes, -1))
    order = [nodes.index(child) for child in tree[-1]] or [0]
    return [*cores, rest.transpose(order)]


def _join(
    rest: Array, nodes: list[int], node: int, children: tuple[int, ...]
) -> tuple[Array, list[int]]:
    """Merge the axes of two children into one axis at the front, for their parent."""
    axes = [nodes.index(child) for child in children]
    others = [axis for axis in range(rest.ndim) if axis not in axes]
    sizes = [rest.shape[axis] for axis in others]
    rest = rest.transpose(axes + others).reshape(-1, *sizes)
    return rest, [node, *(nodes[axis] for axis in others)]


def _reachable_ranks(
    tree: Sequence[tuple[int, ...]], shape: Sequence[int], wanted: Sequence[int]
) -> list[int]:
    """Bound each rank by its node's own size and by that of all the other nodes of its level."""
    sizes, ranks = dict(enumerate(shape)), []
    for node, children in enumerate(tree[:-1]):
        if children:
            sizes[node] = sizes.pop(children[0]) * sizes.pop(children[1])
        others = math.prod(size for other, size in sizes.items() if other != node)
        ranks.append(min(wanted[node], sizes[node], others))
        sizes[node] = ranks[-1]
    return ranks


def _pad_tree(
    tree: Sequence[tuple[int, ...]], cores: Sequence[Array], ranks: Sequence[int], seed: int
) -> list[Array]:
    """Grow each node's rank: noise in the node, zeros in its parent."""
    random, cores = np.random.default_rng(seed), list(cores)
    for parent, children in enumerate(tree):
        for axis, child in enumerate(children):
            last = cores[child].ndim - 1
            pair = (cores[child], cores[parent], last, axis, ranks[child], random)
            cores[child], cores[parent] = padding.pad_pair(*pair)
    return cores
