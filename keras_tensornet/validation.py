"""Checks of arguments, with errors that say the rule, the value received and the way out.

Every public function checks its arguments through these few helpers before anything is built, so
that a wrong argument leaves nothing half made.
"""

from __future__ import annotations

import numbers
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

# Frames of these packages stand between a user's line and ours when Keras builds a layer.
NOT_THE_USER = ("keras", "keras_tensornet", "tensorflow")
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


def positive_int(name: str, value: object) -> int:
    """Return `value` as an int of at least 1, or raise an error that names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"`{name}` must be an integer. Received: {name}={value!r} of type "
            f"{type(value).__name__}. Use a whole number such as {name}=4."
        )
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1. Received: {name}={value}.")
    return int(value)


def int_tuple(name: str, value: object) -> tuple[int, ...]:
    """Return `value` as a tuple of positive ints, or raise an error that names the argument."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(
            f"`{name}` must be a tuple of integers. Received: {name}={value!r} of type "
            f"{type(value).__name__}."
        )
    return tuple(positive_int(f"{name}[{axis}]", entry) for axis, entry in enumerate(value))


def one_of(name: str, value: object, choices: Sequence[str]) -> str:
    """Return `value` if it is among `choices`, or raise an error that lists them."""
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}.")
    return str(value)


def fraction(name: str, value: object) -> float:
    """Return `value` as a float in (0, 1], or raise an error that names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number in (0, 1]. Received: {name}={value!r} of type "
            f"{type(value).__name__}."
        )
    if value <= 0.0 or not value <= 1.0:  # `not`, so that NaN is refused
        raise ValueError(f"`{name}` must lie in (0, 1]. Received: {name}={value}.")
    return float(value)


@contextmanager
def quietly() -> Iterator[None]:
    """Within it `warn_user` says nothing, in this thread: for layers that are built as a trial.

    `warnings.catch_warnings` would do that for the whole process, and two threads that leave it in
    another order than they entered leave the process's filters changed.
    """
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


def warn_user(message: str) -> None:
    """Warn at the user's own line: the innermost one outside this package and Keras."""
    if _QUIET.get():
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _package(frame) in NOT_THE_USER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).split(".")[0]


def rate(name: str, value: object) -> float:
    """Return `value` as a float in [0, 1), or raise an error that names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number in [0, 1). Received: {name}={value!r} of type "
            f"{type(value).__name__}."
        )
    if value < 0.0 or not value < 1.0:  # `not`, so that NaN is refused
        raise ValueError(
            f"`{name}` is the share that is dropped and must lie in [0, 1). Received: "
            f"{name}={value}."
        )
    return float(value)


def optional_int(name: str, value: object) -> int | None:
    """Return `value` as an int, or None, or raise an error that names the argument."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"`{name}` must be an integer or None. Received: {name}={value!r} of type "
            f"{type(value).__name__}."
        )
    return int(value)
