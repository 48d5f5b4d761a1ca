"""One kernel's share of ADMM: the low-rank copy Z, the scaled dual U, and their update.

Yin et al. 2021, equations 11 to 13; Boyd et al. 2011, section 3.4.1, for the penalty parameter.
No Keras in here: the kernel W comes as an array and the next target Z - U goes back as one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from keras_tensornet.compression.weighted import Metric
from keras_tensornet.kernels import norm
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.training.projection import merge_cores, project_to_cores

# Residual balancing: when one residual is this many times the other, rho changes by a factor of 2.
# It stays between its first value and a thousand times that: over a set that is not convex, ADMM
# with too small a rho can run in circles for ever, so a rho that was chosen is not gone below.
IMBALANCE = 10.0
STEP = 2.0
RANGE = 1000.0


@dataclass(frozen=True)
class Residuals:
    """How far one kernel is from its low-rank copy, after an update.

    Attributes:
        primal: |W - Z| / |W|, a bound of the relative error that decomposing W would make.
        dual: |Z - Z before| / |W|, how much the low-rank copy still moves (the dual residual of
            Boyd et al., rho |Z - Z before|, in units of rho |W|).
        penalty: rho/2 |W - Z + U|^2 as training saw it last, before the update.
        rho: the penalty parameter that training sees next; 0 where the pull is no penalty.
        kernel_norm: |W|.
        size: |U| / |W| after the update; at 1 it sits at its limit.
    """

    primal: float
    dual: float
    penalty: float
    rho: float
    kernel_norm: float
    size: float = 0.0


@dataclass
class Splitting:
    """Z, U and rho of one kernel.

    Attributes:
        path: path of the layer in its model.
        network: the low-rank set: cores and ranks.
        current: the same with the ranks that projections have now.
        modes: the modes of the kernel.
        rho: penalty parameter, positive; 0 where the pull is no penalty.
        adaptive: whether rho follows the residuals.
        z: the low-rank copy, in the kernel's shape; None before `start`.
        u: the scaled dual variable, in the kernel's shape.
        cores: the cores of Z, from which the next projection may begin; None while Z is no
            projection.
        dual: whether there is a U; without one kernels are pulled to Z.
        metric: what errors count in the projection; None for all alike.
        first_rho: rho at the start, below which it never falls.
    """

    path: str
    network: Network
    modes: KernelModes
    rho: float
    adaptive: bool = False
    z: np.ndarray | None = None
    u: np.ndarray | None = None
    cores: list[np.ndarray] | None = None
    dual: bool = True
    metric: Metric | None = None
    first_rho: float = field(init=False)
    current: Network = field(init=False)

    def __post_init__(self) -> None:
        self.first_rho, self.current = self.rho, self.network

    @property
    def target(self) -> np.ndarray:
        """What the kernel is pulled towards: Z - U."""
        z, u = self.z_and_u()
        return z - u

    def z_and_u(self) -> tuple[np.ndarray, np.ndarray]:
        """The low-rank copy and the scaled dual variable.

        Raises:
            RuntimeError: before `start`.
        """
        if self.z is None or self.u is None:
            raise RuntimeError(f"The kernel '{self.path}' has no Z and U yet. Call `start` first.")
        return self.z, self.u

    def start(self, kernel: np.ndarray, warm: bool = True) -> None:
        """Set U = 0 and Z to the kernel's projection, or with `warm=False` to the kernel itself."""
        kernel = np.asarray(kernel)
        self.z, self.cores, self.u = kernel, None, np.zeros_like(kernel)
        if warm:
            self._project(kernel)

    def update(self, kernel: np.ndarray) -> Residuals:
        """Equations 18 and 13 for a kernel that has been trained: new Z, then new U."""
        before, u = self.z_and_u()
        penalty = 0.5 * self.rho * norm(kernel - self.target) ** 2
        z = self._project(kernel + u)
        gap, move = kernel - z, z - before
        wanted = u + gap if self.dual else u
        self.u = _bounded(wanted, norm(kernel))
        if self.adaptive:
            outgrown = norm(wanted) > norm(kernel)
            self._balance(norm(gap), norm(move), max(norm(kernel), norm(z)), outgrown)
        scale = norm(kernel) or 1.0
        size = norm(self.u) / scale
        return Residuals(norm(gap) / scale, norm(move) / scale, penalty, self.rho, scale, size)

    def replace(self, kernel: np.ndarray) -> Residuals:
        """Project a kernel that is then to become Z itself; U is nothing from here on."""
        before, u = self.z_and_u()
        z = self._project(kernel)
        self.u = np.zeros_like(u)
        scale = norm(kernel) or 1.0
        gap, move = norm(kernel - z) / scale, norm(z - before) / scale
        return Residuals(gap, move, 0.0, self.rho, scale)

    def resize(self, network: Network) -> None:
        """Project onto other ranks from the next update on."""
        if network != self.current:
            self.current, self.cores = network, None

    def measure(self, kernel: np.ndarray) -> Residuals:
        """How a kernel stands before the first update: Z has not moved yet."""
        z, u = self.z_and_u()
        size = norm(kernel) or 1.0
        penalty = 0.5 * self.rho * norm(kernel - self.target) ** 2
        return Residuals(norm(kernel - z) / size, 0.0, penalty, self.rho, size, norm(u) / size)

    def _project(self, kernel: np.ndarray) -> np.ndarray:
        network = self.current
        self.cores = project_to_cores(kernel, network, self.modes, self.cores, self.metric)
        self.z = merge_cores(self.cores, network, self.modes).astype(kernel.dtype)
        return self.z

    def _balance(self, gap: float, move: float, size: float, outgrown: bool = False) -> None:
        """Change rho if one relative residual is far larger than the other, or U outgrew W.

        Boyd et al., equation 3.13, with each residual divided by the size of what it should vanish
        against (Wohlberg 2017), so that the scale of the loss does not matter. The unscaled
        dual variable rho U stays.
        """
        _, u = self.z_and_u()
        primal, dual = gap * norm(u), move * size  # both times size |U|
        rho = self.rho
        if outgrown or primal > IMBALANCE * dual:
            rho = min(rho * STEP, self.first_rho * RANGE)
        elif dual > IMBALANCE * primal:
            rho = max(rho / STEP, self.first_rho)
        self.u = (u * (self.rho / rho)).astype(u.dtype)
        self.rho = rho


def _bounded(u: np.ndarray, limit: float) -> np.ndarray:
    """U, no larger than a limit.

    At a solution -rho U is the gradient of the loss. A U that outgrows the kernel itself says that
    training had no time to follow, and would only drive it past its target (the safeguard of
    augmented Lagrangian methods: Andreani et al. 2008).
    """
    size = norm(u)
    return u if size <= limit else (u * (limit / size)).astype(u.dtype)
