"""Batch normalisations folded into the convolution or dense layer before them, for shipping.

In inference a normalisation is a scale and a shift for each channel, which the kernel and the bias
before it can take up. What is left is what a compiler would run anyway; a model that is to be
trained for int8 has to be in that form before, because it is the folded kernel that is rounded.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_tensornet.rewriting.walker import rewrite_model, walk_layers

# Depthwise kernels hold their channels on two axes: (*extents, channels, multiplier).
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
FOLDED = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D, *DEPTHWISE)


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Return a new model without the batch normalisations that a layer before them can take up.

    Only stock convolutions (channels last) and dense layers without an activation, whose output
    goes to nothing but the normalisation, take part; a linear `Activation` stands in its place.
    Outputs in inference stay the same up to rounding.

    Args:
        model: a built model; it stays as it was.
    """
    model = rewrite_model(model, lambda layer, path: None)  # in its graph there is nothing else
    pairs = {}
    for path, layer in walk_layers(model):
        norm = _norm_after(layer)
        if norm is not None:
            pairs[path] = norm
    gone = {id(norm) for norm in pairs.values()}

    def replace(layer: keras.Layer, path: str) -> Any:
        if path in pairs:
            return _folded(layer, pairs[path])
        if id(layer) in gone:
            # In a list, because a normalisation is called with a mask and an activation is not.
            return [layers.Activation("linear", name=layer.name, dtype=layer.dtype_policy)]
        return None

    return rewrite_model(model, replace)


def _norm_after(layer: keras.Layer) -> Any:
    """The batch normalisation that can be folded into a layer, or None."""
    if type(layer) not in FOLDED or layer.activation is not keras.activations.linear:
        return None
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return None
    users = [node.operation for node in layer._outbound_nodes]
    if len(users) != 1 or len(layer._inbound_nodes) != 1:
        return None
    (norm,) = users
    if type(norm) is not layers.BatchNormalization or len(norm._inbound_nodes) != 1:
        return None
    ndim = len(norm._inbound_nodes[0].input_tensors[0].shape)
    return norm if norm.axis in (-1, ndim - 1) else None


def _folded(layer: keras.Layer, norm: Any) -> Any:
    """(x k + b - mean) s + beta = x (k s) + ((b - mean) s + beta), with s = gamma / sigma."""
    mean = ops.convert_to_numpy(norm.moving_mean).astype("float64")
    variance = ops.convert_to_numpy(norm.moving_variance).astype("float64")
    gamma = 1.0 if norm.gamma is None else ops.convert_to_numpy(norm.gamma)
    beta = 0.0 if norm.beta is None else ops.convert_to_numpy(norm.beta)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    kernel = ops.convert_to_numpy(layer.kernel)
    bias = 0.0 if layer.bias is None else ops.convert_to_numpy(layer.bias)
    spread = scale.reshape(kernel.shape[-2:]) if isinstance(layer, DEPTHWISE) else scale
    result = type(layer).from_config(layer.get_config() | {"use_bias": True})
    result.build(layer.get_build_config()["input_shape"])
    result.trainable = layer.trainable
    result.set_weights([kernel * spread, (bias - mean) * scale + beta])
    return result
