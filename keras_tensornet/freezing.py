"""Freezing a model: every factorized layer merges its cores once, for inference.

Exported models are frozen at conversion and need none of this; it is for `predict` and `evaluate`
on a live model where merging in every batch is worth saving.
"""

from __future__ import annotations

import keras

from keras_tensornet.layers.common import FactorizedMethods


def freeze(model: keras.Model, batch_size: int | None = None) -> keras.Model:
    """Merge the cores of every factorized layer once, in place; returns the same model.

    Until `unfreeze`, calls use merged kernels and plans that count merging as free. Training the
    model, loading weights into it or assigning its cores raises a RuntimeError, so the merged
    kernels are never stale. Saving a frozen model saves its cores.

    Args:
        model: a built model or layer.
        batch_size: that inference will run with; 32 by default.
    """
    for layer in factorized_layers(model):
        if not layer.frozen:
            layer.freeze(batch_size)
    forget_compiled_functions(model)
    return model


def unfreeze(model: keras.Model) -> keras.Model:
    """Undo `freeze`, in place; returns the same model."""
    for layer in factorized_layers(model):
        layer.unfreeze()
    forget_compiled_functions(model)
    return model


def factorized_layers(model: keras.Layer) -> list:
    """The layers of a model whose kernels are tensor networks, each once."""
    layers = [model, *model._flatten_layers(include_self=False)]
    return [layer for layer in layers if isinstance(layer, FactorizedMethods)]


def forget_compiled_functions(model: keras.Layer) -> None:
    """Let Keras trace `fit`, `evaluate` and `predict` anew, because calls compute differently."""
    for name in ("train_function", "test_function", "predict_function"):
        if hasattr(model, name):
            setattr(model, name, None)
