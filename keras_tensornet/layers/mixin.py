"""What classes of methods that stand beside `keras.layers.Layer` may use of it."""

from __future__ import annotations

from collections.abc import Callable

import keras


class LayerMixin:
    """Names of `keras.layers.Layer` for type checkers; nothing is set here."""

    name: str
    built: bool
    dtype_policy: keras.DTypePolicy
    activity_regularizer: keras.Regularizer | None
    add_weight: Callable[..., keras.Variable]
    add_loss: Callable[..., None]
    __call__: Callable[..., object]
