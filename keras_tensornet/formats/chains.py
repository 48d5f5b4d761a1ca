"""Chain formats: tensor ring, tensor train, and tensor-train matrix.

All three string their cores on one chain of bonds. A tensor ring (Zhao et al. 2016; Tensor Ring
Nets, Wang et al. 2018) closes it; a tensor train (Oseledets 2011; on the permuted kernel, Gabor &
Zdunek 2022) has boundary ranks of 1; a tensor-train matrix (Novikov et al. 2015; for convolutions
Garipov et al. 2016) gives each core a pair of modes, one input and one output.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_tensornet import decompositions, ranks
from keras_tensornet.decompositions.types import Ranks
from keras_tensornet.formats.base import (
    Rank,
    expand_rank,
    make_network,
    mode_chain,
    mode_pairs,
)
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network


def tensor_ring(modes: KernelModes, rank: Rank) -> Network:
    """Cores (r_k, n_k, r_k+1) on a closed chain: inputs, spatial modes, outputs (TRN, eq. 2)."""
    chain = mode_chain(modes)
    if len(chain) == 1:
        expand_rank(rank, 1, "tr", "r0")
        return make_network("tr", modes, chain, {})
    bonds = expand_rank(rank, len(chain), "tr", f"r0 to r{len(chain) - 1}, r0 closing the ring")
    labels = [f"r{bond}" for bond in range(len(chain))]
    closed = [*labels[1:], labels[0]]
    cores = [(left, *mode, right) for left, mode, right in zip(labels, chain, closed, strict=True)]
    return make_network("tr", modes, cores, dict(zip(labels, bonds, strict=True)))


def tensor_train(modes: KernelModes, rank: Rank) -> Network:
    """Cores (r_k, n_k, r_k+1) on an open chain: inputs, spatial modes, outputs.

    With channels left whole and separate spatial modes these are the four factors of the permuted
    kernel (C, D, D, T) of Gabor & Zdunek 2022, eq. (8).
    """
    return _open_chain("tt", modes, mode_chain(modes), rank)


def tt_matrix(modes: KernelModes, rank: Rank) -> Network:
    """Cores (r_k, i_k, o_k, r_k+1) on an open chain, spatial modes first (Garipov et al. 2016)."""
    return _open_chain("ttm", modes, mode_pairs(modes), rank)


def inner_ranks(network: Network) -> tuple[int, ...]:
    """The bonds of an open chain without its boundary ranks of 1."""
    return network.rank[1:-1]


def one_cut(modes: KernelModes, rank: int) -> Rank | None:
    """The rank of a train that is one cut of a dense kernel's matrix; a convolution has more."""
    return None if modes.spatial else (rank,)


def decompose_ring(
    tensor: np.ndarray, network: Network, ranks: Ranks = None, **how: Any
) -> list[np.ndarray]:
    """TR-SVD, then TR-ALS, of a tensor whose axes are the network's modes."""
    if len(network.cores) == 1:
        return [tensor]
    if ranks:
        return decompositions.tr_als(tensor, ranks=network.rank, **how)
    how.pop("num_iter", None)  # by a threshold there is the SVD only
    return decompositions.tr_svd(tensor, **how)


def decompose_train(
    tensor: np.ndarray, network: Network, ranks: Ranks = None, **threshold: Any
) -> list[np.ndarray]:
    """TT-SVD of a tensor whose axes are the network's modes, grouped as its cores are."""
    modes = set(network.mode_labels)
    groups, axis = [], 0
    for core in network.cores:
        width = sum(label in modes for label in core)
        groups.append(tuple(range(axis, axis + width)))
        axis += width
    if ranks:
        threshold = {"ranks": inner_ranks(network), "pad": True}
    return decompositions.grouped_tt_svd(tensor, groups, **threshold)


def train_values(cores: list[np.ndarray]) -> list[np.ndarray]:
    """The singular values of the unfolding at each inner bond of a train from a TT-SVD.

    Cores to the left of a bond are orthonormal, so what follows it has the Gram matrix diag(s^2).
    The left basis of bond k are the left singular vectors of the k-th unfolding, in the order of
    their singular values; keeping the first r_k slices of each bond is therefore a chain of
    orthogonal projections, whose squared error is at most the sum of the discarded squares.
    """
    gram, values = np.ones((1, 1)), []
    for core in reversed(cores[1:]):
        core = core.reshape(len(core), -1, core.shape[-1])  # (r, modes, r')
        gram = np.einsum("aib,bc,dic->ad", core, gram, core, optimize=True)
        values.append(np.sqrt(np.maximum(np.diag(gram), 0.0)))
    return values[::-1]


def train_vbmf_rank(kernel: np.ndarray, modes: KernelModes) -> tuple[int, ...] | None:
    """The EVBMF ranks of a train's cuts where its channels are whole; None where they are not."""
    whole = len(modes.in_modes) == len(modes.out_modes) == 1
    if not whole or modes.groups > 1 or modes.order:
        return None
    # (taps, in, out) -> (in, *spatial modes, out): the order of the train's cores
    spatial = [math.prod(extents) for extents in modes.spatial]
    tensor = np.moveaxis(kernel, 1, 0).reshape(kernel.shape[1], *spatial, kernel.shape[2])
    return tuple(
        ranks.evbmf_rank(tensor.reshape(math.prod(tensor.shape[:cut]), -1))
        for cut in range(1, tensor.ndim)
    )


def _open_chain(name: str, modes: KernelModes, chain: list[tuple[str, ...]], rank: Rank) -> Network:
    inner = len(chain) - 1
    ranks = (1, *expand_rank(rank, inner, name, f"r1 to r{inner}"), 1)
    labels = [f"r{bond}" for bond in range(len(ranks))]
    cores = [
        (left, *mode, right) for left, mode, right in zip(labels, chain, labels[1:], strict=False)
    ]
    return make_network(name, modes, cores, dict(zip(labels, ranks, strict=True)))
