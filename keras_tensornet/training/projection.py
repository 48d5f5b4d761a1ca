"""The Z step of ADMM: project kernels onto the set that a tensor network can represent.

Yin et al. 2021, equation 18 and Algorithm 1, for every format: decompose the kernel at the
network's ranks and merge the cores again. Layers are independent of each other, so they are
projected in threads; NumPy's SVD and products leave the interpreter lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_tensornet.compression.weighted import (
    Metric,
    refine,
    weighted_decomposition,
    weighted_error,
)
from keras_tensornet.contraction import kernel_plan, to_keras_layout
from keras_tensornet.kernels import decompose_kernel, norm
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.types import Tensor

# What float64 cannot tell from zero, as a share of a kernel's norm.
ROUNDOFF = 1e-12


def project_kernel(kernel: np.ndarray, network: Network, modes: KernelModes) -> np.ndarray:
    """The kernel of this network that is nearest to a given one, as far as the format can tell.

    Equals `merge(decompose(kernel))`. For formats that are decomposed by SVDs (tensor train,
    Tucker, their kin) it is within a known factor of the nearest, exactly the nearest for two
    modes; for those found by alternating least squares (ring, CP, block-term) a local optimum.

    Args:
        kernel: dense kernel in Keras layout, `(*kernel_size, in, groups * out)`.
        network: cores and ranks that describe the set.
        modes: the modes of the kernel.

    Returns:
        A kernel of the same shape, in float64.

    Raises:
        ValueError: for a network without a named format, or a kernel of another shape.
    """
    return merge_cores(project_to_cores(kernel, network, modes), network, modes)


def project_to_cores(
    kernel: np.ndarray,
    network: Network,
    modes: KernelModes,
    start: list[np.ndarray] | None = None,
    metric: Metric | None = None,
) -> list[np.ndarray]:
    """The cores of a projection, no farther from the kernel than those of the last one.

    Decomposing from nothing may end in another local optimum than last time, and takes the padding
    of padded modes for zeros, so a kernel that is in the set already may be moved. Where the
    `start` is nearer to the kernel than what is found from nothing, it is improved instead.

    Args:
        kernel, network, modes: as in `project_kernel`.
        start: cores of an earlier projection.
        metric: what the errors of a kernel count, from calibration data; None for all alike.

    Returns:
        float64 cores.
    """
    kernel = np.asarray(kernel, dtype="float64")
    if metric is None:
        cores = decompose_kernel(kernel, network, modes)
    else:
        cores = weighted_decomposition(kernel, network, modes, metric)
    if start is None:
        return cores

    def distance(cores: list[Tensor]) -> float:
        if metric is None:
            return norm(kernel - merge_cores(cores, network, modes))
        return weighted_error(kernel, network, modes, metric, cores) * norm(kernel)

    before = distance(start)
    if before >= distance(cores):
        return cores
    if before <= ROUNDOFF * norm(kernel):
        return start
    return refine(kernel, network, modes, metric or _PlainMetric(), start)


def merge_cores(cores: list[np.ndarray], network: Network, modes: KernelModes) -> np.ndarray:
    """The dense kernel of some cores, in Keras layout."""
    return to_keras_layout(kernel_plan(network).run(cores, np), modes, np)


def in_threads(
    function: Callable[..., Any], items: Sequence[Any], workers: int | None = None
) -> list[Any]:
    """`[function(item) for item in items]`, several at a time.

    Args:
        function: called with one item each.
        items: what to call it with, in the order of the results.
        workers: threads; by default one for each processor, at most 8.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    if workers == 1 or len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(workers, len(items))) as pool:
        return list(pool.map(function, items))


class _PlainMetric:
    """The Frobenius norm as the metric that `refine` works with."""

    def apply(self, matrix: np.ndarray) -> np.ndarray:
        return matrix
