"""How far the outputs of a small network are from those of the dense one, for any kind of output.

Every distance is relative: 1 is what a network would have that always says the dense network's mean
output. So terms of different kinds can be added, and weights between them keep their meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet import validation
from keras_tensornet.compression.recording import PADDING
from keras_tensornet.types import Identifier, Tensor

KINDS = ("logits", "probabilities", "binary_logits", "binary", "values")
AUTO = "auto"
SMALLEST = 1e-7


@dataclass(frozen=True)
class Distance:
    """Between a target and an output, an example at a time.

    Attributes:
        kind: one of `KINDS`, or a function `(target, output) -> (batch,)`.
        temperature: that class scores are divided by.
        scale: the distance of the mean target.
    """

    kind: Any
    temperature: float = 1.0
    scale: float = 1.0

    def __call__(self, target: Any, output: Any, mask: Any = None) -> Any:
        """(batch,) relative distances; a mask (batch, length) says which positions count."""
        target, output = ops.cast(target, "float32"), ops.cast(output, "float32")
        if callable(self.kind):
            return _means(self.kind(target, output)) / self.scale
        found = _DISTANCES[self.kind](target, output, self.temperature)
        if mask is None or len(found.shape) < 2:
            return _means(found) / self.scale
        found = ops.mean(ops.reshape(found, (*ops.shape(mask), -1)), axis=-1)  # (batch, length)
        mask = ops.cast(mask, "float32")
        total = ops.sum(ops.where(mask > 0, found, 0.0), axis=1)
        return total / ops.maximum(ops.sum(mask, axis=1), 1.0) / self.scale

    @classmethod
    def fitted(cls, kind: Any, targets: np.ndarray, temperature: float) -> Distance:
        """The distance whose scale follows from the dense network's outputs on some examples."""
        plain = cls(kind, temperature)
        if callable(kind):
            return plain
        centre = np.broadcast_to(_centre(kind, targets, temperature), targets.shape)
        scale = float(ops.mean(plain(targets, centre)))
        # A constant output has no scale of its own; its size is the next best.
        scale = scale if scale > SMALLEST else float(np.mean(np.square(targets)))
        return cls(kind, temperature, max(scale, SMALLEST))


def mask_of(inputs: Any, output: Any) -> Any:
    """(batch, length), which positions of a sequence count; None where nothing says so."""
    mask = getattr(output, "_keras_mask", None)
    if mask is None and isinstance(inputs, Mapping):
        mask = inputs.get(PADDING)
    if mask is None or len(output.shape) < 3 or len(mask.shape) != 2:
        return None
    lengths = mask.shape[1], output.shape[1]
    return mask if None in lengths or lengths[0] == lengths[1] else None


def _means(found: Any) -> Any:
    """(batch, ...) -> (batch,)"""
    return ops.mean(ops.reshape(found, (ops.shape(found)[0], -1)), axis=1)


def _divergence(target: Any, output: Any, temperature: float) -> Any:
    """KL of classes on the last axis; its gradient shrinks with T^2, which is put back."""
    target = ops.log_softmax(target / temperature, axis=-1)
    output = ops.log_softmax(output / temperature, axis=-1)
    return temperature**2 * ops.sum(ops.exp(target) * (target - output), axis=-1)


def _binary_divergence(target: Any, output: Any, temperature: float) -> Any:
    target, output = target / temperature, output / temperature
    share = ops.sigmoid(target)
    on = share * (ops.log_sigmoid(target) - ops.log_sigmoid(output))
    off = (1.0 - share) * (ops.log_sigmoid(-target) - ops.log_sigmoid(-output))
    return temperature**2 * (on + off)


def _logs(values: Tensor) -> Tensor:
    return ops.log(ops.clip(values, SMALLEST, 1.0))


def _logits(values: Tensor) -> Tensor:
    values = ops.clip(values, SMALLEST, 1.0 - SMALLEST)
    return ops.log(values) - ops.log(1.0 - values)


_DISTANCES: Mapping[str, Callable[..., Any]] = {
    "logits": _divergence,
    "probabilities": lambda t, o, temperature: _divergence(_logs(t), _logs(o), temperature),
    "binary_logits": _binary_divergence,
    "binary": lambda t, o, temperature: _binary_divergence(_logits(t), _logits(o), temperature),
    "values": lambda t, o, temperature: ops.square(t - o),
}


def _centre(kind: str, targets: np.ndarray, temperature: float) -> np.ndarray:
    """The constant output that is nearest to the targets."""
    targets = targets.astype("float32")
    axes = tuple(range(max(targets.ndim - 1, 1)))
    if kind == "logits":
        share = ops.convert_to_numpy(ops.softmax(targets / temperature, axis=-1))
        return temperature * np.log(np.maximum(share.mean(axes), SMALLEST))
    if kind == "binary_logits":
        share = ops.convert_to_numpy(ops.sigmoid(targets)).mean(axes)
        return np.asarray(ops.convert_to_numpy(_logits(share)))
    return targets.mean(axes)


def kinds_of(
    model: keras.Model, structure: Any, targets: list[np.ndarray], match: Any
) -> list[Any]:
    """The kind of each output of a dense model, in the order of its flat outputs.

    Args:
        model: the dense model.
        structure: of its outputs, with anything as leaves.
        targets: its outputs on some examples, flat.
        match: as in `RecoverySettings`.

    Returns:
        A kind or a function for each output; None for an output that is no float, which cannot be
        matched.

    Raises:
        ValueError: for an unknown kind, or a structure that does not fit.
    """
    count = len(targets)
    if callable(match) or isinstance(match, str):
        wanted = [match] * count
    else:
        try:
            keras.tree.assert_same_structure(structure, match)
        except (ValueError, TypeError) as error:
            raise ValueError(
                "`match` must be one kind, one function, or these in the structure of the model's "
                f"outputs. Received: match={match!r} for {count} outputs."
            ) from error
        wanted = keras.tree.flatten(match)
    losses = _losses(model, structure, count)
    kinds: list[Any] = []
    for number, (want, target) in enumerate(zip(wanted, targets, strict=True)):
        if not callable(want):
            validation.one_of("match", want, (AUTO, *KINDS))
        if not np.issubdtype(target.dtype, np.floating) and str(target.dtype) != "bfloat16":
            kinds.append(None)
        elif want != AUTO:
            kinds.append(want)
        else:
            kinds.append(_kind(_activation(model, number), losses[number], target))
    if all(kind is None for kind in kinds):
        raise ValueError(
            "None of the model's outputs is a float, so there is nothing to match. Recover a model "
            "that ends one step earlier."
        )
    return kinds


def _kind(activation: Identifier, loss: str, target: np.ndarray) -> str:
    if activation is keras.activations.softmax or _are_probabilities(target):
        return "probabilities"
    if activation is keras.activations.sigmoid:
        return "binary"
    if "categorical_crossentropy" in loss:
        return "logits"
    if "binary" in loss and "crossentropy" in loss:
        inside = target.min() >= 0.0 and target.max() <= 1.0
        return "binary" if inside else "binary_logits"
    return "values"


def _are_probabilities(target: np.ndarray) -> bool:
    if target.ndim < 2 or target.shape[-1] < 2 or target.min() < 0.0:
        return False
    return bool(np.allclose(target.astype("float32").sum(-1), 1.0, atol=2e-3))


def _activation(model: keras.Model, number: int) -> Any:
    """The activation that gives an output, where the model is a graph."""
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
    if number >= len(outputs):
        return None
    operation = outputs[number]._keras_history.operation
    if isinstance(operation, keras.layers.Softmax):
        return keras.activations.softmax
    return getattr(operation, "activation", None)


def _losses(model: keras.Model, structure: Any, count: int) -> list[str]:
    """The name of the loss that each output was compiled with, "" where there is none."""
    loss = getattr(model, "loss", None) if getattr(model, "compiled", False) else None
    if isinstance(loss, Mapping):
        names = output_names(model, structure, count)
        return [_name(loss.get(name)) for name in names]
    if isinstance(loss, (list, tuple)):
        return [_name(item) for item in loss] if len(loss) == count else [""] * count
    return [_name(loss)] * count


def output_names(model: keras.Model, structure: Any, count: int) -> list[str]:
    """What the outputs of a model are called in its losses: keys, or names of layers."""
    if isinstance(structure, Mapping) and len(structure) == count:
        return [str(key) for key in sorted(structure)]
    names = getattr(model, "output_names", None)
    return list(names) if names and len(names) == count else [""] * count


def _name(loss: Any) -> str:
    if isinstance(loss, str):
        return loss
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", "") or "")
