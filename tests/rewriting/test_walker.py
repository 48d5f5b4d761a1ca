"""Laws of the model walker: what is kept is the same, and the given model stays as it was."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_tensornet.rewriting.walker import rewrite_model, walk_layers


def keep(layer, path):
    return None


def branched():
    """Two inputs, two outputs, a shared layer, a nested model, wrappers, a Lambda and bare ops."""
    inner = keras.Sequential(
        [layers.Input((6,)), layers.Dense(8, "relu"), layers.Lambda(lambda x: 2.0 * x)],
        name="inner",
    )
    shared = layers.Dense(6, name="shared")
    a, b = layers.Input((6,), name="a"), layers.Input((6,), name="b")
    x = inner(shared(a) + shared(b))
    x = layers.Dropout(0.5, seed=1)(layers.BatchNormalization(name="norm")(x))
    x = layers.Reshape((2, 4))(x)
    x = layers.TimeDistributed(layers.Dense(5, name="step"), name="steps")(x)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both")(x)
    outputs = {"left": layers.Dense(2, name="left")(x), "right": keras.ops.sum(x, axis=-1)}
    return keras.Model({"a": a, "b": b}, outputs, name="branched")


def data(seed=0):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((4, 6)).astype("float32") for name in "ab"}


def randomised(model, seed=0):
    random = np.random.default_rng(seed)
    for weight in model.weights:
        noise = random.uniform(0.1, 0.9, weight.shape)
        if "seed" not in weight.path:
            weight.assign(noise.astype("float32"))
    return model


def assert_same_outputs(first, second, inputs, **tolerance):
    for expected, got in zip(
        keras.tree.flatten(first(inputs)), keras.tree.flatten(second(inputs)), strict=True
    ):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(got), keras.ops.convert_to_numpy(expected), **tolerance
        )


def weights_of(model):
    return [(weight.path, keras.ops.convert_to_numpy(weight)) for weight in model.weights]


def test_walk_enters_models_and_wrappers_and_yields_a_shared_layer_once():
    paths = [path for path, _ in walk_layers(branched())]
    assert paths.count("shared") == 1
    assert "steps/step" in paths and "both/forward_lstm" in paths and "both/backward_lstm" in paths
    assert next(path for path in paths if path.startswith("inner/")).startswith("inner/dense")


def test_keeping_every_layer_gives_the_same_model_with_its_own_weights():
    model = randomised(branched())
    before = weights_of(model)
    clone = rewrite_model(model, keep)
    assert_same_outputs(model, clone, data(), rtol=0, atol=0)
    for (path, value), (other_path, other) in zip(before, weights_of(clone), strict=True):
        assert path == other_path
        np.testing.assert_array_equal(value, other)
    clone.get_layer("norm").gamma.assign(np.zeros(8, "float32"))
    for (_, value), (_, now) in zip(before, weights_of(model), strict=True):
        np.testing.assert_array_equal(value, now)
    assert not {id(layer) for layer in model.layers} & {id(layer) for layer in clone.layers}


def test_replace_is_called_once_for_each_layer_that_walk_yields():
    model, called = branched(), []
    rewrite_model(model, lambda layer, path: called.append(path))
    assert sorted(called) == sorted(path for path, _ in walk_layers(model))


def test_a_shared_layer_gets_one_replacement_used_at_all_its_calls():
    model = randomised(branched())

    def doubled(layer, path):
        if path != "shared":
            return None
        new = layers.Dense(6, name=layer.name)
        new.build((None, 6))
        new.set_weights([2 * value for value in layer.get_weights()])
        return new

    result = rewrite_model(model, doubled)
    assert len(result.get_layer("shared")._inbound_nodes) == 2
    shared = model.get_layer("shared")
    shared.set_weights([2 * value for value in shared.get_weights()])
    assert_same_outputs(model, result, data(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("path", ["shared", "steps/step", "inner/first"])
def test_a_list_of_layers_is_applied_in_order(path):
    inner = keras.Sequential([layers.Input((6,)), layers.Dense(8, name="first")], name="inner")
    inputs = layers.Input((6,))
    x = layers.Reshape((2, 4))(inner(layers.Dense(6, name="shared")(inputs)))
    x = layers.TimeDistributed(layers.Dense(5, name="step"), name="steps")(x)
    model = randomised(keras.Model(inputs, x))

    def split(layer, where):
        if where != path:
            return None
        kernel, bias = layer.get_weights()
        first = layers.Dense(kernel.shape[1], use_bias=False, name=layer.name + "_0")
        first.build((None, kernel.shape[0]))
        first.set_weights([kernel])
        second = layers.Dense(kernel.shape[1], name=layer.name + "_1")
        second.build((None, kernel.shape[1]))
        second.set_weights([np.eye(kernel.shape[1]), bias])
        return [first, second]

    x = np.random.default_rng(0).standard_normal((3, 6)).astype("float32")
    assert_same_outputs(model, rewrite_model(model, split), x, rtol=1e-5, atol=1e-6)


def test_weights_of_a_replacement_survive_a_bidirectional():
    model = randomised(branched())

    def larger(layer, path):
        if not path.startswith("both/"):
            return None
        clone = type(layer).from_config(layer.get_config())
        clone.build((None, None, 5))
        clone.set_weights([0.5 * value for value in layer.get_weights()])
        return clone

    both = rewrite_model(model, larger).get_layer("both")
    for name in ("forward_layer", "backward_layer"):
        old, new = getattr(model.get_layer("both"), name), getattr(both, name)
        for expected, got in zip(old.get_weights(), new.get_weights(), strict=True):
            np.testing.assert_array_equal(got, 0.5 * expected)


def test_compile_state_is_kept_and_the_optimizer_is_fresh():
    model = branched()

    def loss(target, output):  # in no registry, so a serialised form would lose it
        return keras.ops.mean((target - output) ** 2)

    model.compile(
        keras.optimizers.SGD(0.125, momentum=0.5),
        loss={"left": loss, "right": "mse"},
        metrics={"left": [keras.metrics.MeanAbsoluteError(name="off")]},
    )
    result = rewrite_model(model, keep)
    assert result.compiled and result.optimizer is not model.optimizer
    assert result.optimizer.get_config() == model.optimizer.get_config()
    targets = {key: np.zeros_like(value) for key, value in model.predict(data(), verbose=0).items()}
    expected = model.evaluate(data(), targets, verbose=0, return_dict=True)
    assert result.evaluate(data(), targets, verbose=0, return_dict=True) == pytest.approx(expected)
    assert "left_off" in expected
    result.fit(data(), targets, verbose=0)


def test_frozen_layers_dtype_policies_and_model_classes_are_kept():
    class Trained(keras.Model):
        pass

    inputs = layers.Input((4,))
    x = layers.Dense(3, dtype="mixed_float16", name="half")(inputs)
    x = layers.Dense(3, name="frozen")(x)
    model = Trained(inputs, layers.BatchNormalization(name="norm")(x))
    model.get_layer("frozen").trainable = False
    result = rewrite_model(model, keep)
    assert type(result) is Trained
    assert not result.get_layer("frozen").trainable and result.get_layer("norm").trainable
    assert result.get_layer("half").dtype_policy.name == "mixed_float16"
    model.trainable = False
    assert not rewrite_model(model, keep).trainable_weights
    frozen_part = rewrite_model(
        model, lambda layer, path: layers.Dense(3, name=layer.name) if path == "half" else None
    )
    assert frozen_part.get_layer("half").trainable_weights


def test_a_sequential_stays_sequential_with_lists_spliced_in():
    model = keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, name="d"), layers.ReLU()], name="seq"
    )
    result = rewrite_model(
        model,
        lambda layer, path: (
            [layers.Dense(2, name="d0"), layers.Dense(3, name="d1")] if path == "d" else None
        ),
    )
    assert type(result) is keras.Sequential and result.name == "seq"
    assert [layer.name for layer in result.layers][:2] == ["d0", "d1"]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"is not built.*keras.Input"):
        rewrite_model(keras.Sequential([layers.Dense(2)]), keep)
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        rewrite_model("model.keras", keep)
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3, name="d")])
    with pytest.raises(TypeError, match=r"`replace` must return None, a Keras layer.*'d'"):
        rewrite_model(model, lambda layer, path: [])


class Forgetful(layers.Layer):
    def __init__(self, units):
        super().__init__(name="forgetful")
        self.units = units

    def call(self, inputs):
        return inputs


def test_a_layer_without_a_usable_config_is_named():
    model = keras.Sequential([layers.Input((4,)), Forgetful(3)])
    with pytest.raises(ValueError, match=r"'forgetful' of type Forgetful.*get_config"):
        rewrite_model(model, keep)
