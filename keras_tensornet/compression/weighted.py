"""Decompositions that minimise the error of a layer's output instead of that of its weights.

A layer multiplies its kernel W, read as a matrix of (patch entries, outputs), with patches x of its
input. With G = E[x x^T], the Gram matrix of the patches seen in calibration, the mean squared error
of the output is

    E |x^T (W - V)|^2 = tr((W - V)^T G (W - V)),

a weighted norm of the kernel's error. It is minimised in two steps that work for every network,
because both read only labels:

1. G is approximated by a Kronecker product of one Gram matrix for each mode of the patch side (its
   partial traces). The square root of each is multiplied into the kernel, the format's own
   decomposition runs, and their inverses go into the cores that carry the modes. This also gives
   thresholds (`energy`, `eps`) the meaning of a share of the output.
2. Alternating least squares with the exact G: the error is quadratic in each core, and each core's
   problem is solved by a few steps of conjugate gradients from where it stands, so the error never
   rises.

For the matrix case with whole modes this is the data-aware low-rank approximation of Zhang et al.,
"Accelerating very deep convolutional networks" (2015), section 3.1, without their non-linearity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import opt_einsum

from keras_tensornet.contraction import kernel_plan, to_keras_layout
from keras_tensornet.kernels import decompose_tensor, network_of_cores, tensorize_kernel
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.types import Tensor

# Share of the mean eigenvalue that is added to a Gram matrix: few images determine the weak
# directions of a patch badly, and a direction without any weight could grow without bound.
RIDGE = 0.01
# Gram matrices of longer patches are kept in float32.
WIDE = 1024
SWEEPS = 6
CG_STEPS = 8


class Weighting(Protocol):
    """What `refine` needs of a metric."""

    def apply(self, matrix: np.ndarray) -> np.ndarray:
        """G V S^2 for V of shape (groups, patch, outputs)."""


@dataclass(frozen=True)
class Metric:
    """The Gram matrix of a layer's input patches, and a weight for each of its outputs.

    Attributes:
        gram: (groups, patch, patch) with patch = prod(kernel_size) * in_size, entries in the order
            of the Keras kernel.
        scale: (groups, 1, outputs), what a unit of error of each output counts: where batch
            normalisation follows, gamma / sigma; or None for 1.
        roots: those of single modes that a decomposition has asked for; the next one asks again.
    """

    gram: np.ndarray
    scale: np.ndarray | None = None
    roots: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @classmethod
    def regularised(
        cls, gram: np.ndarray, scale: np.ndarray | None = None, ridge: float = RIDGE
    ) -> Metric:
        """A metric whose weakest direction has at least `ridge` of the mean weight.

        Args:
            gram: (groups, patch, patch).
            scale: (groups * outputs,) or None.
            ridge: share of the mean eigenvalue that is added.
        """
        size = gram.shape[-1]
        gram = np.array(gram, dtype=np.float64 if size <= WIDE else np.float32)
        mean = np.trace(gram, axis1=1, axis2=2)[:, None] / size
        places = np.arange(size)
        gram[:, places, places] += ridge * np.where(mean > 0, mean, 1.0)
        if scale is not None:
            scale = np.asarray(scale, dtype=np.float64).reshape(len(gram), 1, -1)
        return cls(gram, scale)

    def root(self, group: int) -> np.ndarray:
        """The upper triangular R with R^T R = G of one group."""
        return np.linalg.cholesky(self.gram[group].astype(np.float64)).T

    def apply(self, matrix: np.ndarray) -> np.ndarray:
        """G V S^2 for V of shape (groups, patch, outputs)."""
        weighted = self.gram @ matrix
        return weighted if self.scale is None else weighted * self.scale**2

    def squared_norm(self, matrix: np.ndarray) -> float:
        """tr(S V^T G V S)."""
        return float(np.vdot(matrix, self.apply(matrix)))


def weighted_decomposition(
    kernel: np.ndarray,
    network: Network,
    modes: KernelModes,
    metric: Metric,
    quick: bool = False,
    **threshold: Any,
) -> list[np.ndarray]:
    """Cores whose merged kernel gives nearly the same outputs on the calibration data.

    Args:
        kernel: dense kernel in Keras layout.
        network: the cores wanted.
        modes: the modes of the kernel.
        metric: of the layer's input patches.
        quick: keep the whitened decomposition, and that of few sweeps, without least squares.
        **threshold: `energy=` or `eps=` to choose ranks, nothing to use those of the network.

    Returns:
        float64 cores.
    """
    roots = _mode_roots(network, modes, metric)
    wide = np.asarray(kernel, dtype=np.float64)
    whitened = _scaled_tensor(
        wide, network, modes, {label: root for label, (root, _) in roots.items()}
    )
    cores = decompose_tensor(whitened, network, quick, **threshold)
    network = network_of_cores(network, cores)
    cores = [
        _unscaled_core(core, labels, {label: inverse for label, (_, inverse) in roots.items()})
        for core, labels in zip(cores, network.cores, strict=True)
    ]
    return cores if quick else refine(wide, network, modes, metric, cores)


def weighted_error(
    kernel: np.ndarray, network: Network, modes: KernelModes, metric: Metric, cores: list[Tensor]
) -> float:
    """Relative error of the layer's output: sqrt(tr(E^T G E) / tr(W^T G W))."""
    problem = _Problem(kernel, network, modes, metric)
    norm = metric.squared_norm(problem.target)
    error = metric.squared_norm(problem.merged(cores) - problem.target)
    return math.sqrt(error / norm) if norm else 0.0


def refine(
    kernel: np.ndarray,
    network: Network,
    modes: KernelModes,
    metric: Weighting,
    cores: list[np.ndarray],
    sweeps: int = SWEEPS,
    steps: int = CG_STEPS,
) -> list[np.ndarray]:
    """Alternating least squares on the output error, from given cores; never makes it larger."""
    problem = _Problem(kernel, network, modes, metric)
    cores = [np.asarray(core, dtype=np.float64) for core in cores]
    order = [*range(len(cores)), *range(len(cores) - 2, 0, -1)]
    for _ in range(sweeps):
        for position in order:
            cores[position] = _conjugate_gradients(problem, cores, position, steps)
    return cores


def as_matrix(kernel: np.ndarray, modes: KernelModes) -> np.ndarray:
    """A kernel in Keras layout as the matrix that patches are multiplied by.

    Returns:
        (groups, patch, out).
    """
    if modes.order:
        kernel = kernel.transpose(np.argsort(modes.order))
    # (*kernel_size, in, groups * out) -> (groups, patch, out)
    return kernel.reshape(-1, modes.groups, modes.out_size).transpose(1, 0, 2)


def from_matrix(matrix: np.ndarray, modes: KernelModes) -> np.ndarray:
    """The kernel in Keras layout of which `as_matrix` gives a matrix (groups, patch, out)."""
    kernel = matrix.transpose(1, 0, 2).reshape(modes.split or modes.plain_shape)
    return kernel.transpose(modes.order) if modes.order else kernel


class _Problem:
    """The weighted least-squares problem of one kernel, and its linear maps core by core."""

    def __init__(
        self, kernel: Any, network: Network, modes: KernelModes, metric: Weighting
    ) -> None:
        self.network, self.modes, self.metric = network, modes, metric
        self.target = as_matrix(np.asarray(kernel, dtype=np.float64), modes)
        self.weighted_target = metric.apply(self.target)
        self.plan = kernel_plan(network)
        self.adjoints: list[Callable[..., Any] | None] = [None] * len(network.cores)

    def merged(self, cores: list[Tensor]) -> np.ndarray:
        """(groups, patch, out) of some cores."""
        return as_matrix(to_keras_layout(self.plan.run(cores, np), self.modes, np), self.modes)

    def adjoint(self, matrix: np.ndarray, cores: list[Tensor], position: int) -> np.ndarray:
        """The gradient of <matrix, merged(cores)> with respect to one core."""
        tensor = tensorize_kernel(from_matrix(matrix, self.modes), self.network, self.modes)
        others = [core for place, core in enumerate(cores) if place != position]
        return self._adjoint(position)(tensor, *others)

    def _adjoint(self, position: int) -> Any:
        """The contraction of a tensor of the kernel's shape with all cores but one."""
        if self.adjoints[position] is None:
            own = self.network.cores[position]
            others = [core for place, core in enumerate(self.network.cores) if place != position]
            operands = [self.network.mode_labels, *others]
            # A bond of size 1 at the end of a train is in no other core: reshaped in below.
            found = {label for labels in operands for label in labels}
            wanted = [label for label in own if label in found]
            symbols = {
                label: opt_einsum.get_symbol(number)
                for number, (label, _) in enumerate(self.network.sizes)
            }
            terms = ["".join(symbols[label] for label in labels) for labels in [*operands, wanted]]
            contract = opt_einsum.contract_expression(
                f"{','.join(terms[:-1])}->{terms[-1]}",
                *(self.network.sizes_of(labels) for labels in operands),
            )
            shape = self.network.sizes_of(own)
            self.adjoints[position] = lambda *arrays: contract(*arrays).reshape(shape)
        return self.adjoints[position]


def _conjugate_gradients(
    problem: _Problem, cores: list[Tensor], position: int, steps: int
) -> np.ndarray:
    """Minimise over one core: A^T G A v = A^T G w, from the core at hand."""
    trial = list(cores)

    def normal(vector: Any) -> Any:
        trial[position] = vector
        return problem.adjoint(problem.metric.apply(problem.merged(trial)), cores, position)

    vector = cores[position]
    residual = problem.adjoint(problem.weighted_target, cores, position) - normal(vector)
    direction, power = residual, float(np.vdot(residual, residual))
    start = power
    for _ in range(steps):
        if power <= 1e-20 * start or power == 0.0:
            break
        image = normal(direction)
        curvature = float(np.vdot(direction, image))
        if not curvature > 0.0:
            break
        step = power / curvature
        vector = vector + step * direction
        residual = residual - step * image
        before, power = power, float(np.vdot(residual, residual))
        direction = residual + (power / before) * direction
    return vector


def _mode_roots(network: Network, modes: KernelModes, metric: Metric) -> dict[str, Any]:
    """`label -> (root, inverse root)` of the Kronecker factor of the metric for each mode.

    The weights of the outputs take part where the outputs are one mode; where they are several the
    weights are no Kronecker product, and least squares alone accounts for them.
    """
    carried = [label for core in network.cores for label in core]
    gram = metric.gram.mean(axis=0, dtype=np.float64)
    labels = [*(label for label, _ in network.spatial), *network.in_labels]
    sizes = [*(network.size[label] for label in labels)]
    taps = math.prod(modes.kernel_size)
    extra = modes.padding[0]
    if extra:
        gram = gram.reshape(taps, modes.in_size, taps, modes.in_size)
        gram = np.pad(gram, ((0, 0), (0, extra), (0, 0), (0, extra)))
        gram = gram.reshape(math.prod(sizes), math.prod(sizes))
    roots = {}
    for place, label in enumerate(labels):
        if carried.count(label) == 1 and sizes[place] > 1:
            before, after = math.prod(sizes[:place]), math.prod(sizes[place + 1 :])
            key = (taps, extra, before, sizes[place], after)
            if key not in metric.roots:
                parts = gram.reshape(before, sizes[place], after, before, sizes[place], after)
                metric.roots[key] = _root(np.einsum("anbamb->nm", parts))
            roots[label] = metric.roots[key]
    outputs = network.out_labels
    if metric.scale is not None and len(outputs) == 1 and carried.count(outputs[0]) == 1:
        scale = np.pad(metric.scale.ravel(), (0, modes.padding[1]), constant_values=1.0)
        roots[outputs[0]] = np.diag(scale), np.diag(1.0 / scale)
    return roots


def _root(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R and its inverse, R^T R = G, of a Gram matrix scaled to a mean eigenvalue of 1.

    Any R will do, since a rotation of a whole mode changes no error, and the triangular one takes a
    tenth of the time of the symmetric one.
    """
    mean = float(np.trace(gram)) / len(gram)
    if not mean > 0:
        return np.eye(len(gram)), np.eye(len(gram))
    # Entries that pad a mode have no weight; they get a little, as do the weakest directions.
    lower = np.linalg.cholesky(gram / mean + 1e-6 * np.eye(len(gram)))
    return lower.T, np.linalg.inv(lower).T


def _scaled_tensor(
    kernel: Any, network: Network, modes: KernelModes, roots: dict[str, Any]
) -> np.ndarray:
    tensor = tensorize_kernel(kernel, network, modes)
    for axis, label in enumerate(network.mode_labels):
        if label in roots:
            tensor = np.moveaxis(np.tensordot(roots[label], tensor, axes=(1, axis)), 0, axis)
    return tensor


def _unscaled_core(core: Any, labels: Any, inverses: dict[str, Any]) -> np.ndarray:
    for axis, label in enumerate(labels):
        if label in inverses:
            core = np.moveaxis(np.tensordot(inverses[label], core, axes=(1, axis)), 0, axis)
    return core
