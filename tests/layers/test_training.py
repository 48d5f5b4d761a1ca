"""Layers train: gradients of every core, XLA on and off, shared, frozen, in every kind of model."""

import keras
import numpy as np
import pytest
from keras import ops

from tests import formats_table as table
from tests.layers.support import BACKEND, array, gradients, predictions, slow_outputs
from tests.references import relative_error

pytestmark = pytest.mark.filterwarnings("ignore:Some ranks")

JIT = [False, True] if BACKEND == "tensorflow" else ["auto"]
POLICIES = {"mixed_bfloat16": 0.05, "mixed_float16": 0.01, "float64": 1e-12, "bfloat16": 0.2}


def compiled(model, **options):
    """The model, compiled for regression."""
    model.compile(keras.optimizers.SGD(0.01), "mse", **options)
    return model


def targets_for(model, inputs):
    """Targets other than what the model gives now."""
    return predictions(model, inputs) + 1.0


@pytest.mark.parametrize("row, case", table.cases("gradients"))
def test_every_core_has_a_gradient(row, case):
    if BACKEND != "tensorflow" and case is not row.plain:
        pytest.skip("the cases differ in shapes only, and JAX compiles for each shape")
    layer = row.built(case)
    inputs = row.inputs(case)
    found = {}
    for implementation in ("factorized", "reconstructed"):
        layer.implementation = implementation
        found[implementation] = gradients(layer, inputs)
        for core, gradient in zip(layer.trainable_variables, found[implementation], strict=True):
            assert gradient.shape == tuple(core.shape)
            assert np.any(gradient), core.path
    for staged, merged in zip(*found.values(), strict=True):
        assert relative_error(staged, merged) < 1e-4  # sums of squares of sums, in float32


@pytest.mark.parametrize("row", table.rows("gradients"))
def test_a_kernel_of_zeros_still_trains(row):
    layer = row.built(kernel_initializer="zeros")
    inputs = row.inputs()
    assert any(np.any(gradient) for gradient in gradients(layer, inputs)[-len(layer.cores) :])


@pytest.mark.parametrize("jit_compile", JIT)
@pytest.mark.parametrize("row", table.rows("training"))
def test_fit_lowers_the_loss_with_and_without_xla(row, jit_compile):
    keras.utils.set_random_seed(0)
    inputs = row.inputs(batch=8)
    layer = row.make(kernel_regularizer=keras.regularizers.L2(1e-3), activation="tanh")
    model = compiled(
        keras.Sequential([keras.Input(row.plain.input_shape), layer]), jit_compile=jit_compile
    )
    history = model.fit(inputs, targets_for(model, inputs), batch_size=4, epochs=3, verbose=0)
    losses = history.history["loss"]
    assert losses[-1] < losses[0]
    assert np.all(np.isfinite(losses))


@pytest.mark.parametrize("row", table.rows("training"))
def test_models_of_every_kind_train_alike(row):
    inputs = row.inputs(batch=4)
    shape = row.plain.input_shape

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = row.make()

        def call(self, inputs):
            return self.layer(inputs)

    tensor = keras.Input(shape)
    functional = keras.Model(tensor, row.make()(tensor))
    sequential, subclassed = keras.Sequential([row.make()]), Subclassed()
    models = [functional, sequential, subclassed]
    for model in models:
        model(inputs)  # builds the two that have no shape yet
    weights, targets = functional.get_weights(), targets_for(functional, inputs)
    for model in models:
        model.set_weights(weights)
        compiled(model).train_on_batch(inputs, targets)
    for model in models[1:]:
        for found, wanted in zip(model.get_weights(), functional.get_weights(), strict=True):
            assert relative_error(found, wanted) < 1e-5
    assert any(
        not np.array_equal(found, before)
        for found, before in zip(functional.get_weights(), weights, strict=True)
    )


@pytest.mark.parametrize("row", table.rows("training"))
def test_a_layer_may_be_shared_or_frozen(row):
    layer = row.make()
    first, second = keras.Input(row.plain.input_shape), keras.Input(row.plain.input_shape)
    model = compiled(keras.Model([first, second], ops.subtract(layer(first), layer(second))))
    assert len(model.trainable_variables) == len(layer.trainable_variables)
    pair = [row.inputs(batch=2), row.inputs(batch=2, seed=1)]
    wanted = slow_outputs(row, layer, pair[0]) - slow_outputs(row, layer, pair[1])
    assert relative_error(predictions(model, pair), wanted) < 1e-5
    layer.trainable = False
    assert not model.trainable_variables
    before = layer.get_weights()
    compiled(model).train_on_batch(pair, wanted + 1.0)
    for found, kept in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("row", table.rows("precision"))
def test_precision_policies(row, policy):
    if policy == "float64" and BACKEND != "tensorflow":
        pytest.skip("JAX has no float64 unless told; keras.ops.matmul returns float32 on PyTorch")
    layer = row.built(dtype=policy)
    dtype = keras.dtype_policies.get(policy)
    inputs = row.inputs()
    outputs = layer(ops.convert_to_tensor(inputs))
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype.compute_dtype
    assert all(core.dtype == dtype.variable_dtype for core in layer.cores)
    for kernel in (layer.kernel, *layer._kernels_of(layer.plan)):  # cast once, after merging
        assert keras.backend.standardize_dtype(kernel.dtype) == dtype.variable_dtype
    if policy != "bfloat16":  # whose cores, too, are rounded in every merge
        wanted = slow_outputs(row, layer, inputs)
        assert relative_error(array(ops.cast(outputs, "float64")), wanted) < POLICIES[policy]


@pytest.mark.parametrize("row", table.rows("precision"))
def test_mixed_precision_trains(row):
    layer = row.make(dtype="mixed_float16", kernel_regularizer="l2")
    model = compiled(keras.Sequential([keras.Input(row.plain.input_shape), layer]))
    inputs = row.inputs(batch=4)
    targets = targets_for(model, inputs)
    before = layer.get_weights()
    history = model.fit(inputs, targets, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    changed = [
        not np.array_equal(found, kept)
        for found, kept in zip(layer.get_weights(), before, strict=True)
    ]
    assert any(changed)


@pytest.mark.parametrize("row", table.rows("training"))
def test_masks_pass_through(row):
    if not row.make().supports_masking:
        pytest.skip(f"keras.layers.{row.operation.dense} takes no masks either")
    inputs = keras.Input((5, row.plain.input_shape[-1]))
    outputs = row.make()(keras.layers.Masking()(inputs))
    assert outputs._keras_mask is not None


@pytest.mark.parametrize("row", table.rows("training"))
def test_the_flags_of_the_dense_twin(row):
    layer, dense = row.make(), getattr(keras.layers, row.operation.dense)
    names = ("units", "filters", "kernel_size", "equation", "output_shape")
    settings = layer.get_config()
    twin = dense(**{name: settings[name] for name in names if name in settings})
    assert layer.supports_masking == twin.supports_masking
