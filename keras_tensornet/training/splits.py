"""The kernels that ADMM pulls: the rows of a compression plan, found in a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import keras

from keras_tensornet import formats
from keras_tensornet.compression.choosing import rules
from keras_tensornet.compression.choosing.subjects import Subject
from keras_tensornet.compression.kinds import find_kernels
from keras_tensornet.compression.planning import calibrated_subjects, plan_compression
from keras_tensornet.compression.plans import CompressionPlan, LayerChoice
from keras_tensornet.compression.weighted import Metric
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network


@dataclass(frozen=True, eq=False)
class PulledKernel:
    """One kernel and the low-rank set that it is pulled towards.

    Attributes:
        path: path of the layer in its model.
        variable: the dense kernel, in Keras layout.
        network: cores and ranks wanted.
        modes: the modes of the kernel.
    """

    path: str
    variable: keras.Variable
    network: Network
    modes: KernelModes


def check_choices(plan: CompressionPlan | None, choices: Mapping[str, Any]) -> None:
    """Raise unless there is either a plan or the arguments of `plan_compression` for one.

    Raises:
        TypeError: if the plan is of another kind, or an argument unknown.
        ValueError: if there are both, neither, or not exactly one rule for the ranks.
    """
    if plan is not None:
        if not isinstance(plan, CompressionPlan):
            raise TypeError(
                "`plan` must be a CompressionPlan. Received: "
                f"{plan!r} of type {type(plan).__name__}. Make one with `plan_compression`."
            )
        if choices:
            raise ValueError(
                "Give either a `plan` or what to plan, not both. Received: a plan and "
                f"{', '.join(choices)}."
            )
        return
    known = inspect.signature(plan_compression).parameters
    unknown = [name for name in choices if name not in known or name == "model"]
    if unknown:
        raise TypeError(
            "ADMM takes the arguments of `plan_compression` beside its own. Received: "
            f"{', '.join(unknown)}, which neither of them has."
        )
    names = (*rules.LOCAL, *rules.BUDGETS)
    given = {name: choices.get(name) for name in names}
    rules.read_rules(given, choices.get("multiple", 1))


def targets_of(model: keras.Model, plan: CompressionPlan) -> list[PulledKernel]:
    """The kernels of the layers that a plan compresses, in its order.

    Raises:
        ValueError: if the plan compresses nothing, a layer is not in the model or is frozen, or
            its kernel has another shape.
    """
    found = {target.path: target for target in find_kernels(model)}
    targets = [_target(choice, found) for choice in plan if choice.format is not None]
    if not targets:
        raise ValueError(
            f"ADMM needs a layer to compress, and the plan for '{plan.model}' leaves all of them "
            f"dense. Lower the ranks, or take layers in with `include`:\n{plan}"
        )
    return targets


def trainable_kernels(model: keras.Model) -> list[keras.Variable]:
    """The kernels of all layers that a plan could compress and training changes."""
    kernels = {id(target.kernel): target.kernel for target in find_kernels(model)}
    return [one for one in kernels.values() if isinstance(one, keras.Variable) and one.trainable]


def check_replan(replan: int, plan: CompressionPlan | None) -> None:
    """Raise if ranks are to be chosen anew and there is nothing to choose them by."""
    if replan and plan is not None:
        raise ValueError(
            "`replan` chooses ranks anew by the arguments of `plan_compression`, and a plan fixes "
            f"them. Received: replan={replan} and a plan. Give format=..., params=... instead."
        )


def metrics_of(model: keras.Model, targets: list[PulledKernel], data: Any) -> list[Metric | None]:
    """What errors of each kernel count on calibration data; None where that cannot be measured."""
    found = {target.path: target for target in find_kernels(model)}
    wanted = [found[target.path] for target in targets]
    return [subject.metric for subject in calibrated_subjects(model, wanted, data)]


def _target(choice: LayerChoice, found: Mapping[str, Any]) -> PulledKernel:
    if choice.path not in found:
        raise ValueError(
            f"The plan must be one for this model. It compresses '{choice.path}', which is not "
            f"among {sorted(found)}. Make it with `plan_compression(model, ...)`."
        )
    layer, variable = found[choice.path].layer, found[choice.path].kernel
    if not isinstance(variable, keras.Variable):
        raise ValueError(
            f"The kernel of '{choice.path}' must be a variable that training changes. Received: "
            f"{type(variable).__name__}, as with LoRA. Merge the adapters first."
        )
    if not variable.trainable or not layer.trainable:
        raise ValueError(
            f"ADMM trains the kernels that it pulls, and layer '{choice.path}' is frozen. Unfreeze "
            "it, or leave it out with `exclude`."
        )
    if tuple(variable.shape) != tuple(choice.kernel_shape):
        raise ValueError(
            f"The plan must be one for this model. The kernel of '{choice.path}' has shape "
            f"{tuple(variable.shape)}, the plan's {tuple(choice.kernel_shape)}."
        )
    name = formats.get(choice.format).name
    form = Subject(found[choice.path]).form(name, choice.arguments)
    _, network = form.network(cast(formats.Rank, choice.rank))  # None only where it stays dense
    return PulledKernel(choice.path, variable, network, form.modes)
