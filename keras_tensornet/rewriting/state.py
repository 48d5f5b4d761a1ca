"""What a layer holds besides its configuration, carried over to a clone of it.

Variables are most of it, but not all: a lookup layer has its table, an adapted Normalization the
constants it computed from its variables, a layer of one's own whatever it saves or keeps in plain
attributes. All of it is carried, so that a clone computes what its layer computes, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet import keras_internals
from keras_tensornet.files import scratch_folder
from keras_tensornet.rewriting.composites import MARK

PLAIN = (bool, int, float, complex, str, bytes, type(None), np.ndarray, np.generic)


def copy_state(source: Any, target: Any) -> None:
    """Give a layer everything that another of the same configuration holds.

    For each of the two layers and the layers they hold, in this order: what the class itself saves
    and loads (`save_own_variables`, `save_assets`: tables, vocabularies, whatever a class of one's
    own puts there), the values of the variables (random seeds included), data in plain attributes
    (numbers, text, arrays), and what `finalize_state` derives from all of these.

    Args:
        source: a layer; it stays as it was.
        target: a layer of the same class and configuration, built as `source` is.

    Raises:
        ValueError: if the two do not hold the same variables and layers.
    """
    layers = list(_pairs(source, target))
    for old, new in layers:
        _carry_saved(old, new)
    copy_variables(source, target)
    for old, new in layers:
        _copy_attributes(old, new)
        if old.built and callable(getattr(new, "finalize_state", None)):
            new.finalize_state()


def copy_own_state(source: Any, target: Any) -> None:
    """The same for what a layer holds itself, without the layers that it holds.

    The variables of the two are their own only, and so is the data in attributes: not what Keras
    keeps on models, such as how they were compiled.
    """
    _carry_saved(source, target)
    _assign(source, *(keras_internals.own_variables(layer) for layer in (source, target)))
    names = {name for name, _ in keras_internals.attributes(source)}
    if isinstance(source, keras.Model):
        names -= set(vars(target))  # its class has set them, to what fits the clone
    _copy_attributes(source, target, names)
    if source.built and callable(getattr(target, "finalize_state", None)):
        target.finalize_state()


def copy_own_trainable(source: Any, target: Any) -> None:
    """Freeze in a clone those variables of its own that are frozen in its layer."""
    pairs = (keras_internals.own_variables(layer) for layer in (source, target))
    for old, new in zip(*pairs, strict=True):
        new.trainable = old.trainable


def copy_variables(source: Any, target: Any) -> None:
    """Give a layer the values of another of the same configuration, random seeds included."""
    _assign(source, source.variables, target.variables)


def _assign(source: Any, olds: list[Any], news: list[Any]) -> None:
    if len(olds) != len(news):
        raise ValueError(
            f"The clone of layer '{source.name}' has {len(news)} variables, the layer "
            f"itself {len(olds)}: its configuration does not describe it fully. Put "
            "what is missing into `get_config`, or `get_build_config` and `build_from_config`."
        )
    for old, new in zip(olds, news, strict=True):
        if tuple(old.shape) != tuple(new.shape):
            raise ValueError(
                f"The clone of layer '{source.name}' has a variable '{new.path}' of shape "
                f"{tuple(new.shape)}, the layer itself one of {tuple(old.shape)}: its "
                "configuration does not describe it fully. Put what is missing into `get_config`."
            )
        # A copy: on JAX the two would share a buffer, which training one of them deletes.
        new.assign(ops.copy(old))


def copy_trainable(source: Any, target: Any) -> None:
    """Freeze in a clone what is frozen within its layer: layers that it holds, then variables."""
    for old, new in list(_pairs(source, target))[1:]:
        if new.trainable != old.trainable:  # the setter reaches down, so only where needed
            new.trainable = old.trainable
    for old, new in zip(source.variables, target.variables, strict=True):
        new.trainable = old.trainable


def _pairs(source: Any, target: Any) -> Iterator[tuple[Any, ...]]:
    """`(layer, its clone)` for two layers and all that they hold, each layer before its own."""
    olds, news = (keras_internals.flatten_layers(one) for one in (source, target))
    if [type(old) for old in olds] != [type(new) for new in news]:
        old_names, new_names = (
            [type(layer).__name__ for layer in layers] for layers in (olds[1:], news[1:])
        )
        raise ValueError(
            f"The clone of layer '{source.name}' holds the layers {new_names}, the layer itself "
            f"{old_names}: its configuration does not describe it fully. Make the layers it holds "
            "in `__init__` or `build`, from what `get_config` returns."
        )
    yield from zip(olds, news, strict=True)


class _Store(dict[str, Any]):
    """Stands for a file of weights: what is put in are values, not variables."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, np.array(ops.convert_to_numpy(value)))


def _carry_saved(old: Any, new: Any) -> None:
    """Use what a class has of its own to save and to load."""
    try:
        if _overrides(old, "save_own_variables", "load_own_variables"):
            store = _Store()
            old.save_own_variables(store)
            new.load_own_variables(store)
        if hasattr(old, "save_assets") and hasattr(old, "load_assets"):
            with scratch_folder() as folder:
                old.save_assets(str(folder))
                new.load_assets(str(folder))
        if isinstance(old, keras.layers.StringLookup):
            _mend_vocabulary(old, new)
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"What layer '{old.name}' of type {type(old).__name__} holds cannot be carried over to "
            f"its clone: {reason}. What `save_own_variables` and `save_assets` of the class write, "
            "`load_own_variables` and `load_assets` must be able to read in a new layer of the "
            "same configuration."
        ) from error


def _mend_vocabulary(old: Any, new: Any) -> None:
    """Set a vocabulary of which tokens are more than a line of text: its file holds lines."""
    vocabulary = old.get_vocabulary()
    if vocabulary != new.get_vocabulary():
        weights = getattr(old, "idf_weights_const", None)
        new.set_vocabulary(
            vocabulary, idf_weights=None if weights is None else ops.convert_to_numpy(weights)
        )


def _overrides(layer: keras.Layer, *names: str) -> bool:
    base, kind = keras.layers.Layer, type(layer)
    return any(getattr(kind, name) is not getattr(base, name) for name in names)


def _copy_attributes(old: Any, new: Any, names: set[str] | None = None) -> None:
    known = _attributes_of_every_layer()
    for name, value in vars(old).items():
        if name in known or not _is_data(value) or (names is not None and name not in names):
            continue
        if name in vars(new):
            present = vars(new)[name]
            if not _is_data(present) or _same(value, present):
                continue
        setattr(new, name, _copied(value))


def _attributes_of_every_layer() -> set[str]:
    """Names that Keras itself keeps on any layer: build shapes, call contexts, trackers."""
    return {*vars(keras.layers.Layer(name="any")), "_auto_config", "_lock", "_obj_type", MARK}


def _is_data(value: Any) -> bool:
    if isinstance(value, PLAIN):
        return not (isinstance(value, np.ndarray) and value.dtype == object)
    if isinstance(value, dict):
        return all(_is_data(key) and _is_data(item) for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_data(item) for item in value)
    return _is_value(value)


def _is_value(value: Any) -> bool:
    """Whether something is a tensor with values, neither a variable nor a node of a graph."""
    if hasattr(value, "assign") or isinstance(value, keras.KerasTensor):
        return False
    if not ops.is_tensor(value):
        return False
    try:
        ops.convert_to_numpy(value)
    except Exception:  # a tensor within a graph or a trace
        return False
    return True


def _same(first: Any, second: Any) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, (np.ndarray, np.generic)) or ops.is_tensor(first):
        one, two = (np.asarray(ops.convert_to_numpy(array)) for array in (first, second))
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    return first == second


def _copied(value: Any) -> Any:
    if ops.is_tensor(value):
        return ops.copy(value)
    # Plain containers: those that Keras tracks hold on to the layer that they belong to.
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_copied(one) for one in value]
    if isinstance(value, (set, frozenset)):
        return {_copied(one) for one in value}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_copied(one) for one in value)
    return copy.deepcopy(value)
