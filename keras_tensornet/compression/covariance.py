"""Gram matrices of the input patches of layers, streamed over calibration data.

The model is rebuilt with a recorder in front of each layer of interest; running it on the data adds
x x^T of every patch x to the recorder's sum. Nothing but the sums is kept, so memory does not grow
with the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import keras
import numpy as np
from keras import ops

from keras_tensornet.rewriting.clones import clone_operation, copy_variables
from keras_tensornet.rewriting.walker import rewrite_model

BATCH = 64
# Patches of one batch that are summed up.
MOST_PATCHES = 8192


class PatchRecorder(keras.layers.Layer):
    """Passes its inputs on and sums x x^T over the patches x that a layer will see.

    Args:
        layer: the dense or convolutional layer that follows; its configuration says how patches
            are taken.
    """

    def __init__(self, layer, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.geometry = Geometry(layer)
        self.trainable = False

    def build(self, input_shape):
        """Create the sum and the count."""
        size = self.geometry.patch
        shape = (self.geometry.groups, size, size)
        self.total = self.add_weight(name="total", shape=shape, initializer="zeros")
        self.mean = self.add_weight(name="mean", shape=shape[:2], initializer="zeros")
        self.count = self.add_weight(name="count", shape=(), initializer="zeros")

    def call(self, inputs):
        """Add this batch, return the inputs."""
        patches = self.geometry.patches(ops.cast(inputs, "float32"))
        count = patches.shape[1]
        if count is not None and count > MOST_PATCHES:
            # Neighbouring patches say nearly the same; a part of them is as good and far quicker.
            patches = patches[:, :: -(-count // MOST_PATCHES)]
        products = ops.matmul(ops.transpose(patches, (0, 2, 1)), patches)
        self.total.assign_add(products)
        self.mean.assign_add(ops.sum(patches, axis=1))
        self.count.assign_add(ops.cast(ops.shape(patches)[1], "float32"))
        return inputs

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """The means of x x^T (groups, patch, patch) and of x (groups, patch)."""
        count = max(float(ops.convert_to_numpy(self.count)), 1.0)
        total, mean = (ops.convert_to_numpy(array) for array in (self.total, self.mean))
        return total.astype("float64") / count, mean.astype("float64") / count

    def compute_output_shape(self, input_shape):
        """Its inputs' shape."""
        return input_shape


class Geometry:
    """How a dense or convolutional layer takes patches from its inputs."""

    def __init__(self, layer):
        shape = tuple(layer.kernel.shape)
        self.groups = getattr(layer, "groups", 1)
        self.kernel_size = shape[:-2]
        self.in_size = shape[-2]
        self.patch = math.prod(self.kernel_size) * self.in_size
        self.strides = getattr(layer, "strides", ())
        self.dilation_rate = getattr(layer, "dilation_rate", ())
        self.padding = getattr(layer, "padding", "valid")
        self.data_format = getattr(layer, "data_format", "channels_last")

    def patches(self, inputs):
        """(groups, positions, patch) of inputs in the layer's own data format."""
        if not self.kernel_size:
            return ops.reshape(inputs, (1, -1, self.in_size))
        ndim = len(self.kernel_size)
        if self.data_format == "channels_first":
            inputs = ops.transpose(inputs, (0, *range(2, ndim + 2), 1))
        if self.padding == "causal":
            left = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            inputs = ops.pad(inputs, ((0, 0), (left, 0), (0, 0)))
        parts = ops.split(inputs, self.groups, axis=-1) if self.groups > 1 else [inputs]
        return ops.stack([ops.reshape(self._taps(part), (-1, self.patch)) for part in parts])

    def _taps(self, inputs):
        """A convolution with the identity as its kernel: each patch entry becomes a channel."""
        identity = ops.reshape(
            ops.eye(self.patch, dtype="float32"), (*self.kernel_size, self.in_size, self.patch)
        )
        return ops.conv(
            inputs,
            identity,
            strides=self.strides,
            padding="valid" if self.padding == "causal" else self.padding,
            dilation_rate=self.dilation_rate,
            data_format="channels_last",
        )


def patch_moments(
    model: keras.Model, paths: Iterable[str], data, batch_size: int = BATCH
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """First and second moments of the input patches of some layers, over calibration data.

    Args:
        model: a built model; it stays as it was.
        paths: of `Dense` and convolution layers, as `walk_layers` gives them.
        data: inputs of the model: an array, a dict or list of arrays as the model takes them, or
            an iterable of batches (a `tf.data.Dataset`, a generator, a `PyDataset`); of a batch
            that is a tuple the first entry is used.
        batch_size: for arrays.

    Returns:
        `path -> (E[x x^T], E[x])` of shapes (groups, patch, patch) and (groups, patch), float64.

    Raises:
        ValueError: if the data holds no batch.
    """
    wanted, recorders = set(paths), {}

    def record(layer, path):
        if path not in wanted:
            return None
        clone = clone_operation(layer)
        clone.build(layer.get_build_config()["input_shape"])
        copy_variables(layer, clone)
        recorders[path] = PatchRecorder(layer, name=layer.name + "_patches")
        return [recorders[path], clone]

    recording, empty = rewrite_model(model, record), True
    for batch in batches(data, batch_size):
        recording(batch, training=False)
        empty = False
    if empty:
        raise ValueError("`calibration_data` must hold at least one batch. Received: none.")
    return {path: recorder.moments() for path, recorder in recorders.items()}


def batches(data, batch_size: int = BATCH):
    """Yield the inputs of batches from arrays or from an iterable of batches."""
    leaves = keras.tree.flatten(data) if isinstance(data, (dict, list, tuple)) else [data]
    if all(hasattr(leaf, "shape") and hasattr(leaf, "__getitem__") for leaf in leaves):
        for start in range(0, len(leaves[0]), batch_size):
            part = slice(start, start + batch_size)
            yield keras.tree.map_structure(lambda leaf, part=part: leaf[part], data)
        return
    if isinstance(data, keras.utils.PyDataset):
        data = (data[index] for index in range(len(data)))
    for batch in data:
        yield batch[0] if isinstance(batch, tuple) else batch
