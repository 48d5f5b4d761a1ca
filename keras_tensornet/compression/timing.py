"""Speed that is measured: budgets in time, and the floor that a budget of parameters keeps.

Budgets in time are kept in time: predicted, measured on the whole model, corrected, repeated.

Contraction plans predict ratios of single layers. What a user asks for is the latency of the whole
model, in which layers without kernels take part too, and on this machine. So a plan is made for a
predicted share, carried out, and measured against the dense model, both frozen as they would be
exported and in turns; the predicted share is moved until the measured one is what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras

from keras_tensornet.compression.building import build_compressed
from keras_tensornet.compression.choosing.budgets import BudgetTooSmall
from keras_tensornet.compression.choosing.costs import BATCH
from keras_tensornet.compression.choosing.selection import Selection
from keras_tensornet.compression.choosing.subjects import Candidate, Subject
from keras_tensornet.layers.common import FactorizedMethods
from keras_tensornet.serving.autotuning import chain_is_slower
from keras_tensornet.serving.latency import measure_models

# A measured share counts as met up to this much above it; further below it is tried again.
ABOVE, BELOW = 1.05, 0.9
ROUNDS = 5
REPEATS, SECONDS = 7, 0.4


def keep_latency(
    model: keras.Model,
    selection: Selection,
    subjects: list[Subject],
    share: float,
    budget_of: Callable[[float], float],
) -> dict[str, Any]:
    """Spend a budget, and anew until the whole model's measured latency is the share asked for.

    Where prediction says that it cannot be kept, the smallest ranks are measured all the same: what
    layers take alone and what they take in a model are not the same.

    Args:
        model: the dense model.
        selection: changed in place to what is kept.
        subjects: the layers.
        share: of the dense model's latency.
        budget_of: what the layers may cost together for a predicted share.

    Returns:
        `{"measured": share, "conditions": how it was measured}`, for the plan's settings.

    Raises:
        ValueError: if no plan that was tried is fast enough; says what can be reached.
    """
    _start(selection, subjects, share, budget_of)
    tried: list[tuple[float, float]] = []
    kept: tuple[Any, ...] | None = None
    predicted, conditions = share, ""
    for _ in range(ROUNDS):
        measured, conditions = measured_share(model, build_compressed(model, selection.found))
        tried.append((predicted, measured))
        if measured <= ABOVE * share and (kept is None or measured > kept[0]):
            kept = (measured, dict(selection.found), dict(selection.notes), dict(selection.remarks))
        if BELOW * share <= measured <= ABOVE * share:
            break
        predicted = next_share(tried, share)
        try:
            selection.spend(budget_of(predicted))
        except ValueError:
            break
    if kept is None:
        reached = min(measured for _, measured in tried)
        raise ValueError(
            f"latency={share} cannot be kept: of the plans that were tried, the fastest takes "
            f"{reached:.2f} of the dense model's time ({conditions}, batch of {BATCH}), because "
            "much of the time is spent outside of the layers that are compressed, or their "
            "smallest ranks are no faster. Raise the budget, take more layers in with "
            "`exclude=()`, or try format='auto'."
        )
    measured, selection.found, selection.notes, selection.remarks = kept
    return {"measured": round(measured, 3), "conditions": f"{conditions}, batch of {BATCH}"}


def _start(
    selection: Selection,
    subjects: list[Subject],
    share: float,
    budget_of: Callable[[float], float],
) -> None:
    """The plan for a predicted share, or for the smallest ranks where that is too small."""
    try:
        budget = budget_of(share)
    except BudgetTooSmall:
        budget = 0.0
    try:
        selection.run(subjects, budget)
    except BudgetTooSmall:
        selection.spend(selection.least())


# What was measured in this process, by shapes and settings: plans of one model are the same twice.
_SLOWER: dict[tuple[Any, ...], bool] = {}
# Chains where they are predicted to be fast while cores are trained; merged once it is frozen.
MERGED = {"inference": "auto", "training": "auto", "frozen": "reconstructed"}


def keep_speed(model: keras.Model, selection: Selection) -> None:
    """Let layers merge when frozen whose chain is measured to be slower than their dense kernel.

    Prediction has merged those already that it takes for slower. Parameters stay as they are.

    Args:
        model: the dense model.
        selection: changed in place.
    """
    jit_compile = bool(getattr(model, "jit_compile", False))
    for path, (subject, candidate) in selection.found.items():
        if _runs_a_chain(subject, candidate) and _is_slower(subject, candidate, jit_compile):
            arguments = (*candidate.form.arguments, ("implementation", MERGED))
            form = replace(candidate.form, arguments=arguments)
            selection.found[path] = (subject, replace(candidate, form=form))
            selection.merged.add(path)


def _runs_a_chain(subject: Subject, candidate: Candidate) -> bool:
    """Whether a layer is predicted to run its cores frozen, and may be told not to."""
    said = {name for name, _ in candidate.form.arguments}
    alone = not subject.target.kind.parts()
    chain = candidate.form.workload is not None and not candidate.costs.merges
    return alone and chain and "implementation" not in said


def _is_slower(subject: Subject, candidate: Candidate, jit_compile: bool) -> bool:
    form = candidate.form
    kind = type(subject.target.layer).__name__
    key = (kind, candidate.network, form.workload, str(form.arguments), jit_compile)
    if key not in _SLOWER:
        _, holder = subject.target.shell(form.format, candidate.rank, dict(form.arguments))
        if not isinstance(holder, FactorizedMethods):
            return False
        if candidate.cores is not None:
            holder.assign_cores(candidate.cores)
        _SLOWER[key] = chain_is_slower(holder, BATCH, jit_compile)
    return _SLOWER[key]


def next_share(tried: list[tuple[float, float]], share: float) -> float:
    """The predicted share to try next: on the line through the two points nearest to the target.

    Args:
        tried: pairs of predicted and measured shares; the dense model, (1, 1), is one more.
        share: the measured one that is wanted.
    """
    points = [(1.0, 1.0), *tried]
    above = [point for point in points if point[1] > share]
    below = [point for point in points if point[1] <= share]
    if below:  # between the nearest on both sides
        low, high = max(below), min(above, default=(1.0, 1.0))
    else:  # beyond the smallest
        high, low = sorted(points)[1], sorted(points)[0]
    slope = (high[1] - low[1]) / max(high[0] - low[0], 1e-9)
    smallest, largest = min(points)[0], max(points)[0]
    wanted = low[0] + (share - low[1]) / slope if slope > 0 else 0.5 * smallest
    inside = wanted if below else min(wanted, 0.95 * smallest)
    return min(max(inside, 0.5 * smallest), largest)


def measured_share(dense: keras.Model, small: keras.Model) -> tuple[float, str]:
    """Latency of a model over that of the dense one, in turns, and how it was measured."""
    models = {"dense": dense, "compressed": small}
    timing = measure_models(models, BATCH, repeats=REPEATS, seconds=SECONDS)
    return timing.ratio("compressed", to="dense"), timing.conditions
