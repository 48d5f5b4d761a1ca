"""Replaying a model's graph on new inputs, where some layers take more than their own inputs.

The model walker replaces layers that are called as the old ones were. A T-Basis layer needs the
shared basis as well, and the basis belongs to the outermost graph; so the graph is replayed call by
call, and nested models are played out in place: the result is one flat Functional model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_tensornet.rewriting.clones import clone_operation, compile_like
from keras_tensornet.rewriting.composites import is_graph
from keras_tensornet.rewriting.state import copy_state, copy_trainable
from keras_tensornet.rewriting.walker import new_inputs

# `(layer, path, args, kwargs) -> outputs`, or NotImplemented for a clone called in the same way.
Apply = Callable[[keras.layers.Layer, str, tuple[Any, ...], dict[str, Any]], object]


def leaf_layers(model: keras.Model, path: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield `(path, layer)` for every layer of a model and of the models nested in it, once."""
    seen = set()
    for layer in model.layers:
        if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
            continue
        seen.add(id(layer))
        if is_graph(layer):
            yield from leaf_layers(layer, _join(path, layer.name))
        else:
            yield _join(path, layer.name), layer


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
        return model._run_through_graph(
            inputs,
            operation_fn=lambda operation: operation,
            call_fn=lambda operation, *args, **kwargs: self._call(operation, path, args, kwargs),
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
