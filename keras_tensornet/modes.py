"""Modes: how the sizes of a kernel are split into the small sizes that cores carry.

A channel count such as 784 is written as a product of *modes*, 4 x 4 x 7 x 7, one per core. This
module picks balanced modes where the user gives none, checks those that the user does give, and
describes a whole kernel in a `KernelModes`. Sizes without good factors (primes, 1000-class heads,
vocabularies) are covered by a single mode when small, or padded to a product of balanced modes and
cropped again after merging when large; `KernelModes` says which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from keras_tensornet import validation

# Modes of about this size keep the sum of the modes, and with it the parameter count, near its
# least; it gives the tensor-ring paper's own choices for 64, 100, 784 and 1250 (its Tables 1 to 5).
TYPICAL_MODE = 5
# A size up to this one is kept as a single mode when it has no balanced factors.
LARGEST_SINGLE_MODE = 32
# Exact factors are kept while their sum is at most this many times that of equal real factors.
LOPSIDED = 1.6


@dataclass(frozen=True)
class KernelModes:
    """The modes of a kernel, without any format: what a format turns into a network.

    Attributes:
        in_size: input features or channels (per group).
        out_size: output features or channels (per group).
        in_modes: modes whose product is at least `in_size`; `()` for a single input channel.
        out_modes: modes whose product is at least `out_size`.
        spatial: one tuple of extents for each spatial mode: `((3, 3),)` for one joint mode of
            size 9, `((3,), (3,))` for separate modes, `()` for a dense kernel.
        groups: number of groups of a grouped convolution, a mode of its own when above 1.
        split, order: where a layer keeps its kernel otherwise than `plain_shape`, the sizes that
            the plain kernel is split into, and the order of those axes in the layer's kernel.
    """

    in_size: int
    out_size: int
    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]
    spatial: tuple[tuple[int, ...], ...] = ()
    groups: int = 1
    split: tuple[int, ...] = ()
    order: tuple[int, ...] = ()

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """The spatial extents in Keras order, for example `(3, 3)`."""
        return tuple(extent for extents in self.spatial for extent in extents)

    @property
    def plain_shape(self) -> tuple[int, ...]:
        """The shape of a dense or convolution kernel: `(*kernel_size, in, groups * out)`."""
        return (*self.kernel_size, self.in_size, self.groups * self.out_size)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """The shape of the dense kernel in Keras layout: plain, unless `split` and `order` say."""
        if not self.order:
            return self.plain_shape
        return tuple(self.split[axis] for axis in self.order)

    @property
    def fan_shape(self) -> tuple[int, ...]:
        """The shape from which Keras reads the fans of the kernel: layers without spatial axes
        tell their initializer which axes are inputs, transposed convolutions do not."""
        return self.kernel_shape if self.spatial else self.plain_shape

    @property
    def padding(self) -> tuple[int, int]:
        """How many input and output entries are padding: zero unless a size was awkward."""
        return math.prod(self.in_modes) - self.in_size, math.prod(self.out_modes) - self.out_size

    def __str__(self) -> str:
        parts = [_product(self.in_modes, self.in_size), _product(self.out_modes, self.out_size)]
        if self.spatial:
            sizes = [math.prod(extents) for extents in self.spatial]
            parts.insert(0, _product(sizes, math.prod(sizes)))
        if self.groups > 1:
            parts.append(f"{self.groups} groups")
        return " -> ".join(parts)


def kernel_modes(
    in_size: int,
    out_size: int,
    in_modes: object = None,
    out_modes: object = None,
    spatial: tuple[tuple[int, ...], ...] = (),
    groups: int = 1,
    out_name: str = "units",
) -> KernelModes:
    """Describe a kernel by its modes; `None` picks balanced modes, an int that many of them.

    Args:
        in_size: input features or channels, per group.
        out_size: output features or channels, per group.
        in_modes: `None`, a number of modes, or a tuple that multiplies to `in_size`.
        out_modes: `None`, a number of modes, or a tuple that multiplies to `out_size`.
        spatial: extents of each spatial mode, see `KernelModes`.
        groups: number of groups.
        out_name: what the layer calls its output size, for the error text.

    Raises:
        ValueError: if given modes do not multiply to the size.
    """
    inputs = resolve_modes("in_modes", in_modes, in_size, "the number of inputs")
    outputs = resolve_modes("out_modes", out_modes, out_size, f"`{out_name}`")
    if not inputs and not outputs and not spatial:
        inputs = (1,)
    return KernelModes(in_size, out_size, inputs, outputs, tuple(spatial), groups)


def resolve_modes(name: str, modes: object, size: int, size_name: str) -> tuple[int, ...]:
    """Turn an argument (`None`, a count or a tuple) into modes that cover `size`."""
    if modes is None:
        return balanced_modes(size)
    if isinstance(modes, int) and not isinstance(modes, bool):
        return balanced_modes(size, validation.positive_int(name, modes))
    resolved = validation.int_tuple(name, modes)
    if math.prod(resolved) != size:
        raise ValueError(
            f"`{name}` must multiply to {size_name}. Received: {name}={resolved}, which multiplies "
            f"to {math.prod(resolved)}, for a size of {size}. Use {name}={balanced_modes(size)} or "
            "leave it None."
        )
    return resolved


def balanced_modes(size: int, num_modes: int | None = None) -> tuple[int, ...]:
    """Modes of nearly equal size, ascending, whose product is `size` or just above it.

    Args:
        size: what the modes must cover.
        num_modes: how many modes; by default about `log(size) / log(5)`.

    Returns:
        Modes with product `size` where balanced factors exist, `(size,)` for a small size that
        has none, else the most balanced modes of a product at most 3 % larger. `()` for size 1.

    >>> balanced_modes(784), balanced_modes(31), balanced_modes(50257, 3)
    ((4, 4, 7, 7), (31,), (34, 37, 40))
    """
    validation.positive_int("size", size)
    if size == 1:
        return () if num_modes is None else (1,) * num_modes
    if num_modes is None:
        num_modes = max(1, round(math.log(size) / math.log(TYPICAL_MODE)))
        if size <= LARGEST_SINGLE_MODE and _lopsided(factors(size, num_modes), size):
            return (size,)
    exact = factors(size, num_modes)
    return _padded_modes(size, num_modes) if _lopsided(exact, size) else exact


def fewest_modes(size: int, most: int | None) -> int | None:
    """The number of modes to ask for where a format takes at most that many; None for its own."""
    return most if most is not None and len(balanced_modes(size)) > most else None


def _padded_modes(size: int, num_modes: int) -> tuple[int, ...]:
    """The modes of least sum among the products at most about 3 % above `size`."""
    largest = size + max(3, size // 32)
    return min((factors(padded, num_modes) for padded in range(size + 1, largest + 1)), key=sum)


@lru_cache(maxsize=4096)
def factors(size: int, num_modes: int) -> tuple[int, ...]:
    """The `num_modes` ascending factors of `size` with the least sum.

    >>> factors(64, 3), factors(300, 4), factors(7, 2)
    ((4, 4, 4), (3, 4, 5, 5), (1, 7))
    """
    if num_modes == 1:
        return (size,)
    best: tuple[int, ...] = (1,) * (num_modes - 1) + (size,)
    largest = math.isqrt(size) if num_modes == 2 else round(size ** (1 / num_modes)) + 1
    for first in range(largest, 0, -1):
        if size % first == 0:
            modes = tuple(sorted((first, *factors(size // first, num_modes - 1))))
            best = min(best, modes, key=sum)
    return best


def _lopsided(modes: tuple[int, ...], size: int) -> bool:
    equal = len(modes) * size ** (1 / len(modes))
    return len(modes) > 1 and sum(modes) > LOPSIDED * equal


def _product(modes: tuple[int, ...] | list[int], size: int) -> str:
    text = " x ".join(str(mode) for mode in modes) or "1"
    product = math.prod(modes)
    return f"{text} (padded from {size})" if product != size else text
