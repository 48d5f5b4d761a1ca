"""Layers of a model chosen by name, path, regular expression, class or function."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import keras


def chosen_paths(
    argument: str,
    items: Any,
    layers: Iterable[tuple[str, keras.layers.Layer]],
    what: str,
    apart: Iterable[tuple[str, keras.layers.Layer, str]] = (),
) -> set[str]:
    """The paths of the layers that some items describe.

    Args:
        argument: name of the user's argument, for the messages.
        items: one of, or a list of: a layer's name or path; a regular expression of the whole path
            (a compiled one may match a part of it); a layer class; a function `layer -> bool`. Text
            that is a name or a path is never read as a regular expression.
        layers: `(path, layer)` of those that may be chosen.
        what: what they are, in the plural, for the messages.
        apart: `(path, layer, why)` of those that may not be, for the messages.

    Raises:
        ValueError: if an item describes none of the layers, or is no regular expression.
        TypeError: if it is of another kind.
    """
    layers, found = list(layers), set()
    for item in as_tuple(items):
        paths = {path for path, _ in _matching(argument, item, layers)}
        if not paths:
            known = ", ".join(repr(path) for path, _ in layers)
            why = {path: reason for path, _, reason in apart}
            missed = _matching(argument, item, [(path, layer) for path, layer, _ in apart])
            raise ValueError(
                f"`{argument}` must describe {what}. Received: {_words(item)}, which matches none "
                f"of {known or 'no layers at all'}."
                + (f" '{missed[0][0]}' is {why[missed[0][0]]}." if missed else "")
            )
        found |= paths
    return found


def as_tuple(items: Any) -> tuple[Any, ...]:
    """Items given alone or in a list, as a tuple; None is none."""
    if items is None:
        return ()
    return tuple(items) if isinstance(items, (list, tuple, set)) else (items,)


def _matching(argument: str, item: Any, layers: list[Any]) -> list[Any]:
    if isinstance(item, str):
        exact = [pair for pair in layers if item in (pair[0], pair[1].name)]
        return exact or [pair for pair in layers if _pattern(argument, item).fullmatch(pair[0])]
    if isinstance(item, re.Pattern):
        return [pair for pair in layers if item.search(pair[0])]
    if isinstance(item, type):
        return [pair for pair in layers if isinstance(pair[1], item)]
    if callable(item):
        return [pair for pair in layers if item(pair[1])]
    raise TypeError(
        "A layer is chosen by its name, its path, a regular expression of its whole path, a layer "
        f"class or a function of the layer. Received: {argument}={item!r} of type "
        f"{type(item).__name__}."
    )


def _pattern(argument: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(
            f"`{argument}` takes names, paths and regular expressions of paths. Received: "
            f"{text!r}, which is the name of no layer and no regular expression either: {error}."
        ) from None


def _words(item: Any) -> str:
    if isinstance(item, type):
        return f"the class {item.__name__}"
    if callable(item) and not isinstance(item, str):
        return f"the function {getattr(item, '__name__', repr(item))}"
    return repr(item)
