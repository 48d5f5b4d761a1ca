"""A small network that is trained towards a dense one, by `fit` or a batch at a time.

`Student` wraps the small network. Its loss has up to three terms: the network's own loss on labels,
the distance of its outputs from the dense network's, and that of the ends of its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import keras
from keras import ops

from keras_tensornet.compression.recovery.blocks import recorded
from keras_tensornet.compression.recovery.distances import Distance, mask_of
from keras_tensornet.compression.recovery.fake_quantization import quantized
from keras_tensornet.types import Tensor


class Teacher:
    """The dense network: never trained, never changed, and no part of what is trained.

    Args:
        model: the dense network.
        ends: its operations at which blocks end.
        keep: which of its flat outputs are matched.
    """

    def __init__(
        self, model: keras.Model, ends: Sequence[Any] = (), keep: Sequence[int] = (0,)
    ) -> None:
        self.model, self.ends, self.keep = model, list(ends), tuple(keep)

    def __call__(self, inputs: Any) -> list[Any]:
        """The outputs that are matched and then the ends of blocks, flat."""
        with recorded(self.ends) as features:
            outputs = keras.tree.flatten(self.model(inputs, training=False))
        found = [*(outputs[place] for place in self.keep), *chain.from_iterable(features)]
        return [ops.stop_gradient(tensor) for tensor in found]


def forward(
    model: keras.Model,
    inputs: Any,
    ends: Sequence[Any],
    cut: bool = False,
    training: bool = False,
    quantize: Any = None,
) -> Any:
    """The outputs of a small network and the ends of its blocks, flat.

    Args:
        model: the small network.
        inputs: a batch.
        ends: its operations at which blocks end.
        cut: whether gradients stop there.
        training: whether it runs in training mode.
        quantize: "int8" to compute as the exported file will.
    """
    with ExitStack() as stack:
        if quantize:
            stack.enter_context(quantized(model))
        features = stack.enter_context(recorded(list(ends), cut))
        outputs = model(inputs, training=training)
    return outputs, [*chain.from_iterable(features)]


class Student(keras.Model):
    """A small network in training.

    Args:
        student: the small network; its own weights are trained.
        teacher: gives targets where a batch brings none.
        outputs: a distance for each output that is matched.
        features: a distance for each end of a block.
        ends: the small network's operations at which blocks end.
        keep: which of the flat outputs are matched.
        feature_weight: of the mean over `features`, against the mean over `outputs`.
        cut: whether each block learns on its own: no gradient passes the end of a block.
        labels: weight in [0, 1] of the loss that was compiled; 1 minus it is left for matching.
            None where batches bring targets of the teacher instead of labels.
        training: whether the small network runs in training mode (dropout, statistics of batches).
        quantize: as in `forward`.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: Callable[..., Any] | None,
        outputs: Sequence[Distance],
        features: Sequence[Distance] = (),
        ends: Sequence[Any] = (),
        keep: Sequence[int] = (0,),
        feature_weight: float = 0.0,
        cut: bool = False,
        labels: float | None = None,
        training: bool = False,
        quantize: str | None = None,
    ) -> None:
        super().__init__(name=f"{student.name}_student")
        self.student = student
        # Keras does not look into this object: the teacher's variables are not the student's.
        self.plan = _Plan(
            teacher, tuple(outputs), tuple(features), list(ends), tuple(keep), feature_weight, cut,
            labels, training, quantize,
        )  # fmt: skip
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        """The small network's outputs; the ends of its blocks are kept for the loss."""
        plan = self.plan
        mode = bool(training) and plan.training
        outputs, plan.found = forward(
            self.student, inputs, plan.ends, plan.cut, mode, plan.quantize
        )
        return outputs

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The weighted sum of the terms."""
        plan = self.plan
        if plan.labels is None:
            return self.matching(x, y, y_pred)
        own = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training or plan.teacher is None:
            return own
        return plan.labels * own + (1.0 - plan.labels) * self.matching(x, None, y_pred)

    def matching(self, inputs: Any, targets: Any, y_pred: Any) -> Any:
        """Distance from the dense network."""
        plan = self.plan
        if targets is None:
            targets = plan.teacher(inputs)
        flat = keras.tree.flatten(y_pred)
        outputs = [flat[place] for place in plan.keep]
        count = len(outputs)
        loss = _mean_distance(plan.outputs, targets[:count], outputs, inputs)
        if plan.features and plan.feature_weight:
            features = _mean_distance(plan.features, targets[count:], plan.found, inputs)
            loss = loss + plan.feature_weight * features
        return loss


class _Plan:
    """What a `Student` knows besides its variables."""

    def __init__(
        self,
        teacher: Any,
        outputs: Any,
        features: Any,
        ends: Any,
        keep: Any,
        feature_weight: Any,
        cut: Any,
        labels: Any,
        training: bool,
        quantize: Any,
    ) -> None:
        self.teacher, self.outputs, self.features = teacher, outputs, features
        self.ends, self.keep, self.feature_weight = ends, keep, feature_weight
        self.cut, self.labels, self.training, self.quantize = cut, labels, training, quantize
        self.found: list[Any] = []


def _mean_distance(distances: Any, targets: Any, outputs: Any, inputs: Any) -> Any:
    terms = [
        ops.mean(distance(target, output, mask_of(inputs, output)))
        for distance, target, output in zip(distances, targets, outputs, strict=True)
    ]
    return sum(terms) / len(terms)
