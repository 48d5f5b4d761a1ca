"""Decompositions of a trained model, made once and cut for each trial.

Formats whose exact decomposition holds those of lower rank as leading slices (`Format.
nested_values`: trains and TT-matrices) are decomposed once, exactly, and sliced; the squared error
is at most the sum of the discarded squares, the bound of TT-SVD itself. Other formats are not
nested in this way, or lose too much by it: they are decomposed for the rank or energy asked for,
and each result is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_tensornet import formats, validation
from keras_tensornet.compression.choosing.subjects import Form, Subject
from keras_tensornet.compression.kinds import Target, factorized_layer, kernel_array
from keras_tensornet.decompositions.svd import rank_for_energy
from keras_tensornet.kernels import decompose_tensor, equalised, tensorize_kernel

# Cores kept for a layer and format, in numbers for each number of its kernel; the oldest go first.
KEPT = 4


@dataclass
class Exact:
    """Exact cores, and the singular values that each entry of their rank counts, largest first."""

    cores: list[np.ndarray]
    values: list[np.ndarray]


class Decompositions:
    """The decompositions made so far for the layers of one trained model."""

    def __init__(self) -> None:
        self.forms: dict[tuple[Any, ...], Form] = {}
        self.exact: dict[tuple[Any, ...], Exact] = {}
        self.kept: dict[tuple[Any, ...], dict[tuple[Any, ...], tuple[Any, ...]]] = {}
        self.made = 0

    def layer(
        self, target: Target, format: str, by: str, value: Any, arguments: dict[str, Any]
    ) -> Any:
        """The factorized layer for a target at a rank or energy; None where it would not shrink.

        Args:
            target: the dense layer.
            format: name of the format.
            by: "rank" or "energy".
            value: the rank or the share of energy.
            arguments: further arguments of the factorized layer.
        """
        key = (target.path, format, repr(sorted(arguments.items())))
        if key not in self.forms:
            self.forms[key] = Subject(target).form(format, arguments)
        form = self.forms[key]
        rank, cores = self._cores(key, target, form, by, value)
        if sum(core.size for core in cores) >= kernel_array(target).size:
            return None
        with validation.quietly():
            return factorized_layer(target, format, rank, cores, dict(form.arguments))

    def _cores(
        self, key: tuple[Any, ...], target: Target, form: Form, by: str, value: Any
    ) -> tuple[Any, ...]:
        nested_values = formats.get(form.format).nested_values
        if nested_values is not None:
            if key not in self.exact:
                self.made += 1
                self.exact[key] = exact_cores(kernel_array(target), form, nested_values)
            return cut(self.exact[key], form, by, value)
        kept = self.kept.setdefault(key, {})
        if (by, value) not in kept:
            self.made += 1
            found = Subject(target).decompose(form, **{by: value})
            cores = [core.astype("float32") for core in found.cores or ()]
            kept[(by, value)] = found.rank, cores
            while len(kept) > 1 and _entries(kept.values()) > KEPT * kernel_array(target).size:
                del kept[next(iter(kept))]
        return kept[(by, value)]


def exact_cores(
    kernel: np.ndarray, form: Form, nested_values: Callable[[list[np.ndarray]], list[np.ndarray]]
) -> Exact:
    """The exact decomposition of a kernel in a nested format."""
    _, network = form.network(1)
    # Not `decompose_kernel`, which scales the cores.
    cores = decompose_tensor(tensorize_kernel(kernel, network, form.modes), network, eps=0.0)
    return Exact(cores, nested_values(cores))


def cut(exact: Exact, form: Form, by: str, value: Any) -> tuple[Any, ...]:
    """Rank and cores of lower rank, as leading slices of the exact ones."""
    if by == "energy":
        wanted = [max(1, rank_for_energy(values, value)) for values in exact.values]
    else:
        wanted = [value] * len(exact.values)
    ranks = tuple(min(r, len(v)) for r, v in zip(wanted, exact.values, strict=True))
    rank, network = form.network(ranks or 1)
    cores = [
        core[tuple(slice(extent) for extent in shape)]
        for core, shape in zip(exact.cores, network.core_shapes, strict=True)
    ]
    return rank, equalised(cores)


def _entries(decompositions: Iterable[tuple[Any, ...]]) -> int:
    return sum(core.size for _, cores in decompositions for core in cores)
