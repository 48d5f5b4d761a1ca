"""Freezing a model: every factorized layer merges its cores once, for inference.

Exported models are frozen at conversion and need none of this; it is for `predict` and `evaluate`
on a live model where merging in every batch is worth saving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_tensornet import keras_internals
from keras_tensornet.kernels import lock, unlock
from keras_tensornet.layers.common import FactorizedMethods
from keras_tensornet.layers.tbasis import TBasis, TBasisCores
from keras_tensornet.layers.tbasis.common import TBasisMethods


def freeze(model: keras.Model, batch_size: int | None = None) -> keras.Model:
    """Merge the cores of every factorized layer once, in place; returns the same model.

    Until `unfreeze`, calls use merged kernels and plans that count merging as free. Training the
    model, loading weights into it or assigning its cores raises a RuntimeError, so the merged
    kernels are never stale. Saving a frozen model saves its cores.

    Layers on a T-Basis are frozen where they hold it, or the graph of the model says which basis
    they are called with; where your own code hands it to them they stay as they were.

    Args:
        model: a built model or layer.
        batch_size: that inference will run with; 32 by default.
    """
    for layer in factorized_layers(model):
        if not layer.frozen:
            layer.freeze(batch_size)
    _freeze_shared(model)
    forget_compiled_functions(model)
    return model


def unfreeze(model: keras.Model) -> keras.Model:
    """Undo `freeze`, in place; returns the same model."""
    for layer in factorized_layers(model):
        layer.unfreeze()
    for layer in _layers_of(model, TBasisMethods):
        layer.unfreeze()
    for layer in _layers_of(model, (TBasis, TBasisCores)):
        unlock(layer.variables)
    forget_compiled_functions(model)
    return model


@contextmanager
def frozen(model: keras.Model, batch_size: int | None = None) -> Iterator[keras.Model]:
    """Freeze a model within a block, and leave it as it was: layers that were frozen stay so."""
    before = {id(layer) for layer in _freezable(model) if layer.frozen}
    freeze(model, batch_size)
    try:
        yield model
    finally:
        if not before:
            unfreeze(model)
        for layer in _freezable(model):
            if layer.frozen and id(layer) not in before:
                layer.unfreeze()
        forget_compiled_functions(model)


def pinned(model: keras.Model, call: Callable[[], object]) -> Callable[[], object]:
    """A call that sees the model's layers frozen, or not, as they are now.

    Compiled functions keep what they were traced with. PyTorch looks anew in each call, where the
    states that are pinned here are put in place and taken back.
    """
    if keras.backend.backend() != "torch":
        return call
    states = [(layer, layer._frozen) for layer in _freezable(model)]

    def pinned_call() -> Any:
        now = [(layer, layer._frozen) for layer, _ in states]
        for layer, state in states:
            layer._frozen = state
        try:
            return call()
        finally:
            for layer, state in now:
                layer._frozen = state

    return pinned_call


def factorized_layers(model: keras.Layer) -> list[Any]:
    """The layers of a model whose kernels are tensor networks, each once."""
    return _layers_of(model, FactorizedMethods)


def _freezable(model: keras.Layer) -> list[Any]:
    return _layers_of(model, (FactorizedMethods, TBasisMethods))


def _layers_of(model: keras.Layer, kinds: Any) -> list[Any]:
    layers = keras_internals.flatten_layers(model)
    return [layer for layer in layers if isinstance(layer, kinds)]


def _freeze_shared(model: keras.Layer) -> None:
    """Merge the kernels of layers on a T-Basis, and hold what they are made from."""
    values: dict[tuple[Any, ...], Any] = {}
    for layer in _layers_of(model, TBasisMethods):
        if layer.shared_basis is not None and not layer.frozen:
            layer.freeze()
        name, tensor = _shared_argument(layer)
        given = None if tensor is None else _values_behind(tensor, values)
        if given is not None and not layer.frozen:
            layer.freeze(**{name: given})
    if any(layer.frozen for layer in _layers_of(model, TBasisMethods)):
        for layer in _layers_of(model, (TBasis, TBasisCores)):
            lock(layer.variables)


def _shared_argument(layer: keras.Layer) -> tuple[Any, ...]:
    """The name, "basis" or "cores", and the symbolic tensor that a layer is always called with."""
    found = {}
    for node in layer._inbound_nodes:
        for name in ("basis", "cores"):
            tensor = node.arguments.kwargs.get(name)
            if isinstance(tensor, keras.KerasTensor):
                maker, _, index = tensor._keras_history
                found[name, maker, index] = (name, tensor)
    return next(iter(found.values())) if len(found) == 1 else ("", None)


def _values_behind(tensor: Any, known: dict[tuple[Any, ...], Any]) -> Any:
    """The values of a basis, or of the cores made from one; None if other layers made them."""
    maker, node, index = tensor._keras_history
    if isinstance(maker, TBasis):
        return maker.basis.value
    if not isinstance(maker, TBasisCores):
        return None
    if (maker, node) not in known:
        (basis,) = maker._inbound_nodes[node].input_tensors
        values = _values_behind(basis, known)
        known[maker, node] = None if values is None else maker.call(values)
    return None if known[maker, node] is None else known[maker, node][index]


def forget_compiled_functions(model: keras.Layer) -> None:
    """Let Keras trace `fit`, `evaluate` and `predict` anew, because calls compute differently."""
    for name in ("train_function", "test_function", "predict_function"):
        if hasattr(model, name):
            setattr(model, name, None)
