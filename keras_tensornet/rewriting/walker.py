"""The model walker, written once: every function that turns one model into another goes through it.

`walk_layers(model)` yields every layer with its path; `rewrite_model(model, replace)` builds a new
model in which some layers are replaced and everything else is the same: weights, names, sharing,
nesting, inputs and outputs, dtype policies, frozen layers, and how the model was compiled.

    def replace(layer, path):
        if isinstance(layer, keras.layers.Dense) and path != "classifier":
            return TRDense.from_layer(layer, rank=4)
        return None                      # keep: a clone with the same weights

    smaller = rewrite_model(model, replace)

A path is the layer's name, after the names of the models and wrappers that hold it:
"encoder/block1/conv". Layers that other layers and subclassed models hold are reached through the
attributes, lists and dicts that they are kept in: "encoder/_self_attention_layer/_query_dense",
"blocks/0/ff/in" (see `keras_tensornet.rewriting.composites`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import keras

from keras_tensornet import keras_internals, validation
from keras_tensornet.keras_internals import Functional
from keras_tensornet.layers.tbasis import TBasis
from keras_tensornet.rewriting import composites, contents, rewritten
from keras_tensornet.rewriting.clones import clone_operation, compile_like
from keras_tensornet.rewriting.composites import is_composite, is_graph, is_wrapper
from keras_tensornet.rewriting.state import (
    copy_own_state,
    copy_own_trainable,
    copy_state,
    copy_trainable,
)

Replacement: TypeAlias = keras.layers.Layer | Sequence[keras.layers.Layer] | None
Replace = Callable[[keras.layers.Layer, str], Replacement]


def walk_layers(model: keras.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield `(path, layer)` for every layer of a model, in the model's own order.

    Models inside it, of whatever class, `TimeDistributed` and `Bidirectional` are entered; the
    layers inside are yielded in their place. A layer that holds layers, such as
    `MultiHeadAttention`, is yielded before them. A layer that is used several times is yielded
    once, and what a layer of this package is made of is not entered. Nor are layers yielded that a
    composite holds and has never built, as some parts of KerasHub's SAM: they have no weights.

    Args:
        model: a built model of any kind, or a built layer that holds layers.

    Raises:
        TypeError: if it is neither.
        ValueError: if it is not built.
    """
    yield from _walk(_checked(model), "", {id(model)}, composites.is_composite_class(model))


def rewrite_model(model: keras.Model, replace: Replace) -> keras.Model:
    """Return a new model with some layers replaced; the given model stays as it was.

    Args:
        model: a built model of any kind, or a built layer that holds layers. It may hold models,
            wrappers, shared layers, several inputs and outputs. Subclassed models and layers that
            hold layers are built again from their `get_config`, and the replacements put into
            what that gives; they keep their class and methods, and can be saved and loaded.
        replace: `(layer, path) -> replacement`, called once for each layer that `walk_layers`
            yields. Return None to keep the layer (it is cloned with its weights), a new layer, or
            a list of new layers to be applied one after another. New layers may be built or not;
            a built one keeps its weights. They must not be part of another model. A layer that is
            shared in `model` has one replacement, shared in the same way. Inside a wrapper a list
            or another layer a list becomes a `Sequential`; a `Bidirectional` takes single layers
            only.

    Returns:
        A model of the same kind and name. Layers that were kept have their names, weights, frozen
        state and dtype policy. If `model` was compiled, so is the result: same loss and metrics,
        and an optimizer of the same configuration with fresh state.

    Raises:
        TypeError: if there is no such model, or `replace` returns no layer.
        ValueError: if the model is not built, a layer cannot be cloned, or a layer that holds
            layers cannot work with those that replace them.
    """
    rewriter = _Rewriter(replace)
    result = rewriter.root(_checked(model))
    rewriter.finish()
    compile_like(result, model)
    return result


def new_inputs(model: keras.Model) -> Any:
    """Fresh `keras.Input` tensors like those of a model, in the same structure."""
    if isinstance(model, keras.Sequential):
        return keras.Input(
            **_input_arguments(model.inputs[0], keras_internals.sequential_layers(model)[0])
        )
    holders = {layer.output.name: layer for layer in _input_layers(model)}
    return keras.tree.map_structure(
        lambda tensor: keras.Input(**_input_arguments(tensor, holders.get(tensor.name))),
        model.input,
    )


class _Rewriter:
    """One run of `rewrite_model`: the clones made so far, and what is to be copied at the end."""

    def __init__(self, replace: Replace) -> None:
        self.replace = replace
        self.clones: dict[int, object] = {}
        # (from, to): variables to copy once all layers are built
        self.copies: list[tuple[Any, ...]] = []
        self.holders: list[tuple[Any, ...]] = []  # the same for composites, without what they hold
        # (layer, trainable): outer models after what they hold
        self.flags: list[tuple[Any, ...]] = []
        self.inside = False  # a composite, where layers are called by their places
        self.steps: dict[int, str] = {}

    def finish(self) -> None:
        for source, target in self.holders:
            copy_own_state(source, target)
        for source, target in self.copies:
            copy_state(source, target)
        for layer, trainable in reversed(self.flags):
            if layer.trainable != trainable:  # the setter reaches down, so only where needed
                layer.trainable = trainable
        for source, target in self.copies:
            copy_trainable(source, target)
        for source, target in self.holders:
            copy_own_trainable(source, target)

    def root(self, model: keras.Model) -> keras.Model:
        """The model that is to be rewritten, as a new one."""
        return self.model(model, "") if is_graph(model) else self.copy(model, "")

    def copy(self, layer: keras.Layer, path: str) -> Any:
        """A composite as a new one; a graph whose class cannot build it again as a plain graph."""
        if isinstance(layer, Functional) and not contents.has_config(layer):
            return self.model(layer, path)
        with self.within(layer):
            return contents.copied(self, layer, path)

    def model(self, model: keras.Model, path: str) -> keras.Model:
        """A graph as a new graph."""
        with self.within(model):
            if isinstance(model, keras.Sequential):
                result = self._sequential(model, path)
            else:
                result = self._functional(model, path)
        self.flags.append((result, model.trainable))
        return result

    @contextmanager
    def within(self, holder: keras.Layer) -> Iterator[None]:
        """While this holds, layers below a holder are called as `walk_layers` calls them."""
        before = self.inside
        self.inside = before or composites.is_composite_class(holder)
        for step, layer in composites.children(holder, self.inside):
            self.steps.setdefault(id(layer), step)
        try:
            yield
        finally:
            self.inside = before

    def _sequential(self, model: keras.Model, path: str) -> keras.Model:
        layers = [new_inputs(model)]
        for layer in model.layers:
            layers.extend(_as_list(self.operation(layer, path)))
        return type(model)(layers, name=model.name)

    def _functional(self, model: keras.Model, path: str) -> keras.Model:
        # A view without a compile state: clone_model would compile through a serialised form,
        # which unregistered losses and lambdas do not survive.
        view = Functional(model.input, model.output, name=model.name)
        cloned = keras.models.clone_model(
            view,
            input_tensors=new_inputs(model),
            clone_function=lambda layer: _Chain.of(self.operation(layer, path)),
        )
        return _as_class(cloned, model)

    def operation(self, layer: keras.Layer, path: str) -> Any:
        """The clone or replacement of whatever stands at a node of a graph: made once."""
        if id(layer) not in self.clones:
            self.clones[id(layer)] = self._new_operation(layer, path)
        return self.clones[id(layer)]

    def _new_operation(self, layer: keras.Layer, path: str) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return clone_operation(layer)
        return self.operation_at(layer, _join(path, self.steps.get(id(layer), layer.name)))

    def operation_at(self, layer: keras.Layer, path: str) -> Any:
        """The clone or replacement of a layer, of which the path is known."""
        if is_graph(layer):
            return self.model(layer if self.inside else _checked(layer, path), path)
        if is_wrapper(layer):
            with self.within(layer):
                if type(layer) is keras.layers.TimeDistributed:
                    return self._time_distributed(layer, path)
                return self._bidirectional(layer, path)
        if is_composite(layer):
            return self.composite(layer, path)
        return self._leaf(layer, path)

    def composite(self, layer: keras.Layer, path: str) -> Any:
        """A layer or model that holds layers by code of its own: replaced whole, or inside."""
        chosen = None if isinstance(layer, keras.Model) else self.replacement(layer, path)
        if chosen is not None:
            return chosen
        return self.copy(_checked(layer, path), path)

    def replacement(self, layer: keras.Layer, path: str) -> Any:
        """What `replace` says of a layer, or None."""
        chosen = self.replace(layer, path)
        if chosen is not None:
            chosen = _checked_replacement(chosen, path)
            self.flags.extend((new, new.trainable) for new in _as_list(chosen))
        return chosen

    def _leaf(self, layer: keras.Layer, path: str) -> Any:
        chosen = self.replacement(layer, path)
        if chosen is not None:
            return chosen
        return self._clone(layer, **self._shared_basis(layer))

    def _clone(self, layer: keras.Layer, **replaced: Any) -> Any:
        clone = clone_operation(layer, **replaced)
        self.flags.append((clone, layer.trainable))
        self.copies.append((layer, clone))
        return clone

    def _shared_basis(self, layer: keras.Layer) -> dict[str, Any]:
        """The clone of a basis that a layer holds and shares with others, as its argument."""
        basis = getattr(layer, "shared_basis", None)
        if not isinstance(basis, TBasis):
            return {}
        if id(basis) not in self.clones:
            self.clones[id(basis)] = self._clone(basis)
        return {"shared_basis": self.clones[id(basis)]}

    def _time_distributed(self, wrapper: keras.Layer, path: str) -> Any:
        inner = self.operation(wrapper.layer, path)
        if isinstance(inner, list):
            inner = keras.Sequential(inner, name=wrapper.layer.name)
        return clone_operation(wrapper, layer=inner)

    def _bidirectional(self, wrapper: keras.Layer, path: str) -> Any:
        inner = {
            "layer": self.operation(wrapper.forward_layer, path),
            "backward_layer": self.operation(wrapper.backward_layer, path),
        }
        for layer in inner.values():
            if isinstance(layer, list):
                raise TypeError(
                    f"`replace` must give a single layer inside a Bidirectional. Received for "
                    f"'{path}': {layer}."
                )
        clone = clone_operation(wrapper, **inner)
        # Bidirectional makes its own copy of the forward layer, without weights.
        forward = clone.forward_layer
        self.copies = [
            (source, forward if target is inner["layer"] else target)
            for source, target in self.copies
        ]
        self.flags = [
            (forward if layer is inner["layer"] else layer, flag) for layer, flag in self.flags
        ]
        if inner["layer"].built:
            self.copies.append((inner["layer"], forward))
        return clone


class _Chain:
    """Layers applied one after another: what `clone_model` calls in place of one layer."""

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers

    @classmethod
    def of(cls, chosen: Any) -> Any:
        return cls(chosen) if isinstance(chosen, list) else chosen

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs


def _walk(
    holder: Any, path: str, seen: set[int], inside: bool
) -> Iterator[tuple[str, keras.layers.Layer]]:
    for step, layer in composites.children(holder, inside):
        if id(layer) not in seen:
            seen.add(id(layer))
            yield from _walk_one(layer, _join(path, step), seen, inside)


def _walk_one(
    layer: keras.Layer, path: str, seen: set[int], inside: bool
) -> Iterator[tuple[str, keras.layers.Layer]]:
    if is_graph(layer):
        if not inside:  # a composite may hold models that it never calls, or calls layer by layer
            _checked(layer, path)
    elif not is_wrapper(layer) and not isinstance(layer, keras.Model):
        if inside and not layer.built and not layer.variables and not is_composite(layer):
            return  # its holder has never called it: it has no weights
        yield path, layer
    if is_graph(layer) or is_wrapper(layer) or is_composite(layer):
        within = inside or composites.is_composite_class(layer)
        yield from _walk(layer, path, seen, within)


def _checked(model: keras.Model, path: str = "") -> keras.Model:
    composite = isinstance(model, keras.layers.Layer) and is_composite(model)
    if not isinstance(model, keras.Model) and not composite:
        raise TypeError(
            "`model` must be a Keras model, or a layer that holds layers. Received: "
            f"{model!r} of type {type(model).__name__}."
        )
    graph = isinstance(model, (keras.Sequential, Functional))
    if not model.built or (graph and not getattr(model, "inputs", None)):
        raise ValueError(
            f"The model '{path or model.name}' is not built, so its layers have no weights yet. "
            "Begin it with a keras.Input, call `model.build(input_shape)`, or call it on data "
            "first."
        )
    return model


def _checked_replacement(chosen: Any, path: str) -> Any:
    layers = list(chosen) if isinstance(chosen, (list, tuple)) else [chosen]
    if not layers or not all(isinstance(layer, keras.layers.Layer) for layer in layers):
        raise TypeError(
            "`replace` must return None, a Keras layer or a list of Keras layers. "
            f"Received for '{path}': {chosen!r}."
        )
    return layers if isinstance(chosen, (list, tuple)) else chosen


def _as_list(chosen: Replacement) -> list[keras.layers.Layer]:
    return chosen if isinstance(chosen, list) else [chosen]


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _input_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.InputLayer)]


def _input_arguments(tensor: Any, holder: Any) -> dict[str, Any]:
    """Arguments of `keras.Input` for a tensor like this one."""
    arguments = {"batch_shape": tensor.shape, "dtype": tensor.dtype, "name": tensor.name}
    if isinstance(holder, keras.layers.InputLayer):
        arguments |= {"name": holder.name, "optional": holder.optional}
        arguments |= {"sparse": True} if holder.sparse else {}
    return arguments


def _as_class(cloned: Any, model: keras.Model) -> Any:
    """The cloned graph as the class of the given model, where that class is built from a graph."""
    kind = rewritten.own_class(model)
    if kind is Functional:
        return cloned
    if kind.__init__ in (keras.Model.__init__, Functional.__init__):
        return kind(cloned.input, cloned.output, name=model.name)
    validation.warn_user(
        f"{kind.__name__} builds its own graph in __init__, so the result is a plain Functional "
        f"model: methods that {kind.__name__} adds are not on it."
    )
    return cloned
