"""The squared norm of a merged kernel, from its cores and without building it.

Every core is contracted with itself over its modes; what is left is a network of the bonds, each
twice, that is contracted to a number: for a tensor train the usual chain of R^2 x R^2 transfers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

from keras_tensornet.contraction.cost import Machine
from keras_tensornet.contraction.merging import MergePlan, kernel_plan, merge_plan
from keras_tensornet.contraction.orders import merge_order
from keras_tensornet.contraction.pairwise import PairStep, pair_step
from keras_tensornet.networks import Network
from keras_tensornet.types import Tensor

MACHINE = Machine()


@dataclass(frozen=True)
class NormPlan:
    """Gram tensors of each core, then their contraction; or the kernel itself where cheaper.

    Attributes:
        grams: the contraction of each core with itself; none if merging the kernel is predicted
            to be faster.
        merge: contracts the gram tensors to a number, or the cores to the kernel.
    """

    grams: tuple[PairStep, ...]
    merge: MergePlan

    def run(self, cores: list[Tensor], xp: ModuleType) -> Tensor:
        """The sum of squares of the merged kernel, a scalar."""
        if not self.grams:
            merged = self.merge.run(cores, xp)
            return xp.sum(xp.multiply(merged, merged))
        grams = [step.run(core, core, xp) for step, core in zip(self.grams, cores, strict=True)]
        return self.merge.run(grams, xp)


@lru_cache(maxsize=512)
def norm_plan(network: Network) -> NormPlan:
    """Choose how the norm of a network's kernel is computed, by predicted time."""
    kernel = kernel_plan(network)
    if _shares_modes(network):
        return NormPlan((), kernel)
    doubled, grams = _double(network)
    merge = merge_plan(doubled, merge_order(doubled), ())
    by_cores = MACHINE.merge_step(
        merge.flops + sum(step.flops for step in grams),
        merge.moved_elements + sum(2 * math.prod(step.shape) for step in grams),
    )
    elements = kernel.moved_elements + 2 * network.count(network.kernel_labels)
    if MACHINE.merge_step(kernel.flops, elements) < by_cores:
        return NormPlan((), kernel)
    return NormPlan(grams, merge)


def _double(network: Network) -> tuple[Network, tuple[PairStep, ...]]:
    """The network of gram tensors, each bond twice, and the steps that make them."""
    modes = set(network.mode_labels)
    size = dict(network.sizes)
    twins = {bond: f"{bond}'" for bond in network.bonds}
    sizes = {bond: size[bond] for bond in network.bonds}
    sizes |= {twin: size[bond] for bond, twin in twins.items()}
    grams = []
    for core in network.cores:
        twin = tuple(twins.get(label, label) for label in core)
        bonds = frozenset(label for label in (*core, *twin) if label not in modes)
        grams.append(pair_step(0, 0, core, twin, bonds, size | sizes))
    doubled = Network(
        cores=tuple(step.labels or ("one",) for step in grams),
        sizes=(*sizes.items(), ("one", 1)),
        in_labels=(),
        out_labels=(),
        name="norm",
    )
    return doubled, tuple(grams)


def _shares_modes(network: Network) -> bool:
    carried = [label for core in network.cores for label in core]
    return any(carried.count(label) > 1 for label in network.mode_labels)
