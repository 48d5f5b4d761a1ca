"""What a network computes once it is int8, in floats that gradients pass (Jacob et al. 2018).

Kernels are rounded to 255 levels for each output channel, activations to 256 levels between their
least and largest value, as LiteRT does it. Rounding has no gradient; it is taken for the identity.
An activation is rounded where the file holds it: a convolution and the ReLU after it are one
operation there, so what lies between is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
from keras import layers, ops

from keras_tensornet.compression.recovery.blocks import operations
from keras_tensornet.keras_internals import stand_in
from keras_tensornet.types import Tensor

WEIGHT_LEVELS = 127.0
ACTIVATION_LEVELS = 255.0
SMALLEST = 1e-8
# `layer class -> axes of its kernel that are not output channels`; looked up in this order.
KERNELS = (
    (layers.DepthwiseConv1D, (0,)),
    (layers.DepthwiseConv2D, (0, 1)),
    (layers.Conv1D, (0, 1)),
    (layers.Conv2D, (0, 1, 2)),
    (layers.Conv3D, (0, 1, 2, 3)),
    (layers.Dense, (0,)),
    (layers.EinsumDense, None),
)
# The file fuses these with what stands before them.
FUSED = ("relu", "relu6", "linear")


@contextmanager
def quantized(model: keras.Model) -> Iterator[Any]:
    """Within it, a model of stock layers computes as if it were int8."""
    with ExitStack() as stack:
        for _, operation in operations(model):
            stack.enter_context(stand_in(operation, "call", _rounding(operation)))
        yield


def round_weights(kernel: Any, axes: tuple[int, ...] | None) -> Any:
    """A kernel of 255 levels, symmetric; `axes` are reduced for the scale of each channel."""
    largest = ops.max(ops.abs(kernel), axis=axes, keepdims=True)
    scale = ops.maximum(ops.stop_gradient(largest), SMALLEST) / WEIGHT_LEVELS
    return _straight_through(kernel, ops.round(kernel / scale) * scale)


def round_activations(values: list[Tensor]) -> Any:
    """Values of 256 levels, among which is zero."""
    low = ops.minimum(ops.min(values), 0.0)
    high = ops.maximum(ops.max(values), 0.0)
    scale = ops.maximum(ops.stop_gradient(high - low), SMALLEST) / ACTIVATION_LEVELS
    return _straight_through(values, ops.round(values / scale) * scale)


def _straight_through(values: list[Tensor], rounded: Any) -> Any:
    return values + ops.stop_gradient(rounded - values)


def _rounding(operation: keras.Operation) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    axes = next((axes for kind, axes in KERNELS if isinstance(operation, kind)), ())
    inner = _is_fused_with_next(operation)

    def around(call: Any) -> Any:
        def rounded(*args: Any, **kwargs: Any) -> Any:
            if axes == ():
                outputs = call(*args, **kwargs)
            else:
                with keras.StatelessScope(state_mapping=_rounded_kernel(operation, axes)):
                    outputs = call(*args, **kwargs)
            return outputs if inner else keras.tree.map_structure(_round_if_float, outputs)

        return rounded

    return around


def _rounded_kernel(layer: keras.Layer, axes: Any) -> list[tuple[Any, ...]]:
    """Values of all variables of a layer, the kernel's rounded."""
    values: list[tuple[Any, Any]] = [
        (variable, ops.convert_to_tensor(variable)) for variable in layer.variables
    ]
    return [
        (variable, round_weights(value, axes) if variable is layer.kernel else value)
        for variable, value in values
    ]


def _round_if_float(values: Tensor) -> Tensor:
    is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(values.dtype))
    return round_activations(values) if is_float else values


def _is_fused_with_next(operation: keras.Operation) -> bool:
    users = [node.operation for node in getattr(operation, "_outbound_nodes", [])]
    return bool(users) and all(_is_fused(user) for user in users)


def _is_fused(operation: keras.Operation) -> bool:
    if isinstance(operation, layers.ReLU):
        return operation.negative_slope == 0.0 and operation.threshold == 0.0
    if isinstance(operation, layers.Activation):
        return getattr(operation.activation, "__name__", "") in FUSED
    return False
