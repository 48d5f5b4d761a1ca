"""Decompositions of a trained model, made once and cut for each trial.

The left basis of bond k of an exact TT-SVD are the left singular vectors of the k-th unfolding, in
the order of their singular values. Keeping the first r_k slices of each bond is therefore a chain
of orthogonal projections, and its squared error is at most the sum of the discarded squares: the
bound of TT-SVD itself. So trains and TT-matrices are decomposed once, exactly, and sliced. Other
formats are not nested in this way, or lose too much by it: they are decomposed for the rank or
energy asked for, and each result is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from keras_tensornet import formats
from keras_tensornet.compression.kinds import Target, factorized_layer, kernel_array
from keras_tensornet.decompositions.svd import rank_for_energy
from keras_tensornet.kernels import (
    decompose_kernel,
    decompose_tensor,
    equalised,
    network_of_cores,
    tensorize_kernel,
)
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network, largest_useful_ranks

NESTED = ("tt", "ttm")
# Cores kept for a layer and format, in numbers for each number of its kernel; the oldest go first.
KEPT = 4


@dataclass(frozen=True)
class Shape:
    """A layer in a format, without ranks.

    Attributes:
        network: of rank 1.
        modes: of the kernel.
    """

    network: Network
    modes: KernelModes


@dataclass
class Exact:
    """An exact train, and the singular values of each inner bond, largest first."""

    cores: list[np.ndarray]
    values: list[np.ndarray]


class Decompositions:
    """The decompositions made so far for the layers of one trained model."""

    def __init__(self) -> None:
        self.shapes: dict[tuple, Shape] = {}
        self.exact: dict[tuple, Exact] = {}
        self.kept: dict[tuple, dict[tuple, tuple]] = {}
        self.made = 0

    def layer(self, target: Target, format: str, by: str, value, arguments: dict):
        """The factorized layer for a target at a rank or energy; None where it would not shrink.

        Args:
            target: the dense layer.
            format: name of the format.
            by: "rank" or "energy".
            value: the rank or the share of energy.
            arguments: further arguments of the factorized layer.
        """
        rank, cores = self._cores(target, format, by, value, arguments)
        if sum(core.size for core in cores) >= kernel_array(target).size:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return factorized_layer(target, format, rank, cores, arguments)

    def _cores(self, target: Target, format: str, by: str, value, arguments: dict) -> tuple:
        key = (target.path, format, repr(sorted(arguments.items())))
        if key not in self.shapes:
            self.shapes[key] = shape_of(target, format, arguments)
        if format in NESTED:
            return self._cut_train(key, target, format, by, value)
        kept = self.kept.setdefault(key, {})
        if (by, value) not in kept:
            kept[(by, value)] = self._decompose(key, target, format, by, value)
            while len(kept) > 1 and _entries(kept.values()) > KEPT * kernel_array(target).size:
                del kept[next(iter(kept))]
        return kept[(by, value)]

    def _decompose(self, key: tuple, target: Target, format: str, by: str, value) -> tuple:
        shape = self.shapes[key]
        entry = formats.get(format)
        network, threshold = shape.network, {"energy": value}
        if by == "rank":
            network, threshold = _at_rank(entry, shape.modes, value), {}
        self.made += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            cores = decompose_kernel(kernel_array(target), network, shape.modes, **threshold)
            if by == "energy":
                rank = entry.rank_argument(network_of_cores(network, cores))
                network = _at_rank(entry, shape.modes, rank)
                if network.core_shapes != tuple(core.shape for core in cores):
                    cores = decompose_kernel(kernel_array(target), network, shape.modes)
        return entry.rank_argument(network), [core.astype("float32") for core in cores]

    def _cut_train(self, key: tuple, target: Target, format: str, by: str, value) -> tuple:
        shape = self.shapes[key]
        if key not in self.exact:
            self.made += 1
            self.exact[key] = exact_train(kernel_array(target), shape)
        exact = self.exact[key]
        entry = formats.get(format)
        if by == "energy":
            wanted = tuple(max(1, rank_for_energy(values, value)) for values in exact.values)
        else:
            wanted = (value,) * len(exact.values)
        ranks = tuple(min(r, len(v)) for r, v in zip(wanted, exact.values, strict=True))
        network = _at_rank(entry, shape.modes, ranks) if ranks else shape.network
        cores = [
            core[tuple(slice(extent) for extent in wanted_shape)]
            for core, wanted_shape in zip(exact.cores, network.core_shapes, strict=True)
        ]
        return entry.rank_argument(network), equalised(cores)


def _entries(decompositions: Iterable[tuple]) -> int:
    return sum(core.size for _, cores in decompositions for core in cores)


def exact_train(kernel: np.ndarray, shape: Shape) -> Exact:
    """The exact TT-SVD of a kernel, and the singular values of the unfolding at each inner bond."""
    network = shape.network
    # Not `decompose_kernel`, which scales the cores.
    tensor = tensorize_kernel(kernel, network, shape.modes)
    cores = decompose_tensor(tensor, network, eps=0.0)
    # Cores to the left of a bond are orthonormal, so what follows it has the Gram matrix diag(s^2).
    gram, values = np.ones((1, 1)), []
    for core in reversed(cores[1:]):
        core = core.reshape(len(core), -1, core.shape[-1])  # (r, modes, r')
        gram = np.einsum("aib,bc,dic->ad", core, gram, core, optimize=True)
        values.append(np.sqrt(np.maximum(np.diag(gram), 0.0)))
    return Exact(cores, values[::-1])


def shape_of(target: Target, format: str, arguments: dict) -> Shape:
    """Network and modes of a layer in a format, from a layer of rank 1."""
    row = target.row
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        shell = row.shell(row.factorized, target.layer, {"format": format, "rank": 1, **arguments})
    holder = row.holder(shell)
    return Shape(holder.network, holder.modes)


def _at_rank(entry: formats.Format, modes: KernelModes, rank) -> Network:
    """The network at a rank, ranks above what the modes allow cut as the layer will cut them."""
    network = entry.build(modes, rank)
    for _ in range(3):  # a format may drop a core that the cut rank makes needless
        useful = network.with_ranks(largest_useful_ranks(network))
        again = entry.build(modes, entry.rank_argument(useful))
        if again == network:
            break
        network = again
    return network
