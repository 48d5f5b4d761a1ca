"""Compression of a trained model: `compress_model`, one call from a dense model to a small one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras

from keras_tensornet import formats, validation
from keras_tensornet.compression.building import build_compressed
from keras_tensornet.compression.calibration import (
    Calibration,
    calibrate,
    calibration_inputs,
    readable,
)
from keras_tensornet.compression.choosing import rules
from keras_tensornet.compression.choosing.selection import decompose_each
from keras_tensornet.compression.kinds import find_kernels
from keras_tensornet.compression.normalisation import reestimate_batch_norm
from keras_tensornet.compression.planning import calibrated_subjects, plan_with_cores
from keras_tensornet.compression.plans import CompressionPlan, unshrunk
from keras_tensornet.compression.progress import Progress, reporter
from keras_tensornet.compression.recovery import RecoverySettings, check_recovery, recovered
from keras_tensornet.compression.sequential import fit_in_sequence
from keras_tensornet.compression.smallest import check_max_drop, drop_of, find_smallest
from keras_tensornet.compression.unreached import unreached
from keras_tensornet.decompositions.shares import energy_share
from keras_tensornet.types import Rank


def compress_model(
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
    sequential: bool = True,
    plan: CompressionPlan | None = None,
    recover: bool | RecoverySettings = True,
    max_drop: float | None = None,
    validation_data: Any = None,
    progress: Progress = None,
    energy_norm: str = "frobenius",
    allow_slower: bool = False,
) -> keras.Model:
    """Return a new, smaller model with factorized layers; the given model stays as it was.

    Either say what is wanted (exactly one of the rules from `rank` to `vbmf`, see
    `plan_compression` for all arguments), or give a `plan` to carry out.

    With `calibration_data` each layer is decomposed so that the error of its *output* on the data
    is least, biases take up what is left of the mean error, and batch-norm statistics are estimated
    again. Then the small model is trained on the same data until it does what the dense one does,
    see `recover`: on two cores under 90 s for a ResNet-20, seconds for small models. A thousand
    inputs are enough; labels are not needed.

    Args:
        model: a built Sequential or Functional model.
        sequential: with calibration data, fit the cores of later layers once more to the inputs
            that the compressed network gives them, so that errors do not add up; False leaves
            each layer on its own.
        plan: made by `plan_compression` for this model, perhaps edited.
        recover: whether to do that training, where there is `calibration_data`, or the
            `RecoverySettings` to do it with. It never leaves the outputs further from the dense
            model's on examples that are held out.
        max_drop: instead of a rule: the smallest model that loses no more than this on
            `validation_data`, found in at most ten trials. `model.search` has their table.
        validation_data: what the loss is measured on. `(inputs, labels)`, in any form that `fit`
            takes: accuracy. Inputs alone: the share of decisions that differ from the dense
            model's, or where outputs are no classes their relative error; a fifth of the
            calibration data where nothing is given. Or a function `model -> score`, of which more
            is better.
        **: the other arguments as in `plan_compression`.

    Returns:
        A model of the same kind, with the same layer names, inputs and outputs, compiled in the
        same way with a fresh optimizer. Layers that the plan leaves dense keep their weights.

    Raises:
        TypeError: for a subclassed model or composite layer that cannot be built again from its
            configuration; the message says what to do instead.
        ValueError: for wrong arguments, or a plan that does not fit the model.

    Warns:
        UserWarning: if nothing becomes smaller, with the layers and the reasons.

    Examples:

    >>> inputs = keras.Input((8, 8, 3))
    >>> x = keras.layers.Conv2D(16, 3, name="first")(inputs)
    >>> x = keras.layers.Conv2D(32, 3, name="second")(x)
    >>> model = keras.Model(inputs, x)
    >>> small = compress_model(model, format="tt", energy=0.6, exclude="first")
    >>> type(small.get_layer("second")).__name__
    'FactorizedConv2D'
    """
    given: dict[str, Any] = {
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
    check_recovery(recover, calibration_data)
    if max_drop is not None:
        _refuse(given | {"plan": plan}, "`max_drop` chooses the size", "max_drop")
        smallest = {"format": format, "multiple": multiple, "include": include, "exclude": exclude}
        smallest |= {"overrides": overrides, "sensitivity": sensitivity, "sequential": sequential}
        smallest |= {"progress": progress, "energy_norm": energy_norm, "allow_slower": allow_slower}
        return _smallest(model, calibration_data, validation_data, max_drop, recover, smallest)
    if validation_data is not None:
        raise ValueError("`validation_data` is for `max_drop`, which is not given.")
    calibration_data = readable(model, calibration_data)
    if plan is None:
        rule = rules.read_rules(given, multiple, allow_slower)
        plan, selection = plan_with_cores(
            model,
            format,
            rule,
            include,
            exclude,
            overrides,
            calibration_data,
            sensitivity,
            progress,
        )
        found = selection.found
    else:
        given |= {"include": include, "exclude": exclude, "overrides": overrides}
        given |= {"allow_slower": allow_slower}
        _refuse(given, "A `plan` says everything already", "plan")
        found = _carry_out(model, plan, calibration_data, progress)
    if sequential and calibration_data is not None:
        inputs = calibration_inputs(calibration_data)
        found = fit_in_sequence(model, found, inputs, reporter(progress, len(found)))
    result = build_compressed(model, found)
    if result.count_params() >= model.count_params():
        validation.warn_user(unshrunk(plan, result.count_params()))
    if calibration_data is not None:
        inputs = calibration_inputs(calibration_data)
        result = reestimate_batch_norm(result, inputs, dense=model)
        if found and recover is not False:
            result = recovered(model, result, inputs, recover, progress)
    return result


def _smallest(
    model: keras.Model,
    calibration_data: Any,
    validation_data: Any,
    max_drop: float,
    recover: bool | RecoverySettings,
    arguments: dict[str, Any],
) -> keras.Model:
    """The smallest model that keeps what it must; see `find_smallest`."""
    check_max_drop(max_drop)
    if validation_data is None:
        if calibration_data is None or isinstance(calibration_data, Calibration):
            raise ValueError(
                "`max_drop` needs something to measure on. Give `validation_data`, or "
                "`calibration_data` as inputs, a fifth of which is then kept for that."
            )
        calibration_data, validation_data = readable(model, calibration_data).split(0.2, seed=0)
    drop, measure = drop_of(model, validation_data)
    known, improve = calibration_data, None
    if known is not None:
        if not isinstance(known, Calibration):
            known = calibrate(model, known)
        if recover is not False:
            improve = functools.partial(_improved, model, known.data, recover)
    compress = functools.partial(
        compress_model, model, calibration_data=known, recover=False, **arguments
    )
    return find_smallest(
        model, lambda share: compress(params=share), improve, drop, measure, max_drop
    )


def _improved(model: keras.Model, inputs: Any, recover: Any, small: keras.Model) -> keras.Model:
    return recovered(model, small, inputs, recover, None)


def _carry_out(
    model: keras.Model, plan: CompressionPlan, calibration_data: Any, progress: Progress
) -> dict[str, Any]:
    """The decompositions that a plan asks for."""
    targets = {target.path: target for target in find_kernels(model)}
    wanted = [choice for choice in plan if choice.format is not None]
    others = {other.path: other.kernel_shape for other in unreached(model, targets.values())}
    for choice in plan:
        target = targets.get(choice.path)
        shape = others.get(choice.path) if target is None else target.kernel_shape
        if shape != tuple(choice.kernel_shape):
            raise ValueError(
                f"The plan was made for another model: its layer '{choice.path}' has a kernel of "
                f"shape {tuple(choice.kernel_shape)}. In '{model.name}' that layer "
                + ("does not exist." if shape is None else f"has one of shape {shape}.")
            )
        if choice.format is not None and target is None:
            raise ValueError(
                f"The plan was made for another model: it compresses '{choice.path}', of which in "
                f"'{model.name}' no format can stand for the kernel."
            )
    subjects = calibrated_subjects(
        model, [targets[choice.path] for choice in wanted], calibration_data
    )
    jobs = [
        (subject, subject.form(formats.get(choice.format).name, choice.arguments), choice.rank)
        for subject, choice in zip(subjects, wanted, strict=True)
    ]
    report = reporter(progress, len(jobs))
    found = {}
    for (subject, _, _), candidate in decompose_each(
        jobs, lambda job: job[0].decompose(job[1], rank=job[2])
    ):
        found[subject.path] = (subject, candidate)
        report(subject.path)
    return found


def _refuse(given: Mapping[str, Any], why: str, name: str) -> None:
    extra = [key for key, value in given.items() if value is not None and value is not False]
    if extra:
        raise ValueError(
            f"{why}; leave the other arguments out, or make a new plan with them. Received: "
            f"{name} and {', '.join(extra)}."
        )
