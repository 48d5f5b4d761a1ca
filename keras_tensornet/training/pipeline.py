"""The three phases of ADMM compression as one call: training, decomposition, fine-tuning.

Yin et al. 2021, Figure 2.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_tensornet import validation
from keras_tensornet.compression import compress_model
from keras_tensornet.compression.plans import CompressionPlan
from keras_tensornet.reading import read_examples
from keras_tensornet.rewriting.walker import rewrite_model
from keras_tensornet.training.admm import ADMM

# As in `fit`.
BATCH = 32
PHASES = ("ADMM training", "decomposition", "fine-tuning")


@dataclass(frozen=True)
class Phase:
    """What one phase did.

    Attributes:
        name: one of `PHASES`.
        epochs: epochs trained in it.
        seconds: wall time, without evaluations.
        params: parameters of the model after it.
        before: loss and metrics of the model it began with.
        after: loss and metrics of the model it ended with.
        history: what `fit` returned, `{}` for the decomposition.
    """

    name: str
    epochs: int
    seconds: float
    params: int
    before: dict[str, float]
    after: dict[str, float]
    history: dict[str, list[float]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class AdmmResult:
    """What `admm_compress` returns; printing it shows the phases.

    Attributes:
        model: the compressed and fine-tuned model.
        dense: the dense model after ADMM training, before decomposition.
        plan: which layer went to which format and rank.
        admm: the callback, with the residuals of each kernel.
        phases: a report of each phase.
        dense_params: parameters of the given model.
    """

    model: keras.Model = field(repr=False)
    dense: keras.Model = field(repr=False)
    plan: object = field(repr=False)
    admm: ADMM = field(repr=False)
    phases: tuple[Phase, ...]
    dense_params: int

    def __str__(self) -> str:
        names = [name for name in self.phases[0].before if name in self.phases[-1].after]
        head = f"{'phase':14}{'epochs':>7}{'params':>12}" + "".join(
            f"{name + ' before':>17}{'after':>10}" for name in names
        )
        lines = [head]
        for phase in self.phases:
            values = "".join(
                f"{phase.before[name]:17.4f}{phase.after[name]:10.4f}" for name in names
            )
            lines.append(f"{phase.name:14}{phase.epochs:7d}{phase.params:12,}{values}")
        lines.append(f"compression ratio {self.dense_params / self.phases[-1].params:.2f}")
        return "\n".join(lines)


def admm_compress(
    model: keras.Model,
    data: Any,
    *,
    validation_data: Any = None,
    epochs: int = 10,
    finetune_epochs: int = 5,
    plan: CompressionPlan | None = None,
    admm: Mapping[str, Any] | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    finetune_optimizer: keras.optimizers.Optimizer | None = None,
    callbacks: Sequence[Any] = (),
    finetune_callbacks: Sequence[Any] = (),
    fit_arguments: Mapping[str, Any] | None = None,
    **choices: Any,
) -> AdmmResult:
    """Return a compressed copy of a model, trained towards low rank first; the model stays as is.

    Args:
        model: a trained, compiled Sequential or Functional model.
        data: inputs, targets and perhaps sample weights in any form that `fit` takes; an iterator
            is read once and kept.
        validation_data: what the reports are measured on, in one of the same forms; the training
            data if it is None.
        epochs: epochs of ADMM training.
        finetune_epochs: epochs of training after the decomposition; 0 for none.
        plan: a `CompressionPlan`, or
        **choices: the arguments of `plan_compression`, such as `format="tt", params=0.25`.
        admm: further arguments of `ADMM`, such as `{"rho": 0.01, "adaptive_rho": True}`.
        optimizer: of the ADMM training; by default one like the model's own, with fresh state.
        finetune_optimizer: of the fine-tuning, in the same way.
        callbacks: of the ADMM training; `ADMM` comes before them.
        finetune_callbacks: of the fine-tuning.
        fit_arguments: further arguments of both `fit` calls, such as `{"batch_size": 128}`.

    Returns:
        An `AdmmResult` with the compressed model, compiled, and a report of each phase.

    Raises:
        ValueError: if the model is not compiled, or the choices are not valid.
        TypeError: for a model that cannot be built again from its configuration.

    >>> result = admm_compress(model, (x, y), format="tt", params=0.25, epochs=20)  # doctest: +SKIP
    >>> print(result)  # doctest: +SKIP
    """
    validation.positive_int("epochs", epochs)
    if finetune_epochs:
        validation.positive_int("finetune_epochs", finetune_epochs)
    if not getattr(model, "compiled", False):
        raise ValueError(
            f"The model '{model.name}' must be compiled: its loss, metrics and optimizer are used "
            "in all phases. Call `model.compile` first."
        )
    callback = ADMM(plan, **dict(admm or {}), **choices)
    run = _Run(model, data, validation_data, dict(fit_arguments or {}))
    dense = rewrite_model(model, lambda layer, path: None)
    start = run.evaluate(dense)
    _use_optimizer(dense, optimizer)
    first = run.train(PHASES[0], dense, epochs, start, [callback, *callbacks])

    began = time.perf_counter()
    compressed = compress_model(dense, plan=callback.plan)
    seconds = time.perf_counter() - began
    after = run.evaluate(compressed)
    second = Phase(PHASES[1], 0, seconds, compressed.count_params(), first.after, after)

    _use_optimizer(compressed, finetune_optimizer)
    third = run.train(PHASES[2], compressed, finetune_epochs, after, finetune_callbacks)
    phases = (first, second, third)
    return AdmmResult(compressed, dense, callback.plan, callback, phases, model.count_params())


class _Run:
    """The data of a run, and what each phase does with it."""

    def __init__(
        self, model: keras.Model, data: Any, validation_data: Any, fit_arguments: dict[str, Any]
    ) -> None:
        size = fit_arguments.pop("batch_size", None) or BATCH
        self.steps = fit_arguments.pop("steps_per_epoch", None)
        self.data = read_examples(model, data, size)
        self.held_out = None
        if validation_data is not None:
            self.held_out = read_examples(model, validation_data, size, name="validation_data")
        self.fit_arguments = {"verbose": 0} | fit_arguments

    def evaluate(self, model: keras.Model) -> dict[str, float]:
        """Loss and metrics on the data that the reports are measured on."""
        measured = self.data if self.held_out is None else self.held_out
        steps = self.steps if self.held_out is None else None
        values = model.evaluate(**measured.for_evaluate(steps), verbose=0, return_dict=True)
        return {name: float(value) for name, value in values.items()}

    def train(
        self,
        name: str,
        model: keras.Model,
        epochs: int,
        before: dict[str, Any],
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> Phase:
        """Fit for some epochs and report."""
        if not epochs:
            return Phase(name, 0, 0.0, model.count_params(), before, before)
        began = time.perf_counter()
        history = model.fit(
            **self.data.for_fit(self.steps),
            **({} if self.held_out is None else self.held_out.for_validation()),
            epochs=epochs,
            callbacks=list(callbacks),
            **self.fit_arguments,
        ).history
        seconds = time.perf_counter() - began
        trained = len(history["loss"])
        return Phase(
            name, trained, seconds, model.count_params(), before, self.evaluate(model), history
        )


def _use_optimizer(model: keras.Model, optimizer: Any) -> None:
    """Compile a model again with another optimizer and everything else as it was."""
    if optimizer is not None:
        model.compile(**{**model._compile_config.config, "optimizer": optimizer})
