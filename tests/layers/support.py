"""What the layer tests share: arrays of any backend, the backend's name, plans to try."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from keras_tensornet.contraction import candidate_plans
from tests import references

BACKEND = keras.backend.backend()
# Outputs are sums of some dozens of float32 products: 1e-5 is about a hundred roundings.
TOLERANCE = 1e-5

tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason="needs TensorFlow's functions")


def array(tensor) -> np.ndarray:
    """A tensor or variable of any backend as a NumPy array."""
    return ops.convert_to_numpy(tensor)


def slow_kernel(layer) -> np.ndarray:
    """The kernel of a built layer by one einsum over its cores."""
    return references.merged_kernel(
        layer.network, layer.modes, [array(core) for core in layer.cores]
    )


def slow_outputs(row, layer, inputs) -> np.ndarray:
    """The outputs of a built layer in plain NumPy."""
    bias = None if getattr(layer, "bias", None) is None else array(layer.bias)
    return row.operation.reference(layer, inputs, slow_kernel(layer), bias)


def plans_of(layer) -> list[str]:
    """Every candidate plan of a built layer as text; off TensorFlow enough to run each operation.

    JAX compiles each operation for each shape, so the plans that only move cores between stages of
    the same kinds are left to TensorFlow.
    """
    plans = {plan.describe(): plan for plan in candidate_plans(layer.network, layer.plan.workload)}
    if BACKEND == "tensorflow":
        return list(plans)
    chosen, seen = [], set()
    for text, plan in plans.items():
        operations = {stage.op for stage in plan.stages}
        if operations - seen:
            chosen.append(text)
            seen |= operations
    return chosen


def predictions(model, inputs) -> np.ndarray:
    """Outputs of a layer or model as an array."""
    return array(model(inputs))


def gradients(layer, inputs) -> list[np.ndarray]:
    """Gradients of half the sum of squared outputs to the layer's trainable variables."""
    variables = layer.trainable_variables
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = ops.sum(ops.square(layer(inputs))) / 2
        return [array(g) for g in tape.gradient(loss, [v.value for v in variables])]
    if BACKEND == "torch":
        layer.zero_grad()
        (ops.sum(ops.square(layer(inputs))) / 2).backward()
        return [array(v.value.grad) for v in variables]
    import jax

    def loss(values):
        outputs, _ = layer.stateless_call(values, frozen, inputs)
        return ops.sum(ops.square(outputs)) / 2

    frozen = [v.value for v in layer.non_trainable_variables]
    return [array(g) for g in jax.grad(loss)([v.value for v in variables])]
