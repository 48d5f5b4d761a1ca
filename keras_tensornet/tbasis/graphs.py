"""Replaying a model's graph on new inputs, where some layers take more than their own inputs.

The model walker replaces layers that are called as the old ones were. Cores that come from one
product with a basis are handed to the layers as tensors of the outermost graph; so the graph is
replayed call by call, and nested models are played out in place: the result is one flat Functional
model. What Python code calls, in composite layers and subclassed models, no replay reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_tensornet import keras_internals
from keras_tensornet.rewriting.clones import clone_operation, compile_like
from keras_tensornet.rewriting.composites import graph_layers, is_graph
from keras_tensornet.rewriting.state import copy_state, copy_trainable
from keras_tensornet.rewriting.walker import new_inputs

# `(layer, path, args, kwargs) -> outputs`, or NotImplemented for a clone called in the same way.
Apply = Callable[[keras.layers.Layer, str, tuple[Any, ...], dict[str, Any]], object]


def called_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that a graph, and the graphs nested in it, call themselves; none of other models.

    A graph of a class of its own counts as one that cannot be played out: it would lose its class.
    """
    if not is_graph(model):
        return []
    found = []
    for layer in graph_layers(model):
        found += called_layers(layer) if is_graph(layer) else [layer]
    return found


def replay(
    model: keras.Model, apply: Apply, begin: Callable[..., Any] | None = None
) -> keras.Model:
    """Return a new flat Functional model, the calls that `apply` takes over made differently.

    Args:
        model: a built Sequential or Functional model; it stays as it was.
        apply: called for every call of a layer in the graph.
        begin: called with the new inputs before any layer is.

    Returns:
        A model of the same name, inputs and outputs. Layers that were cloned have their weights,
        frozen state, names (those of nested models with the model's name before them) and dtype
        policy. If `model` was compiled, so is the result, with a fresh optimizer.
    """
    inputs = new_inputs(model)
    if begin is not None:
        begin(inputs)
    player = _Player(apply)
    outputs = player.run(model, inputs, "")
    result = keras.Model(inputs, outputs, name=model.name)
    player.finish()
    compile_like(result, model)
    return result


class _Player:
    """One replay: the clones made so far and the names taken."""

    def __init__(self, apply: Apply) -> None:
        self.apply = apply
        self.clones: dict[int, tuple[Any, ...]] = {}
        self.names: set[str] = set()

    def finish(self) -> None:
        for source, clone in self.clones.values():
            copy_state(source, clone)
            copy_trainable(source, clone)

    def run(self, model: keras.Model, inputs: Any, path: str) -> Any:
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                inputs = self._call(layer, path, (inputs,), {})
            return inputs
        return keras_internals.run_graph(
            model,
            inputs,
            lambda operation, *args, **kwargs: self._call(operation, path, args, kwargs),
        )

    def _call(
        self, operation: keras.Operation, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not isinstance(operation, keras.layers.Layer):
            return clone_operation(operation)(*args, **kwargs)
        path = _join(path, operation.name)
        if is_graph(operation):
            # Of its keyword arguments `training` is the only one, which that of the call that runs
            # the whole model overrides in Keras as well.
            return self.run(operation, args[0], path)
        outputs = self.apply(operation, path, args, kwargs)
        if outputs is NotImplemented:
            outputs = self._clone(operation, path)(*args, **kwargs)
        return outputs

    def _clone(self, layer: keras.Layer, path: str) -> Any:
        if id(layer) not in self.clones:
            clone = clone_operation(layer)
            clone.name = flat_name(path, self.names)
            self.clones[id(layer)] = (layer, clone)
        return self.clones[id(layer)][1]


def flat_name(path: str, taken: set[str]) -> str:
    """The name in a flat model of a layer with that path, and note it as taken."""
    name = path.replace("/", "_")
    number = 0
    while (name if not number else f"{name}_{number}") in taken:
        number += 1
    name = name if not number else f"{name}_{number}"
    taken.add(name)
    return name


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
