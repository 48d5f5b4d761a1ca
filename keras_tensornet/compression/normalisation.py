"""Batch-norm statistics, estimated again after the layers before them have changed.

Compression shifts and scales what a normalisation sees, and its moving averages then no longer fit.
Running some data through the model in the layers' training mode and averaging the statistics of the
batches repairs that without any training.

A thousand examples are few for that: they are not quite those that the moving averages are of, and
a ResNet-20 whose statistics are taken from a thousand of its own training images loses 1.3 points
with no layer compressed. So where the dense model is at hand both are run on the same examples, and
only what differs between them is added to its moving averages: what the examples have of their own
is in both. A model in which nothing has changed keeps its statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet.reading import read_inputs
from keras_tensornet.rewriting.walker import rewrite_model, walk_layers

BATCH = 128
# Layers that are noise in training mode; statistics are wanted without them.
NOISE = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.AlphaDropout,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
    keras.layers.RandomContrast,
    keras.layers.RandomBrightness,
    keras.layers.RandomCrop,
)


def normalisations(model: keras.Model) -> list[Any]:
    """`(path, layer)` of the batch normalisations that are not frozen."""
    return [
        (path, layer)
        for path, layer in walk_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def reestimate_batch_norm(
    model: keras.Model, data: Any, batch_size: int = BATCH, dense: keras.Model | None = None
) -> keras.Model:
    """Return a new model whose batch-norm statistics fit its layers again; nothing is trained.

    Dropout, noise and random image layers are left out while the statistics are taken. Frozen
    batch normalisations keep theirs.

    Args:
        model: a built model; it stays as it was.
        data: inputs for the model, as in `plan_compression`. A thousand examples are plenty.
        batch_size: that the data is read in. The last batch counts by its size.
        dense: the model that it was made from, whose moving averages are then kept but for what
            has changed. Without it the statistics are those of the data.
    """
    result = rewrite_model(model, lambda layer, path: None)
    if not normalisations(result):
        return result
    batches = read_inputs(model, data, batch_size)
    found = measured(rewrite_model(result, without_noise), batches.inputs())
    if dense is not None:
        before = measured(rewrite_model(dense, without_noise), batches.inputs())
        found = followed(moving(dense), before, found)
    assign(result, found)
    return result


@dataclass(frozen=True)
class Statistics:
    """The mean and the variance of a batch normalisation, and its epsilon."""

    mean: np.ndarray
    variance: np.ndarray
    epsilon: float

    @classmethod
    def of(cls, layer: keras.Layer) -> Statistics:
        """Those that a layer holds."""
        values = (ops.convert_to_numpy(v) for v in (layer.moving_mean, layer.moving_variance))
        mean, variance = (np.array(value, dtype="float64") for value in values)
        return cls(mean, variance, float(layer.epsilon))


Found = dict[str, Statistics]


def moving(model: keras.Model) -> Found:
    """`path -> statistics` that a model holds."""
    return {path: Statistics.of(layer) for path, layer in normalisations(model)}


def measured(model: keras.Model, batches: Iterable[Any]) -> Found:
    """`path -> statistics` of some batches in a model without noise, which then holds them."""
    layers, seen = [layer for _, layer in normalisations(model)], 0
    if not layers:
        return {}
    for batch in batches:
        size = len(keras.tree.flatten(batch)[0])
        for layer in layers:
            layer.momentum = seen / (seen + size)  # a running mean over all examples
        model(batch, training=True)
        seen += size
    return moving(model)


def followed(own: Found, before: Found, after: Found) -> Found:
    """The statistics of a compressed network, of which only the change is measured.

    Args:
        own: the moving averages of the dense network.
        before, after: what was measured in the dense and in the compressed network, on the same
            examples. What the dense network does not have is taken as measured.
    """
    result = dict(after)
    for path, new in after.items():
        old, kept = before.get(path), own.get(path)
        if old is None or kept is None or old.mean.shape != new.mean.shape:
            continue
        factor = (new.variance + new.epsilon) / (old.variance + old.epsilon)
        variance = (kept.variance + kept.epsilon) * factor - new.epsilon
        mean = kept.mean + new.mean - old.mean
        result[path] = Statistics(mean, np.maximum(variance, 0.0), new.epsilon)
    return result


def assign(model: keras.Model, found: Found) -> None:
    """Let the batch normalisations of a model hold statistics."""
    for path, layer in normalisations(model):
        layer.moving_mean.assign(found[path].mean)
        layer.moving_variance.assign(found[path].variance)


def without_noise(layer: keras.Layer, path: str) -> Any:
    """For `rewrite_model`: nothing in place of layers that are noise in training mode."""
    if isinstance(layer, NOISE):
        return keras.layers.Identity(name=layer.name)
    return None
