"""Spending one budget over all layers: options for each layer, then the knapsack.

For each layer and format a few decompositions are tried, from coarse to fine, and their costs and
errors noted. Options in between get ranks and errors by interpolation, so that the budget can be
met within 1 %. What is made least is the sum over the layers of what is lost to what is kept,
e / (1 - e) for a squared relative error e: the noise in a layer's output to the signal in it.
Squared, because the errors of different layers are nearly uncorrelated and their squares add up; to
what is kept, because normalisation brings an output back to its scale and the noise with it. A sum
of e alone would give up whole layers, for which a network has no use at all. With calibration data
each layer's term is weighted by what its noise does to the model's outputs (see `sensitivity`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_tensornet import formats, ranks
from keras_tensornet.compression.choosing.costs import Costs
from keras_tensornet.compression.choosing.subjects import Candidate, Form, Subject, Truncation
from keras_tensornet.networks import matrix_rank

# Relative errors at which decompositions are tried.
TRIALS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8,
          0.85, 0.9, 0.95)  # fmt: skip
BETWEEN = 5
RANK_TRIALS = 10
MOST_RANK = 4096
# How many ranks of a truncated SVD are offered to a budget, in equal ratios and in equal steps.
TRUNCATIONS = 40
# Halvings by which the share that all layers get alike is found.
SHARE_STEPS = 20
# Relative difference of errors that is roundoff.
SAME = 1e-6
# A dense layer lets at least so many numbers through, and no more than a share of its short side.
NARROW, NARROW_SHARE = 4, 16
# A layer of which less than this share of energy is kept counts as lost.
LEAST_KEPT = 1e-6


class BudgetTooSmall(ValueError):
    """A budget is below what the smallest ranks cost, or below what stays dense."""


@dataclass(frozen=True)
class Option:
    """What a layer may become.

    Attributes:
        form: format and modes; None to stay dense.
        rank: in that form.
        costs: of the kernel.
        error: squared relative error.
        guessed: whether the error was interpolated, not measured.
    """

    form: Form | None
    rank: Any
    costs: Costs
    error: float
    guessed: bool = False


def options_of(subject: Subject, forms: list[Form], budget: str, multiple: int) -> list[Option]:
    """All options of a layer that are cheaper than leaving it dense, and that.

    The truncated SVD of its matrix is among them, whatever the format: with few exceptions it is
    what a trained kernel loses least by where the share is not small.
    """
    found = [Option(None, None, subject.dense, 0.0)]
    truncation = subject.truncation()
    if truncation is not None:
        found += _truncations(subject, truncation, multiple)
    for form in forms:
        if truncation is not None and truncation.form == form:
            continue
        found += options_in(subject, form, multiple)
    dense = cost(subject.dense, budget)
    return [
        option
        for option in found
        if option.form is None
        or (cost(option.costs, budget) < dense and option.costs.params < subject.dense.params)
    ]


def options_in(subject: Subject, form: Form, multiple: int) -> list[Option]:
    """The options of a layer in one form."""
    return [option for trials in _trials(subject, form) for option in _denser(trials, multiple)]


def least_rank(subject: Subject) -> int:
    """What the rank of a layer's matrix must not fall below; 1 where nothing is asked.

    A dense layer of rank 1 or 2 has a small error for its size and is good for nothing: it lets
    one or two numbers through, and no training widens that. Cut into modes, its sides hold a
    matrix of high rank in as many parameters, worse at first, and after training far better.
    """
    if subject.target.kind.family != "dense":
        return 1
    modes = subject.modes
    return max(1, min(NARROW, modes.in_size // NARROW_SHARE, modes.out_size // NARROW_SHARE))


def is_narrow(subject: Subject, form: Form | None, rank: Any) -> bool:
    """Whether a layer would let fewer numbers through than it has to."""
    least = least_rank(subject)
    return form is not None and least > 1 and matrix_rank(form.network(rank)[1]) < least


def rank_of(candidate: Candidate) -> int:
    """What the rank of the matrix that a decomposition stands for can be at most."""
    return matrix_rank(candidate.network)


def wider(
    options: list[Option], subject: Subject, forms: list[Form], budget: str, multiple: int
) -> Any:
    """The options of a layer that are not narrow, those of further forms among them."""
    more = [option for form in forms for option in options_in(subject, form, multiple)]
    dense = subject.dense
    cheaper = [
        option
        for option in more
        if cost(option.costs, budget) < cost(dense, budget) and option.costs.params < dense.params
    ]
    return [
        option
        for option in [*options, *cheaper]
        if not is_narrow(subject, option.form, option.rank)
    ]


def cost(costs: Costs, budget: str) -> float:
    """Costs in the units of a budget."""
    return {"params": costs.params, "flops": costs.flops, "latency": costs.seconds}[budget]


def choose(
    options: list[list[Option]], weights: Sequence[float], budget: str, total: float
) -> list[Option]:
    """One option for each layer: total cost at most `total`, weighted noise to signal least.

    Raises:
        ValueError: if not even the cheapest options fit.
    """
    pairs = [
        [(cost(option.costs, budget), weight * noise_to_signal(option.error)) for option in layer]
        for layer, weight in zip(options, weights, strict=True)
    ]
    least = sum(min(price for price, _ in layer) for layer in pairs)
    if least > total:
        raise BudgetTooSmall(
            f"The budget of `{budget}` is below what the smallest ranks cost: {total:.4g} is left "
            f"for these layers, and they cost at least {least:.4g}. Raise the budget, or name "
            "another format."
        )
    allocation = ranks.allocate(pairs, total)
    return [layer[index] for layer, index in zip(options, allocation.choices, strict=True)]


def one_share(options: list[list[Option]], budget: str, total: float) -> list[Option]:
    """One option for each layer: the least error within one share of what the layers cost dense."""
    priced = [[(cost(option.costs, budget), option) for option in layer] for layer in options]

    def chosen(share: float) -> list[Option]:
        found = []
        for layer in priced:
            limit = share * max(price for price, _ in layer)
            within = [pair for pair in layer if pair[0] <= limit]
            within = within or [min(layer, key=lambda pair: pair[0])]
            found.append(min(within, key=lambda pair: pair[1].error)[1])
        return found

    low, high = 0.0, 1.0
    for _ in range(SHARE_STEPS):
        middle = (low + high) / 2
        spent = sum(cost(option.costs, budget) for option in chosen(middle))
        low, high = (middle, high) if spent <= total else (low, middle)
    return chosen(low)


def measured(subject: Subject, option: Option) -> Option:
    """An option whose error a trial has measured."""
    if not option.guessed or option.form is None:
        return option
    trial = subject.decompose(option.form, rank=option.rank, quick=True)
    return replace(option, error=trial.error**2, guessed=False)


def noise_to_signal(error: float) -> float:
    """What is lost to what is kept, for a squared relative error."""
    return error / max(1.0 - error, LEAST_KEPT)


def fill(
    chosen: list[Option],
    weights: Sequence[float],
    dense: list[Costs],
    budget: str,
    total: float,
    multiple: int,
) -> list[Option]:
    """Spend what is left of a budget by raising single bonds, the worst layers first.

    The knapsack meets a budget up to the gaps between options, which are large where layers are
    few. A larger bond never makes an error larger. Predicted time does not rise in small steps, so
    a budget of latency is left as it is.

    Args:
        chosen: one option for each layer.
        weights: what a unit of noise to signal counts in each layer.
        dense: costs of each layer left dense, which no option reaches.
        budget: name of the budget.
        total: what these layers may cost together.
        multiple: by which a bond is raised.
    """
    if budget == "latency":
        return chosen
    chosen = list(chosen)
    left = total - sum(cost(option.costs, budget) for option in chosen)
    stuck: set[int] = set()
    while len(stuck) < len(chosen):
        place = max(
            (place for place in range(len(chosen)) if place not in stuck),
            key=lambda place: weights[place] * noise_to_signal(chosen[place].error),
        )
        raised = _raised(chosen[place], dense[place], budget, left, multiple)
        if raised is None:
            stuck.add(place)
            continue
        left -= cost(raised.costs, budget) - cost(chosen[place].costs, budget)
        chosen[place] = raised
    return chosen


def _raised(option: Option, dense: Costs, budget: str, left: float, multiple: int) -> Option | None:
    """The option with one bond larger by one step: the cheapest that costs something and fits."""
    if option.form is None:
        return None
    bonds = option.rank if isinstance(option.rank, tuple) else (option.rank,)
    found = []
    for place, bond in enumerate(bonds):
        larger = (*bonds[:place], bond + multiple, *bonds[place + 1 :])
        rank, network = option.form.network(larger if isinstance(option.rank, tuple) else larger[0])
        costs = Costs.of(network, option.form.workload if budget == "flops" else None)
        extra = cost(costs, budget) - cost(option.costs, budget)
        smaller = costs.params < dense.params and cost(costs, budget) < cost(dense, budget)
        if smaller and 0 < extra <= left:
            found.append((extra, place, Option(option.form, rank, costs, option.error)))
    return min(found, key=lambda item: item[:2])[2] if found else None


def rounded(rank: Any, multiple: int) -> Any:
    """Ranks brought to the nearest multiple, at least one."""
    if multiple == 1:
        return rank
    if isinstance(rank, (tuple, list)):
        return tuple(rounded(one, multiple) for one in rank)
    return max(1, round(rank / multiple)) * multiple


def _trials(subject: Subject, form: Form) -> list[list[Candidate]]:
    """Families of decompositions, each from fine to coarse, without their arrays.

    Ranks that share an error out over the bonds alike are not always the best for their size, nor
    are equal ranks; both are tried.
    """
    families = [[{"rank": rank} for rank in _rank_grid(subject, form)]]
    if not formats.get(form.format).ranks_by_trial:
        families.append([{"rank": 1}, *({"eps": eps} for eps in TRIALS)])
    return [_family(subject, form, wanted) for wanted in families]


def _truncations(subject: Subject, truncation: Truncation, multiple: int) -> list[Option]:
    """Truncated SVDs of many ranks, whose errors all come from one factorisation."""
    largest = min(truncation.sides)
    steps = np.append(np.geomspace(1, largest, TRUNCATIONS), np.linspace(1, largest, TRUNCATIONS))
    found = []
    for rank in sorted({rounded(int(step), multiple) for step in steps}):
        spelled, network = truncation.network(rank)
        error = subject.error_of_truncation(truncation, rank)
        costs = Candidate(truncation.form, spelled, network, error).costs
        found.append(Option(truncation.form, spelled, costs, error**2))
        if costs.params >= subject.dense.params:
            break
    return found


def truncated(subject: Subject, budget: str, limit: float, multiple: int) -> Option | None:
    """The truncated SVD of a layer of the largest rank that costs no more than a limit.

    None where there is none, or it is narrow (see `least_rank`).
    """
    truncation = subject.truncation()
    if truncation is None:
        return None

    def option(rank: int) -> Option:
        spelled, network = truncation.network(rank)
        costs = Candidate(truncation.form, spelled, network, 0.0).costs
        return Option(truncation.form, spelled, costs, 0.0)

    least = least_rank(subject)
    low, high = 0, min(truncation.sides) // multiple
    while low < high:
        middle = (low + high + 1) // 2
        costs = option(middle * multiple).costs
        fits = cost(costs, budget) <= limit and costs.params < subject.dense.params
        low, high = (middle, high) if fits else (low, middle - 1)
    if not low or low * multiple < least:
        return None
    error = subject.error_of_truncation(truncation, low * multiple)
    return replace(option(low * multiple), error=error**2)


def no_worse(subject: Subject, option: Option, error: float, budget: str, multiple: int) -> Option:
    """An option, or the truncated SVD that costs no more where that loses less.

    Args:
        subject: the layer.
        option: what it may become.
        error: relative error that it turned out to have.
        budget: what the cost is counted in.
        multiple: of the SVD's rank.
    """
    found = truncated(subject, budget, cost(option.costs, budget), multiple)
    if found is None or error**2 <= found.error * (1 + SAME):
        return option
    return found


def _family(subject: Subject, form: Form, wanted: list[dict[str, Any]]) -> list[Candidate]:
    found = {}
    for how in wanted:
        trial = subject.decompose(form, quick=True, **how)
        found[str(trial.rank)] = Candidate(form, trial.rank, trial.network, trial.error)
    return sorted(found.values(), key=lambda trial: -trial.params)


def _rank_grid(subject: Subject, form: Form) -> list[Any]:
    """Ranks in equal ratios from 1 to the largest that is smaller than the dense kernel."""
    spell = formats.get(form.format).trial_rank

    def fits(rank: int) -> bool:
        return form.network(spell(rank))[1].num_params < subject.dense.params

    largest = 1
    while largest < MOST_RANK and fits(2 * largest):
        largest *= 2
    step = largest // 2
    while step:
        largest, step = (largest + step if fits(largest + step) else largest), step // 2
    grid = np.unique(np.round(np.geomspace(1, largest, RANK_TRIALS)).astype(int))
    return [spell(int(rank)) for rank in grid]


def _denser(trials: list[Candidate], multiple: int) -> list[Option]:
    """The trials and what lies between neighbours; ranks rounded to multiples."""
    options: dict[str, Option] = {}
    for finer, coarser in zip(trials, [*trials[1:], trials[-1]], strict=True):
        for step in range(BETWEEN):
            share = step / BETWEEN
            rank = rounded(_between(finer.rank, coarser.rank, share), multiple)
            rank, network = finer.form.network(rank)
            error = math.exp(
                (1 - share) * math.log(finer.error**2 + 1e-12)
                + share * math.log(coarser.error**2 + 1e-12)
            )
            trial = Candidate(finer.form, rank, network, error)
            options.setdefault(str(rank), Option(finer.form, rank, trial.costs, error, step > 0))
    return list(options.values())


def _between(first: Any, second: Any, share: float) -> Any:
    if isinstance(first, (tuple, list)) and isinstance(second, (tuple, list)):
        if len(first) != len(second):  # ranks of two shapes cannot be mixed
            return first if share < 0.5 else second
        return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    if isinstance(first, int) and isinstance(second, int):
        return round(first + (second - first) * share)
    return first if share < 0.5 else second
