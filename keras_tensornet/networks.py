"""Tensor networks as data: a list of cores, each a tuple of index labels.

A kernel in any format is one `Network`: which labels each core carries, how large each label is,
and which labels are the kernel's own modes. A label that is no mode is a *bond*; it is summed over
when the cores are merged. A bond may join two cores (tensor train, tensor ring), several (the
shared index of CP, the block index of block-term Tucker), and a mode may appear in several cores.

Everything else in this package (merging, contraction plans, initial variance, counts, convolution
stages) is computed from these labels, so a network of your own works wherever a named format does:

>>> net = Network.parse("i0 a, a i1 o0 b, b o1", dict(i0=4, i1=4, o0=4, o1=8, a=3, b=3))
>>> net.kernel_modes().kernel_shape, net.num_params
((16, 32), 180)
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from keras_tensornet import validation
from keras_tensornet.modes import KernelModes

Labels = tuple[str, ...]
# The cuts of networks with more cores are not enumerated; their ranks are then not limited so.
MOST_CORES_TO_CUT = 12


@dataclass(frozen=True)
class Network:
    """Cores as tuples of labels, and which labels are the modes of the kernel.

    Attributes:
        cores: labels of each core, in the order of its axes.
        sizes: `(label, size)` of every label.
        in_labels: labels of the input modes, most significant first.
        out_labels: labels of the output modes, most significant first; the label of the groups of
            a grouped convolution, where there is one, comes first.
        spatial: `(label, extents)` of each spatial mode; a joint 3x3 mode is `("s0", (3, 3))`.
        group_label: the label of the groups, or None.
        name: what `repr` and errors call the network.
    """

    cores: tuple[Labels, ...]
    sizes: tuple[tuple[str, int], ...]
    in_labels: Labels
    out_labels: Labels
    spatial: tuple[tuple[str, tuple[int, ...]], ...] = ()
    group_label: str | None = None
    name: str = field(default="custom", compare=False)

    def __post_init__(self) -> None:
        _check_network(self)

    @classmethod
    def parse(
        cls,
        cores: str,
        sizes: Mapping[str, int],
        inputs: str | None = None,
        outputs: str | None = None,
        spatial: Mapping[str, tuple[int, ...]] | None = None,
        group: str | None = None,
        name: str = "custom",
    ) -> Network:
        """Build a network from a string of cores such as `"i0 a, a i1 o0 b, b o0"`.

        Args:
            cores: labels separated by spaces, cores separated by commas.
            sizes: the size of every label (spatial labels may be left out).
            inputs: input labels, most significant first; by default the labels that begin with
                "i", sorted.
            outputs: output labels; by default those that begin with "o", sorted.
            spatial: extents of each spatial label, for example `{"s": (3, 3)}`.
            group: the label of the groups of a grouped convolution.
            name: what the network is called when printed.

        Raises:
            ValueError: if a label has no size, a mode is in no core, or a core is empty.
        """
        core_labels = tuple(tuple(core.split()) for core in cores.split(","))
        known = sorted({label for core in core_labels for label in core}, key=_natural)
        spatial_modes = tuple((spatial or {}).items())
        all_sizes = {label: math.prod(extents) for label, extents in spatial_modes} | dict(sizes)
        for label in known:
            if label not in all_sizes:
                raise ValueError(
                    f"Every label needs a size. `{label}` of network {cores!r} has none. "
                    f"Received: sizes={dict(sizes)}."
                )
        return cls(
            cores=core_labels,
            sizes=tuple((label, all_sizes[label]) for label in known),
            in_labels=_select(inputs, known, "i"),
            out_labels=((group,) if group else ()) + _select(outputs, known, "o"),
            spatial=tuple((label, tuple(extents)) for label, extents in spatial_modes),
            group_label=group,
            name=name,
        )

    @cached_property
    def size(self) -> dict[str, int]:
        """The size of each label."""
        return dict(self.sizes)

    @cached_property
    def mode_labels(self) -> Labels:
        """The labels of the kernel's modes, in the order in which the cores carry them."""
        modes = {*self.in_labels, *self.out_labels, *(label for label, _ in self.spatial)}
        return tuple(label for label in dict.fromkeys(sum(self.cores, ())) if label in modes)

    @cached_property
    def bonds(self) -> Labels:
        """The labels that are summed over when cores are merged."""
        modes = set(self.mode_labels)
        return tuple(label for label in dict.fromkeys(sum(self.cores, ())) if label not in modes)

    @property
    def rank(self) -> tuple[int, ...]:
        """The sizes of the bonds, in the order in which the cores carry them."""
        return tuple(self.size[label] for label in self.bonds)

    @property
    def core_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each core."""
        return tuple(tuple(self.size[label] for label in core) for core in self.cores)

    @property
    def num_params(self) -> int:
        """Number of entries in all cores."""
        return sum(math.prod(shape) for shape in self.core_shapes)

    @property
    def kernel_labels(self) -> Labels:
        """The mode labels in the order of the Keras kernel: spatial, inputs, outputs."""
        return (*(label for label, _ in self.spatial), *self.in_labels, *self.out_labels)

    def sizes_of(self, labels: Labels) -> tuple[int, ...]:
        """The sizes of some labels."""
        return tuple(self.size[label] for label in labels)

    def count(self, labels: Iterable[str]) -> int:
        """The product of the sizes of some labels."""
        return math.prod(self.size[label] for label in labels)

    def kernel_modes(self) -> KernelModes:
        """The modes of the kernel that the network spans, without any padding."""
        groups = self.size[self.group_label] if self.group_label else 1
        out_labels = tuple(label for label in self.out_labels if label != self.group_label)
        return KernelModes(
            in_size=self.count(self.in_labels),
            out_size=self.count(out_labels),
            in_modes=self.sizes_of(self.in_labels),
            out_modes=self.sizes_of(out_labels),
            spatial=tuple(extents for _, extents in self.spatial),
            groups=groups,
        )

    def with_ranks(self, rank: tuple[int, ...]) -> Network:
        """The same network with other bond sizes, in the order of `bonds`."""
        sizes = self.size | dict(zip(self.bonds, rank, strict=True))
        return Network(
            self.cores,
            tuple(sizes.items()),
            self.in_labels,
            self.out_labels,
            self.spatial,
            self.group_label,
            self.name,
        )

    def to_config(self) -> dict[str, Any]:
        """The network as plain lists and dicts, from which `from_config` builds it again."""
        return {
            "cores": [list(core) for core in self.cores],
            "sizes": dict(self.sizes),
            "in_labels": list(self.in_labels),
            "out_labels": list(self.out_labels),
            "spatial": [[label, list(extents)] for label, extents in self.spatial],
            "group_label": self.group_label,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Network:
        """The network that `to_config` described."""
        return cls(
            cores=tuple(tuple(core) for core in config["cores"]),
            sizes=tuple(config["sizes"].items()),
            in_labels=tuple(config["in_labels"]),
            out_labels=tuple(config["out_labels"]),
            spatial=tuple((label, tuple(extents)) for label, extents in config["spatial"]),
            group_label=config["group_label"],
            name=config["name"],
        )

    def __str__(self) -> str:
        cores = ", ".join(
            "(" + " ".join(f"{label}={self.size[label]}" for label in core) + ")"
            for core in self.cores
        )
        return (
            f"{self.name} network of {len(self.cores)} cores, {self.num_params:,} params: {cores}"
        )


def largest_useful_ranks(network: Network) -> tuple[int, ...]:
    """The bond sizes above which a bond of this network cannot add anything.

    A bond between two cores is useful up to the product of the other sizes of either core, without
    labels that both carry (a block index); a bond shared by several cores (CP) up to the product
    of all modes but the largest one it touches.
    Applied until nothing changes, which gives a tensor train its exact limits,
    min(product of the modes to the left, product of the modes to the right).

    A ring has no such limit at any one bond, because its cores are as large as their bonds. There,
    once every bond has the rank that some cut of the ring through it can need, the network spans
    every kernel, so that all of them are cut to these ranks together.
    """
    size = dict(network.sizes)
    spanning = _spanning_ranks(network)
    if spanning and all(size[bond] >= limit for bond, limit in spanning.items()):
        size.update(spanning)
    changed = True
    while changed:
        changed = False
        for bond in network.bonds:
            limit = _bond_limit(network, bond, size)
            if size[bond] > limit:
                size[bond], changed = limit, True
    return tuple(size[bond] for bond in network.bonds)


def _bond_limit(network: Network, bond: str, size: Mapping[str, int]) -> int:
    holders = [core for core in network.cores if bond in core]
    # What all holders carry (a block index, a second bond) indexes copies, each with its own limit.
    common = set(holders[0]).intersection(*holders[1:])
    if len(holders) > 2:
        # One copy can be any product of tensors over what each holder shares with no other one.
        carried = Counter(label for core in holders for label in core)
        common = {label for label, count in carried.items() if count > 1}
    others = [math.prod(size[label] for label in core if label not in common) for core in holders]
    if len(holders) <= 2:
        return min(others)
    return math.prod(others) // max(others)


def _spanning_ranks(network: Network) -> dict[str, int]:
    """For each bond, the largest rank of an unfolding along a cut through it; {} if there is none.

    A cut parts the cores into two sets, each of which hangs together. Any kernel is a tree network
    on a spanning tree of the cores, whose ranks are those of the tree's cuts.
    """
    total = len(network.cores)
    holders = [
        [k for k, core in enumerate(network.cores) if bond in core] for bond in network.bonds
    ]
    if not 1 < total <= MOST_CORES_TO_CUT or any(len(cores) != 2 for cores in holders):
        return {}
    everything, modes = (1 << total) - 1, set(network.mode_labels)
    limits = dict.fromkeys(network.bonds, 0)
    for part in range(1, everything, 2):  # each cut once: the first core is in `part`
        if _hangs_together(part, holders) and _hangs_together(everything ^ part, holders):
            sides: list[set[str]] = [set(), set()]
            for k, core in enumerate(network.cores):
                sides[part >> k & 1].update(modes.intersection(core))
            rank = min(network.count(side) for side in sides)
            for bond, (first, second) in zip(network.bonds, holders, strict=True):
                if (part >> first & 1) != (part >> second & 1):
                    limits[bond] = max(limits[bond], rank)
    return limits if all(limits.values()) else {}


def _hangs_together(part: int, pairs: list[list[int]]) -> bool:
    """Whether the cores of a set, given as a bit mask, are joined by pairs inside it."""
    reached, grown = part & -part, True
    while grown:
        before = reached
        for first, second in pairs:
            both = 1 << first | 1 << second
            if both & part == both and both & reached:
                reached |= both
        grown = reached != before
    return reached == part


def matrix_rank(network: Network) -> int:
    """The largest rank that the kernel, as a matrix (inputs, outputs), can have.

    The smallest product of labels that have to be cut so that no way leads from the inputs (and
    spatial modes) to the outputs.

    >>> net = Network.parse("i0 a, a i1 b, b o0", dict(i0=4, i1=4, o0=8, a=3, b=2))
    >>> matrix_rank(net)
    2
    """
    rows = {*network.in_labels, *(label for label, _ in network.spatial)} - {network.group_label}
    columns = set(network.out_labels) - {network.group_label}
    limit = min(network.count(rows), network.count(columns))
    if len(network.cores) > MOST_CORES_TO_CUT:
        return limit
    for left in range(1 << len(network.cores)):
        near: set[str] = set()
        far: set[str] = set()
        for place, core in enumerate(network.cores):
            (near if left >> place & 1 else far).update(core)
        # Cores on the left belong to the inputs: their outputs are cut, as bonds to the right are.
        cut = (near & far & {*network.bonds}) | (far & rows) | (near & columns)
        limit = min(limit, network.count(cut))
    return limit


def clip_ranks(network: Network) -> Network:
    """The network with each bond cut to what its modes allow; warns where it cuts.

    It warns of a single core as well, which is the whole kernel at any rank.
    """
    if len(network.cores) == 1:
        validation.warn_user(
            f"With these modes the {network.name} network is a single core, as large as the dense "
            f"kernel, and `rank` changes nothing. Received: modes of sizes "
            f"{network.sizes_of(network.mode_labels)}. Give `in_modes` and `out_modes` of two or "
            "more factors, or another format."
        )
    useful = largest_useful_ranks(network)
    if useful == network.rank:
        return network
    cuts = [
        f"{bond} from {asked} to {used}"
        for bond, asked, used in zip(network.bonds, network.rank, useful, strict=True)
        if asked != used
    ]
    validation.warn_user(
        f"Some ranks of the {network.name} network are above what the modes allow and would only "
        f"waste parameters; they are cut: {', '.join(cuts)}. Ranks of all bonds "
        f"({', '.join(network.bonds)}) as used: {useful}."
    )
    return network.with_ranks(useful)


def _check_network(network: Network) -> None:
    size = dict(network.sizes)
    carried = Counter(label for core in network.cores for label in set(core))
    modes = (*network.in_labels, *network.out_labels, *(label for label, _ in network.spatial))
    if not network.cores or any(not core for core in network.cores):
        raise ValueError(
            f"A network needs at least one core and no core may be empty. "
            f"Received: cores={network.cores}."
        )
    for core in network.cores:
        if len(set(core)) != len(core):
            raise ValueError(f"A label may appear once in a core. Received: core={core}.")
    if network.group_label and network.group_label != next(iter(network.out_labels), None):
        raise ValueError(
            "The label of the groups must be the first output label. Received: "
            f"group_label={network.group_label!r}, out_labels={network.out_labels}."
        )
    for label in modes:
        if modes.count(label) > 1:
            raise ValueError(
                f"A label is one mode only: input, output or spatial. `{label}` is several. "
                f"Received: modes={modes}."
            )
        if label not in carried:
            raise ValueError(f"Every mode must be in a core. `{label}` is in none of them.")
    for label in carried:
        validation.positive_int(f"sizes[{label!r}]", size.get(label))
        if carried[label] == 1 and label not in modes and size[label] > 1:
            raise ValueError(
                f"A bond joins at least two cores. `{label}` is in one core only and is no mode. "
                "Name it in `inputs`, `outputs` or `spatial`, or give it to a second core."
            )
    for label, extents in network.spatial:
        if math.prod(extents) != size[label]:
            raise ValueError(
                f"The extents of a spatial mode must multiply to its size. Received: "
                f"{label}={size[label]}, extents={extents}."
            )


def _select(labels: str | None, known: list[str], prefix: str) -> Labels:
    if labels is not None:
        return tuple(labels.split())
    return tuple(label for label in known if label.startswith(prefix))


def _natural(label: str) -> tuple[Any, ...]:
    """Sort key that puts "i2" before "i10"."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", label))
