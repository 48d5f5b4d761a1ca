"""Layers on a basis compute what their stock twins compute, by either evaluation."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_tensornet.layers import TBasis, TBasisConv2D, TBasisCores, TBasisDense
from keras_tensornet.tbasis import tbasis_model

array = ops.convert_to_numpy
# Sums of some hundreds of float32 products.
TOLERANCE = 2e-5

CASES = [  # layer, input shape
    (lambda **more: TBasisDense(5, **more), (7,)),
    (lambda **more: TBasisDense(4, activation="relu", **more), (3, 9)),
    (lambda **more: TBasisDense(2, use_bias=False, **more), (3,)),
    (lambda **more: TBasisConv2D(7, 3, **more), (6, 5, 4)),
    (lambda **more: TBasisConv2D(9, 3, strides=2, padding="same", **more), (6, 5, 9)),
    (lambda **more: TBasisConv2D(4, (1, 3), strides=(2, 1), activation="relu", **more), (5, 6, 3)),
    (lambda **more: TBasisConv2D(10, 3, dilation_rate=2, padding="same", **more), (5, 6, 2)),
    (lambda **more: TBasisConv2D(6, 1, use_bias=False, **more), (4, 3, 5)),
    (lambda **more: TBasisConv2D(5, 1, strides=2, **more), (4, 3, 5)),
]


def called(make, shape, **options):
    """A layer on a basis, the basis' values, inputs and outputs."""
    basis = TBasis(3, 2, seed=0)
    basis.build()
    layer = make(seed=1, bias_initializer="uniform", **options)
    inputs = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    outputs = layer(inputs, basis=ops.convert_to_tensor(basis.basis))
    return layer, ops.convert_to_tensor(basis.basis), inputs, array(outputs)


@pytest.mark.parametrize("implementation", ("factorized", "reconstructed", "auto"))
@pytest.mark.parametrize("make, shape", CASES)
def test_both_evaluations_equal_the_stock_layer(make, shape, implementation):
    layer, basis, inputs, outputs = called(make, shape, implementation=implementation)
    twin = layer.dense_layer(basis)
    assert type(twin) in (keras.layers.Dense, keras.layers.Conv2D)
    assert twin.name == layer.name
    np.testing.assert_allclose(outputs, array(twin(inputs)), atol=TOLERANCE)
    assert outputs.shape == tuple(layer.compute_output_shape(inputs.shape))
    if implementation != "auto" and layer.ring.num_cores > 1:
        # a single core is its own dense kernel
        assert layer.plan_for(2).implementation == implementation


def test_groups_and_channels_first():
    grouped, basis, inputs, outputs = called(
        lambda **more: TBasisConv2D(6, 3, groups=2, **more), (5, 5, 4)
    )
    assert grouped.plan_for(2).implementation == "reconstructed"
    np.testing.assert_allclose(outputs, array(grouped.dense_layer(basis)(inputs)), atol=TOLERANCE)
    with pytest.raises(ValueError, match="groups=2, implementation='factorized'"):
        TBasisConv2D(6, 3, groups=2, implementation="factorized")
    for implementation in ("factorized", "reconstructed"):
        if implementation == "reconstructed" and keras.backend.backend() == "tensorflow":
            continue  # TensorFlow on CPU has no channels-first convolution
        layer, basis, inputs, outputs = called(
            lambda **more: TBasisConv2D(5, 3, data_format="channels_first", **more),
            (4, 6, 5),
            implementation=implementation,
        )
        last = keras.layers.Conv2D(5, 3, data_format="channels_last")
        last.build((None, 6, 5, 4))
        last.set_weights([array(layer.merge_kernel(basis)), array(layer.bias)])
        wanted = array(last(inputs.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(outputs, wanted, atol=TOLERANCE)


@pytest.mark.parametrize("implementation", ("factorized", "reconstructed"))
@pytest.mark.parametrize("channels", (9, 5))  # without and with padding
def test_the_penalty_is_that_of_the_merged_kernel(implementation, channels):
    layer, basis, inputs, _ = called(
        lambda **more: TBasisConv2D(9, 3, kernel_regularizer=keras.regularizers.L2(0.5), **more),
        (5, 5, channels),
        implementation=implementation,
    )
    model_inputs = keras.Input(inputs.shape[1:])
    model = keras.Model(model_inputs, layer(model_inputs, basis=TBasis(3, 2, seed=0)(model_inputs)))
    model(inputs)
    kernel = array(layer.merge_kernel(basis))
    np.testing.assert_allclose(
        [float(array(loss)) for loss in model.losses], [0.5 * np.sum(kernel**2)], rtol=1e-4
    )


def test_cores_are_kept_in_float32_under_mixed_precision():
    inputs = keras.Input((5, 5, 4), dtype="float16")
    basis = TBasis(3, 2, dtype="mixed_float16")(inputs)
    outputs = TBasisConv2D(6, 3, dtype="mixed_float16")(inputs, basis=basis)
    assert basis.dtype == "float32"
    assert outputs.dtype == "float16"
    ring = TBasisCores([(3, 3, 6, 4)], dtype="mixed_float16")(basis)[0]
    assert ring.dtype == "float32"


def test_the_configuration_is_plain_and_complete():
    for layer in (
        TBasis(3, 2, mode=4, trainable=False, seed=3, name="mine"),
        TBasisCores([(3, 3, 2, 2)], adapters="linear", seed=1),
        TBasisDense(3, adapters="none", kernel_regularizer="l2", activation="relu"),
        TBasisConv2D(3, 3, strides=2, implementation="factorized", kernel_initializer="he_normal"),
    ):
        config = json.loads(json.dumps(layer.get_config()))
        again = type(layer).from_config(config)
        assert json.loads(json.dumps(again.get_config())) == config


def test_a_layer_needs_exactly_one_of_basis_and_cores():
    x = np.zeros((1, 4), "float32")
    basis = np.zeros((3, 2, 9, 2), "float32")
    with pytest.raises(ValueError, match=r"must be called with the shared basis.*neither"):
        TBasisDense(3)(x)
    with pytest.raises(ValueError, match="both of the two"):
        TBasisDense(3)(x, basis=basis, cores=basis)
    with pytest.raises(ValueError, match="needs the shape of the basis"):
        TBasisDense(3).build((None, 4))


def test_a_layer_refuses_another_basis_than_its_own():
    basis = [TBasis(3, 2), TBasis(3, 4), TBasis(3, 2, mode=4), TBasis(5, 2)]
    inputs = keras.Input((4,))
    tensors = [one(inputs) for one in basis]
    layer = TBasisDense(3)
    layer(inputs, basis=tensors[0])
    with pytest.raises(ValueError, match=r"built for a basis of rank 2 and mode 9.*rank 4"):
        layer(inputs, basis=tensors[1])
    with pytest.raises(ValueError, match="a basis of rank 2 and mode 4"):
        layer(inputs, basis=tensors[2])
    with pytest.raises(ValueError, match=r"a basis of 3 tensors\. Received: a basis of 5"):
        layer(inputs, basis=tensors[3])
    with pytest.raises(ValueError, match=r"of shape \(size, rank, mode, rank\)"):
        TBasisDense(3)(inputs, basis=inputs)
    # cores of another kernel, and a basis for a layer that was given cores
    rings = TBasisCores([(4, 3), (90, 3)])(tensors[0])
    given = TBasisDense(3)
    given(inputs, cores=rings[0])
    assert [variable.name for variable in given.variables] == ["bias"]
    with pytest.raises(ValueError, match=r"has 2 cores.*Received: 5 cores"):
        given(inputs, cores=rings[1])
    with pytest.raises(ValueError, match="owns no coefficients"):
        given(inputs, basis=tensors[0])
    with pytest.raises(ValueError, match="owns no coefficients"):
        given.correct_variance(np.zeros((3, 2, 9, 2)))


def test_a_compiled_first_call_builds_without_the_correction():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.shared, self.first = TBasis(3, 2, seed=0), TBasisDense(4, seed=1)
            self.last = TBasisDense(2, seed=2)

        def call(self, x):
            basis = self.shared(x)
            return self.last(self.first(x, basis=basis), basis=basis)

    model = Subclassed()
    model.compile("sgd", "mse")
    x = np.ones((4, 6), "float32")
    model.fit(x, np.ones((4, 2)), verbose=0)
    assert len(model.trainable_variables) == 1 + 2 * 3
    model.first.correct_variance(model.shared.basis)
    kernel = array(model.first.merge_kernel(ops.convert_to_tensor(model.shared.basis)))
    assert abs(np.var(kernel) * 6 / 2 - 1) < 0.02


def test_a_basis_is_not_left_in_float_unnoticed_by_quantisation():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(9), keras.layers.Dense(9)])
    small = tbasis_model(model, size=2, rank=2)
    with pytest.raises(ValueError, match=r"is a tensor network and cannot be quantised in place"):
        small.quantize("int8")
