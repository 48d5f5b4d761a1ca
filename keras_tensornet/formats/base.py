"""What a format is: labels for a network, a decomposition, and the meaning of `rank`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from keras_tensornet import validation
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network, largest_useful_ranks

Rank = int | Sequence[int]
GROUP = "g"


def bond_ranks(network: Network) -> tuple[int, ...]:
    """The sizes of all bonds; (1,) for a network of one core, which has none."""
    return network.rank or (1,)


@dataclass(frozen=True)
class Format:
    """One tensor format: everything that is not computed from labels alone.

    The first four attributes are needed; the others have defaults that are right for any format,
    and say what is better for this one. No other module asks for a format by its name.

    Attributes:
        name: the short name that users write, for example "tr".
        title: the name in words.
        build: `(modes, rank) -> Network`, the labels and sizes of the cores.
        decompose: `(tensor, network, **how) -> cores`. The tensor's axes are
            `network.mode_labels`. `how` is exactly one of `ranks=True` (cores of exactly the
            network's sizes), `eps=` or `energy=` (ranks chosen by the threshold); and
            `num_iter=`, the most sweeps, of a format that has `trial_sweeps`.
        spatial: whether a convolution's spatial modes are "joint" or "separate" by default.
        tensorize: whether channel counts of convolutions are split into modes by default.
        rank_argument: the `rank` argument that gives a network its bond sizes.
        dense_modes: most modes on each side of a dense kernel where the user gives none. Tucker's
            core grows with the power of their number; None takes as many as are balanced.
        trial_sweeps: how many sweeps tell about how large the error at some ranks is; None for
            decompositions without sweeps.
        whole: the families of trained kernels, "dense" and "conv", whose channels stay whole
            where the user gives no modes: a trained kernel has no structure along digits of its
            channel numbers, so cutting channels into modes costs accuracy.
        ranks_by_trial: whether a threshold tries one rank after another, each a decomposition of
            its own. Searches then try a few ranks instead of thresholds.
        trial_rank: the `rank` argument that such a trial takes for an int.
        round: `(cores, **how) -> cores` of lower ranks without merging, where `how` is one of
            `ranks=` (upper bounds), `eps=` and `energy=`; None decomposes the merged kernel anew.
        nested_values: `cores -> singular values`, one array for each entry of the rank argument,
            largest first, of a format whose exact decomposition holds those of lower rank as its
            leading slices; None where it does not.
        vbmf_rank: `(kernel, modes) -> rank`, the ranks by variational Bayes of a kernel
            (taps, inputs, outputs), or None with modes of which it cannot tell them.
        auto_order: place among the formats that `format="auto"` tries, of which the first wins a
            tie; None for those that it leaves out.
        truncation: `(modes, r) -> rank` argument with which the network of a kernel whose channels
            are whole is the truncated SVD of its matrix (patch entries, outputs); None for modes
            of which it is not.
    """

    name: str
    title: str
    build: Callable[[KernelModes, Rank], Network]
    decompose: Callable[..., list[np.ndarray]]
    spatial: str = "joint"
    tensorize: bool = True
    rank_argument: Callable[[Network], Rank] = bond_ranks
    dense_modes: int | None = None
    trial_sweeps: int | None = None
    whole: tuple[str, ...] = ()
    ranks_by_trial: bool = False
    trial_rank: Callable[[int], Rank] = int
    round: Callable[..., list[np.ndarray]] | None = None
    nested_values: Callable[[list[np.ndarray]], list[np.ndarray]] | None = None
    vbmf_rank: Callable[[np.ndarray, KernelModes], Rank | None] | None = None
    auto_order: int | None = None

    def fit(self, modes: KernelModes, rank: Rank) -> tuple[Rank, Network]:
        """The network at a rank, ranks above what the modes allow cut, and the rank as used."""
        network = self.build(modes, rank)
        for _ in range(3):  # cutting a rank to a full mode may change which cores there are
            useful = network.with_ranks(largest_useful_ranks(network))
            rank = self.rank_argument(useful)
            again = self.build(modes, rank)
            if again == network:
                break
            network = again
        return rank, network

    def trained_arguments(self, family: str | None) -> dict[str, int]:
        """The arguments of a layer that suit a trained kernel of a family."""
        return {"in_modes": 1, "out_modes": 1} if family in self.whole else {}

    truncation: Callable[[KernelModes, int], Rank | None] | None = None


def channel_labels(modes: KernelModes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels of the inputs ("i0", ...) and outputs ("g" for groups, then "o0", ...)."""
    inputs = tuple(f"i{axis}" for axis in range(len(modes.in_modes)))
    outputs = tuple(f"o{axis}" for axis in range(len(modes.out_modes)))
    return inputs, (GROUP, *outputs) if modes.groups > 1 else outputs


def spatial_labels(modes: KernelModes) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """`(label, extents)` of each spatial mode: ("s0", (3, 3)) or ("s0", (3,)), ("s1", (3,))."""
    return tuple((f"s{axis}", extents) for axis, extents in enumerate(modes.spatial))


def mode_sizes(modes: KernelModes) -> dict[str, int]:
    """The size of every mode label."""
    inputs, outputs = channel_labels(modes)
    sizes = dict(zip(inputs, modes.in_modes, strict=True))
    for label, extents in spatial_labels(modes):
        sizes[label] = int(np.prod(extents))
    out_sizes = (modes.groups, *modes.out_modes) if modes.groups > 1 else modes.out_modes
    return sizes | dict(zip(outputs, out_sizes, strict=True))


def mode_chain(modes: KernelModes) -> list[tuple[str, ...]]:
    """Each mode on its own, in the order inputs, spatial modes, outputs."""
    inputs, outputs = channel_labels(modes)
    spatial = [label for label, _ in spatial_labels(modes)]
    return [(label,) for label in (*inputs, *spatial, *outputs)]


def mode_pairs(modes: KernelModes) -> list[tuple[str, ...]]:
    """Spatial modes, the groups, then pairs of one input and one output mode."""
    inputs, outputs = channel_labels(modes)
    groups = [(GROUP,)] if modes.groups > 1 else []
    outputs = tuple(label for label in outputs if label != GROUP)
    pairs = [
        tuple(label for label in pair if label is not None) for pair in zip_longest(inputs, outputs)
    ]
    return [*((label,) for label, _ in spatial_labels(modes)), *groups, *pairs]


def paired_legs(modes: KernelModes) -> list[tuple[str, ...]]:
    """Pairs of modes, or single modes where both the inputs and the outputs are left whole."""
    whole = len(modes.in_modes) <= 1 and len(modes.out_modes) <= 1
    return mode_chain(modes) if whole else mode_pairs(modes)


def make_network(
    name: str, modes: KernelModes, cores: list[tuple[str, ...]], bonds: dict[str, int]
) -> Network:
    """A `Network` from cores of labels, the modes, and the sizes of the bonds."""
    inputs, outputs = channel_labels(modes)
    sizes = mode_sizes(modes) | bonds
    return Network(
        cores=tuple(tuple(core) for core in cores),
        sizes=tuple(sizes.items()),
        in_labels=inputs,
        out_labels=outputs,
        spatial=spatial_labels(modes),
        group_label=GROUP if modes.groups > 1 else None,
        name=name,
    )


def expand_rank(rank: object, num_bonds: int, name: str, bonds: str) -> tuple[int, ...]:
    """A rank argument as one size per bond; an int stands for all of them.

    Raises:
        TypeError: if a rank is no integer.
        ValueError: if a rank is below 1 or their number is wrong.
    """
    if not isinstance(rank, (tuple, list)):
        return (validation.positive_int("rank", rank),) * num_bonds
    ranks = validation.int_tuple("rank", rank)
    if len(ranks) != num_bonds:
        raise ValueError(
            f"`rank` of a {name} network with these modes must be an integer or a tuple of "
            f"{num_bonds} integers ({bonds}). Received: rank={ranks}, which has {len(ranks)}."
        )
    return ranks
