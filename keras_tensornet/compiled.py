"""The compiled merge path: merging by hand costs one call, not one Python step per core.

Inside a model, merging is traced into the model's own compiled function. Called by hand, a merge
is compiled once for each network: by `tf.function` on the TensorFlow backend, by `jax.jit` on JAX;
PyTorch runs it eagerly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import keras
from keras import ops

from keras_tensornet import validation
from keras_tensornet.contraction import ORDERS, kernel_plan, merge_plan, to_keras_layout
from keras_tensornet.contraction.orders import MergePlanner, hierarchical_order, sequential_order
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.types import Tensor


def merge(
    cores: Sequence[Any],
    start: int = 0,
    stop: int | None = None,
    order: str = "planned",
    network: Network | None = None,
) -> Any:
    """Merge neighbouring cores into one tensor: `merge(U, k, j)` of Tensor Ring Nets, eq. (5).

    Args:
        cores: cores of a tensor ring or tensor train, each (r_k, n_k, r_k+1), or of `network`.
        start: first core to merge.
        stop: one past the last core to merge; by default all.
        order: "planned" (fastest), "hierarchical" or "sequential".
        network: the labels of the cores, for networks other than a ring or a train.

    Returns:
        A part of a ring or train: (r_start, n_start, ..., n_stop-1, r_stop). The whole of it:
        (n_0, ..., n_d-1), the ring closed. Of a `network`: its open bonds and modes in the order
        in which its cores carry them.

    Raises:
        ValueError: if the cores do not fit together, or the range is empty.

    >>> import numpy as np
    >>> merge([np.ones((2, 3, 2), "float32")] * 4, 1, 3).shape
    TensorShape([2, 3, 3, 2])
    """
    validation.one_of("order", order, ORDERS)
    cores = [ops.convert_to_tensor(core) for core in cores]
    shapes = tuple(tuple(core.shape) for core in cores)
    network = _ring_of(shapes) if network is None else _checked(network, shapes)
    stop = len(cores) if stop is None else stop
    if not 0 <= start < stop <= len(cores):
        raise ValueError(
            "`start` and `stop` must select at least one core, 0 <= start < stop <= "
            f"{len(cores)}. Received: start={start}, stop={stop}."
        )
    return _merge_range(network, start, stop, order)(cores)


def merge_network(network: Network, modes: KernelModes, cores: Sequence[Tensor]) -> Tensor:
    """The dense kernel of a network in Keras layout, by the compiled path."""
    return _merge_kernel(network, modes)(list(cores))


def forward_function(
    layer: keras.Layer,
    inputs: Tensor,
    jit_compile: bool = False,
    call: Callable[..., Any] | None = None,
) -> Callable[[], object]:
    """A compiled function that calls a layer on fixed inputs and waits for the result.

    Args:
        layer: a built layer or model.
        inputs: tensors, in the structure that the layer takes.
        jit_compile: whether TensorFlow compiles by XLA; JAX always does.
        call: `(inputs, training=) -> outputs`, a part of what the layer computes; all by default.
    """
    call = call or layer
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        run = tf.function(partial(_forward, call), jit_compile=jit_compile)
        return lambda: (run(inputs), tf.test.experimental.sync_devices())
    if backend == "jax":
        import jax

        variables = list(layer.variables)
        run = jax.jit(lambda values: _with_values(variables, values, call, inputs, False))
        return lambda: jax.block_until_ready(run(_values(variables)))
    import torch

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def forward() -> Any:
        outputs = call(inputs, training=False)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return outputs

    return forward


def live_function(layer: keras.Layer) -> Callable[..., object]:
    """A compiled `inputs -> outputs` that reads the layer's variables anew at each call."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda given: layer(given, training=False))
    if backend == "jax":
        import jax

        run = jax.jit(
            lambda trainable, fixed, given: layer.stateless_call(
                trainable, fixed, given, training=False
            )[0]
        )
        return lambda given: run(
            _values(layer.trainable_variables), _values(layer.non_trainable_variables), given
        )
    import torch

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def forward(given: Any) -> Any:
        return layer(given, training=False)

    return forward


def gradient_function(
    layer: keras.Layer,
    inputs: Tensor,
    jit_compile: bool = False,
    call: Callable[..., Any] | None = None,
) -> Callable[[], object]:
    """A compiled function: a layer's forward pass and the gradient of its sum.

    The gradient is taken by the trainable variables, and by the inputs where they are floats;
    arguments as in `forward_function`.
    """
    call = call or layer
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def step(given: Any) -> Any:
            with tf.GradientTape() as tape:
                wanted = _floats(given)
                tape.watch(wanted)
                total = _total(call(given, training=True))
            return tape.gradient(total, [*wanted, *_values(layer.trainable_variables)])

        run = tf.function(step, jit_compile=jit_compile)
        return lambda: (run(inputs), tf.test.experimental.sync_devices())
    if backend == "jax":
        import jax

        trainable, fixed = layer.trainable_variables, layer.non_trainable_variables
        variables = [*trainable, *fixed]
        structure = keras.tree.flatten(inputs)
        places = [place for place, leaf in enumerate(structure) if _is_float(leaf)]

        def total(learnt: list[Tensor], floats: list[Tensor], others: list[Tensor]) -> Any:
            leaves = list(structure)
            for place, leaf in zip(places, floats, strict=True):
                leaves[place] = leaf
            given = keras.tree.pack_sequence_as(inputs, leaves)
            return _total(_with_values(variables, [*learnt, *others], call, given, True))

        run = jax.jit(jax.grad(total, argnums=(0, 1)))
        return lambda: jax.block_until_ready(
            run(_values(trainable), [structure[place] for place in places], _values(fixed))
        )
    import torch

    given = keras.tree.map_structure(
        lambda leaf: leaf.detach().clone().requires_grad_(leaf.is_floating_point()), inputs
    )
    wanted = [*_floats(given), *_values(layer.trainable_variables)]
    return lambda: torch.autograd.grad(_total(call(given, training=True)), wanted)


def _forward(call: Callable[..., Any], given: Any) -> Any:
    return call(given, training=False)


def _with_values(
    variables: Sequence[keras.Variable],
    values: list[Tensor],
    call: Callable[..., Any],
    inputs: Tensor,
    training: bool,
) -> Any:
    """The call with other values for some variables, as JAX's transformations need it."""
    with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
        return call(inputs, training=training)


def _total(outputs: Any) -> Any:
    """The sum of all outputs that are floats."""
    return sum(ops.sum(output) for output in _floats(outputs))


def _floats(tensors: Any) -> list[Tensor]:
    return [leaf for leaf in keras.tree.flatten(tensors) if _is_float(leaf)]


def _is_float(tensor: Tensor) -> bool:
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))


def _values(variables: Sequence[keras.Variable]) -> list[Tensor]:
    return [variable.value for variable in variables]


@lru_cache(maxsize=512)
def _merge_range(network: Network, start: int, stop: int, order: str) -> Callable[..., Any]:
    positions = range(start, stop)
    if order == "planned":
        tree = MergePlanner(network).tree(sum(1 << position for position in positions))
    else:
        tree = (hierarchical_order if order == "hierarchical" else sequential_order)(positions)
    inside = dict.fromkeys(label for core in network.cores[start:stop] for label in core)
    outside = {label for core in (*network.cores[:start], *network.cores[stop:]) for label in core}
    wanted = [label for label in inside if label in outside or label in network.mode_labels]
    plan = merge_plan(network, tree, wanted)
    return _compile(lambda cores: plan.run(cores, ops))


@lru_cache(maxsize=512)
def _merge_kernel(network: Network, modes: KernelModes) -> Callable[..., Any]:
    plan = kernel_plan(network)
    return _compile(lambda cores: to_keras_layout(plan.run(cores, ops), modes, ops))


def _compile(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the list of cores, compiled by the backend at hand."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        # A partial, because TensorFlow counts tracings by code object, and would warn of retracing
        # as soon as five different networks have been merged.
        return tf.function(partial(run))
    if backend == "jax":
        import jax

        return jax.jit(run)
    return run


@lru_cache(maxsize=512)
def _ring_of(shapes: tuple[tuple[int, ...], ...]) -> Network:
    """The network of bare cores (r_k, n_k, r_k+1); boundary ranks of 1 make it a train."""
    if not shapes or any(len(shape) != 3 for shape in shapes):
        raise ValueError(
            "`cores` must be a list of 3-D tensors (r_k, n_k, r_k+1). Received shapes: "
            f"{list(shapes)}. For cores of another kind pass their `network`."
        )
    following = (*shapes[1:], shapes[0])
    for position, (shape, other) in enumerate(zip(shapes, following, strict=True)):
        if shape[2] != other[0]:
            raise ValueError(
                "The last axis of each core must match the first of the next, and the last core "
                f"must close the ring. Received: core {position} of shape {shape} before a core "
                f"of shape {other}."
            )
    if len(shapes) == 1 and shapes[0][0] > 1:
        raise ValueError(
            "A ring of one core has nothing to merge; take the trace of its bond instead. "
            f"Received: a core of shape {shapes[0]}."
        )
    bonds = [f"r{position}" for position in range(len(shapes))]
    closed = [*bonds[1:], bonds[0] if len(shapes) > 1 else "r1"]
    sizes = {"r1": 1} | {bond: shape[0] for bond, shape in zip(bonds, shapes, strict=True)}
    sizes |= {f"n{position}": shape[1] for position, shape in enumerate(shapes)}
    modes = tuple(f"n{position}" for position in range(len(shapes)))
    return Network(
        cores=tuple(zip(bonds, modes, closed, strict=True)),
        sizes=tuple(sizes.items()),
        in_labels=modes,
        out_labels=(),
        name="ring",
    )


def _checked(network: Network, shapes: tuple[tuple[int, ...], ...]) -> Network:
    if network.core_shapes != shapes:
        raise ValueError(
            f"`cores` must have the shapes of the network's cores, {list(network.core_shapes)}. "
            f"Received: {list(shapes)}."
        )
    return network
