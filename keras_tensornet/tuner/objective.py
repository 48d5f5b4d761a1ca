"""Accuracy under a limit on size: the objective of a search, and the metrics of each trial."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import keras
import keras_tuner

from keras_tensornet import validation
from keras_tensornet.tuner.directions import direction_of
from keras_tensornet.tuner.sizes import ModelSize
from keras_tensornet.types import Config

SCORE = "score"
MEASURES = ("params", "flops", "latency")


@dataclass(frozen=True)
class SizeObjective:
    """A metric to be made best, under limits on what the model costs.

    A limit is a share of the dense model's cost if it is a float in (0, 1], and an absolute value
    otherwise. Without `weight` it is a constraint: larger trials are rejected before training.
    With `weight` it is a term of the score: each doubling above the limit costs that much,

        score = metric - weight * sum_m max(0, log2(cost_m / limit_m))      (+ for "min").

    Attributes:
        metric: name of the metric, as `fit` logs it.
        direction: "max" or "min"; None for what the metric's name says, if it is that of a metric
            or loss of Keras.
        params: limit on the number of parameters.
        flops: limit on the floating-point operations of one example.
        latency: limit on the milliseconds of one batch on this machine; a share is taken of the
            dense model's latency.
        weight: what a doubling costs, in units of the metric; None for constraints.
        batch_size: of the latency.
    """

    metric: str = "val_accuracy"
    direction: str | None = None
    params: float | int | None = None
    flops: float | int | None = None
    latency: float | None = None
    weight: float | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction", direction_of(self.metric, self.direction))
        validation.positive_int("batch_size", self.batch_size)
        for name in (*MEASURES, "weight"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or value <= 0:
                raise ValueError(
                    f"`{name}` must be a positive number or None. Received: {name}={value!r}."
                )
        if self.weight is not None and not any(getattr(self, name) for name in MEASURES):
            raise ValueError(
                "`weight` says what a doubling above a limit costs, so there must be a limit. "
                f"Received: weight={self.weight} without params, flops and latency."
            )

    @property
    def keras_objective(self) -> keras_tuner.Objective:
        """What a tuner takes as its `objective`."""
        return keras_tuner.Objective(SCORE, self.direction)

    @property
    def latency_batch(self) -> int | None:
        """The batch size to measure latency with; None where there is no limit on it."""
        return None if self.latency is None else self.batch_size

    def limits(self, dense: ModelSize) -> dict[str, float]:
        """The limits as absolute values."""
        given = {name: getattr(self, name) for name in MEASURES}
        return {
            name: value * getattr(dense, name)
            if isinstance(value, float) and value <= 1.0
            else float(value)
            for name, value in given.items()
            if value is not None
        }

    def why_impossible(self, size: ModelSize, dense: ModelSize) -> str | None:
        """Why a model of that size need not be trained, or None if it may be."""
        if size.params >= dense.params:
            return (
                f"{size.params:,} parameters are no fewer than the dense model's {dense.params:,}"
            )
        if self.weight is not None:
            return None
        for name, limit in self.limits(dense).items():
            value = getattr(size, name)
            if value > limit:
                return f"{name} of {value:,.6g} exceeds the limit of {limit:,.6g}"
        return None

    def score(self, value: float, size: ModelSize, dense: ModelSize) -> float:
        """The metric's value with what exceeding the limits costs."""
        above = sum(
            max(0.0, math.log2(getattr(size, name) / limit))
            for name, limit in self.limits(dense).items()
        )
        cost = (self.weight or 0.0) * above
        return value - cost if self.direction == "max" else value + cost


class TrialMetrics(keras.callbacks.Callback):
    """Adds size and score to each epoch's metrics, where tuners and TensorBoard find them.

    Args:
        objective: of the search.
        size, dense: of the trial's model and of the dense one.
        wanted: name of the tuner's objective, checked after the first epoch; None if unknown.
    """

    def __init__(
        self, objective: SizeObjective, size: ModelSize, dense: ModelSize, wanted: str | None
    ) -> None:
        super().__init__()
        self.objective, self.size, self.dense, self.wanted = objective, size, dense, wanted

    def on_epoch_end(self, epoch: int, logs: Config | None = None) -> None:
        """Extend the logs in place; this callback runs before all others."""
        logs = {} if logs is None else logs
        names = sorted(logs)
        logs["params"] = float(self.size.params)
        logs["flops"] = float(self.size.flops)
        logs["compression_ratio"] = self.dense.params / self.size.params
        if self.size.latency is not None:
            logs["latency"] = self.size.latency
        value = logs.get(self.objective.metric)
        if value is not None:
            logs[SCORE] = self.objective.score(float(value), self.size, self.dense)
        wanted = self.objective.metric if self.wanted in (None, SCORE) else self.wanted
        if wanted not in logs and self.wanted is not None:
            raise keras_tuner.errors.FatalValueError(
                f"The objective must be a metric that training logs. Received: {wanted!r}; it "
                f"logs {names}. Check the name, `metrics` of compile and `validation_data`."
            )
