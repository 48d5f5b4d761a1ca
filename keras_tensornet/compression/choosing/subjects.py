"""One layer under compression: its kernel, what calibration knows of it, and trial decompositions.

`Subject.decompose` is plain NumPy and runs in threads; everything that touches Keras is prepared in
`Subject.of` or happens afterwards.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from keras_tensornet import formats, validation
from keras_tensornet.compression.choosing.costs import Costs, workload_of
from keras_tensornet.compression.cuts import (
    cut_cores,
    cut_of,
    error_at,
    rank_for_threshold,
    singular_values,
)
from keras_tensornet.compression.kinds import Target, kernel_array
from keras_tensornet.compression.weighted import (
    Metric,
    as_matrix,
    weighted_decomposition,
    weighted_error,
)
from keras_tensornet.contraction import Workload, kernel_plan, to_keras_layout
from keras_tensornet.formats import Rank
from keras_tensornet.kernels import (
    decompose_kernel,
    equalised,
    network_of_cores,
    relative_error,
)
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.types import Tensor


@dataclass(frozen=True)
class Form:
    """The format that a layer is brought into, without ranks.

    Attributes:
        format: name of the format.
        arguments: further arguments of the factorized layer, such as `in_modes`.
        modes: the modes that follow from them.
        workload: of one batch, for FLOPs and predicted time; None where they are not counted.
    """

    format: str
    arguments: tuple[tuple[str, object], ...]
    modes: KernelModes
    workload: Workload | None

    def __hash__(self) -> int:
        # An argument may be a dict, such as an implementation for each phase.
        return hash((self.format, str(self.arguments)))

    def network(self, rank: Rank) -> tuple[Rank, Network]:
        """The network at a rank, ranks above what the modes allow cut, and the rank as used."""
        return formats.get(self.format).fit(self.modes, rank)


@dataclass(frozen=True)
class Candidate:
    """One decomposition of a layer's kernel.

    Attributes:
        form: format and modes.
        rank: argument of the factorized layer.
        network: labels and sizes of the cores.
        error: relative error of the kernel, or of the layer's output where it was calibrated.
        cores: the arrays, or None where only costs and error are kept.
    """

    form: Form
    rank: Rank
    network: Network
    error: float
    cores: list[Any] | None = field(default=None, compare=False, repr=False)

    @property
    def params(self) -> int:
        """Entries of all cores."""
        return self.network.num_params

    @cached_property
    def costs(self) -> Costs:
        """What the cores cost; finds contraction plans on first use."""
        return Costs.of(self.network, self.form.workload)


@dataclass(frozen=True)
class Truncation:
    """The truncated SVD of a layer's matrix (patch entries, outputs), as a form.

    Attributes:
        form: whose networks are that at the ranks below.
        spell: `(modes, r) -> rank` argument of the form for r singular values.
    """

    form: Form
    spell: Callable[[KernelModes, int], Any]

    @property
    def sides(self) -> tuple[int, int]:
        """Patch entries and outputs."""
        modes = self.form.modes
        return math.prod(modes.kernel_size) * modes.in_size, modes.out_size

    def network(self, rank: int) -> tuple[Rank, Network]:
        """The rank argument and the network for some number of singular values."""
        return self.form.network(self.spell(self.form.modes, rank))


class Subject:
    """A target with its kernel at hand.

    Attributes:
        target: the layer.
        gram, scale: what calibration knows of its inputs and outputs, or None.
        mean: the mean patch (groups, patch) where an error of the output's mean does not count
            because a bias or a batch normalisation takes it out, or None.
        dense: costs of the dense kernel; FLOPs and time once a form is known.
        weight: what a unit of noise to signal in the layer's output counts in a budget.
    """

    def __init__(
        self, target: Target, gram: Any = None, mean: Any = None, scale: Any = None
    ) -> None:
        self.target = target
        self.mean = mean
        self.gram, self.scale = gram, scale
        self.values: np.ndarray | None = None
        self._truncation: tuple[Truncation | None] | None = None
        self.forms: dict[str, Form] = {}
        self.kept: dict[tuple[Any, ...], Candidate] = {}
        self.weight = 1.0
        self.dense = Costs(math.prod(self.kernel_shape))

    @cached_property
    def metric(self) -> Metric | None:
        """How much errors of the kernel count, or None for all alike."""
        if self.gram is None:
            return None
        gram = self.gram
        if self.mean is not None:
            # What comes after absorbs a mean error, so only what varies around it counts.
            mean = self.mean.astype(gram.dtype)
            gram = gram - mean[:, :, None] * mean[:, None, :]
        return Metric.regularised(gram, self.scale)

    @property
    def kernel(self) -> np.ndarray:
        """The kernel in Keras layout, read anew each time: copies of all are a second model."""
        return kernel_array(self.target)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """The kernel's shape in Keras layout."""
        return self.target.kernel_shape

    @property
    def variable(self) -> Any:
        """The variable that holds the kernel."""
        return self.target.kernel

    @property
    def modes(self) -> KernelModes:
        """Modes of the kernel in some form: how it is a matrix is the same in all of them."""
        form = next(iter(self.forms.values()), None) or self.form(formats.DEFAULT)
        return form.modes

    @property
    def path(self) -> str:
        """The target's path."""
        return self.target.path

    def form(self, format: str, arguments: Mapping[str, Any] | None = None) -> Form:
        """The form in a format; builds a layer of rank 1 once to learn its modes (not for threads).

        Raises:
            ValueError: if the layer does not come in that format or the arguments do not fit.
        """
        defaults = self.target.kind.arguments(self.target.layer, format)
        arguments = {**defaults, **(arguments or {})}
        key = format + json.dumps(arguments, sort_keys=True, default=str)
        if key not in self.forms:
            with validation.quietly():
                _, holder = self.target.shell(format, 1, arguments)
            workload = workload_of(self.target, holder)
            self.forms[key] = Form(format, tuple(arguments.items()), holder.modes, workload)
            if workload is not None:
                self.dense = Costs.of_dense(holder.network, self.dense.params, workload)
        return self.forms[key]

    def cut_form(self, form: Form) -> Form | None:
        """A form whose sides are whole because the kernel is a trained one, with them cut into
        modes; None for a form of which they are cut already, or cannot be.
        """
        plain = self.target.kind.arguments(self.target.layer, form.format)
        sides = [name for name in ("in_modes", "out_modes") if plain.get(name) == 1]
        if not sides:
            return None
        with suppress(ValueError, TypeError):
            found = self.form(form.format, dict.fromkeys(sides))
            return None if found.modes == form.modes else found
        return None

    def dense_costs(self) -> Costs:
        """The costs of the dense kernel with FLOPs and time."""
        if not self.forms:
            self.form(formats.DEFAULT)
        return self.dense

    def decompose(
        self, form: Form, rank: Rank | None = None, quick: bool = False, **threshold: Any
    ) -> Candidate:
        """Decompose at a rank or by `energy=` or `eps=`; the last of each rank is remembered.

        `quick` is for trials, of which the error is wanted rather than the cores.
        """
        if rank is not None:
            rank, network = form.network(rank)
            key = (form, str(rank), quick)
            if key in self.kept:
                return self.kept[key]
            cut = cut_of(network, form.modes)
            if cut is not None and quick:
                error = error_at(self._singular_values(form), network.count(cut.bonds))
                return Candidate(form, rank, network, error)
            cores = self._cores(form, network, quick)
        else:
            rank, network, cores = self._by_threshold(form, quick, threshold)
            key = (form, str(rank), quick)
        candidate = Candidate(form, rank, network, self._error(form, network, cores), cores)
        self.kept = {key: candidate}
        return candidate

    def bias_shift(self, candidate: Candidate) -> np.ndarray | None:
        """What the bias has to gain so that the output keeps its mean: mean^T (W - V)."""
        if self.target.kind.bias(self.target.layer) is None:
            return None
        return self.mean_lost(
            merged_kernel(candidate.network, candidate.form.modes, candidate.cores)
        )

    def mean_lost(self, kernel: np.ndarray) -> np.ndarray | None:
        """What another kernel takes from the mean of the outputs: mean^T (W - V), (outputs,).

        None where the mean is not known, or counts.
        """
        if self.mean is None:
            return None
        lost = as_matrix(self.kernel - kernel, self.modes)
        return np.einsum("gp,gpo->go", self.mean, lost).ravel()

    def truncation(self) -> Truncation | None:
        """The truncated SVD of this layer's matrix, as the first format that has it; None if none.

        Makes forms, so it is not for threads.
        """
        if self._truncation is None:
            self._truncation = (self._find_truncation(),)
        return self._truncation[0]

    def _find_truncation(self) -> Truncation | None:
        for format in formats.FORMATS.values():
            if format.truncation is None:
                continue
            try:
                form = self.form(format.name, {"in_modes": 1, "out_modes": 1})
            except (ValueError, TypeError):
                continue
            rank = format.truncation(form.modes, 1)
            if rank is not None and cut_of(form.network(rank)[1], form.modes) is not None:
                return Truncation(form, format.truncation)
        return None

    def error_of_truncation(self, truncation: Truncation, rank: int) -> float:
        """The relative error that the truncated SVD has at a rank."""
        return error_at(self._singular_values(truncation.form), rank)

    def _by_threshold(self, form: Form, quick: bool, threshold: dict[str, Any]) -> Any:
        rank, start = form.network(1)
        cut = cut_of(start, form.modes)
        if cut is not None and len(cut.bonds) == 1:
            wanted = rank_for_threshold(self._singular_values(form), **threshold)
            rank, network = form.network(wanted)
            return rank, network, self._cores(form, network, quick)
        cores = self._cores(form, start, quick, **threshold)
        found = network_of_cores(start, cores)
        rank, network = form.network(formats.get(form.format).rank_argument(found))
        if network.core_shapes != tuple(core.shape for core in cores):
            cores = self._cores(form, network, quick)
        return rank, network, cores

    def _cores(self, form: Form, network: Network, quick: bool, **threshold: Any) -> list[Any]:
        cut = None if threshold else cut_of(network, form.modes)
        if cut is not None:
            return equalised(cut_cores(self.kernel, network, form.modes, cut, self.metric))
        if self.metric is None:
            return decompose_kernel(self.kernel, network, form.modes, quick, **threshold)
        cores = weighted_decomposition(
            self.kernel, network, form.modes, self.metric, quick, **threshold
        )
        return equalised(cores)

    def _singular_values(self, form: Form) -> np.ndarray:
        """Of the kernel's matrix, whatever the modes of its two sides; taken once."""
        if self.values is None:
            self.values = singular_values(self.kernel, form.modes, self.metric)
        return self.values

    def _error(self, form: Form, network: Network, cores: list[Tensor]) -> float:
        if self.metric is not None:
            return weighted_error(self.kernel, network, form.modes, self.metric, cores)
        return relative_error(merged_kernel(network, form.modes, cores), self.kernel)


def merged_kernel(network: Network, modes: KernelModes, cores: Any) -> np.ndarray:
    """The dense kernel in Keras layout of some cores, in float64."""
    wide = [np.asarray(core, dtype="float64") for core in cores]
    return to_keras_layout(kernel_plan(network).run(wide, np), modes, np)
