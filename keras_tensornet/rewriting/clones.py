"""Copies of single layers and operations, and of how a model was compiled."""

from __future__ import annotations

import warnings

import keras


def clone_operation(operation, **replaced):
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
    try:
        if replaced:
            config = {**operation.get_config(), **replaced}
            config["dtype"] = operation.dtype_policy
            return type(operation)(**config)
        return type(operation).from_config(operation.get_config())
    except Exception as error:
        if not isinstance(operation, keras.layers.Layer):
            # Operations hold no state; one may stand in several graphs.
            return operation
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"Layer '{operation.name}' of type {type(operation).__name__} cannot be cloned: "
            f"{reason}. Give the class a `get_config` that holds every argument of `__init__`."
        ) from error


def copy_variables(source, target) -> None:
    """Give a layer the values of another of the same configuration, random seeds included."""
    if len(source.variables) != len(target.variables):
        raise ValueError(
            f"The clone of layer '{source.name}' has {len(target.variables)} variables, the layer "
            f"itself {len(source.variables)}: its configuration does not describe it fully. Put "
            "what is missing into `get_config`."
        )
    for old, new in zip(source.variables, target.variables, strict=True):
        # A copy: on JAX the two would share a buffer, which training one of them deletes.
        new.assign(keras.ops.copy(old))


def compile_like(target: keras.Model, source: keras.Model, **changed) -> None:
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
    given = getattr(source, "_compile_config", None)
    if given is None or type(source).compile is not keras.Model.compile:
        warnings.warn(
            f"{type(source).__name__} has a `compile` of its own, so how it was compiled is not "
            "known: compile the result yourself.",
            UserWarning,
            stacklevel=4,
        )
        return
    arguments = dict(given.config)
    arguments["optimizer"] = _fresh(arguments["optimizer"])
    for name in ("metrics", "weighted_metrics"):
        arguments[name] = keras.tree.map_structure(_fresh, arguments[name])
    target.compile(**(arguments | changed))
    if target.optimizer is not None:
        target.optimizer.build(target.trainable_variables)


def _fresh(item):
    if isinstance(item, (keras.Metric, keras.Optimizer)):
        return type(item).from_config(item.get_config())
    return item


def _clone_lambda(layer):
    """A Lambda over the same function: its serialised form is refused as unsafe, rightly so."""
    return type(layer)(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        dtype=layer.dtype_policy,
    )
