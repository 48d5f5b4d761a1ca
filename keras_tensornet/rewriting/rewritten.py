"""Composites with other layers inside than their class builds, and how Keras saves and loads them.

A composite's configuration builds the layers that its author wrote, so what has been put in their
place must be part of what is serialised. `as_rewritten` turns an object, in place, into one of a
subclass of its class that differs in nothing but `get_config` and `from_config`: the configuration
also says what stands where, and loading builds the composite as its author wrote it, puts the
replacements in, and lets Keras load the weights. Methods, attributes and `isinstance` stay.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_tensornet.rewriting import composites
from keras_tensornet.rewriting.composites import MARK
from keras_tensornet.types import Config

KEY = "keras_tensornet"  # of what is added to a configuration
_local = threading.local()
_classes: dict[type[Any], Any] = {}


class Rewritten:
    """Mixed into the class of a composite in which layers have been replaced.

    It is registered with Keras under one name, whatever the composite's class: a file says in its
    configuration which class that is.
    """

    _written_as: Any = {}  # how Keras names the composite's own class

    def get_config(self) -> Config:
        """The composite's own configuration, and under one further key what stands in it."""
        config = super().get_config()  # type: ignore[misc]
        return {
            **config,
            KEY: {
                "class": self._written_as,
                "build": build_record(self),
                "layers": [] if _as_written() else records(self),
            },
        }

    @classmethod
    def from_config(cls, config: Config) -> Rewritten:
        """The composite as its class builds it, with the replacements put in."""
        own = dict(config)
        added = own.pop(KEY)
        layer = _built_by_class(cls, added["class"], own)
        build_like(layer, added["build"])
        new_of = {}
        for record in added["layers"]:
            old = composites.find(layer, record["steps"])
            new = keras.saving.deserialize_keras_object(record["layer"])
            if new is not old:
                new_of[id(old)] = mark(new, record["steps"][-1])
                if not new.built:
                    new.build_from_config(_tuples(record["build"]))
                    new.built = True
        composites.put(layer, new_of)
        return declare(layer)


def rewritten_class(base: type[Any], written_as: dict[str, Any]) -> Any:
    """The subclass of a composite's class whose instances say what stands in them."""
    if base not in _classes:
        made: Any = type(
            base.__name__, (Rewritten, base), {"__module__": __name__, "__doc__": base.__doc__}
        )
        made.__qualname__ = base.__qualname__
        made._written_as = written_as
        _classes[base] = _registered(made)
        _registered(Rewritten)  # the name stands for what reads the class from the file
    return _classes[base]


def _registered(cls: Any) -> Any:
    return keras.saving.register_keras_serializable("keras_tensornet", "Rewritten")(cls)


_registered(Rewritten)


def declare(layer: keras.Layer) -> Any:
    """Let every composite in which something is replaced say so, in place; returns the layer."""
    below = [one for _, one in composites.descend(layer)]
    for one in [layer, *below]:
        if not composites.is_composite(one) or MARK in vars(one):
            continue
        if any(MARK in vars(inner) for _, inner in composites.descend(one)):
            if one is not layer and not _says_how_it_is_built(one):
                continue  # it cannot be serialised on its own, with or without replacements
            as_rewritten(one)
    return layer


def _says_how_it_is_built(layer: keras.Layer) -> bool:
    try:
        with as_written():
            keras.saving.serialize_keras_object(layer)
    except Exception:  # whatever a `get_config` that nobody has called before may raise
        return False
    return True


def as_rewritten(layer: keras.Layer) -> None:
    """Give a composite the class that serialises its replacements."""
    if isinstance(layer, Rewritten):
        return
    base = type(layer)
    if base not in _classes:
        with as_written():
            text = keras.saving.serialize_keras_object(layer)
        names = {key: text.get(key) for key in ("module", "class_name", "registered_name")}
        rewritten_class(base, names)
    layer.__class__ = _classes[base]


def own_class(layer: keras.Layer) -> type[Any]:
    """The class of a layer as its author wrote it."""
    if isinstance(layer, Rewritten):
        return next(base for base in type(layer).__mro__[1:] if not issubclass(base, Rewritten))
    return type(layer)


def mark(layer: keras.Layer, step: str) -> Any:
    """Note on a layer that it stands where a composite built another; returns the layer."""
    vars(layer)[MARK] = step
    return layer


def records(layer: keras.Layer) -> list[dict[str, Any]]:
    """What stands where in a composite, as plain values."""
    serialize = keras.saving.serialize_keras_object
    return [
        {"steps": list(steps), "layer": serialize(one), "build": one.get_build_config()}
        for steps, one in composites.descend(layer)
        if MARK in vars(one)
    ]


def written(layer: keras.Layer) -> Any:
    """A new object of the same configuration as its author wrote it, built, without replacements.

    Raises:
        ValueError: if the class has no usable `get_config`, or what it gives does not build.
    """
    try:
        with as_written():
            config = layer.get_config()
            own = {key: value for key, value in config.items() if key != KEY}
            result = own_class(layer).from_config(own)
        build_like(result, build_record(layer))
    except Exception as error:
        kind = own_class(layer).__name__
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"'{layer.name}' of type {kind} cannot be built again from its configuration, so the "
            f"layers in it cannot be replaced: {reason}. Give {kind} a `get_config` that holds "
            f"every argument of `__init__`, or leave it as it is, or replace its layers by hand: "
            "`layer.dense = TRDense.from_layer(layer.dense, rank=4)`."
        ) from error
    return result


@contextmanager
def as_written() -> Iterator[None]:
    """While this holds, configurations of rewritten composites leave the replacements out."""
    before = _as_written()
    _local.as_written = True
    try:
        yield
    finally:
        _local.as_written = before


def _as_written() -> bool:
    return getattr(_local, "as_written", False)


def build_record(layer: keras.Layer) -> dict[str, Any]:
    """How a layer was built: its build configuration, and those of its parts where it has none.

    A composite without a `build` of its own has its layers built by its first call, and so has a
    Sequential that its holder does not build. They are built one by one here, so that nothing needs
    to be called.
    """
    if not _default_build(layer) and layer.built:
        return {"config": layer.get_build_config(), "parts": []}
    parts = []
    for step, one in composites.children(layer, inside=True):
        if MARK not in vars(one):
            record = build_record(one)
            if record["config"] or record["parts"]:
                parts.append([step, record])
    return {"config": None, "parts": parts}


def build_like(layer: keras.Layer, record: dict[str, Any]) -> None:
    """Build a layer from what `build_record` said of one of its class and configuration."""
    if not layer.built and record["config"]:
        layer.build_from_config(_tuples(record["config"]))
    for step, part in record["parts"]:
        below = dict(composites.children(layer, inside=True))
        if step in below:
            build_like(below[step], part)
    if not isinstance(layer, keras.Sequential):  # whose own `build` makes it a graph
        layer.built = True


def _default_build(layer: keras.Layer) -> bool:
    plain = (keras.layers.Layer.build, keras.Model.build)
    return type(layer).build in plain


def _built_by_class(cls: Any, names: dict[str, Any], config: Config) -> Any:
    """An object of the class that a configuration names, from its own configuration."""
    if cls is not Rewritten and cls._written_as == names:
        bases = (base for base in cls.__mro__[1:] if not issubclass(base, Rewritten))
        return next(bases).from_config(config)
    return keras.saving.deserialize_keras_object({**names, "config": config})


def _tuples(value: Any) -> Any:
    """Shapes as tuples: JSON has lists, and `build` methods add tuples to them."""
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
    return tuple(_tuples(one) for one in value) if isinstance(value, (list, tuple)) else value
