"""Networks that are one cut of a layer's matrix: then the best cores are known in closed form.

Where one core carries all inputs and the other all outputs, the merged kernel is a matrix (patch
entries, outputs) of bounded rank, and the error of the layer's output is least for the truncated
SVD of R W, R^T R = G, with the inverse of R multiplied back into the first core (Zhang et al. 2015,
section 3.1). One factorisation then gives the error at every rank. A dense layer in "tt" or "cp"
whose sides are whole is such a network, and so is a convolution in "tucker" that cuts its filters
only: whatever else a format is, this is what it has to be better than.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_tensornet.compression.weighted import Metric, as_matrix
from keras_tensornet.decompositions import svd
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Labels, Network

SMALL = 1 << 16
RESOLUTION = 1e-7


@dataclass(frozen=True)
class Cut:
    """Where a network is cut.

    Attributes:
        inputs, outputs: positions of the cores that carry the patch and the outputs.
        bonds: labels that the two share.
    """

    inputs: int
    outputs: int
    bonds: tuple[str, ...]


def cut_of(network: Network, modes: KernelModes) -> Cut | None:
    """Where a network of two cores cuts the kernel's matrix; None for any other network."""
    if len(network.cores) != 2 or modes.groups > 1 or modes.padding != (0, 0):
        return None
    rows = {*network.in_labels, *(label for label, _ in network.spatial)}
    columns = set(network.out_labels)
    for inputs, outputs in ((0, 1), (1, 0)):
        first, second = set(network.cores[inputs]), set(network.cores[outputs])
        if rows <= first and columns <= second and not (rows & second or columns & first):
            bonds = tuple(label for label in network.cores[inputs] if label in second)
            return Cut(inputs, outputs, bonds) if bonds else None
    return None


def singular_values(kernel: np.ndarray, modes: KernelModes, metric: Metric | None) -> np.ndarray:
    """The singular values of R W, of which each rank keeps the largest, falling.

    Of large matrices they come from the Gram matrix of the short side, several times faster; those
    below `RESOLUTION` of the largest, which it cannot tell from zero, are zero then.
    """
    matrix, _ = _whitened(kernel, modes, metric)
    if matrix.size <= SMALL:
        return np.linalg.svd(matrix, compute_uv=False)
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(short @ short.T)[::-1], 0.0))
    return np.where(values > RESOLUTION * values[0], values, 0.0)


def error_at(values: np.ndarray, rank: int) -> float:
    """Relative error of keeping the first `rank` singular values."""
    squares = np.square(values)
    total = float(squares.sum())
    return math.sqrt(float(squares[rank:].sum()) / total) if total else 0.0


def rank_for_threshold(
    values: np.ndarray, eps: float | None = None, energy: float | None = None
) -> int:
    """How many singular values a relative error or a share of energy asks for, at least one."""
    if eps is not None:
        return svd.rank_for_error(values, eps * float(np.linalg.norm(values)))
    return svd.rank_for_energy(values, 1.0 if energy is None else energy)


def cut_cores(
    kernel: np.ndarray, network: Network, modes: KernelModes, cut: Cut, metric: Metric | None
) -> list[np.ndarray]:
    """The best cores at the network's ranks, float64."""
    matrix, root = _whitened(kernel, modes, metric)
    rank = network.count(cut.bonds)
    left, values, right = svd.truncated_svd(matrix, rank=rank)
    left = left * values
    if root is not None:
        left = np.linalg.solve(root, left)
    if metric is not None and metric.scale is not None:
        right = right / metric.scale.ravel()
    missing = rank - len(values)
    left, right = np.pad(left, ((0, 0), (0, missing))), np.pad(right, ((0, missing), (0, 0)))
    patch = (*(label for label, _ in network.spatial), *network.in_labels)
    cores: list[Any] = [None, None]
    cores[cut.inputs] = _arranged(left, (*patch, *cut.bonds), network, cut.inputs)
    cores[cut.outputs] = _arranged(right, (*cut.bonds, *network.out_labels), network, cut.outputs)
    return cores


def _whitened(kernel: Any, modes: KernelModes, metric: Metric | None) -> Any:
    """R W S (patch, outputs) and R; the weights S of the outputs are divided out again."""
    matrix = as_matrix(np.asarray(kernel, dtype=np.float64), modes)[0]
    if metric is None:
        return matrix, None
    root = metric.root(0)
    matrix = root @ matrix
    return (matrix if metric.scale is None else matrix * metric.scale[0]), root


def _arranged(matrix: np.ndarray, labels: Labels, network: Network, position: int) -> np.ndarray:
    """A matrix whose axes are these labels as a core, whose further labels have size 1."""
    own = network.cores[position]
    core = matrix.reshape(network.sizes_of(labels))
    core = core.transpose([labels.index(label) for label in own if label in labels])
    return core.reshape(network.sizes_of(own))
