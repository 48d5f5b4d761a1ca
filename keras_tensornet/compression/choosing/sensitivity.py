"""How much a model's outputs move when one of its layers loses a share of what it computes.

A budget that counts every layer's noise alike gives a layer on which the outputs hardly depend as
many parameters as one on which they hang. So each layer is measured: its kernel is cut by singular
values until a known share of its output's energy is lost, the model runs on a few inputs, and what
its outputs have moved by is divided by the noise that was put in. Noise of different layers is
nearly uncorrelated, so the outputs of the compressed model move by about the sum of the layers'
noise-to-signal ratios times their sensitivities, and that sum is what a budget makes least.
"""

from __future__ import annotations

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
# Inputs that run in all, shared out over the layers, and for each layer at the least and the most.
INPUTS, FEWEST, MOST = 2048, 16, 128
# No layer counts less than this share of the mean: a measurement on few inputs is no proof.
LEAST = 1e-3


def weigh(
    model: keras.Model, subjects: Sequence[Subject], inputs: Any, known: dict[str, float]
) -> None:
    """Let what a layer's noise does to the model's outputs count in a budget.

    A weight is the root of a sensitivity over the root of their mean. The measurement holds for one
    layer that loses little; at a small budget all lose much, and every layer's noise passes through
    layers that add theirs. Half-way, in logarithms, between the measurement and equal weights keeps
    more accuracy than either (docs/results.md).

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


def cut_kernel(
    kernel: np.ndarray, modes: KernelModes, metric: Metric | None, share: float = SHARE
) -> tuple[np.ndarray, float]:
    """A kernel without its small singular values, and the share of output energy that they held.

    Args:
        kernel: in Keras layout.
        modes: of the kernel, which say how it is a matrix.
        metric: of the layer's input patches; None takes the kernel's own energy.
        share: the most that may be lost; at least the smallest singular value is.

    Returns:
        `(kernel, lost)`: the kernel cut, in the same layout, and the share that is lost.
    """
    matrix = as_matrix(np.asarray(kernel, dtype=np.float64), modes)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    inside = left if metric is None else metric.gram @ left
    outside = right if metric is None or metric.scale is None else right * metric.scale**2
    # <u_a s_a v_a, u_b s_b v_b> in the metric, for all pairs of singular triples
    pairs = np.swapaxes(left, 1, 2) @ inside * (outside @ np.swapaxes(right, 1, 2))
    pairs = (values[:, :, None] * values[:, None, :] * pairs).sum(axis=0)
    # lost[r]: what the triples from r on hold, all of their pairs
    held = np.cumsum(np.cumsum(pairs[::-1, ::-1], axis=0), axis=1).diagonal()[::-1]
    lost = np.maximum(held, 0.0) / max(held[0], np.finfo(float).tiny)
    kept = min(int(np.argmax(lost <= share)) if (lost <= share).any() else len(lost), len(lost) - 1)
    cut = (left[..., :kept] * values[:, None, :kept]) @ right[:, :kept]
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
