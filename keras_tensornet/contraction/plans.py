"""Plans: which chain of stages computes a layer, chosen by predicted time.

`make_plan` searches all ways to absorb the cores group by group (cheapest-first over sets of
cores), keeps the best few, prepares each exactly, and adds the plan that merges everything and
runs the dense operation. A `Plan` prints itself: stages, FLOPs, predicted time, and the candidates
that it was chosen from.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, product
from typing import Any

from keras_tensornet.contraction import constants
from keras_tensornet.contraction.cost import Machine
from keras_tensornet.contraction.pairwise import Labels
from keras_tensornet.contraction.stages import (
    Stage,
    StageContext,
    Workload,
    make_stage,
    predict,
    stage_ops,
)
from keras_tensornet.networks import Network

IMPLEMENTATIONS = ("auto", "factorized", "reconstructed")
CHAIN = re.compile(r"\d+(,\d+)*:[a-z]+( \| \d+(,\d+)*:[a-z]+)*")
# Chains kept for exact preparation, and visits of each set of absorbed cores in the search.
CHAINS = 8
VISITS = 3
# Predictions err by a fifth: a chain must be predicted to take less than this share of the dense
# operation before a layer whose kernel is merged beforehand computes it instead.
SURE = 0.8
# Networks with more cores or more groups than this are searched over neighbouring cores only.
MOST_CORES = 12
MOST_GROUPS = 700


@dataclass(frozen=True)
class Plan:
    """How a layer is computed.

    Attributes:
        stages: applied in order; a single "dense" stage holds all cores and runs the dense
            operation on the merged kernel ("reconstructed").
        finish: the wanted order of the output labels.
        workload: the sizes that the plan was chosen for.
        candidates: `(description, predicted seconds)` of all plans considered, best first.
    """

    stages: tuple[Stage, ...]
    finish: Labels
    workload: Workload
    candidates: tuple[tuple[str, float], ...] = ()

    @property
    def implementation(self) -> str:
        """ "reconstructed" if the dense kernel is merged, else "factorized"."""
        return "reconstructed" if self.stages[0].op == "dense" else "factorized"

    @property
    def seconds(self) -> float:
        """Predicted time."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass, merging included."""
        return sum(stage.flops for stage in self.stages)

    def describe(self) -> str:
        """The plan in one line: groups of cores and operations."""
        return " | ".join(
            f"{','.join(str(core) for core in stage.cores)}:{stage.op}" for stage in self.stages
        )

    def __str__(self) -> str:
        lines = [
            f"{self.implementation} plan for {self.workload.rows} rows"
            f"{' in training' if self.workload.training else ''}: {self.flops:,} FLOPs, "
            f"predicted {self.seconds * 1e3:.3f} ms"
        ]
        for stage in self.stages:
            lines.append(f"  {stage}, merging {stage.merge.flops:,} FLOPs")
        if self.candidates:
            lines.append("candidates (cores:operation | ...), predicted ms:")
            lines += [f"  {seconds * 1e3:9.3f}  {text}" for text, seconds in self.candidates]
        return "\n".join(lines)


def make_plan(
    network: Network,
    workload: Workload,
    implementation: str = "auto",
    machine: Machine | None = None,
) -> Plan:
    """Choose the chain of stages with the least predicted time.

    Args:
        network: the cores.
        workload: batch and spatial sizes, forward or training.
        implementation: "reconstructed" merges the dense kernel; "factorized" never does; "auto"
            takes the faster, and with kernels merged beforehand a chain only if it is surely
            faster than the dense operation; or a chain of stages as `Plan.describe` writes it.
        machine: rates for the prediction; by default those in use, see `constants`.

    Raises:
        ValueError: for another implementation, a chain that does not fit the network, or
            "factorized" where all cores have to be merged.
    """
    return _make_plan(network, workload, implementation, machine or constants.machine())


@lru_cache(maxsize=1024)
def _make_plan(network: Network, workload: Workload, implementation: str, machine: Machine) -> Plan:
    if implementation not in IMPLEMENTATIONS:
        return _plan_of_chain(StageContext(network, workload, machine), implementation)
    plans = candidate_plans(network, workload, machine)
    allowed = [plan for plan in plans if implementation in ("auto", plan.implementation)]
    if not allowed and len(network.cores) == 1:
        allowed = list(plans)  # the one core is the kernel, so that there is nothing to merge
    if not allowed:
        raise ValueError(
            "With implementation='factorized' a kernel is never merged, and the cores of this "
            f"network cannot be applied one after the other. Received: {network}. Use 'auto' or "
            "'reconstructed', or a network each of whose spatial modes is in one core."
        )
    chosen = allowed[0]
    if implementation == "auto" and workload.merged:
        dense = next(plan for plan in plans if plan.implementation == "reconstructed")
        chosen = chosen if chosen.seconds < SURE * dense.seconds else dense
    listed = tuple((plan.describe(), plan.seconds) for plan in plans)
    return replace(chosen, candidates=listed)


def candidate_plans(
    network: Network, workload: Workload, machine: Machine | None = None
) -> tuple[Plan, ...]:
    """The best few plans, fastest prediction first; the reconstructed one is always among them."""
    return _candidate_plans(network, workload, machine or constants.machine())


@lru_cache(maxsize=1024)
def _candidate_plans(network: Network, workload: Workload, machine: Machine) -> tuple[Plan, ...]:
    context = StageContext(network, workload, machine)
    chains = list(_cheapest_chains(context))
    everything = (context.planner.everything,)
    if everything not in chains:
        chains.append(everything)
    plans = [plan for chain in chains for plan in _prepare(context, chain)]
    return tuple(sorted(plans, key=lambda plan: plan.seconds))


def check_implementation(implementation: object) -> str:
    """Return an implementation's name or a well-formed chain of stages, else raise an error.

    >>> check_implementation("0,1:matmul | 2:conv | 3,4:matmul")
    '0,1:matmul | 2:conv | 3,4:matmul'
    """
    if implementation in IMPLEMENTATIONS:
        return str(implementation)
    if isinstance(implementation, str) and CHAIN.fullmatch(implementation):
        return implementation
    known = ", ".join(repr(name) for name in IMPLEMENTATIONS)
    raise ValueError(
        f"`implementation` must be one of {known}, or a chain of stages as `plan.describe()` "
        f"writes it, such as '0,1:matmul | 2:conv'. Received: implementation={implementation!r}."
    )


def _plan_of_chain(context: StageContext, text: str) -> Plan:
    """The plan that `Plan.describe` wrote as text."""
    parts = [part.split(":") for part in check_implementation(text).split(" | ")]
    positions = [[int(core) for core in cores.split(",")] for cores, _ in parts]
    named = sorted(core for cores in positions for core in cores)
    if named != list(range(len(context.network.cores))):
        raise ValueError(
            "A chain of stages must name every core of the network exactly once. Received: "
            f"{text!r} for {len(context.network.cores)} cores."
        )
    chain = tuple(sum(1 << core for core in cores) for cores in positions)
    absorbed = 0
    for group, (cores, op) in zip(chain, parts, strict=True):
        possible = stage_ops(context, absorbed, group)
        if op not in possible:
            raise ValueError(
                f"Cores {cores} can be applied here as {' or '.join(possible)}. Received: {op!r} "
                f"in {text!r}."
            )
        absorbed |= group
    return _plan_of(context, chain, tuple(op for _, op in parts))


def _prepare(context: StageContext, chain: tuple[int, ...]) -> Iterator[Plan]:
    """The plans of a chain of groups, one for each choice of operations."""
    absorbed, choices = 0, []
    for group in chain:
        choices.append(stage_ops(context, absorbed, group))
        absorbed |= group
    for ops in product(*choices):
        yield _plan_of(context, chain, ops)


def _plan_of(context: StageContext, chain: tuple[int, ...], ops: tuple[str, ...]) -> Plan:
    """The plan of a chain of groups with one operation for each."""
    stages, before, absorbed = [], context.start(), 0
    for place, (group, op) in enumerate(zip(chain, ops, strict=True)):
        following = chain[place + 1] if place + 1 < len(chain) else 0
        stages.append(make_stage(context, absorbed, group, before, following, op))
        before, absorbed = stages[-1].after, absorbed | group
    return Plan(tuple(stages), context.finish(), context.workload)


def _cheapest_chains(context: StageContext) -> Iterator[tuple[int, ...]]:
    """Chains of groups in the order of their approximate cost, cheapest first."""
    groups = _useful_groups(context)
    everything = context.planner.everything
    visits: Counter[int] = Counter()
    ticket = count()
    waiting: list[Any] = [(0.0, next(ticket), 0, ())]
    found = 0
    while waiting and found < CHAINS:
        cost, _, absorbed, chain = heapq.heappop(waiting)
        if absorbed == everything:
            found += 1
            yield chain
            continue
        visits[absorbed] += 1
        if visits[absorbed] > VISITS:
            continue
        for group in _next_groups(context, groups, absorbed):
            step = _approximate(context, absorbed, group)
            entry = (cost + step, next(ticket), absorbed | group, (*chain, group))
            heapq.heappush(waiting, entry)


def _next_groups(context: StageContext, groups: list[int], absorbed: int) -> list[int]:
    """Groups that can follow: disjoint, and touching the activations where any does."""
    free = [group for group in groups if not group & absorbed]
    state = context.state(absorbed)
    touching = [group for group in free if state & context.open(group)]
    return touching or free


def _useful_groups(context: StageContext) -> list[int]:
    """Sets of cores that may form a stage: joined by labels, spatial labels wholly inside."""
    planner, total = context.planner, len(context.network.cores)
    sets = []
    if total <= MOST_CORES:
        sets = [group for group in range(1, planner.everything + 1) if planner.connected(group)]
    if not 0 < len(sets) <= MOST_GROUPS:
        sets = [
            ((1 << stop) - 1) ^ ((1 << start) - 1)
            for start in range(total)
            for stop in range(start + 1, total + 1)
        ]
    holders = {
        label: sum(1 << k for k in range(total) if label in planner.labels[k])
        for label in context.axes_of
    }
    return [
        group for group in sets if all(group & cores in (0, cores) for cores in holders.values())
    ]


def _approximate(context: StageContext, absorbed: int, group: int) -> float:
    """Seconds of a stage without the order of labels: the search's edge weight."""
    state, kernel = context.state(absorbed), context.open(group)
    later, spatial = context.state(absorbed | group), context.spatial(group)
    kinds = (
        state - kernel,
        state & kernel & later,
        (state & kernel) - later,
        kernel - state - set(spatial),
    )
    sizes = [context.planner.count(labels) for labels in kinds]
    rows = context.positions(absorbed), context.positions(absorbed | group)
    taps = context.planner.count(spatial)
    ops = stage_ops(context, absorbed, group)
    seconds = min(predict(op, context.machine, rows, taps, *sizes) for op in ops)
    return seconds + context.merge_seconds(group)
