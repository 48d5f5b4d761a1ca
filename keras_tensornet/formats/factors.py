"""Factor formats: CP, Tucker, and block-term Tucker.

A factor matrix for each mode, joined by one label that all share (CP: Hitchcock 1927, Carroll &
Chang 1970; on convolutions Lebedev et al. 2015), by a core tensor (Tucker 1966; Tucker-2 on a
convolution's channels Kim et al. 2016), or by several cores that are summed (block term: De
Lathauwer 2008; on paired modes Ye et al. 2018).

A leg is what one factor carries: one mode, or a pair of an input and an output mode. A leg whose
rank is its whole size has no factor and stays in the core: a square factor represents nothing more.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_tensornet import decompositions, validation
from keras_tensornet.decompositions.shares import refuse_nuclear
from keras_tensornet.decompositions.types import Ranks
from keras_tensornet.formats.base import (
    GROUP,
    Rank,
    expand_rank,
    make_network,
    mode_chain,
    mode_sizes,
    paired_legs,
    spatial_labels,
)
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.ranks import vbmf_ranks

BLOCK = "b"
TERM = "r"
Legs = list[tuple[str, ...]]
# Numbers of blocks tried where a threshold chooses the ranks, and steps of the ranks of each.
BLOCK_CHOICES = (2, 4)
RANK_STEPS = 8
TRIAL_SWEEPS = 10


def canonical(modes: KernelModes, rank: Rank) -> Network:
    """Factors (n_k, R), one a mode, that share the label of the R rank-one terms."""
    (terms,) = expand_rank(rank, 1, "cp", "the number of rank-one terms")
    legs = mode_chain(modes)
    if len(legs) == 1:
        return make_network("cp", modes, legs, {})
    return make_network("cp", modes, [(*leg, TERM) for leg in legs], {TERM: terms})


def tucker(modes: KernelModes, rank: Rank) -> Network:
    """A core of size r_k on each leg, then factors (n_k, r_k).

    `rank` is an int or one entry for each channel mode (Tucker-2: spatial modes stay whole in the
    core), or one for each of all modes in the order inputs, spatial, groups, outputs (full Tucker).
    """
    legs = mode_chain(modes)
    ranks = _leg_ranks("tucker", modes, legs, rank)
    return _factored("tucker", modes, legs, ranks, blocks=None)


def tucker_blocks(modes: KernelModes, rank: Rank) -> Network:
    """B Tucker blocks: a core (B, r_1, ...), factors (B, n_k, r_k) with the blocks' shared label.

    `rank` is (B, r) for B blocks of rank r, (B, r_1, ...) as in `tucker`, or an int for both. Where
    a side has several modes, legs are pairs (i_k, o_k) as in a TT-matrix (Ye et al. 2018).
    """
    legs = paired_legs(modes)
    if not isinstance(rank, (tuple, list)):
        blocks = validation.positive_int("rank", rank)
        return _factored("bt", modes, legs, _leg_ranks("bt", modes, legs, blocks), blocks)
    blocks, *rest = validation.int_tuple("rank", rank) or (1,)
    ranks = _leg_ranks("bt", modes, legs, rest[0] if len(rest) == 1 else rest, tuple(rank))
    return _factored("bt", modes, legs, ranks, blocks)


def tucker_rank(network: Network) -> tuple[int, ...]:
    """The `rank` of a Tucker network: of channel modes, or of all where spatial ones are cut."""
    modes = network.kernel_modes()
    return _used_ranks(network, modes, mode_chain(modes))


def filters_cut(modes: KernelModes, rank: int) -> Rank | None:
    """The rank of a Tucker network that cuts only the filters of a convolution."""
    return (modes.in_size, rank) if modes.groups == 1 else None


def block_rank(network: Network) -> tuple[int, ...]:
    """The `rank` of a block-term network: the number of blocks, then as `tucker_rank`."""
    modes = network.kernel_modes()
    blocks = network.size.get(BLOCK, 1)
    return (blocks, *_used_ranks(network, modes, paired_legs(modes)))


def term_rank(network: Network) -> int:
    """The `rank` of a CP network: its number of terms."""
    return network.size.get(TERM, 1)


def two_blocks(rank: int) -> tuple[int, int]:
    """The `rank` of a block-term network of two blocks."""
    return (2, rank)


def tucker_vbmf_rank(kernel: np.ndarray, modes: KernelModes) -> tuple[int, ...] | None:
    """The EVBMF ranks of the input and output unfoldings (Kim et al. 2016), for whole channels."""
    whole = len(modes.in_modes) == len(modes.out_modes) == 1
    return vbmf_ranks(kernel, axes=(1, 2)) if whole else None


def decompose_canonical(
    tensor: np.ndarray, network: Network, ranks: Ranks = None, **how: Any
) -> list[np.ndarray]:
    """CP by alternating least squares of a tensor whose axes are the network's modes."""
    if len(network.cores) == 1:
        return [tensor]
    if ranks:
        how["rank"] = term_rank(network)
    return decompositions.cp_als(tensor, **how)


def decompose_tucker(
    tensor: np.ndarray, network: Network, ranks: Ranks = None, **how: Any
) -> list[np.ndarray]:
    """Tucker by orthogonal iteration of a tensor whose axes are the network's modes."""
    legs = mode_chain(network.kernel_modes())
    tensor, axes = _legs_as_axes(tensor, network, legs)
    if not axes:
        return [tensor.reshape(network.core_shapes[0])]
    if ranks:
        how |= {"ranks": _factor_ranks(network), "pad": True}
    return decompositions.hooi(tensor, axes=axes, **how)


def decompose_blocks(
    tensor: np.ndarray, network: Network, ranks: Ranks = None, **how: Any
) -> list[np.ndarray]:
    """Block-term Tucker; a threshold also chooses how many blocks, by the fewest parameters."""
    legs = paired_legs(network.kernel_modes())
    tensor, axes = _legs_as_axes(tensor, network, legs)
    if not axes:
        return [tensor.reshape(network.core_shapes[0])]
    if ranks:
        parts = decompositions.block_term(
            tensor, _factor_ranks(network), network.size[BLOCK], axes, pad=True, **how
        )
    else:
        parts = _blocks_by_error(tensor, axes, **how)
    return [
        _split_legs(part, labels, network)
        for part, labels in zip(parts, network.cores, strict=True)
    ]


def _factored(
    name: str, modes: KernelModes, legs: Legs, ranks: tuple[int, ...], blocks: int | None
) -> Network:
    """A core with a bond for each leg that has a factor, and the leg itself where it has none."""
    if len(legs) == 1:
        return make_network(name, modes, legs, {})
    size = mode_sizes(modes)
    core: list[str] = []
    factors: list[tuple[str, ...]] = []
    bonds: dict[str, int] = {}
    shared = () if blocks is None else (BLOCK,)
    for number, (leg, rank) in enumerate(zip(legs, ranks, strict=True)):
        if rank == math.prod(size[label] for label in leg):
            core += leg
            continue
        bond = f"{TERM}{number}"
        core.append(bond)
        bonds[bond] = rank
        factors.append((*shared, *leg, bond))
    if not factors:
        return make_network(name, modes, [tuple(core)], {})
    if blocks is not None:
        bonds[BLOCK] = blocks
    return make_network(name, modes, [(*shared, *core), *factors], bonds)


def _leg_ranks(
    name: str, modes: KernelModes, legs: Legs, rank: Rank, of_blocks: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """One rank for each leg; those that the argument leaves out are whole.

    `of_blocks` is the whole argument of a block-term network, for the error.
    """
    size = mode_sizes(modes)
    sizes = [math.prod(size[label] for label in leg) for leg in legs]
    channels = [_is_channel(modes, leg) for leg in legs]
    if not isinstance(rank, (tuple, list)):
        rank = (validation.positive_int("rank", rank),) * sum(channels)
    ranks = validation.int_tuple("rank", rank)
    if len(ranks) == len(legs):
        return ranks
    if len(ranks) != sum(channels):
        choices = f"{sum(channels)}, for ({_names(legs, channels)})"
        if not all(channels):
            choices += f", or {len(legs)}, for ({_names(legs)})"
        lead = "" if of_blocks is None else "the number of blocks, then "
        raise ValueError(
            f"`rank` of a {name} network with these modes must be an integer or a tuple of "
            f"integers: {lead}{choices}. Received: "
            f"rank={ranks if of_blocks is None else of_blocks}."
        )
    short = iter(ranks)
    return tuple(
        next(short) if channel else whole for channel, whole in zip(channels, sizes, strict=True)
    )


def _used_ranks(network: Network, modes: KernelModes, legs: Legs) -> tuple[int, ...]:
    """The ranks of the legs, without those of spatial modes and groups where all are whole."""
    bond_of = {label: core[-1] for core in network.cores[1:] for label in core[:-1]}
    ranks = [
        network.size[bond_of[leg[0]]] if leg[0] in bond_of else network.count(leg) for leg in legs
    ]
    channels = [_is_channel(modes, leg) for leg in legs]
    if any(leg[0] in bond_of for leg, channel in zip(legs, channels, strict=True) if not channel):
        return tuple(ranks)
    return tuple(rank for rank, channel in zip(ranks, channels, strict=True) if channel)


def _is_channel(modes: KernelModes, leg: tuple[str, ...]) -> bool:
    return leg[0] != GROUP and leg[0] not in dict(spatial_labels(modes))


def _names(legs: Legs, chosen: list[bool] | None = None) -> str:
    kept = [leg for leg, keep in zip(legs, chosen or [True] * len(legs), strict=True) if keep]
    return ", ".join(" x ".join(leg) for leg in kept)


def _factor_ranks(network: Network) -> tuple[int, ...]:
    return tuple(network.size[factor[-1]] for factor in network.cores[1:])


def _legs_as_axes(
    tensor: np.ndarray, network: Network, legs: Legs
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The tensor with one axis for each leg, and which of the axes have a factor."""
    labels = network.mode_labels
    order = [labels.index(label) for leg in legs for label in leg]
    whole = set(network.cores[0])
    axes = tuple(axis for axis, leg in enumerate(legs) if leg[0] not in whole)
    return tensor.transpose(order).reshape([network.count(leg) for leg in legs]), axes


def _split_legs(part: np.ndarray, labels: tuple[str, ...], network: Network) -> np.ndarray:
    """A core or factor with an axis for each of its labels; bonds have the size found."""
    modes = network.kernel_modes()
    leg_of = {label: number for number, leg in enumerate(paired_legs(modes)) for label in leg}
    shape, axis, before = [], -1, None
    for label in labels:
        # The modes of a leg are one axis of `part`; each bond is an axis of its own.
        axis += label not in leg_of or leg_of[label] != before
        before = leg_of.get(label)
        shape.append(part.shape[axis] if label not in leg_of else network.size[label])
    return part.reshape(shape)


def _blocks_by_error(
    tensor: np.ndarray, axes: tuple[int, ...], eps: float | None = None, **how: Any
) -> list[Any]:
    """The cheapest of one Tucker block by the threshold and several of lower rank, equally near."""
    refuse_nuclear(how.get("energy"), "A sum of blocks")
    core, *factors = decompositions.hooi(tensor, eps=eps, axes=axes, **how)
    best = [core[None], *(factor[None] for factor in factors)]
    bound = _error(tensor, axes, best) if eps is None else eps
    ranks = [factor.shape[1] for factor in factors]
    for blocks in BLOCK_CHOICES:
        low, high = 0, RANK_STEPS
        while high - low > 1:
            middle = (low + high) // 2
            lower = [math.ceil(rank * middle / RANK_STEPS) for rank in ranks]
            found = decompositions.block_term(
                tensor, lower, blocks, axes, num_iter=TRIAL_SWEEPS, pad=True
            )
            if _error(tensor, axes, found) <= bound:
                high, best = middle, min(best, found, key=_num_params)
            else:
                low = middle
    return best


def _error(tensor: np.ndarray, axes: tuple[int, ...], parts: list[Any]) -> float:
    """Relative error of a sum of blocks."""
    rest = np.array(tensor, dtype="float64")
    norm = float(np.linalg.norm(rest))
    cores, *factors = parts
    for block, core in enumerate(cores):
        for axis, factor in zip(axes, factors, strict=True):
            core = np.moveaxis(np.tensordot(factor[block], core, axes=(1, axis)), 0, axis)
        rest -= core
    return float(np.linalg.norm(rest)) / (norm or 1.0)


def _num_params(parts: list[Any]) -> int:
    return sum(part.size for part in parts)
