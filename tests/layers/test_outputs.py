"""Merged = factorized = slow reference, for every plan, over the whole table."""

import keras
import numpy as np
import pytest

from keras_tensornet.contraction import ORDERS, kernel_plan, to_keras_layout
from tests import formats_table as table
from tests.layers.support import (
    BACKEND,
    TOLERANCE,
    array,
    plans_of,
    predictions,
    slow_kernel,
    slow_outputs,
    tensorflow_only,
)
from tests.references import relative_error

pytestmark = pytest.mark.filterwarnings("ignore:Some ranks")


@pytest.mark.parametrize("row, case", table.cases("reference"))
def test_outputs_equal_the_slow_reference(row, case):
    layer = row.built(case)
    for batch in _batches(row, case):
        inputs = row.inputs(case, batch)
        wanted = slow_outputs(row, layer, inputs)
        assert layer.compute_output_shape(inputs.shape) == wanted.shape
        assert relative_error(predictions(layer, inputs), wanted) < TOLERANCE


@pytest.mark.parametrize("row, case", table.cases("plans"))
def test_every_candidate_plan_gives_the_same_outputs(row, case):
    layer = row.built(case)
    inputs = row.inputs(case, batch=3)
    wanted = slow_outputs(row, layer, inputs)
    plans = plans_of(layer)
    assert any("dense" in plan for plan in plans)
    for plan in plans:
        layer.implementation = plan
        error = relative_error(predictions(layer, inputs), wanted)
        assert error < TOLERANCE, f"{plan}: relative error {error:.1e}"


@pytest.mark.parametrize("row, case", table.cases("kernel"))
def test_the_kernel_equals_the_einsum_of_the_cores(row, case):
    layer = row.built(case)
    wanted = slow_kernel(layer)
    assert relative_error(array(layer.kernel), wanted) < TOLERANCE
    cores = [array(core).astype("float64") for core in layer.cores]
    for order in ORDERS:
        merged = kernel_plan(layer.network, order).run(cores, np)
        found = to_keras_layout(merged, layer.modes, np)
        assert relative_error(found, wanted) < 1e-12  # float64


@pytest.mark.parametrize("row", table.rows("reference"))
def test_unknown_sizes_have_the_shapes_of_the_dense_twin(row):
    for case in row.operation.cases:
        if row.why_not("reference", case):
            continue
        known = ("units", "filters", "kernel_size", "strides", "padding", "dilation_rate")
        known = {*known, "groups", "data_format", "use_bias", "output_padding"}
        known = {*known, "equation", "output_shape", "bias_axes"}
        arguments = {key: value for key, value in case.arguments.items() if key in known}
        dense = getattr(keras.layers, row.operation.dense)(**arguments)
        inputs = keras.Input(_unknown(row, case))
        dense.build(inputs.shape)  # without it EinsumDense knows no shape in Keras 3.12
        layer = row.make(case)
        outputs = layer(inputs)
        assert tuple(outputs.shape) == tuple(dense.compute_output_shape(inputs.shape)), case.name
        model = keras.Model(inputs, outputs)
        concrete = row.inputs(case, batch=3)
        error = relative_error(predictions(model, concrete), slow_outputs(row, layer, concrete))
        assert error < TOLERANCE, case.name


@tensorflow_only
@pytest.mark.parametrize("row", table.rows("plans"))
def test_every_kind_of_plan_runs_on_unknown_sizes(row):
    import tensorflow as tf

    runs, signature, concrete, wanted, seen = [], [], [], [], set()
    for case in row.operation.cases:
        if row.why_not("plans", case):
            continue
        layer = row.built(case)
        inputs = row.inputs(case, batch=3)
        place = len(signature)
        signature.append(tf.TensorSpec((None, *_unknown(row, case)), "float32"))
        concrete.append(inputs)
        wanted.append(slow_outputs(row, layer, inputs))
        for plan in plans_of(layer):
            ops = frozenset(part.split(":")[1] for part in plan.split(" | "))
            kinds = ops, layer.modes.padding != (0, 0)
            if kinds not in seen:
                seen.add(kinds)
                runs.append((place, layer, plan))

    def run(*inputs):
        outputs = []
        for place, layer, plan in runs:
            layer.implementation = plan
            outputs.append(layer(inputs[place]))
        return outputs

    found = tf.function(run, input_signature=signature)(*concrete)
    for (place, _, plan), outputs in zip(runs, found, strict=True):
        assert relative_error(outputs, wanted[place]) < TOLERANCE, plan


def _batches(row, case) -> tuple[int, ...]:
    if BACKEND != "tensorflow" and case is not row.plain:
        return (3,)  # JAX compiles for each shape
    return (3, 1, 0) if row.operation.empty_batch else (3, 1)


def _unknown(row, case) -> tuple:
    """The input shape of a case with unknown extents wherever its kind allows them."""
    ndim = len(case.input_shape)
    axes = {axis % ndim for axis in row.operation.unknown if -ndim <= axis < ndim}
    if case.arguments.get("data_format") == "channels_first":
        axes = {axis + 1 for axis in axes}
    return tuple(None if axis in axes else size for axis, size in enumerate(case.input_shape))
