"""The smallest model that keeps what it must: sizes are tried, measured and halved between.

`compress_model(..., max_drop=0.01, validation_data=...)` comes here. What may drop is the accuracy
on labels, the user's own score, or, without labels, the agreement with the dense model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet.compression.choosing.budgets import BudgetTooSmall
from keras_tensornet.compression.recovery.distances import kinds_of
from keras_tensornet.reading import Batches, read_examples, read_inputs
from keras_tensornet.types import Tensor

MOST_TRIALS = 10
# The first share of the parameters that is tried, and how far it falls while all is kept.
START, FALL = 0.25, 2.5
# Neighbouring sizes closer than this are not told apart.
CLOSE = 1.04
Drop = Callable[[keras.Model], float]


@dataclass(frozen=True)
class Trial:
    """One size that was tried.

    Attributes:
        share: of the parameters that was asked for.
        params: that the model had; None where ranks cannot be that small.
        drop: how much was lost.
        kept: whether that is no more than was allowed.
        recovered: whether training was needed, and done.
        seconds: that it took.
    """

    share: float
    params: int | None
    drop: float
    kept: bool
    recovered: bool
    seconds: float


@dataclass(frozen=True)
class Search:
    """What was tried on the way to the smallest model; it prints itself as a table.

    Attributes:
        measure: what the drop is of.
        max_drop: that was allowed.
        dense_params: parameters of the dense model.
        trials: in order.
    """

    measure: str
    max_drop: float
    dense_params: int
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The smallest that was kept."""
        kept = [trial for trial in self.trials if trial.kept]
        return min(kept, key=lambda trial: trial.params or math.inf, default=None)

    def __str__(self) -> str:
        lines = [
            f"{self.measure} may drop by {self.max_drop:g} from {self.dense_params:,} parameters",
            f"{'share':>7} {'parameters':>12} {'smaller':>8} {'drop':>9}  {'seconds':>7}",
        ]
        for trial in self.trials:
            if trial.params is None:
                lines.append(f"{trial.share:7.3f} {'no ranks are that small':>40}")
                continue
            mark = "kept" if trial.kept else "too much"
            mark += ", recovered" if trial.recovered else ""
            mark += "  <- smallest" if trial is self.best else ""
            lines.append(
                f"{trial.share:7.3f} {trial.params:12,} {self.dense_params / trial.params:7.2f}x "
                f"{trial.drop:9.4f}  {trial.seconds:7.1f}  {mark}"
            )
        return "\n".join(lines)


def check_max_drop(max_drop: object) -> None:
    """Raise unless it is a number of at least 0."""
    if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float, np.number)):
        raise TypeError(f"`max_drop` must be a number. Received: max_drop={max_drop!r}.")
    if not max_drop >= 0:
        raise ValueError(f"`max_drop` must be at least 0. Received: max_drop={max_drop}.")


def find_smallest(
    dense: keras.Model,
    compress: Callable[[float], keras.Model],
    improve: Callable[[keras.Model], keras.Model] | None,
    drop: Drop,
    measure: str,
    max_drop: float,
) -> keras.Model:
    """The smallest of at most ten models that loses no more than is allowed.

    Args:
        dense: the dense model.
        compress: `share of the parameters -> model`; raises `BudgetTooSmall`.
        improve: training, which is only done where a model loses too much without; None for none.
        drop: `model -> what it has lost`.
        measure: what that is, in words.
        max_drop: the most that may be lost.

    Returns:
        The model, with the `Search` as `model.search`.

    Raises:
        ValueError: if no size keeps it; the table is in the message.
    """
    trials: list[Trial] = []
    best: keras.Model | None = None
    low, high, share = 0.0, 1.0, START
    total = dense.count_params()
    while len(trials) < MOST_TRIALS and not (low and high / low < CLOSE):
        began = time.perf_counter()
        try:
            small = compress(share)
        except BudgetTooSmall:
            trials.append(Trial(share, None, math.inf, False, False, 0.0))
            low = share
        else:
            lost, better = drop(small), False
            if lost > max_drop and improve is not None:
                small, better = improve(small), True
                lost = drop(small)
            seconds = time.perf_counter() - began
            kept = lost <= max_drop
            trials.append(Trial(share, small.count_params(), lost, kept, better, seconds))
            if kept and (best is None or small.count_params() < best.count_params()):
                best = small
            low, high = (low, share) if kept else (share, high)
        share = math.sqrt(low * high) if low else high / FALL
    search = Search(measure, max_drop, total, tuple(trials))
    if best is None:
        raise ValueError(
            f"None of the {len(trials)} sizes that were tried loses at most {max_drop:g}. "
            f"Allow more, give more calibration data, or take another format.\n{search}"
        )
    best.search = search
    return best


def drop_of(dense: keras.Model, data: Any, name: str = "validation_data") -> tuple[Drop, str]:
    """What a smaller model has lost against a dense one, and that in words.

    Args:
        dense: the dense model.
        data: inputs and labels, inputs alone, or `model -> score`, of which more is better.
        name: of the argument.

    Raises:
        ValueError: if labels are no classes.
    """
    if callable(data) and not isinstance(data, (Batches, keras.utils.PyDataset)):
        base = _score(data, dense)
        return lambda model: base - _score(data, model), "the score"
    try:
        examples = read_examples(dense, data, name=name)
    except (TypeError, ValueError):
        return _disagreement(dense, read_inputs(dense, data, name=name))
    inputs = examples.arrays()
    labels = _classes(dense, inputs.x, inputs.y)
    base = float(np.mean(_decisions(dense, inputs.x, labels) == labels))
    return lambda m: base - float(np.mean(_decisions(m, inputs.x, labels) == labels)), "accuracy"


def _score(function: Any, model: keras.Model) -> float:
    value = function(model)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "A function given as `validation_data` must return a number, the more the better. "
            f"Received from it: {value!r}."
        ) from error


def _disagreement(dense: keras.Model, inputs: Batches) -> tuple[Drop, str]:
    """The share of decisions that change, or where outputs are no classes their relative error."""
    batches = [batch.x for batch in inputs]
    wanted = _flat_outputs(dense, batches)
    kinds = kinds_of(dense, dense(batches[0], training=False), wanted, "auto")
    kinds_known = {kind for kind in kinds if kind is not None}

    def changed(model: keras.Model) -> float:
        worst = 0.0
        for target, output, kind in zip(wanted, _flat_outputs(model, batches), kinds, strict=True):
            if kind in ("logits", "probabilities"):
                lost = float(np.mean(target.argmax(-1) != output.argmax(-1)))
            elif kind in ("binary", "binary_logits"):
                middle = 0.5 if kind == "binary" else 0.0
                lost = float(np.mean((target > middle) != (output > middle)))
            elif kind is not None:
                centred = target - target.mean(tuple(range(target.ndim - 1)))
                scale = max(float(np.linalg.norm(centred)), 1e-12)
                lost = float(np.linalg.norm(output - target)) / scale
            else:
                continue
            worst = max(worst, lost)
        return worst

    classes = not kinds_known & {"values"}
    return changed, "agreement with the dense model" if classes else "outputs (relative error)"


def _flat_outputs(model: keras.Model, batches: list[Any]) -> list[np.ndarray]:
    parts = [
        [ops.convert_to_numpy(tensor) for tensor in keras.tree.flatten(model.predict_on_batch(x))]
        for x in batches
    ]
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def _classes(dense: keras.Model, inputs: Any, targets: Any) -> np.ndarray:
    """(examples, ...) class numbers of labels, however they are given."""
    outputs = dense.predict(inputs, verbose=0)
    labels = targets
    if isinstance(outputs, np.ndarray) and isinstance(labels, np.ndarray):
        if labels.shape == outputs.shape and outputs.shape[-1] > 1:
            return labels.argmax(-1)  # one-hot
        if labels.shape == (*outputs.shape[:-1], 1):
            labels = labels[..., 0]
        if labels.shape == outputs.shape[:-1] and np.all(labels == np.round(labels)):
            return labels.astype("int64")
    raise ValueError(
        "`validation_data` with labels is scored by accuracy, which takes class numbers or one-hot "
        f"labels of one output. Received labels of shape {_shapes(targets)} for outputs of shape "
        f"{_shapes(outputs)}. Give a function (model) -> score instead."
    )


def _decisions(model: keras.Model, inputs: Any, labels: Any) -> np.ndarray:
    outputs = model.predict(inputs, verbose=0)
    if outputs.shape[-1] > 1:
        return outputs.argmax(-1)
    outputs = outputs[..., 0]
    inside = outputs.min() >= 0.0 and outputs.max() <= 1.0
    return (outputs > (0.5 if inside else 0.0)).astype(labels.dtype)


def _shapes(values: list[Tensor]) -> Any:
    return keras.tree.map_structure(np.shape, values)
