"""Planning: choose formats and ranks for the layers of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_tensornet import formats, validation
from keras_tensornet.compression.calibration import (
    Calibration,
    calibration_inputs,
    knowledge_of,
    readable,
)
from keras_tensornet.compression.choosing import budgets, rules
from keras_tensornet.compression.choosing.overrides import is_nuclear, read_overrides
from keras_tensornet.compression.choosing.rules import Rule
from keras_tensornet.compression.choosing.selection import AUTO, Selection
from keras_tensornet.compression.choosing.sensitivity import MOST, Judge, weigh
from keras_tensornet.compression.choosing.subjects import Subject
from keras_tensornet.compression.kinds import (
    Target,
    check_kernels,
    find_kernels,
    left_out,
    zero_kernels,
)
from keras_tensornet.compression.plans import NOT_CALIBRATED, CompressionPlan, LayerChoice
from keras_tensornet.compression.progress import Progress, reporter
from keras_tensornet.compression.timing import keep_latency, keep_speed
from keras_tensornet.compression.unreached import FACTORIZED, Unreached, unreached
from keras_tensornet.decompositions.shares import energy_share, refuse_nuclear
from keras_tensornet.rewriting.walker import walk_layers
from keras_tensornet.types import Rank

# How many of the layers that stay dense an error names.
NAMED = 3


def plan_compression(
    model: keras.Model,
    format: str = "tt",
    rank: Rank = None,
    energy: float | None = None,
    eps: float | None = None,
    share: float | None = None,
    params: float | None = None,
    flops: float | None = None,
    latency: float | None = None,
    vbmf: bool = False,
    multiple: int = 1,
    include: Any = None,
    exclude: Any = None,
    overrides: Mapping[str, Mapping[str, Any] | None] | None = None,
    calibration_data: Any = None,
    sensitivity: bool = True,
    progress: Progress = None,
    energy_norm: str = "frobenius",
    allow_slower: bool = False,
) -> CompressionPlan:
    """Plan the compression of a trained model: which layer gets which format and ranks.

    Exactly one of the rules from `rank` to `vbmf` is given.

    Args:
        model: a built Sequential or Functional model; it stays as it was.
        format: "tr", "tt", "ttm", "cp", "tucker", "bt", "ht", or "auto", which takes for each layer
            the format with the least error for its cost.
        rank: the rank of every layer, as its format takes it; cut to what a layer's modes allow.
        energy: share in (0, 1] of squared singular values that each unfolding keeps (Gabor & Zdunek
            2022, equation 14).
        eps: relative error allowed for each layer.
        share: share of its parameters that each layer keeps.
        params: share of the whole model's parameters to keep, spent over the layers so that the
            sum of their noise-to-signal ratios, e / (1 - e) for a squared relative error e, is
            least.
        flops: the same for the FLOPs of one example, of the layers in the table.
        latency: share of the whole model's latency to keep, for a batch of 32, frozen: plans are
            made by prediction, measured on this machine beside the dense model, and corrected until
            the measured share is met within 5 %. The plan's settings say what was measured.
        vbmf: ranks by variational Bayesian matrix factorization.
        multiple: round ranks to multiples of this (8 suits most hardware).
        include: only what matches is compressed: a layer's name, its path, a regular expression of
            the whole path, a layer class, a function of the layer, or a list of these.
        exclude: what stays dense, given in the same way. By default the first convolution and the
            classifier stay dense, unless `include` or `overrides` names them; `()` excludes
            nothing.
        overrides: `path -> settings` of single layers: a `rank`, `energy`, `eps` or `share`, a
            `format`, and arguments of the layer such as `in_modes`; None keeps the layer dense.
        calibration_data: inputs for the model in any form that `predict` or `fit` takes (see
            `reading.read_inputs`), or a `Calibration`; ranks then look at the error of each
            layer's output on it.
        sensitivity: with calibration data, weight the layers that share a budget by how far the
            model's outputs move when a layer loses a part of what it computes; a few forward
            passes. False counts the noise of every layer alike.
        progress: True for a bar on standard error, or `(done, total, path) -> None`.
        energy_norm: what `energy` is a share of: "frobenius", the squared singular values, as the
            paper's equation 14 prints it; or "nuclear", their sum, with which the sizes in the
            paper's tables are met. At one share the sum keeps more.
        allow_slower: with `params`, True skips the measurement that keeps speed: by default each
            layer that would run its cores once frozen is measured beside its dense kernel, for a
            batch of 32, and where it is slower the frozen model merges it.

    Returns:
        A `CompressionPlan`. Layers that would grow stay dense, and say so in the table; so do
        kernels of layers that no format stands for, "not supported".

    Raises:
        TypeError, ValueError: for wrong arguments, or a budget that cannot be met.
    """
    given = {
        "rank": rank,
        "energy": energy,
        "eps": eps,
        "share": share,
        "params": params,
        "flops": flops,
        "latency": latency,
        "vbmf": vbmf,
    }
    given["energy"] = energy_share(energy, energy_norm)
    rule = rules.read_rules(given, multiple, allow_slower)
    plan, _ = plan_with_cores(
        model, format, rule, include, exclude, overrides, calibration_data, sensitivity, progress
    )
    return plan


def plan_with_cores(
    model: keras.Model,
    format: str,
    rule: Rule,
    include: Any,
    exclude: Any,
    overrides: Any,
    calibration_data: Any,
    sensitivity: bool,
    progress: Progress,
) -> tuple[CompressionPlan, Selection]:
    """The plan, and the decompositions that it was made from."""
    _check_format(format, rule)
    calibration_data = readable(model, calibration_data)
    targets = find_kernels(model)
    others = unreached(model, targets)
    refuse_factorized(model, targets, others)
    overrides = read_overrides(overrides, targets, rule)
    dense = left_out(model, targets, include, exclude, overrides, others)
    dense |= {path: "kept dense" for path, settings in overrides.items() if settings is None}
    dense |= zero_kernels(target for target in targets if target.path not in dense)
    subjects = calibrated_subjects(
        model, [target for target in targets if target.path not in dense], calibration_data
    )
    # A budget goes over the layers that share it twice: for trials, and for what was chosen.
    shared = [s for s in subjects if rule.is_budget and s.path not in overrides]
    selection = Selection(
        format,
        rule,
        overrides,
        reporter(progress, len(subjects) + len(shared)),
        weigher(model, calibration_data) if sensitivity else None,
    )
    budget_of = _budgets(model, rule, targets, subjects, dense, others) if rule.is_budget else None
    settings = {"format": format, rule.name: rule.value, "multiple": rule.multiple}
    if rule.name == "latency" and budget_of:
        settings |= keep_latency(model, selection, subjects, float(rule.value), budget_of)
    else:
        selection.run(subjects, budget_of(float(rule.value)) if budget_of else None)
    if rule.name == "params" and not rule.allow_slower:
        keep_speed(model, selection)
    reasons = {**dense, **selection.notes}
    if selection.allocation is not None:
        settings |= {"allocation": selection.allocation}
    by_path = {subject.path: subject for subject in subjects}
    rows = {
        target.path: layer_choice(
            target,
            by_path.get(target.path),
            selection,
            reasons,
            calibrated=calibration_data is not None,
        )
        for target in targets
    }
    rows |= {other.path: unsupported_choice(other) for other in others}
    plan = CompressionPlan(
        model=model.name,
        layers=tuple(rows[path] for path in _in_order(model, targets, others)),
        model_params=model.count_params(),
        measure="output" if any(subject.metric is not None for subject in subjects) else "kernel",
        settings=settings | ({"energy_norm": "nuclear"} if is_nuclear(rule) else {}),
    )
    return plan, selection


def refuse_factorized(model: keras.Model, targets: list[Target], others: list[Unreached]) -> None:
    """Say of layers that hold cores already that they are left alone.

    Raises:
        ValueError: if there is nothing else to compress.
    """
    found = [other.path for other in others if other.reason == FACTORIZED]
    if not found:
        return
    named = ", ".join(f"'{path}'" for path in found[:NAMED]) + (" ..." if found[NAMED:] else "")
    way = (
        "Lower the ranks of one with `round_layer`, or merge them all with "
        "`to_dense_model(model)` and compress the result."
    )
    if not targets:
        raise ValueError(
            f"Every layer of '{model.name}' that could be compressed is factorized already: "
            f"{named}. {way}"
        )
    validation.warn_user(f"Layers that are factorized already are left as they are: {named}. {way}")


def calibrated_subjects(
    model: keras.Model, targets: list[Target], calibration_data: Any
) -> list[Subject]:
    """The layers with their kernels, and what the calibration data says of their inputs."""
    check_kernels(targets)
    known = {} if calibration_data is None else knowledge_of(model, targets, calibration_data)
    return [Subject(target, *known.get(target.path, ())) for target in targets]


def weigher(model: keras.Model, calibration_data: Any) -> Any:
    """`subjects -> judge` that weights layers by what the outputs do; None without data."""
    if calibration_data is None:
        return None
    known = calibration_data.sensitivities if isinstance(calibration_data, Calibration) else {}
    inputs = calibration_inputs(calibration_data)

    def weighed(subjects: list[Subject]) -> Judge:
        first = inputs.first(MOST).x
        weigh(model, subjects, first, known)
        return Judge(model, first)

    return weighed


def layer_choice(
    target: Target,
    subject: Subject | None,
    selection: Selection,
    reasons: Mapping[str, str],
    calibrated: bool,
) -> LayerChoice:
    """The row of the plan for one layer."""
    subject = subject or Subject(target)
    common: dict[str, Any] = {
        "path": target.path,
        "layer": type(target.layer).__name__,
        "kernel_shape": subject.kernel_shape,
        "dense_params": subject.dense.params,
        "dense_flops": subject.dense_costs().flops,
    }
    if target.path not in selection.found:
        return LayerChoice(
            **common,
            format=None,
            rank=None,
            arguments={},
            modes="",
            params=subject.dense.params,
            flops=common["dense_flops"],
            error=0.0,
            note=reasons.get(target.path, ""),
        )
    _, candidate = selection.found[target.path]
    notes = [selection.remarks.get(target.path, "")]
    if calibrated and subject.metric is None:
        notes.append(NOT_CALIBRATED)
    return LayerChoice(
        **common,
        format=candidate.form.format,
        rank=candidate.rank,
        arguments=dict(candidate.form.arguments),
        modes=str(candidate.form.modes),
        params=candidate.params,
        flops=candidate.costs.flops,
        error=candidate.error,
        note=", ".join(note for note in notes if note),
        merges=candidate.costs.merges or target.path in selection.merged,
    )


def unsupported_choice(other: Unreached) -> LayerChoice:
    """The row of the plan for a kernel that no format stands for."""
    return LayerChoice(
        path=other.path,
        layer=type(other.layer).__name__,
        kernel_shape=other.kernel_shape,
        format=None,
        rank=None,
        arguments={},
        modes="",
        dense_params=other.params,
        params=other.params,
        dense_flops=None,
        flops=None,
        error=0.0,
        note=other.note,
        supported=False,
    )


def _in_order(model: keras.Model, targets: list[Target], others: list[Unreached]) -> list[str]:
    """Paths of all kernels, in the model's order."""
    place = {path: number for number, (path, _) in enumerate(walk_layers(model))}
    rows = [(row.layer_path, row.path) for row in targets]
    rows += [(row.layer_path, row.path) for row in others]
    return [path for _, path in sorted(rows, key=lambda row: place.get(row[0], len(place)))]


def _budgets(
    model: keras.Model,
    rule: Rule,
    targets: Any,
    subjects: list[Subject],
    dense: Mapping[str, Any],
    others: list[Unreached],
) -> Callable[[float], float]:
    """Share -> what the chosen layers may cost together, so that it holds for the whole."""
    chosen = {subject.path for subject in subjects}
    if rule.name == "params":
        total = model.count_params()
        fixed = total - sum(subject.dense.params for subject in subjects)
    else:
        everything = [Subject(target) for target in targets if target.path not in chosen]
        fixed = sum(budgets.cost(subject.dense_costs(), rule.name) for subject in everything)
        total = fixed + sum(budgets.cost(s.dense_costs(), rule.name) for s in subjects)

    def budget_of(share: float) -> float:
        left = share * total - fixed
        if left <= 0:
            zeros = ", ".join(zero_kernels(t for t in targets if t.path not in chosen))
            largest = _largest(rule, targets, dense, total, others)
            raise budgets.BudgetTooSmall(
                f"A budget of {rule.name}={share:.4g} is below what stays dense, "
                f"{fixed / total:.3f} of the {rule.name}{largest}. "
                "Raise the budget, or take more layers in with `include` or `exclude=()`."
                + (
                    f" Kernels that are all zeros stay dense until trained: {zeros}."
                    if zeros
                    else ""
                )
            )
        return left

    return budget_of


def _largest(
    rule: Rule, targets: Any, dense: Mapping[str, Any], total: float, others: list[Unreached]
) -> str:
    """The layers that take most of what stays dense, and why they do."""
    left = [Subject(target) for target in targets if target.path in dense]
    shares = {s.path: budgets.cost(s.dense_costs(), rule.name) / total for s in left}
    why = dict(dense)
    if rule.name == "params":
        shares |= {other.path: other.params / total for other in others}
        why |= {other.path: other.note for other in others}
    first = sorted(shares, key=lambda path: -shares[path])[:NAMED]
    named = ", ".join(f"'{path}' {shares[path]:.3f} ({why[path]})" for path in first)
    return f": {named}" if named else ", in weights that are no kernels"


def _check_format(format: str, rule: Rule) -> None:
    validation.one_of("format", format, (AUTO, *formats.FORMATS))
    if format == AUTO and rule.name in ("rank", "vbmf"):
        raise ValueError(
            f"`format='auto'` compares formats at equal error or cost, which `{rule.name}` does "
            "not fix. Use eps, energy, share, params, flops or latency, or name a format."
        )
    if format == AUTO:
        refuse_nuclear(rule.value, "`format='auto'` compares errors of whole kernels; it")
