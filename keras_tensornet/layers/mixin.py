"""What classes of methods that stand beside `keras.layers.Layer` may use of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

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


class ByName:
    """A layer of which only what comes first in Keras, too, is taken by position.

    `Conv2D(64, 3, 2)` means strides of 2, and a rank in that place would be taken for them, or they
    for a rank; so ranks, strides and all else are named.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse further positional arguments in words; a bare TypeError would only count them."""
        names = [
            parameter.name
            for parameter in inspect.signature(cls.__init__).parameters.values()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ][1:]
        if len(args) > len(names):
            raise TypeError(_by_name(cls, names, args))
        return super().__new__(cls, *args, **kwargs)


def _by_name(cls: Any, names: list[str], args: tuple[Any, ...]) -> str:
    first = ", ".join(repr(value) for value in args[: len(names)])
    value = args[len(names)]
    ways = [f"{cls.__name__}({first}, rank={value!r}) for a rank"]
    if hasattr(cls, "dense_class"):
        twin = cls.dense_class()
        third = list(inspect.signature(twin.__init__).parameters)[len(names) + 1]
        ways.append(
            f"{cls.__name__}({first}, {third}={value!r}) for what {twin.__name__} has there"
        )
    else:
        ways = ["activation=..., strides=..."]
    return (
        f"{cls.__name__} takes {' and '.join(f'`{name}`' for name in names)} by position and all "
        f"else by name. Received: {cls.__name__}({', '.join(map(repr, args))}). Write "
        f"{' or '.join(ways)}."
    )
