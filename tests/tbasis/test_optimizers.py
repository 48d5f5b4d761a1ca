"""Two optimizers as one: each variable is trained exactly as its own optimizer would."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_tensornet.tbasis import LinearWarmup, RoutedOptimizer, tbasis_model, tbasis_optimizer

array = ops.convert_to_numpy


def model_of() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(6, activation="tanh", name="a"), layers.Dense(2, name="b")]
    )


def data() -> tuple:
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 5)).astype("float32"), rng.normal(size=(32, 2)).astype("float32")


def routed() -> RoutedOptimizer:
    sgd = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01)
    return RoutedOptimizer({"(^|/)b/": keras.optimizers.Adam(0.01, clipnorm=0.5)}, sgd)


def test_each_variable_is_trained_by_its_own_optimizer():
    x, y = data()
    results = []
    for optimizer, frozen in (
        (routed(), None),
        (keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01), "b"),
        (keras.optimizers.Adam(0.01, clipnorm=0.5), "a"),
    ):
        model = model_of()
        if frozen:
            model.get_layer(frozen).trainable = False
        model.compile(optimizer, "mse")
        # one step: afterwards the frozen half would differ
        model.fit(x, y, batch_size=32, epochs=1, verbose=0, shuffle=False)
        results.append({one.path.partition("/")[2]: array(one) for one in model.variables})
    both, sgd, adam = results
    for path, value in both.items():
        wanted = adam if path.startswith("b/") else sgd
        np.testing.assert_allclose(value, wanted[path], atol=1e-6, err_msg=path)


def test_several_steps_with_gradient_state_and_iterations():
    x, y = data()
    model = model_of()
    model.compile(routed(), "mse")
    first = model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=8, epochs=10, verbose=0)
    assert model.evaluate(x, y, verbose=0) < 0.8 * first
    assert int(array(model.optimizer.iterations)) == 40
    assert [int(array(one.iterations)) for one in model.optimizer.optimizers] == [40, 40]


def test_saved_training_goes_on_as_if_never_interrupted(tmp_path):
    x, y = data()
    whole, half = model_of(), model_of()
    for model in (whole, half):
        model.compile(routed(), "mse")
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False)
    half.save(tmp_path / "half.keras")
    half = keras.models.load_model(tmp_path / "half.keras")
    assert isinstance(half.optimizer, RoutedOptimizer)
    for found, wanted in zip(half.optimizer.variables, whole.optimizer.variables, strict=True):
        np.testing.assert_array_equal(array(found), array(wanted))
    # all state is in one list, which JAX carries through its training step
    ids = {id(one) for one in whole.optimizer.variables}
    for inner in whole.optimizer.optimizers:
        assert {id(one) for one in inner.variables} < ids
    for model in (whole, half):
        model.fit(x, y, batch_size=8, epochs=1, verbose=0, shuffle=False)
    for found, wanted in zip(half.variables, whole.variables, strict=True):
        np.testing.assert_allclose(array(found), array(wanted), atol=1e-6)


def test_mixed_precision_scales_the_whole():
    x, y = data()
    # a loss scale cancels exactly in float32, where nothing under- or overflows
    results = []
    for wrap in (lambda one: one, lambda one: keras.optimizers.LossScaleOptimizer(one, 2.0**6)):
        model = model_of()
        model.compile(wrap(routed()), "mse")
        model.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False)
        results.append([array(one) for one in model.variables])
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_jit_trains_alike():
    x, y = data()
    results = []
    for jit in (False, True):
        if jit and keras.backend.backend() == "torch":
            pytest.skip("torch.compile needs a C++ toolchain")
        model = model_of()
        model.compile(routed(), "mse", jit_compile=jit)
        model.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False)
        results.append([array(one) for one in model.variables])
    for found, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_learning_rate_is_that_of_the_default():
    optimizer = routed()
    optimizer.learning_rate = 0.025
    assert float(array(optimizer.learning_rate)) == pytest.approx(0.025)
    assert float(array(optimizer.default.learning_rate)) == pytest.approx(0.025)
    assert float(array(optimizer.routes["(^|/)b/"].learning_rate)) == pytest.approx(0.01)


def test_the_recipe_routes_basis_coefficients_and_adapters():
    small = tbasis_model(model_of(), 3, 2, seed=0)
    optimizer = tbasis_optimizer(keras.optimizers.SGD(0.1), warmup_steps=10)
    adam, sgd = optimizer.optimizers
    routed_to = {one.path: optimizer.route(one) for one in small.trainable_variables}
    for path, inner in routed_to.items():
        assert inner is (sgd if path.endswith("bias") else adam), path
    assert (adam.beta_1, adam.beta_2) == (0.95, 0.9995)
    x, y = data()
    small.compile(optimizer, "mse")
    losses = small.fit(x, y, epochs=25, batch_size=8, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]


def test_warm_up_is_linear_and_does_not_shift():
    steps = keras.optimizers.schedules.PiecewiseConstantDecay([6], [2.0, 0.2])
    for rate, wanted in (
        (2.0, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]),
        (steps, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 0.2]),
    ):
        schedule = LinearWarmup(rate, 4)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
        for one in (schedule, again):
            assert [float(array(one(step))) for step in range(8)] == pytest.approx(wanted)


def test_bad_arguments():
    sgd = keras.optimizers.SGD()
    with pytest.raises(TypeError, match=r"`default` must be a Keras optimizer\. Received: 'sgd'"):
        RoutedOptimizer({"a": keras.optimizers.Adam()}, "sgd")
    with pytest.raises(ValueError, match="at least one regular expression"):
        RoutedOptimizer({}, sgd)
    with pytest.raises(ValueError, match="an optimizer of its own"):
        RoutedOptimizer({"a": sgd}, sgd)
    with pytest.raises(ValueError, match="`learning_rate` must be a positive number"):
        LinearWarmup(0.0, 3)
    with pytest.raises(ValueError, match="`warmup_steps` must be at least 1"):
        LinearWarmup(0.1, 0)
