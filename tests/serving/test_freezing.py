"""Freezing: the same outputs, never stale, and never trained."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_tensornet as kt
from keras_tensornet import layers


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.TRConv2D(8, 3, rank=3, activation="relu"),
            layers.TTConv2D(6, 3, rank=2, padding="same"),
            keras.layers.Flatten(),
            layers.TTDense(5, rank=2),
        ]
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")


def test_a_frozen_model_computes_the_same(model, images):
    before = ops.convert_to_numpy(model(images))
    assert kt.freeze(model, batch_size=4) is model
    assert all(layer.frozen for layer in model.layers if hasattr(layer, "frozen"))
    np.testing.assert_allclose(ops.convert_to_numpy(model(images)), before, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(model.predict(images, verbose=0), before, rtol=1e-4, atol=1e-7)


def test_a_frozen_layer_merges_nothing_in_its_calls(model, images):
    kt.freeze(model)
    layer = model.layers[0]
    layer._kernel.cores.clear()  # a call that merged would fail without cores
    layer(images)


def test_training_a_frozen_model_raises_and_unfreezing_allows_it(model, images):
    targets = np.zeros((4, 5), "float32")
    model.compile("sgd", "mse")
    model.fit(images, targets, verbose=0)
    kt.freeze(model)
    with pytest.raises(RuntimeError, match=r"is frozen.*unfreeze\(model\)"):
        model(images, training=True)
    kt.unfreeze(model)
    before = model.get_weights()
    model.fit(images, targets, verbose=0)
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


def test_a_compiled_fit_does_not_outlive_freezing(model, images):
    if keras.backend.backend() == "jax":
        pytest.skip("the JAX trainer holds a model's variables while a step fails")
    targets = np.zeros((4, 5), "float32")
    model.compile("sgd", "mse")
    model.fit(images, targets, verbose=0)
    kt.freeze(model)
    with pytest.raises(RuntimeError, match="is frozen"):
        model.fit(images, targets, verbose=0)


@pytest.fixture(params=["tbasis_model", "by hand"])
def shared(request):
    """A model on a T-Basis: one layer owns all coefficients, or each layer its own."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    if request.param == "tbasis_model":
        x = keras.layers.Conv2D(6, 3, strides=2, activation="relu")(inputs)
        x = keras.layers.Conv2D(8, 3, activation="relu")(x)
        outputs = keras.layers.Dense(5)(keras.layers.Flatten()(x))
        return kt.tbasis_model(keras.Model(inputs, outputs), size=4, rank=3, seed=0)
    basis = layers.TBasis(4, 3, seed=0)(inputs)
    x = layers.TBasisConv2D(8, 3, kernel_regularizer="l2")(inputs, basis=basis)
    outputs = layers.TBasisDense(5)(keras.layers.Flatten()(x), basis=basis)
    return keras.Model(inputs, outputs)


def test_layers_on_a_basis_freeze_too(shared, images):
    before, weights = ops.convert_to_numpy(shared(images)), shared.get_weights()
    penalty = float(sum(shared.losses))
    kt.freeze(shared)
    frozen = [layer for layer in shared.layers if getattr(layer, "frozen", False)]
    assert len(frozen) == 2
    for layer in frozen:
        layer._cut_cores = None  # a call that computed cores would fail
    np.testing.assert_allclose(ops.convert_to_numpy(shared(images)), before, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(float(sum(shared.losses)), penalty, rtol=1e-5)
    with pytest.raises(RuntimeError, match=r"is frozen.*unfreeze\(model\)"):
        shared(images, training=True)
    with pytest.raises(RuntimeError, match="merged already"):
        shared.set_weights([2 * weight for weight in weights])
    for layer in frozen:
        del layer._cut_cores
    kt.unfreeze(shared)
    shared.set_weights([2 * weight for weight in weights])
    assert np.abs(ops.convert_to_numpy(shared(images)) - before).max() > 1e-3
    shared(images, training=True)


def test_a_basis_from_outside_the_graph_leaves_its_layers_live(images):
    keras.utils.set_random_seed(0)
    given = keras.Input(batch_shape=(4, 3, 9, 3))
    inputs = keras.Input((8, 8, 3))
    inner = keras.Model([inputs, given], layers.TBasisConv2D(8, 3)(inputs, basis=given))
    basis = layers.TBasis(4, 3, seed=0)(inputs)
    model = keras.Model(inputs, inner([inputs, basis]))
    before = ops.convert_to_numpy(model(images))
    kt.freeze(model)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(images)), before)


def test_a_layer_that_is_called_with_two_bases_stays_live(images):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    layer = layers.TBasisConv2D(3, 3, padding="same")
    x = layer(inputs, basis=layers.TBasis(4, 3, seed=0)(inputs))
    model = keras.Model(inputs, layer(x, basis=layers.TBasis(4, 3, seed=1)(inputs)))
    before = ops.convert_to_numpy(model(images))
    kt.freeze(model)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(images)), before)


def test_cores_of_a_frozen_model_cannot_be_assigned(model):
    weights = [weight * 2 for weight in model.get_weights()]
    kt.freeze(model)
    with pytest.raises(RuntimeError, match=r"merged already.*unfreeze\(model\)"):
        model.set_weights(weights)
    with pytest.raises(RuntimeError, match="merged already"):
        model.layers[0].assign_kernel(np.zeros((3, 3, 3, 8)))
    kt.unfreeze(model)
    model.set_weights(weights)


def test_a_frozen_model_saves_its_cores(model, images, tmp_path):
    kt.freeze(model)
    model.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    assert not loaded.layers[0].frozen
    np.testing.assert_allclose(
        ops.convert_to_numpy(loaded(images)),
        ops.convert_to_numpy(model(images)),
        rtol=1e-4,
        atol=1e-7,
    )


def test_frozen_plans_count_merging_as_free():
    layer = layers.TRDense(64, rank=20)
    layer.build((None, 64))
    live, merged = layer.plan_for(1), layer.plan_for(1, merged=True)
    assert merged.implementation == "reconstructed"
    assert merged.flops == 2 * 64 * 64
    assert live.flops > merged.flops


@pytest.mark.parametrize("rank", [2, 4, 8, 16])
@pytest.mark.parametrize("batch", [1, 32])
def test_a_frozen_chain_is_surely_faster_than_the_dense_operation(rank, batch):
    layer = layers.TRConv2D(16, kernel_size=3, rank=rank, padding="same")
    layer.build((None, 32, 32, 16))
    plan = layer.plan_for(batch, merged=True)
    dense = layer._make_plan(plan.workload, "reconstructed")
    if plan.implementation == "factorized":
        assert plan.seconds < 0.8 * dense.seconds
    else:
        assert plan.seconds == dense.seconds
        assert min(seconds for _, seconds in plan.candidates) >= 0.8 * dense.seconds
