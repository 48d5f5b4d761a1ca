"""Where the blocks of a network end, and how the outputs there are had while it runs.

A block ends where everything passes through one tensor: after each residual sum of a ResNet or a
transformer, after each activation of a chain. Between two such places there is at least one layer
that compression has changed. In networks without such places (a U-Net) every changed layer is a
block of its own, and so it is in models whose layers are called by Python code.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
from keras import ops

from keras_tensornet.keras_internals import stand_in
from keras_tensornet.rewriting.composites import is_graph

# More features than this cost time and say little new.
MOST_ENDS = 12


def find_ends(dense: keras.Model, small: keras.Model) -> list[str]:
    """Paths of the operations at which the blocks of a dense network and a small one end.

    Args:
        dense: the dense network.
        small: made from it by changing layers.

    Returns:
        Paths that both networks have, in order; none where their inner layers have no names in
        common.
    """
    theirs = dict(operations(small))
    ours = list(operations(dense))
    changed = {id(op) for path, op in ours if is_changed(op, theirs.get(path))}
    if not changed:
        changed = {id(op) for _, op in ours if getattr(op, "weights", None)}
    ends = _ends_between(dense, changed)
    if len(ends) < 2:
        ends = [path for path, op in ours if id(op) in changed and not is_graph(op)]
    ends = [path for path in ends if path in theirs]
    step = -(-len(ends) // MOST_ENDS) if ends else 1
    return ends[::-1][::step][::-1]  # the last one always stays


def operations(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`(path, operation)` of a model's graph, nested ones entered; of other models, its layers."""
    if not is_graph(model):
        yield from ((prefix + layer.name, layer) for layer in getattr(model, "layers", []))
        return
    seen = set()
    for node in ordered_nodes(model):
        operation = node.operation
        if id(operation) in seen or isinstance(operation, keras.layers.InputLayer):
            continue
        seen.add(id(operation))
        if is_graph(operation):
            yield from operations(operation, f"{prefix}{operation.name}/")
        yield prefix + operation.name, operation


def ordered_nodes(model: keras.Model) -> list[Any]:
    """The calls in the graph of a model, each after those whose results it takes."""
    done: dict[int, object] = {}
    stack = [(tensor, False) for tensor in reversed(keras.tree.flatten(model.outputs))]
    inputs = {id(tensor) for tensor in keras.tree.flatten(model.inputs)}
    while stack:
        tensor, ready = stack.pop()
        history = tensor._keras_history
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) in done or id(tensor) in inputs:
            continue
        if ready:
            done[id(node)] = node
            continue
        stack.append((tensor, True))
        stack += [(source, False) for source in reversed(node.input_tensors)]
    return list(done.values())


@contextmanager
def recorded(found: list[Any], cut: bool = False) -> Iterator[list[list[Any]]]:
    """Within it, calls of operations leave their outputs behind.

    Args:
        found: the operations.
        cut: whether gradients stop at their outputs, so that each block learns on its own.

    Yields:
        A list for each of `found`, into which its calls put their outputs.
    """
    results: list[list[Any]] = [[] for _ in found]
    with ExitStack() as stack:
        for operation, kept in zip(found, results, strict=True):
            stack.enter_context(
                stand_in(operation, "call", functools.partial(_recording, kept, cut))
            )
        yield results


def _recording(kept: list[Any], cut: bool, call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        kept.extend(keras.tree.flatten(outputs))
        if not cut:
            return outputs
        return keras.tree.map_structure(ops.stop_gradient, outputs)

    return wrapped


def is_changed(ours: Any, theirs: Any) -> bool:
    """Whether compression has changed an operation: another class, or weights of other shapes."""
    if not getattr(ours, "weights", None):
        return False
    if theirs is None or type(ours) is not type(theirs):
        return True
    return [tuple(w.shape) for w in ours.weights] != [tuple(w.shape) for w in theirs.weights]


def _ends_between(model: keras.Model, changed: set[int]) -> list[str]:
    """The last place that everything passes through before each next changed layer."""
    if not is_graph(model):
        return []
    ends: list[str] = []
    candidate, pending = None, False
    for path, holds_changed, is_end in _stations(model, changed, ""):
        if holds_changed:
            if pending and candidate is not None:
                ends.append(candidate)
                pending, candidate = False, None
            pending, candidate = True, None
        if is_end:
            candidate = path
    outputs = {tensor._keras_history.operation.name for tensor in keras.tree.flatten(model.outputs)}
    if pending and candidate is not None and candidate not in outputs:
        ends.append(candidate)
    return ends


def _stations(
    model: keras.Model, changed: set[int], prefix: str
) -> Iterator[tuple[str, bool, bool]]:
    """`(path, is a changed layer, everything passes through its output)` in the order of calls."""
    nodes = ordered_nodes(model)
    uses = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    live: set[int] = set()
    weighty: set[int] = set()  # tensors that depend on weights: masks and positions do not count
    for node in nodes:
        operation, outputs = node.operation, node.outputs
        if isinstance(operation, keras.layers.InputLayer):
            continue
        heavy = bool(getattr(operation, "weights", None)) or any(
            id(tensor) in weighty for tensor in node.input_tensors
        )
        for tensor in node.input_tensors:
            uses[id(tensor)] -= 1
            if uses[id(tensor)] == 0:
                live.discard(id(tensor))
        path = prefix + operation.name
        if is_graph(operation):
            inside = _stations(operation, changed, f"{path}/")
            yield from ((name, hit, end and not live) for name, hit, end in inside)
        if heavy:
            weighty |= {id(tensor) for tensor in outputs}
            live |= {id(tensor) for tensor in outputs if uses[id(tensor)] > 0}
        alone = heavy and len(live) == 1 and id(outputs[0]) in live
        yield path, id(operation) in changed and not is_graph(operation), alone
