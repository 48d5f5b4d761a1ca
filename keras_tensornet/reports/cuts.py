"""What the ranks of a network cut, read from its labels.

Removing a bond parts the cores of a train or a tree in two. The kernel as a matrix with the modes
of one part as rows has as many singular values as its shape allows, and the bond's rank says how
many of them the network can keep. A ring is parted by two bonds, and keeps the product of their
ranks. An index that three or more cores share (CP, block terms) cuts no matrix: it numbers
components that are added up, and their sizes are what a rank would cut next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_tensornet.contraction import kernel_plan
from keras_tensornet.kernels import tensorize_kernel
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.types import Tensor

# Values kept of each cut for the figures.
VALUES = 96


@dataclass(frozen=True)
class Cut:
    """One place where ranks cut.

    Attributes:
        name: the matrix in words, "in | out", or "components" where an index adds up components.
        values: falling singular values of the dense kernel as that matrix, or the norms of the
            components, the largest being 1; thinned to `VALUES` of them.
        positions: the number of each of these values, from 0.
        kept: how many values the ranks allow; None for components, of which all are there.
        total: how many values there are.
    """

    name: str
    values: tuple[float, ...]
    positions: tuple[int, ...]
    kept: int | None
    total: int


def cuts_of(
    network: Network, modes: KernelModes, kernel: np.ndarray, cores: list[Tensor]
) -> list[Cut]:
    """What the ranks of a network cut of a dense kernel, in the order of its bonds.

    Args:
        network: with the ranks that were chosen.
        modes: of the kernel.
        kernel: the dense kernel in Keras layout.
        cores: arrays, of which the components of an index are made.
    """
    found = [_components(network, bond, cores) for bond in _shared(network)]
    tensor = tensorize_kernel(kernel, network, modes)
    seen = set()
    for bonds, part in _partings(network):
        if part in seen:
            continue
        seen.add(part)
        rows = [label for label in network.mode_labels if label in part]
        columns = [label for label in network.mode_labels if label not in part]
        axes = [network.mode_labels.index(label) for label in (*rows, *columns)]
        matrix = tensor.transpose(axes).reshape(network.count(rows), -1)
        values = singular_values(matrix)
        kept = min(network.count(bonds), len(values))
        name = f"{_words(network, rows)} | {_words(network, columns)}"
        found.append(_cut(name, values, kept))
    return found


def whole_matrix(kernel: np.ndarray) -> Cut:
    """The kernel as a matrix (patch entries, outputs), of which nothing is cut."""
    matrix = np.asarray(kernel, dtype="float64").reshape(-1, kernel.shape[-1])
    return _cut("inputs | outputs", singular_values(matrix), None)


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """Falling singular values by the Gram matrix of the short side: exact enough for a picture."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    return np.sqrt(np.maximum(np.linalg.eigvalsh(matrix.T @ matrix)[::-1], 0.0))


def _cut(name: str, values: np.ndarray, kept: int | None) -> Cut:
    top = max(float(values[0]), 1e-300)
    places = np.unique(np.linspace(0, len(values) - 1, VALUES).round().astype(int))
    thinned = tuple((values[places] / top).tolist())
    return Cut(name, thinned, tuple(places.tolist()), kept, len(values))


def _shared(network: Network) -> list[str]:
    """Bonds that three or more cores share."""
    return [bond for bond in network.bonds if sum(bond in core for core in network.cores) > 2]


def _components(network: Network, bond: str, cores: list[Tensor]) -> Cut:
    """The norms of what each value of a shared index adds to the kernel, falling."""
    wide = [np.asarray(core, dtype="float64") for core in cores]
    one = network.with_ranks(
        tuple(1 if label == bond else network.size[label] for label in network.bonds)
    )
    norms = []
    for place in range(network.size[bond]):
        slices = [
            np.take(core, [place], axis=labels.index(bond)) if bond in labels else core
            for labels, core in zip(network.cores, wide, strict=True)
        ]
        alone = network.bonds == (bond,)  # a product of separate vectors, never multiplied out
        parts = slices if alone else [kernel_plan(one).run(slices, np)]
        norms.append(math.prod(_norm(part) for part in parts))
    return _cut(f"components of {bond}", np.sort(np.asarray(norms))[::-1], None)


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(np.ravel(array)))


def _partings(network: Network) -> Iterator[Any]:
    """`(bonds, modes)`: bonds that part the network, and the modes of the part they cut off.

    A bond parts it alone; or together with the first bond of a ring; in either case with all shared
    indices, which join everything.
    """
    shared = _shared(network)
    holders = {bond: sum(bond in core for core in network.cores) for bond in network.bonds}
    plain = [bond for bond in network.bonds if holders[bond] == 2]
    for bond in plain:
        first = next((other for other in plain if other != bond), None)
        for also in ([], [first] if first else []):
            removed = [bond, *also, *shared]
            part = _part(network, removed, bond)
            if part is not None:
                yield removed, part
                break


def _part(network: Network, removed: list[str], bond: str) -> frozenset[str] | None:
    """The modes on one side of a bond once some bonds are gone; None if both sides hang together.

    Of the two sides the one with the earlier modes is named, so that each cut is named once.
    """
    start, stop = (k for k, core in enumerate(network.cores) if bond in core)
    reached = {start}
    grown = True
    while grown:
        inside = {label for k in reached for label in network.cores[k]} - set(removed)
        near = {k for k, core in enumerate(network.cores) if inside & set(core)} | reached
        grown, reached = near != reached, near
    if stop in reached:
        return None
    modes = {label for k in reached for label in network.cores[k]} & set(network.mode_labels)
    rest = set(network.mode_labels) - modes
    if not modes or not rest:
        return None
    return frozenset(modes if network.mode_labels[0] in modes else rest)


def _words(network: Network, labels: list[str]) -> str:
    """Modes in words: "in", "out", "space", numbered where there are several of a kind."""
    kinds = (
        ("in", network.in_labels),
        ("out", network.out_labels),
        ("space", tuple(label for label, _ in network.spatial)),
    )
    names = []
    for label in labels:
        kind, group = next((pair for pair in kinds if label in pair[1]), (label, (label,)))
        names.append(kind if len(group) == 1 else f"{kind}{group.index(label)}")
    return " ".join(names)
