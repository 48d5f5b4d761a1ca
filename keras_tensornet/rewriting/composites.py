"""Layers inside layers: where a Keras object keeps them, and how others are put in their place.

A *graph* (a Sequential or Functional model) keeps its layers at nodes, and its configuration
describes all of them. Everything else that holds layers is a *composite*: a layer such as
`MultiHeadAttention`, a subclassed model, or a Functional model whose class builds its own graph
(a KerasHub backbone). Its Python code reads them from attributes, lists and dicts, and its
configuration builds the layers that its author wrote.

A layer below is named by a step: the layer's name in a graph, the attribute in a composite
("_query_dense"), with the place in a list or dict behind it ("blocks/0", "ff/in").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_tensornet import keras_internals
from keras_tensornet.keras_internals import Functional
from keras_tensornet.layers.common import FactorizedMethods
from keras_tensornet.layers.tbasis import TBasis, TBasisCores
from keras_tensornet.layers.tbasis.common import TBasisMethods

# Layers that are one thing to their users, although they hold others.
LEAVES = (
    FactorizedMethods,
    TBasis,
    TBasisCores,
    TBasisMethods,
    keras.layers.LSTM,
    keras.layers.GRU,
    keras.layers.SimpleRNN,
    keras.layers.ConvLSTM1D,
    keras.layers.ConvLSTM2D,
    keras.layers.ConvLSTM3D,
)
MARK = "_replaces"  # attribute of a layer that stands where a composite built another


def is_graph(layer: keras.Layer) -> bool:
    """Whether a layer is a model that its own configuration describes layer by layer."""
    if isinstance(layer, keras.Sequential):
        return type(layer).__init__ is keras.Sequential.__init__
    plain = (keras.Model.__init__, Functional.__init__)
    return isinstance(layer, Functional) and type(layer).__init__ in plain


def is_wrapper(layer: keras.Layer) -> bool:
    """Whether a layer is one of Keras' wrappers that hold one layer and describe it."""
    return type(layer) in (keras.layers.TimeDistributed, keras.layers.Bidirectional)


def is_composite(layer: keras.Layer) -> bool:
    """Whether a layer holds layers that its configuration does not describe one by one."""
    if is_graph(layer) or is_wrapper(layer) or is_leaf(layer):
        return False
    return isinstance(layer, keras.Model) or any(True for _ in _held(layer))


def is_leaf(layer: keras.Layer) -> bool:
    """Whether a layer is one thing to its users, whatever it holds."""
    return isinstance(layer, LEAVES) or isinstance(getattr(layer, "cell", None), FactorizedMethods)


def children(layer: keras.Layer, inside: bool = False) -> list[tuple[str, keras.layers.Layer]]:
    """`(step, layer)` of the layers directly below a layer, in order, each once.

    Args:
        layer: a graph, a wrapper or a composite; anything else has none.
        inside: whether it is, or is part of, a composite. The names that Keras gives to layers
            that have none count through the whole process, and a composite that is built again
            gets others; a layer with such a name is called by its place in the graph.
    """
    if is_leaf(layer):
        return []
    found: dict[int, tuple[str, keras.layers.Layer]] = {}
    inside = inside or is_composite_class(layer)
    if isinstance(layer, (keras.Sequential, Functional)):
        for step, one in _graph_steps(layer, inside):
            found.setdefault(id(one), (step, one))
    elif is_wrapper(layer) and not inside:
        for one in _wrapped(layer):
            found.setdefault(id(one), (one.name, one))
        return list(found.values())
    for keys, one in _held(layer):
        if one is not layer:
            found.setdefault(id(one), ("/".join(map(str, keys)), one))
    return list(found.values())


def is_composite_class(layer: keras.Layer) -> bool:
    """Whether a layer is no graph and no wrapper, so that its class decides what it holds."""
    return not is_graph(layer) and not is_wrapper(layer)


def graph_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers at the nodes of a graph but its inputs."""
    if isinstance(model, keras.Sequential):
        layers = model.layers
    else:
        layers = [one for one in model.operations if isinstance(one, keras.layers.Layer)]
    return [one for one in layers if not isinstance(one, keras.layers.InputLayer)]


def descend(layer: keras.Layer) -> Iterator[tuple[tuple[str, ...], keras.layers.Layer]]:
    """`(steps, layer)` of everything below a composite, each layer once, holders first.

    What stands in the place of another layer is not entered.
    """
    yield from _descend(layer, (), {id(layer)})


def _descend(
    layer: keras.Layer, steps: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[Any, ...]]:
    for step, one in children(layer, inside=True):
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield (*steps, step), one
        if MARK not in vars(one):
            yield from _descend(one, (*steps, step), seen)


def find(layer: keras.Layer, steps: Any) -> keras.layers.Layer:
    """The layer below a composite that some steps lead to.

    Raises:
        ValueError: if there is none.
    """
    here = layer
    for step in steps:
        below = dict(children(here, inside=True))
        if step not in below:
            raise ValueError(
                f"'{layer.name}' of type {type(layer).__name__} has no layer at "
                f"'{'/'.join(steps)}': there is no '{step}' among {sorted(below)}. The file or "
                "configuration was made with another version of that class."
            )
        here = below[step]
    return here


def put(root: Any, new_of: Mapping[int, keras.layers.Layer]) -> None:
    """Put other layers in the place of some, in a composite and everything below it, in place.

    Args:
        root: that holds them, at any depth and in any number of places; all of these change.
        new_of: `id(old) -> new`.
    """
    for old in _descend_everything(root):
        new = new_of.get(id(old[1]))
        if new is not None and new.built and old[1].path:
            keras_internals.move_to(new, old[1].path)
    holders = [root, *(one for _, one in list(_descend_everything(root)))]
    for holder in holders:
        if id(holder) in new_of:
            continue
        if isinstance(holder, (keras.Sequential, Functional)):
            keras_internals.replace_operations(holder, new_of)
        for name, value in list(keras_internals.attributes(holder)):
            changed = _replaced(value, new_of)
            if changed is not value:
                keras_internals.set_attribute(holder, name, changed)
        keras_internals.retrack(holder, new_of)


def _descend_everything(root: Any) -> Iterator[tuple[Any, ...]]:
    seen = {id(root)}
    stack = [root]
    while stack:
        holder = stack.pop()
        for step, one in children(holder, inside=True):
            if id(one) not in seen:
                seen.add(id(one))
                stack.append(one)
                yield step, one


def _replaced(value: Any, new_of: Mapping[int, keras.layers.Layer]) -> Any:
    """An attribute with layers replaced; lists and dicts change in place, tuples are made anew."""
    if isinstance(value, keras.layers.Layer):
        return new_of.get(id(value), value)
    if isinstance(value, list):
        for place, one in enumerate(value):
            changed = _replaced(one, new_of)
            if changed is not one:
                list.__setitem__(value, place, changed)
    elif isinstance(value, dict):
        for key, one in value.items():
            changed = _replaced(one, new_of)
            if changed is not one:
                dict.__setitem__(value, key, changed)
    elif isinstance(value, tuple):
        items = [_replaced(one, new_of) for one in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _held(layer: keras.Layer) -> Iterator[tuple[tuple[Any, ...], keras.layers.Layer]]:
    """`(keys, layer)` of every place where a layer's own code keeps a layer."""
    for name, value in keras_internals.attributes(layer):
        yield from _places(value, (name,))


def _places(
    value: Any, keys: tuple[Any, ...]
) -> Iterator[tuple[tuple[Any, ...], keras.layers.Layer]]:
    if isinstance(value, keras.layers.Layer):
        if not isinstance(value, keras.layers.InputLayer):
            yield keys, value
    elif isinstance(value, (list, tuple)):
        for place, one in enumerate(value):
            yield from _places(one, (*keys, place))
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _places(one, (*keys, key))


def _wrapped(layer: keras.Layer) -> list[keras.layers.Layer]:
    if type(layer) is keras.layers.Bidirectional:
        return [layer.forward_layer, layer.backward_layer]
    return [layer.layer]


def _graph_steps(model: keras.Model, inside: bool) -> list[tuple[str, keras.layers.Layer]]:
    """`(step, layer)` of the layers of a graph.

    Some classes put the name that they are given before those of their layers, and a composite that
    is built again from its configuration is always given one: it is left out of the steps.
    """
    layers = graph_layers(model)
    if not inside:
        return [(layer.name, layer) for layer in layers]
    steps = [_step_in_graph(layer, place) for place, layer in enumerate(layers)]
    short = [step.removeprefix(f"{model.name}_") or step for step in steps]
    clear = len(set(short)) == len(set(steps))
    return list(zip(short if clear else steps, layers, strict=True))


def _step_in_graph(layer: keras.Layer, place: int) -> str:
    if MARK in vars(layer):
        return vars(layer)[MARK]
    automatic = rf"{_snake_case(type(layer).__name__)}(_\d+)?"
    return str(place) if re.fullmatch(automatic, layer.name) else layer.name


def _snake_case(name: str) -> str:
    """As Keras makes names of classes."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
