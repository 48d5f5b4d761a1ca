"""Copies of single layers and operations, and of how a model was compiled."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from keras_tensornet import keras_internals, validation


def clone_operation(operation: keras.Operation, **replaced: Any) -> Any:
    """A new layer or operation of the same configuration, without its weights.

    Args:
        operation: a Keras layer, or an operation such as the one that `keras.ops.add` leaves in a
            graph.
        **replaced: arguments given instead of those in the configuration.

    Raises:
        ValueError: if the layer has no usable `get_config`.
    """
    if isinstance(operation, keras.layers.Lambda):
        return _clone_lambda(operation)
    if not isinstance(operation, keras.layers.Layer):
        return _clone_plain(operation)
    try:
        if replaced:
            config = {**operation.get_config(), **replaced}
            config["dtype"] = operation.dtype_policy
            return type(operation)(**config)
        clone = _from_config(operation)
        if operation.built and _builds_in_its_own_way(operation):
            # State that no call would make: what loading a saved model does, too.
            clone.build_from_config(operation.get_build_config())
        return clone
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"Layer '{operation.name}' of type {type(operation).__name__} cannot be cloned: "
            f"{reason}. Give the class a `get_config` that holds every argument of `__init__`."
        ) from error


def compile_like(target: keras.Model, source: keras.Model, **changed: Any) -> None:
    """Compile a model as another was compiled: same losses and metrics, a fresh optimizer.

    The arguments that `compile` was given are used again, so losses and metrics that no registry
    knows are kept. Objects with state (optimizer, metrics) are made anew from their configuration.

    Args:
        target: to be compiled.
        source: whose arguments of `compile` are used.
        **changed: arguments of `compile` that replace those.
    """
    if not source.compiled:
        return
    given = keras_internals.compile_arguments(source)
    own = type(source).compile is not keras.Model.compile
    if given is not None and own and type(target).__name__ == type(source).__name__:
        given = _for_own_compile(source, given)
    elif own:
        given = None
    if given is None:
        validation.warn_user(
            f"{type(source).__name__} has a `compile` of its own, so how it was compiled is not "
            "known: compile the result yourself."
        )
        return
    arguments = dict(given)
    arguments["optimizer"] = _fresh(arguments["optimizer"])
    for name in ("metrics", "weighted_metrics"):
        arguments[name] = keras.tree.map_structure(_fresh, arguments[name])
    target.compile(**(arguments | changed))
    if target.optimizer is not None:
        target.optimizer.build(target.trainable_variables)


def _for_own_compile(source: keras.Model, given: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of a `compile` that a class has of its own, or None if they are not known.

    What it passes on to `keras.Model.compile` is known from there; what it takes besides is kept in
    an attribute of that name, as by KerasHub's `CausalLM.compile(sampler=...)`.
    """
    known = dict(given)
    for name, parameter in inspect.signature(source.compile).parameters.items():
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if named and name not in known:
            if not hasattr(source, name):
                return None
            known[name] = getattr(source, name)
    try:
        inspect.signature(source.compile).bind(**known)
    except TypeError:
        return None
    return known


def _fresh(item: Any) -> Any:
    if isinstance(item, (keras.Metric, keras.Optimizer)):
        return type(item).from_config(item.get_config())
    return item


def _from_config(layer: keras.Layer) -> Any:
    config = layer.get_config()
    try:
        return type(layer).from_config(config)
    except Exception:
        # Some classes do not take what their `get_config` returns (RandomShear of Keras 3.15).
        # Where all arguments of `__init__` were plain values, Keras has noted them.
        given = getattr(layer, "_auto_config", None)
        if given is None:
            raise
        common = {"name": layer.name, "trainable": layer.trainable, "dtype": layer.dtype_policy}
        return type(layer)(**{**common, **given.config})


def _builds_in_its_own_way(layer: keras.Layer) -> bool:
    return type(layer).build_from_config is not keras.layers.Layer.build_from_config


def _clone_plain(operation: keras.Operation) -> Any:
    """Another operation of the same arguments: all that it has, but for its place in a graph."""
    for value in keras.tree.flatten(list(vars(operation).values())):
        if isinstance(value, (keras.layers.Layer, keras.Variable)):
            raise ValueError(
                f"Operation '{operation.name}' of type {type(operation).__name__} holds "
                f"{value!r}, and an operation has no state of its own, so it cannot be cloned. "
                "Derive the class from keras.layers.Layer."
            )
    clone = object.__new__(type(operation))
    vars(clone).update(vars(operation))
    clone._inbound_nodes, clone._outbound_nodes = [], []
    return clone


def _clone_lambda(layer: keras.Layer) -> Any:
    """A Lambda over the same function: its serialised form is refused as unsafe, rightly so."""
    return type(layer)(
        layer.function,
        output_shape=keras_internals.lambda_output_shape(layer),
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        dtype=layer.dtype_policy,
    )
