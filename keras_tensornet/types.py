"""Words of the signatures of the whole package: what a tensor, a shape, a configuration is.

Keras has no types of its own, so a type checker takes its classes for `Any`; these names say which
`Any` is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

# An array of the backend at hand, or Keras' symbolic tensor of a functional model.
Tensor: TypeAlias = Any
# A shape whose open axes are None.
Shape: TypeAlias = tuple[int | None, ...]
# Plain Python, as `get_config` returns it.
Config: TypeAlias = dict[str, Any]
# What `keras.initializers.get`, `regularizers.get`, `constraints.get` and `activations.get` take.
Identifier: TypeAlias = str | Config | Callable[..., Any] | None
# An int, or one for each bond; None where a network has its sizes already.
Rank: TypeAlias = int | Sequence[int] | None
# How a layer applies its cores: a name, a chain of stages, or one of these for each phase.
Implementation: TypeAlias = str | Mapping[str, str]
# Modes as a number of modes or as their sizes; None for the default of the format.
Modes: TypeAlias = int | Sequence[int] | None

__all__ = ["Config", "Identifier", "Implementation", "Modes", "Rank", "Shape", "Tensor"]
