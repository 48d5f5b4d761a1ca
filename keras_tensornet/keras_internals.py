"""What walking and rewriting models needs of Keras and Keras has no public name for.

Every function relies on one thing that a new version of Keras may change without notice.
`tests/test_keras_internals.py` says of each what is relied on and fails when it is no longer so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import keras

# The class of `keras.Model(inputs, outputs)`.
from keras.src.models.functional import Functional as Functional
from keras.src.utils.tracking import DotNotTrackScope

from keras_tensornet.types import Tensor

# Bookkeeping of layers that each backend adds, besides what a plain layer has.
# "_self_" alone would be too much: "_self_attention_layer" is a sublayer.
_BOOKKEEPING = (
    "__",
    "_obj_reference",
    "_self_unconditional",
    "_self_saveable",
    "_self_name_based",
    "_self_extra",
    "_self_setattr",
    "_self_update_uid",
    "_self_tracked",
    "_tf_",
    "_modules",
    "_parameters",
    "_buffers",
)


@lru_cache(maxsize=1)
def framework_attributes() -> frozenset[str]:
    """Names of the attributes that Keras itself sets on layers and models: no user's sublayers."""
    # Named, so that the automatic names of the user's layers are not counted up.
    inputs = keras.Input((1,), name="inputs")
    one = keras.layers.Identity(name="one")
    model = Functional(inputs, one(inputs), name="model")
    model.compile("sgd", "mse", metrics=["mse"])
    sequential = keras.Sequential([inputs], name="sequential")
    reference = (keras.layers.Layer(name="layer"), model, sequential)
    return frozenset(name for one in reference for name in vars(one))


def attributes(layer: keras.Layer) -> Iterator[tuple[str, Any]]:
    """`(name, value)` of what a layer's own code has set on it, in the order in which it did."""
    names = dict.fromkeys(vars(layer))
    names |= dict.fromkeys(vars(layer).get("_modules") or {})  # where PyTorch keeps sublayers
    for name in names:
        if name not in framework_attributes() and not name.startswith(_BOOKKEEPING):
            yield name, getattr(layer, name, None)


def tracked_layers(layer: keras.Layer) -> list[keras.Layer]:
    """The layers whose weights a layer counts as its own."""
    return list(layer._layers)


def flatten_layers(layer: keras.Layer, include_self: bool = True) -> list[keras.Layer]:
    """A layer and all layers tracked below it, each once."""
    return list(layer._flatten_layers(include_self=include_self))


def adapted_kernel(layer: keras.layers.Layer) -> keras.Variable:
    """The variable beneath the kernel of a layer on which LoRA is enabled, which adds to it."""
    kernel = getattr(layer, "_kernel", None)
    return layer._embeddings if kernel is None else kernel


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The variables that a layer itself holds, not those of its sublayers."""
    below = {id(v) for one in tracked_layers(layer) for v in one.variables}
    return [variable for variable in layer.variables if id(variable) not in below]


def sequential_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a Sequential, its InputLayer among them."""
    return model._layers


def graph_of(model: keras.Model) -> Functional | None:
    """The graph that a Functional or Sequential model runs; None for one that has none."""
    if isinstance(model, keras.Sequential):
        return model._functional
    return model if isinstance(model, Functional) else None


def graph_nodes(model: keras.Model) -> list[Any]:
    """The calls in a model's graph, deepest first."""
    graph: Any = graph_of(model)
    by_depth = graph._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def run_graph(model: keras.Model, inputs: Any, call: Callable[..., Any]) -> Any:
    """Go through a Functional graph on new inputs, `call(operation, *args, **kwargs)` each time."""
    return model._run_through_graph(inputs, operation_fn=lambda operation: operation, call_fn=call)


def calls_of(operation: keras.Operation) -> list[Any]:
    """The nodes that the symbolic calls of an operation have left, in all graphs."""
    return list(operation._inbound_nodes)


def users_of(operation: keras.Operation) -> list[Any]:
    """The operations that outputs of an operation's symbolic calls go to."""
    return [node.operation for node in operation._outbound_nodes]


def maker_of(tensor: Tensor) -> tuple[Any, ...]:
    """`(operation, node index, tensor index)` of the call that made a symbolic tensor."""
    history = getattr(tensor, "_keras_history", None)
    return (None, 0, 0) if history is None else tuple(history)


def replace_operations(model: keras.Model, new_of: Mapping[int, Any]) -> None:
    """Put other layers at the nodes of a graph: `id(old) -> new`, each called as the old one."""
    graph = graph_of(model)
    if graph is not model:
        model._layers[:] = [new_of.get(id(layer), layer) for layer in model._layers]
        if graph is None:
            return
    keys = {}
    for old in graph._operations:
        new = new_of.get(id(old))
        if new is None:
            continue
        if new._inbound_nodes is not old._inbound_nodes:
            new._inbound_nodes, new._outbound_nodes = old._inbound_nodes, old._outbound_nodes
        for index, node in enumerate(old._inbound_nodes):
            keys[_node_key(old, index)] = _node_key(new, index)
            node.operation = new
            for tensor in node.outputs:
                tensor._keras_history = tensor._keras_history._replace(operation=new)
    graph._nodes = {keys.get(key, key) for key in graph._nodes}
    with DotNotTrackScope():
        # A new list: TensorFlow saves no model of which a list that it knows was changed in place.
        graph._operations = [new_of.get(id(old), old) for old in graph._operations]
    for operations in graph._operations_by_depth.values():
        operations[:] = [new_of.get(id(old), old) for old in operations]
    retrack(graph, new_of)


def _node_key(operation: keras.Operation, index: int) -> str:
    return f"{id(operation)}_ib-{index}"


def retrack(layer: keras.Layer, new_of: Mapping[int, Any]) -> None:
    """Count other layers' weights as a layer's own: `id(old) -> new`, in the same places."""
    tracker = layer._tracker
    for old in [one for one in layer._layers if id(one) in new_of]:
        new = new_of[id(old)]
        if tracker.is_in_store("layers", old):
            if tracker.is_in_store("layers", new):
                tracker.untrack(old)
            else:
                tracker.replace_tracked_value("layers", old, new)


def set_attribute(layer: keras.Layer, name: str, value: Any) -> None:
    """Set an attribute of a built layer, which Keras refuses for what it would have to track."""
    tracker = layer._tracker
    locked = tracker.locked
    tracker.unlock()
    try:
        setattr(layer, name, value)
    finally:
        if locked:
            tracker.lock()


def move_to(layer: keras.Layer, path: str) -> None:
    """Give a layer that was built on its own, and its variables, the paths of one inside others.

    The variables of a model are told apart by their paths, in `get_state_tree` for example.
    """
    before = layer.path or layer.name
    for one in layer._flatten_layers():
        if one._path is not None and (one is layer or one._path.startswith(before + "/")):
            one._path = path + one._path[len(before) :]
    for variable in layer.variables:
        if variable._path.startswith(before + "/"):
            variable._path = path + variable._path[len(before) :]


def copy_build_shapes(source: keras.Layer, target: keras.Layer) -> None:
    """Let a layer say that it was built as another was."""
    target._build_shapes_dict = source._build_shapes_dict
    target.built = True


def built_shapes(model: keras.Layer) -> Any:
    """The nest of shapes of the first argument that a layer was built with; None where unknown."""
    known = getattr(model, "_build_shapes_dict", None)
    return next(iter(known.values()), None) if known else None


@contextmanager
def stand_in(
    operation: keras.Operation, name: str, around: Callable[[Callable[..., Any]], Any]
) -> Iterator[None]:
    """Within it, `around(method)` stands in for a method of one object, such as its `call`."""
    method, before = getattr(operation, name), vars(operation).get(name)
    vars(operation)[name] = functools.wraps(method)(around(method))
    try:
        yield
    finally:
        if before is None:
            vars(operation).pop(name, None)
        else:
            vars(operation)[name] = before


@contextmanager
def calls_noted(layers: Iterable[keras.Layer], note: Callable[[Any], Any]) -> Iterator[None]:
    """Within it, `note(inputs)` is told of the first argument of every call of some layers."""

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            note(inputs)
            return call(inputs, *args, **kwargs)

        return noted

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(stand_in(layer, "call", around))
        yield


def compile_arguments(model: keras.Model) -> dict[str, Any] | None:
    """The arguments that `keras.Model.compile` was given, as they were; None where unknown."""
    given = getattr(model, "_compile_config", None)
    return None if given is None else dict(given.config)


def lambda_output_shape(layer: keras.Layer) -> Any:
    """The `output_shape` that a Lambda layer was given."""
    return layer._output_shape


def carried_states(model: keras.Model) -> list[Any]:
    """Random states that a model's steps update and return besides its variables."""
    return model._seed_generators


def layers_named(layer: keras.Layer, names: Iterable[str]) -> dict[str, Any]:
    """The projections of a built `MultiHeadAttention`: `name -> _{name}_dense`."""
    return {name: getattr(layer, f"_{name}_dense") for name in names}


def masked_cell() -> Any:
    """The base of Keras' own cells that `keras.layers.RNN` asks for dropout masks.

    It does so once before its loop, of this class only, and Keras does not export it. Without it a
    cell would draw new masks in every step.
    """
    for base in keras.layers.LSTMCell.__mro__:
        if base.__name__ == "DropoutRNNCell":
            return base
    raise ImportError(
        f"keras.layers.LSTMCell of Keras {keras.__version__} has no base DropoutRNNCell, of which "
        "recurrent cells take their dropout masks. Use a Keras from 3.12 up to the newest that "
        "this package was tested with."
    )
