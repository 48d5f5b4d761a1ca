"""How much a model's outputs move when one of its layers loses a share of what it computes.

A budget that counts every layer's noise alike gives a layer on which the outputs hardly depend as
many parameters as one on which they hang. So each layer is measured: its kernel is cut by singular
values until a known share of its output's energy is lost, the model runs on a few inputs, and what
its outputs have moved by is divided by the noise that was put in. Noise of different layers is
nearly uncorrelated, so the outputs of the compressed model move by about the sum of the layers'
noise-to-signal ratios times their sensitivities, and that sum is what a budget makes least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet.compiled import live_function
from keras_tensornet.compression.calibration import normalisations_after
from keras_tensornet.compression.choosing.subjects import Subject
from keras_tensornet.compression.weighted import Metric, as_matrix, from_matrix
from keras_tensornet.modes import KernelModes

# Share of the output's energy that a layer loses while it is measured: budgets that halve or
# quarter a model take about so much from its layers.
SHARE = 0.15
# No more of a layer is cut than leaves it this share of its parameters: where a few directions hold
# nearly all energy of the output, as in transformers, the others are what a network computes with.
KEPT = 1 / 3
# Inputs that run in all, shared out over the layers, and for each layer at the least and the most.
INPUTS, FEWEST, MOST = 2048, 16, 128
# Inputs on which ways to share a budget are compared.
JUDGED = 64
# No layer counts less than this share of the mean: a measurement on few inputs is no proof.
LEAST = 1e-3


def weigh(
    model: keras.Model, subjects: Sequence[Subject], inputs: Any, known: dict[str, float]
) -> None:
    """Let what a layer's noise does to the model's outputs count in a budget.

    A weight is the root of a sensitivity over the root of their mean. The measurement holds for one
    layer that loses little; at a small budget all lose much, and every layer's noise passes through
    layers that add theirs. Which power of the weights serves a model best is for a `Judge` to say.

    Args:
        model: that holds the layers; it stays as it was.
        subjects: layers that share a budget; their weights are set.
        inputs: of the model.
        known: sensitivities that have been measured already; gets those that are measured now.
    """
    missing = [subject for subject in subjects if subject.path not in known]
    known |= sensitivities(model, missing, inputs)
    mean = np.mean([known[subject.path] for subject in subjects]) if subjects else 0.0
    for subject in subjects:
        subject.weight = float(np.sqrt(known[subject.path] / mean)) if mean > 0 else 1.0


def sensitivities(
    model: keras.Model,
    subjects: Sequence[Subject],
    inputs: Any,
    report: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """What a unit of noise to signal in each layer moves the model's outputs by.

    Args:
        model: a built model; it stays as it was, also after an error.
        subjects: its layers, with what calibration knows of them.
        inputs: inputs of the model; their first examples are used.
        report: called with the path of each layer that is done.

    Returns:
        `path -> sensitivity`: distance of the outputs (see `output_distance`) over e / (1 - e) for
        the squared relative error e of the layer's output.
    """
    count = int(np.clip(INPUTS // max(len(subjects), 1), FEWEST, MOST))
    batch = keras.tree.map_structure(lambda leaf: ops.convert_to_tensor(leaf[:count]), inputs)
    run, found = live_function(model), {}
    reference = _arrays(run(batch))
    for subject in subjects:
        kernel, lost = cut_kernel(subject.kernel, subject.modes, subject.metric)
        with _assigned([(subject.variable, kernel), *_absorbing(subject, kernel)]):
            moved = output_distance(reference, _arrays(run(batch)))
        found[subject.path] = moved * (1.0 - lost) / lost if lost > 0 else 0.0
        if report is not None:
            report(subject.path)
    least = LEAST * float(np.mean([*found.values()])) if found else 0.0
    return {path: max(value, least) for path, value in found.items()}


class Judge:
    """How far a model's outputs move when all layers that share a budget lose what they would.

    Sensitivities are those of one layer that loses little; what ways to share a budget are worth is
    known once all layers are cut at a time. Each kernel stands in cut by singular values until it
    has the error of its option, whatever the format.

    Args:
        model: that holds the layers; it stays as it was.
        inputs: of the model; the first `JUDGED` run.
    """

    def __init__(self, model: keras.Model, inputs: Any) -> None:
        self.batch = keras.tree.map_structure(
            lambda leaf: ops.convert_to_tensor(leaf[:JUDGED]), inputs
        )
        self.run = live_function(model)
        self.reference = _arrays(self.run(self.batch))

    def __call__(self, subjects: Sequence[Subject], errors: Sequence[float]) -> float:
        """The distance of the outputs, for squared relative errors of the layers."""
        values: list[Any] = []
        for subject, error in zip(subjects, errors, strict=True):
            if error > 0:
                kernel, _ = cut_kernel(subject.kernel, subject.modes, subject.metric, error, 0.0)
                values += [
                    (subject.variable, kernel.astype(subject.kernel.dtype)),
                    *_absorbing(subject, kernel),
                ]
        with _assigned(values):
            return output_distance(self.reference, _arrays(self.run(self.batch)))


def cut_kernel(
    kernel: np.ndarray,
    modes: KernelModes,
    metric: Metric | None,
    share: float = SHARE,
    least: float = KEPT,
) -> tuple[np.ndarray, float]:
    """A kernel cut as compression cuts it, and the share of output energy that was lost.

    Of the matrix R W S, with R^T R the metric of the inputs and S the weights of the outputs, the
    small singular values are left out. What is lost so is not what the kernel's own small singular
    values hold: it spares the inputs that are large, and a network may care little for the one and
    much for the other.

    Args:
        kernel: in Keras layout.
        modes: of the kernel, which say how it is a matrix.
        metric: of the layer's input patches; None takes the kernel's own energy.
        share: the most that may be lost; at least the smallest singular value is.
        least: no more is left out than leaves the kernel this share of its parameters.

    Returns:
        `(kernel, lost)`: the kernel cut, in the same layout, and the share that is lost.
    """
    matrix = as_matrix(np.asarray(kernel, dtype=np.float64), modes)
    scale = 1.0 if metric is None or metric.scale is None else metric.scale
    roots = None if metric is None else [metric.root(group) for group in range(len(matrix))]
    if roots is not None:
        matrix = np.stack([root @ part for root, part in zip(roots, matrix, strict=True)])
    matrix = matrix * scale
    wide = matrix.shape[1] <= matrix.shape[2]
    short = matrix if wide else np.swapaxes(matrix, 1, 2)
    # Falling eigenvalues of M M^T are the squares of the singular values of M.
    squares, vectors = (found[..., ::-1] for found in np.linalg.eigh(short @ short.swapaxes(1, 2)))
    held = np.cumsum(np.maximum(squares, 0.0).sum(axis=0)[::-1])[::-1]
    lost = held / max(held[0], np.finfo(float).tiny)  # lost[r]: what those from r on hold
    kept = int(np.argmax(lost <= share)) if (lost <= share).any() else len(lost)
    sides = matrix.shape[1:]
    kept = min(max(kept, int(least * math.prod(sides) / sum(sides))), len(lost) - 1)
    basis = vectors[..., :kept]
    short = basis @ (basis.swapaxes(1, 2) @ short)
    cut = (short if wide else short.swapaxes(1, 2)) / scale
    if roots is not None:
        cut = np.stack([np.linalg.solve(root, part) for root, part in zip(roots, cut, strict=True)])
    return from_matrix(cut, modes), float(lost[kept])


def output_distance(reference: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> float:
    """How far outputs are from those of the model as it was, the mean over several outputs.

    Probabilities are compared by the Kullback-Leibler divergence in nats; anything else by the
    squared difference over what the reference varies around its mean.

    Args:
        reference, outputs: arrays (batch, ...), one for each output.
    """
    pairs = zip(reference, outputs, strict=True)
    return float(np.mean([_distance(first, second) for first, second in pairs]))


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    first, second = (np.asarray(array, dtype=np.float64) for array in (first, second))
    if are_probabilities(first):
        tiny = 1e-12
        logs = np.log(first + tiny) - np.log(second + tiny)
        return float(np.sum(first * logs, axis=-1).mean())
    varies = np.sum((first - first.mean(axis=0)) ** 2) or np.sum(first**2) or 1.0
    return float(np.sum((first - second) ** 2) / varies)


def are_probabilities(outputs: np.ndarray) -> bool:
    """Whether an output holds shares of one, such as those of a softmax, along its last axis."""
    if outputs.ndim < 2 or outputs.shape[-1] < 2 or outputs.min() < 0:
        return False
    return bool(np.allclose(outputs.sum(axis=-1), 1.0, atol=1e-3))


def _absorbing(subject: Subject, kernel: np.ndarray) -> list[tuple[Any, np.ndarray]]:
    """What takes up the error of a layer's mean output, as it will after compression.

    Without this a drift of the mean would count, many times what is lost around it, although the
    bias or the batch normalisation that follows takes it out.
    """
    shift = subject.mean_lost(kernel)
    if shift is None:
        return []
    layer = subject.target.layer
    bias = subject.target.kind.bias(layer)
    if bias is not None:
        variable, row = bias
        values = np.array(ops.convert_to_numpy(variable))
        place = values if row is None else values[row]
        place += shift.reshape(place.shape)
        return [(variable, values)]
    means = [norm.moving_mean for norm in normalisations_after(layer)]
    return [(mean, ops.convert_to_numpy(mean) - shift) for mean in means]


@contextmanager
def _assigned(values: Sequence[tuple[Any, np.ndarray]]) -> Iterator[None]:
    """Let variables hold other values for a while."""
    before = [(variable, ops.convert_to_numpy(variable).copy()) for variable, _ in values]
    try:
        for variable, value in values:
            variable.assign(value.reshape(variable.shape))
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _arrays(outputs: Any) -> list[np.ndarray]:
    return [ops.convert_to_numpy(leaf) for leaf in keras.tree.flatten(outputs)]
