"""Batch-norm statistics, estimated again after the layers before them have changed.

Compression shifts and scales what a normalisation sees, and its moving averages then no longer fit.
Running some data through the model in the layers' training mode and averaging the statistics of the
batches repairs that without any training.
"""

from __future__ import annotations

from collections.abc import Iterable

import keras

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


def normalisations(model: keras.Model) -> list:
    """`(path, layer)` of the batch normalisations that are not frozen."""
    return [
        (path, layer)
        for path, layer in walk_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def reestimate_batch_norm(model: keras.Model, data, batch_size: int = BATCH) -> keras.Model:
    """Return a new model whose batch-norm statistics are those of some data; nothing is trained.

    Dropout, noise and random image layers are left out while the statistics are taken. Frozen
    batch normalisations keep theirs.

    Args:
        model: a built model; it stays as it was.
        data: inputs for the model, as in `plan_compression`. A thousand examples are plenty.
        batch_size: that the data is read in. The last batch counts by its size.
    """
    result = rewrite_model(model, lambda layer, path: None)
    if not normalisations(result):
        return result
    quiet = rewrite_model(result, without_noise)
    take_statistics(quiet, read_inputs(model, data, batch_size).inputs())
    layers = [layer for _, layer in normalisations(quiet)]
    for (_, target), source in zip(normalisations(result), layers, strict=True):
        target.moving_mean.assign(source.moving_mean)
        target.moving_variance.assign(source.moving_variance)
    return result


def take_statistics(model: keras.Model, batches: Iterable) -> None:
    """Give the batch normalisations of a model without noise the statistics of some batches."""
    layers, seen = [layer for _, layer in normalisations(model)], 0
    if not layers:
        return
    for batch in batches:
        size = len(keras.tree.flatten(batch)[0])
        for layer in layers:
            layer.momentum = seen / (seen + size)  # a running mean over all examples
        model(batch, training=True)
        seen += size


def without_noise(layer, path: str):
    """For `rewrite_model`: nothing in place of layers that are noise in training mode."""
    if isinstance(layer, NOISE):
        return keras.layers.Identity(name=layer.name)
    return None
