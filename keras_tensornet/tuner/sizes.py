"""What a model costs: parameters, floating-point operations of one example, and latency."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_tensornet.layers.common import FactorizedMethods
from keras_tensornet.rewriting.composites import is_graph
from keras_tensornet.serving.latency import measure_models
from keras_tensornet.shapes import EXTENT_HINT, built_shape, filled

TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


@dataclass(frozen=True)
class ModelSize:
    """What a model costs.

    Attributes:
        params: all weights.
        flops: floating-point operations of the layers with kernels for one example, cores merged
            beforehand where the plan merges them, as in an exported model. A multiply and an add
            count as two. Unknown extents count as 32.
        latency: median milliseconds of one batch on this machine, frozen, see
            `serving.latency`; None where it was not measured.
    """

    params: int
    flops: int
    latency: float | None = None

    @classmethod
    def of(cls, model: keras.Model, latency_batch: int | None = None) -> ModelSize:
        """Measure a built Sequential or Functional model.

        Args:
            model: left as it was.
            latency_batch: batch size to measure the latency with; None for no measurement.
        """
        flops = sum(_flops(layer, times) for layer, times in _calls(model, 1))
        latency = None if latency_batch is None else measure_latency(model, latency_batch)
        return cls(model.count_params(), int(flops), latency)


def measure_latency(model: keras.Model, batch_size: int) -> float:
    """Median milliseconds of the compiled forward pass, factorized layers frozen."""
    return measure_models({model.name: model}, batch_size).milliseconds(model.name)


def _calls(model: keras.Model, times: int) -> Iterator[tuple[keras.layers.Layer, int]]:
    """Every layer called in a model's graph, and how often for one example."""
    graph = getattr(model, "_functional", None) or model
    for node in (node for nodes in graph._nodes_by_depth.values() for node in nodes):
        layer = node.operation
        if is_graph(layer):
            yield from _calls(layer, times)
        elif isinstance(layer, keras.layers.TimeDistributed):
            yield layer.layer, times * (node.arguments.args[0].shape[1] or EXTENT_HINT)
        elif isinstance(layer, keras.layers.Bidirectional):
            yield from ((inner, times) for inner in (layer.forward_layer, layer.backward_layer))
        elif isinstance(layer, keras.layers.Layer):
            yield layer, times


def _flops(layer: keras.Layer, times: int) -> int:
    shape = built_shape(layer) if layer.built else ()
    if isinstance(layer, FactorizedMethods):
        return times * layer.plan_for(batch_size=1, merged=True).flops
    if isinstance(layer, keras.layers.RNN):
        kernels = [getattr(layer.cell, name, None) for name in ("kernel", "recurrent_kernel")]
        steps = (shape or (None, None))[1] or EXTENT_HINT
        return times * steps * sum(2 * _entries(kernel) for kernel in kernels)
    pair = [getattr(layer, name, None) for name in ("depthwise_kernel", "pointwise_kernel")]
    kernels = [kernel for kernel in (*pair, _kernel_shape(layer)) if kernel is not None]
    if not shape or isinstance(layer, keras.layers.Embedding) or not kernels:
        return 0
    where = shape if isinstance(layer, TRANSPOSED) else layer.compute_output_shape(tuple(shape))
    return times * sum(2 * _entries(kernel) * _positions(layer, where) for kernel in kernels)


def _kernel_shape(layer: keras.Layer) -> Any:
    """The kernel, or for a T-Basis layer an array of its shape; None for layers without one."""
    if isinstance(getattr(layer, "kernel_shape", None), tuple):
        return np.broadcast_to(np.int8(0), layer.kernel_shape)
    return getattr(layer, "kernel", None)


def _entries(kernel: Any) -> int:
    return 0 if kernel is None else math.prod(kernel.shape)


def _positions(layer: keras.Layer, shape: Any) -> int:
    """How many positions of one example the kernel is applied to."""
    extents = filled(shape[1:])
    channels = 0 if getattr(layer, "data_format", None) == "channels_first" else len(extents) - 1
    return math.prod(extent for axis, extent in enumerate(extents) if axis != channels)
