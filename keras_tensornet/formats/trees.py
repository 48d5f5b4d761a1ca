"""Hierarchical Tucker: small cores on a balanced binary tree over the modes.

Grasedyck 2010; as layers Wu et al. 2020 (convolutions) and Yin et al. 2021 (recurrent). The leaves
carry the modes: pairs (i_k, o_k) as in a TT-matrix where a side has several, so that no bond of the
tree separates all inputs from all outputs, else single modes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_tensornet import decompositions
from keras_tensornet.decompositions.types import Ranks
from keras_tensornet.formats.base import Rank, expand_rank, make_network, paired_legs
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network


def tucker_tree(modes: KernelModes, rank: Rank) -> Network:
    """Leaves (n_k, r_k), transfer cores (r_left, r_right, r_parent), the root (r_left, r_right).

    `rank` is an int or one entry for each node below the root: leaves first, then the transfer
    cores, in the order of the cores.
    """
    legs = paired_legs(modes)
    tree = decompositions.dimension_tree(len(legs))
    below = len(tree) - 1
    if not below:
        expand_rank(rank, 1, "ht", "r0")
        return make_network("ht", modes, legs, {})
    ranks = expand_rank(rank, below, "ht", f"{len(legs)} leaves, then the inner nodes of the tree")
    bonds = [f"r{node}" for node in range(below)]
    cores = []
    for node, children in enumerate(tree):
        ends = [bonds[child] for child in children] if children else legs[node]
        cores.append((*ends, *bonds[node : node + 1]))
    return make_network("ht", modes, cores, dict(zip(bonds, ranks, strict=True)))


def decompose_tree(
    tensor: np.ndarray, network: Network, ranks: Ranks = None, **threshold: Any
) -> list[np.ndarray]:
    """Hierarchical SVD of a tensor whose axes are the network's modes, grouped as the leaves."""
    legs = paired_legs(network.kernel_modes())
    if ranks:
        threshold = {"ranks": network.rank, "pad": True}
    if len(legs) == 1:
        return [tensor.reshape(network.core_shapes[0])]
    cores = decompositions.hierarchical_tucker(
        tensor.reshape([network.count(leg) for leg in legs]), **threshold
    )
    leaves = [
        core.reshape(*network.sizes_of(leg), -1)
        for core, leg in zip(cores[: len(legs)], legs, strict=True)
    ]
    return [*leaves, *cores[len(legs) :]]
