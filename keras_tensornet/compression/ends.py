"""What the first and the last layer of a network are, which stay dense unless asked for.

Compression by default leaves alone

- the first convolution, which has few weights and sees the raw input (as the papers do),
- the classifier: the layer with a kernel that is nearest to an output, found along layers with one
  input in a graph, and as the last layer that a subclassed model holds itself; what stands inside a
  composite layer (a transformer block, say) is never the classifier,
- embeddings of tokens and positions: few of their rows are used at a time, so they cost memory but
  no time, and rare rows suffer; they are compressed where `include=` takes them in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_tensornet import keras_internals
from keras_tensornet.rewriting import composites
from keras_tensornet.shapes import is_kernel

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
FIRST = "first convolution"
LAST = "classifier"
EMBEDDING = "embedding: compressed only where `include` takes it in"


def ends(model: keras.Layer, layers: Sequence[tuple[str, keras.layers.Layer]]) -> dict[str, str]:
    """`path -> reason` of the layers that stay dense by default.

    Args:
        model: of any kind.
        layers: `(path, layer)` of those that could be compressed, in the model's order.
    """
    found = {path: EMBEDDING for path, layer in layers if isinstance(layer, keras.layers.Embedding)}
    for path, layer in layers:
        if isinstance(layer, CONVOLUTIONS):
            found[path] = FIRST
            break
    known = {id(layer) for _, layer in layers}
    last = {id(layer) for layer in _last_of(model, known)}
    return found | {path: LAST for path, layer in layers if id(layer) in last}


def _last_of(model: keras.Model, known: set[int]) -> list[Any]:
    """The layers of `known` nearest to the outputs of a model."""
    if keras_internals.graph_of(model) is not None:
        return [layer for tensor in model.outputs for layer in _behind(tensor, known)]
    if not isinstance(model, keras.Model):
        return []
    for _, layer in reversed(composites.children(model)):
        if id(layer) in known:
            return [layer]
        if isinstance(layer, keras.Model):
            return _last_of(layer, known)
        if any(is_kernel(variable.shape) for variable in layer.variables):
            return []
    return []


def _behind(tensor: Any, known: set[int]) -> list[Any]:
    """The layer of `known` that made a symbolic tensor, along layers with a single input."""
    while True:
        operation, node_index, tensor_index = keras_internals.maker_of(tensor)
        if isinstance(operation, keras.layers.TimeDistributed):
            operation = operation.layer
        if keras_internals.graph_of(operation) is not None:
            return _behind(operation.outputs[tensor_index], known)
        if isinstance(operation, keras.Model):
            return _last_of(operation, known)
        if id(operation) in known:
            return [operation]
        node = keras_internals.calls_of(operation)[node_index]
        composite = isinstance(operation, keras.layers.Layer) and composites.is_composite(operation)
        held = operation.weights if isinstance(operation, keras.layers.Layer) else ()
        kernels = any(is_kernel(weight.shape) for weight in held)
        if len(node.input_tensors) != 1 or composite or kernels:
            return []
        tensor = node.input_tensors[0]
