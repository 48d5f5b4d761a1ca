"""Envelopes: how a kernel of any size becomes a ring of equally shaped cores (T-Basis, 3.3).

With n = sqrt(mode), channels are written as d digits of base n, output and input digit of one place
share a core (z-order), and the kernel's spatial positions are one more core:

    kernel(p, q, j, i) = W(i_1 j_1, ..., i_d j_d, p q),    0 <= i_k, j_k < n          eq. (9)

The envelope n^d x n^d x n x n is larger than most kernels. What is cut off is never computed where
it can be told from a single digit: 32 channels in base 3 need the digits (2, 3, 3, 3), so the first
core is sliced before it is merged; the rest is cropped from the merged kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

from keras_tensornet import validation
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.types import Tensor


@dataclass(frozen=True)
class Envelope:
    """The ring that stands for one kernel.

    Attributes:
        base: n, the base of the channel digits; n * n is the mode of the basis.
        modes: the digits that are used, and the kernel's own sizes.
        network: the cut cores: (rank, output digit, input digit, rank) for each place, then
            (rank, spatial positions, rank) unless the kernel is 1 x 1 or dense.
        spatial_slices: the entries of an n x n spatial core that the kernel uses, or None.
    """

    base: int
    modes: KernelModes
    network: Network
    spatial_slices: tuple[int, ...] | None

    @property
    def num_cores(self) -> int:
        """How many cores of the basis the ring has: the rows of its coefficients."""
        return len(self.network.cores)

    def cut(self, cores: Sequence[Tensor], xp: ModuleType) -> list[Tensor]:
        """Full cores (rank, mode, rank) as cores of `network`, with an array module."""
        rank = int(cores[0].shape[0])
        digits = [*zip(self.modes.out_modes, self.modes.in_modes, strict=True)]
        kept = [
            self._cut_digits(core, rank, used, xp)
            for core, used in zip(cores, digits, strict=False)
        ]
        if self.num_cores > len(digits):
            kept.append(self._cut_spatial(cores[-1], rank, xp))
        if self.num_cores == 1:
            # A ring of one core is its trace: sum_r C(r, i j, r).
            eye = xp.reshape(xp.eye(rank, dtype=kept[0].dtype), (rank, 1, 1, rank))
            core = xp.reshape(kept[0], (rank, *digits[0], rank))
            kept = [xp.sum(xp.multiply(core, eye), axis=(0, 3))]
        shapes = self.network.core_shapes
        return [xp.reshape(core, shape) for core, shape in zip(kept, shapes, strict=True)]

    def _cut_digits(self, core: Tensor, rank: int, used: tuple[int, int], xp: ModuleType) -> Tensor:
        # (rank, mode, rank) -> (rank, output digits, input digits, rank)
        if used == (self.base, self.base):
            return core
        core = xp.reshape(core, (rank, self.base, self.base, rank))
        return core[:, : used[0], : used[1], :]

    def _cut_spatial(self, core: Tensor, rank: int, xp: ModuleType) -> Tensor:
        # (rank, mode, rank) -> (rank, positions, rank)
        if self.spatial_slices is None:
            return core[:, : self.network.size["s0"], :]
        height, width = self.spatial_slices
        if height == width == self.base:
            return core
        core = xp.reshape(core, (rank, self.base, self.base, rank))
        return core[:, :height, :width, :]


def base_of(mode: int) -> int:
    """n for a mode of n * n.

    Raises:
        ValueError: if the mode is no square of at least 4.
    """
    mode = validation.positive_int("mode", mode)
    base = math.isqrt(mode)
    if base * base != mode or base < 2:
        raise ValueError(
            "`mode` must be a square n * n with n of at least 2: an output and an input digit of "
            f"base n share each core. Received: mode={mode}. Use 9 for networks of 3x3 "
            "convolutions, 4 for dense networks, 25 where there are 5x5 kernels."
        )
    return base


@lru_cache(maxsize=1024)
def envelope(kernel_shape: tuple[int, ...], mode: int, rank: int) -> Envelope:
    """The ring of one kernel.

    Args:
        kernel_shape: (*kernel_size, in_channels, filters), the dense kernel in Keras layout. That
            of a grouped convolution is taken as it is, with the input channels of one group.
        mode: N of the basis.
        rank: R of the basis.

    Raises:
        ValueError: if the spatial positions do not fit into the mode, or the mode is no square.
    """
    base = base_of(mode)
    *kernel_size, in_size, out_size = kernel_shape
    positions = math.prod(kernel_size)
    if positions > mode:
        extents = " x ".join(str(extent) for extent in kernel_size)
        smallest = (math.isqrt(positions - 1) + 1) ** 2
        raise ValueError(
            "The spatial positions of a kernel are one core, so `mode` must be at least their "
            f"number. Received: a {extents} kernel with {positions} positions and mode={mode}. "
            f"Use mode={smallest}, or leave the layer dense."
        )
    places = max(1, _digits(in_size, base), _digits(out_size, base))
    modes = KernelModes(
        in_size=in_size,
        out_size=out_size,
        in_modes=_used_digits(in_size, base, places),
        out_modes=_used_digits(out_size, base, places),
        spatial=(tuple(kernel_size),) if kernel_size else (),
    )
    fits = len(kernel_size) == 2 and max(kernel_size) <= base and positions > 1
    slices = tuple(kernel_size) if fits else None
    return Envelope(base, modes, _network(modes, rank), slices)


def _network(modes: KernelModes, rank: int) -> Network:
    """A ring: one core per place, one for the spatial positions where there is more than one."""
    places = len(modes.in_modes)
    positions = math.prod(modes.kernel_size)
    num_cores = places + (positions > 1)
    bonds = [f"r{bond}" for bond in range(num_cores)]
    closed = [*bonds[1:], bonds[0]]
    cores: list[tuple[str, ...]] = [
        (left, f"o{place}", f"i{place}", right)
        for place, (left, right) in enumerate(zip(bonds[:places], closed[:places], strict=True))
    ]
    if num_cores == 1:
        cores = [("o0", "i0")]
    sizes = dict.fromkeys(bonds if num_cores > 1 else (), rank)
    sizes |= {f"o{place}": size for place, size in enumerate(modes.out_modes)}
    sizes |= {f"i{place}": size for place, size in enumerate(modes.in_modes)}
    if modes.spatial:
        sizes["s0"] = positions
        if positions > 1:
            cores.append((bonds[-1], "s0", closed[-1]))
        else:
            cores[-1] = (*cores[-1], "s0")
    return Network(
        cores=tuple(cores),
        sizes=tuple(sizes.items()),
        in_labels=tuple(f"i{place}" for place in range(places)),
        out_labels=tuple(f"o{place}" for place in range(places)),
        spatial=(("s0", modes.kernel_size),) if modes.spatial else (),
        name="tbasis",
    )


def _digits(size: int, base: int) -> int:
    """ceil(log_base(size)) in integers, eq. (10)."""
    places, reach = 0, 1
    while reach < size:
        places, reach = places + 1, reach * base
    return places


def _used_digits(size: int, base: int, places: int) -> tuple[int, ...]:
    """How many values each digit of 0 ... size - 1 takes, most significant first.

    >>> _used_digits(32, 3, 4), _used_digits(16, 3, 4)
    ((2, 3, 3, 3), (1, 2, 3, 3))
    """
    used, leading = [], True
    for place in reversed(range(places)):
        values = min(base, -(-size // base**place)) if leading else base
        used.append(values)
        leading = leading and values == 1
    return tuple(used)
