"""Laws of recovery: towards the dense network's outputs, whatever they are, and never away."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_tensornet as ktn
from keras_tensornet import models
from keras_tensornet.compression import Recovery, RecoverySettings, compress_model, recover
from keras_tensornet.compression.recovery import clock as clocks
from keras_tensornet.compression.recovery.blocks import find_ends
from keras_tensornet.compression.recovery.distances import KINDS, Distance, kinds_of
from keras_tensornet.compression.recovery.examples import Examples
from keras_tensornet.compression.recovery.fake_quantization import (
    quantized,
    round_activations,
    round_weights,
)

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((64, 12)).astype("float32")
# A tenth is held out, and a gain must exceed its standard error over these.
MANY = np.random.default_rng(5).standard_normal((256, 12)).astype("float32")
QUICK = RecoverySettings(seconds=None, epochs=20, batch_size=16, learning_rate=3e-2, blocks=0)


def network(activation=None, norm=False):
    keras.utils.set_random_seed(0)
    inputs = layers.Input((12,))
    x = layers.Dense(16, "tanh", name="one")(inputs)
    if norm:
        x = layers.BatchNormalization(name="norm")(x)
        x = layers.Dropout(0.5, seed=1)(x)
    x = layers.Dense(16, "tanh", name="two")(x)
    return keras.Model(inputs, layers.Dense(4, activation, name="head")(x))


def small_of(model, **arguments):
    how = {"format": "tt", "rank": 3, "calibration_data": X, "recover": False, **arguments}
    return compress_model(model, **how)


def values_of(model):
    return [np.array(ops.convert_to_numpy(variable)) for variable in model.variables]


def error(model, other, x=X):
    pairs = zip(*(keras.tree.flatten(m.predict(x, verbose=0)) for m in (model, other)), strict=True)
    return sum(float(np.square(a - b).mean()) for a, b in pairs)


def test_recovery_brings_outputs_nearer_and_changes_neither_model():
    model = network(norm=True)
    small = small_of(model)
    before = values_of(model), values_of(small)
    better = recover(model, small, X, replace(QUICK, blocks=0.25))
    for old, now in zip(before, (values_of(model), values_of(small)), strict=True):
        for a, b in zip(old, now, strict=True):
            np.testing.assert_array_equal(a, b)
    assert error(model, better) < 0.6 * error(model, small)
    record = better.recovery
    assert isinstance(record, Recovery) and record.after < record.before
    assert set(record.steps) == {"blocks", "network"} and sum(record.steps.values()) == 80
    assert "held-out" in str(record) and record.kinds == ("values",)
    # It is served in inference mode, so it is trained in it: the statistics stay.
    statistics = [m.get_layer("norm").moving_mean for m in (small, better)]
    np.testing.assert_array_equal(*(ops.convert_to_numpy(mean) for mean in statistics))
    np.testing.assert_allclose(record.before, record.log[0][1])


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    model = network()
    small = small_of(model)
    first, second = (recover(model, small, X, QUICK) for _ in range(2))
    for a, b in zip(values_of(first), values_of(second), strict=True):
        np.testing.assert_array_equal(a, b)
    other = recover(model, small, X, replace(QUICK, seed=1))
    assert any((a != b).any() for a, b in zip(values_of(first), values_of(other), strict=True))


def test_what_makes_it_worse_is_not_kept():
    model = network()
    small = small_of(model)
    wild = RecoverySettings(seconds=None, epochs=1, learning_rate=50.0, batch_size=16)
    result = recover(model, small, X, wild)
    assert result.recovery.after == result.recovery.before
    assert "nothing was gained" in str(result.recovery)
    for a, b in zip(values_of(small), values_of(result), strict=True):
        np.testing.assert_array_equal(a, b)


def test_any_structure_of_outputs_and_any_kind():
    inputs = {
        "a": layers.Input((12,), name="a"),
        "padding_mask": layers.Input((5,), name="padding_mask", dtype="int32"),
    }
    x = layers.Dense(16, "relu", name="trunk")(inputs["a"])
    sequence = layers.Reshape((5, 4))(layers.Dense(20, name="wide")(x))
    outputs = {
        "classes": layers.Dense(3, "softmax")(x),
        "tags": layers.Dense(3, "sigmoid")(x),
        "sequence": sequence,
        "number": ops.argmax(x, axis=-1),
    }
    model = keras.Model(inputs, outputs)
    many = RANDOM.standard_normal((400, 12)).astype("float32")
    data = {"a": many, "padding_mask": np.ones((400, 5), "int32")}
    small = compress_model(model, rank=2, exclude=(), calibration_data=data, recover=False)
    better = recover(model, small, data, replace(QUICK, batch_size=60))
    assert sorted(better.recovery.kinds) == ["binary", "probabilities", "values"]
    assert better.recovery.after < better.recovery.before
    assert set(better(data)) == set(outputs)


def test_augmentation_sees_whole_batches_and_the_dense_model_sees_what_it_gives():
    model = network("softmax")
    small = small_of(model, calibration_data=MANY)
    seen = []

    def noisy(inputs, random):
        seen.append(inputs.shape)
        return inputs + 0.1 * random.standard_normal(inputs.shape)

    better = recover(model, small, MANY, replace(QUICK, epochs=8, augment=noisy))
    assert set(seen) == {(16, 12)} and len(seen) == sum(better.recovery.steps.values()) == 120
    assert better.recovery.after < better.recovery.before
    with pytest.raises(ValueError, match="`augment` must give inputs of the structure"):
        recover(model, small, X, RecoverySettings(augment=lambda inputs: inputs[:3]))


def test_examples_are_mixed_where_that_means_something():
    model = network()
    small = small_of(model)
    first, second = (recover(model, small, X, replace(QUICK, mix=mix)) for mix in (0.0, 1.0))
    assert any((a != b).any() for a, b in zip(values_of(first), values_of(second), strict=True))
    counts = np.round(3 * X)
    first, second = (recover(model, small, counts, replace(QUICK, mix=mix)) for mix in (0.0, 1.0))
    for a, b in zip(values_of(first), values_of(second), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"`mix` must be in \[0, 1\]"):
        RecoverySettings(mix=1.5)


def test_a_rate_that_leads_away_is_lowered():
    model = network()
    small = small_of(model, rank=5)
    settings = replace(QUICK, epochs=40, learning_rate=1.0)
    better = recover(model, small, X, settings)
    distances = [distance for _, distance in better.recovery.log]
    assert max(distances) > 4 * distances[0] and better.recovery.after < better.recovery.before


def test_frozen_layers_stay_but_for_those_that_were_compressed():
    model = network()
    model.trainable = False
    small = small_of(model, calibration_data=MANY)
    better = recover(model, small, MANY, QUICK)
    assert better.recovery.after < better.recovery.before
    assert not better.trainable_variables
    head = [ops.convert_to_numpy(m.get_layer("head").kernel) for m in (small, better)]
    np.testing.assert_array_equal(*head)


@pytest.mark.parametrize("kind", KINDS)
def test_a_distance_is_nought_at_the_target_and_one_at_its_mean(kind):
    raw = RANDOM.standard_normal((40, 3, 5)).astype("float32")
    target = {
        "probabilities": ops.convert_to_numpy(ops.softmax(raw)),
        "binary": ops.convert_to_numpy(ops.sigmoid(raw)),
    }.get(kind, raw)
    distance = Distance.fitted(kind, target, temperature=2.0)
    np.testing.assert_allclose(distance(target, target), 0.0, atol=1e-6)
    if kind == "values":
        centre = np.broadcast_to(target.mean((0, 1)), target.shape)
        np.testing.assert_allclose(ops.mean(distance(target, centre)), 1.0, rtol=1e-5)
    worse = distance(target, target[::-1].copy())
    assert float(ops.mean(worse)) > 0.5
    mask = np.array([[1, 1, 0]] * 40)
    changed = target.copy()
    changed[:, 2] = target[::-1, 2]
    np.testing.assert_allclose(distance(target, changed, mask), 0.0, atol=1e-6)


def test_the_loss_of_a_compiled_model_says_what_its_outputs_are():
    target = [RANDOM.standard_normal((8, 4)).astype("float32")]
    model = network()
    assert kinds_of(model, 0, target, "auto") == ["values"]
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert kinds_of(model, 0, target, "auto") == ["logits"]
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    assert kinds_of(model, 0, target, "auto") == ["binary_logits"]
    assert kinds_of(model, 0, target, "values") == ["values"]
    with pytest.raises(ValueError, match="`match` must be one of"):
        kinds_of(model, 0, target, "odd")
    with pytest.raises(ValueError, match="in the structure of the model's outputs"):
        kinds_of(model, 0, target, ["logits", "values"])
    with pytest.raises(ValueError, match="nothing to match"):
        kinds_of(model, 0, [np.zeros((8,), "int32")], "auto")


def test_blocks_end_where_everything_passes():
    model = models.resnet_cifar(8, (8, 8, 3))
    ends = find_ends(model, compress_model(model, rank=2))
    assert ends == ["stage1_block1_relu2", "stage2_block1_relu2", "pool"]
    nested = keras.Sequential([layers.Input((8, 8, 3)), layers.Rescaling(0.5), model], name="outer")
    inner = find_ends(nested, compress_model(nested, rank=2))
    assert inner == [f"{model.name}/{end}" for end in ends]


def test_a_network_without_such_places_is_matched_at_its_changed_layers():
    inputs = layers.Input((12,))
    left = layers.Dense(16, "relu", name="left")(inputs)
    right = layers.Dense(16, "relu", name="right")(inputs)
    right = layers.Dense(16, name="down")(right)
    model = keras.Model(inputs, [layers.Dense(3)(left), layers.Dense(3)(right)])
    assert find_ends(model, compress_model(model, rank=2)) == ["left", "right", "down"]


def test_models_of_other_layers_are_matched_at_their_outputs_and_that_is_said():
    model = network()
    inputs = layers.Input((12,))
    outputs = layers.Dense(4, name="b")(layers.Dense(3, "tanh", name="a")(inputs))
    other = keras.Model(inputs, outputs)
    with pytest.warns(UserWarning, match="only their outputs"):
        result = recover(model, other, X, QUICK)
    assert result.recovery.after < result.recovery.before and result.recovery.ends == ()


def test_examples_of_several_lengths_come_in_batches_of_one_length():
    class Data:
        def __iter__(self):
            return iter([(np.full((5, length), length, "float32"), 0) for length in (3, 4, 3)])

    model = keras.Sequential([layers.Input((None,)), layers.Activation("relu")])
    examples = Examples.read(model, Data())
    assert len(examples) == 15
    kept, held = examples.split(0.2, np.random.default_rng(0))
    assert len(kept) == 12 and len(held) == 3
    drawn = kept.epochs(4, np.random.default_rng(0))
    shapes = {next(drawn)[0].shape for _ in range(2 * kept.steps(4))}
    assert shapes <= {(size, length) for size in (1, 2, 3, 4) for length in (3, 4)}
    lengths = {shape[1] for shape in shapes}
    assert lengths == {3, 4}


def test_compression_with_data_recovers_unless_told_otherwise():
    model = network()
    assert not hasattr(small_of(model), "recovery")
    better = small_of(model, recover=replace(QUICK, epochs=1))
    assert sum(better.recovery.steps.values()) == 4
    with pytest.warns(UserWarning, match="is not recovered. Recovery needs at least 8"):
        compress_model(model, "tt", rank=3, calibration_data=X[:4])
    with pytest.raises(ValueError, match="needs inputs to train on"):
        compress_model(model, "tt", rank=3, recover=QUICK)
    with pytest.raises(TypeError, match="`recover` must be True, False or RecoverySettings"):
        compress_model(model, "tt", rank=3, recover="yes")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"seconds": 0}, "`seconds` must be positive"),
        ({"blocks": 1.0}, r"`blocks` must be in \[0, 1\)"),
        ({"held_out": 0.7}, r"`held_out` must be in \(0, 0.5\]"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"temperature": -1}, "`temperature` must be positive"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        RecoverySettings(**wrong)
    with pytest.raises(TypeError, match="`augment` must be a function"):
        RecoverySettings(augment=3)


@pytest.mark.parametrize("each, steps", [(0.05, 100), (0.5, 19)])
def test_a_time_limit_ends_in_time_with_a_learning_rate_of_nought(monkeypatch, each, steps):
    now = [100.0]
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now[0])
    clock, rates = clocks.Clock(100, end=now[0] + 12.0), []
    while not clock.over():
        rates.append(clocks.schedule(clock.progress()))
        now[0] += 3.0 if clock.done == 0 else each  # the first step compiles
        clock.tick()
    assert clock.done == steps and now[0] <= 112.0 + each
    assert max(rates) == pytest.approx(1.0, abs=0.1) and rates[-1] < 0.03


def test_nothing_is_trained_where_nothing_was_lost():
    model = network()
    same = recover(model, small_of(model, rank=12), X)
    assert same.recovery.steps == {} and "nothing was lost" in str(same.recovery)


def test_recovery_is_public():
    assert ktn.recover is recover and ktn.RecoverySettings is RecoverySettings


def test_rounding_has_few_levels_and_the_gradient_of_the_identity():
    kernel = RANDOM.standard_normal((3, 5)).astype("float32") * [1, 10, 100, 1, 1]
    rounded = ops.convert_to_numpy(round_weights(ops.convert_to_tensor(kernel), (0,)))
    steps = rounded / np.abs(kernel).max(0) * 127
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert np.abs(rounded - kernel).max() <= 0.51 * np.abs(kernel).max() / 127
    assert (rounded != kernel).any()
    values = np.array([0.0, 0.1, 0.2, 2.55], "float32")
    np.testing.assert_allclose(round_activations(values), values, atol=0.006)
    variable = keras.Variable(kernel)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total = ops.sum(round_weights(ops.convert_to_tensor(variable), (0,)))
        np.testing.assert_allclose(tape.gradient(total, variable.value), np.ones_like(kernel))


def test_recovery_for_int8_gives_the_form_that_is_exported_and_is_nearer_once_rounded():
    inputs = layers.Input((6, 6, 3))
    x = layers.Conv2D(16, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    images = RANDOM.standard_normal((400, 6, 6, 3)).astype("float32")
    small = compress_model(model, rank=2, exclude=(), calibration_data=images, recover=False)
    better = recover(model, small, images, replace(QUICK, quantize="int8"))
    names = [layer.name for layer in better.layers]
    assert "conv_part0" in names and type(better.get_layer("norm")) is layers.Activation
    assert better.recovery.after < better.recovery.before
    before = better.get_layer("conv").call
    with quantized(better):
        rounded = better(images)
    assert better.get_layer("conv").call == before
    gap = np.abs(ops.convert_to_numpy(rounded) - ops.convert_to_numpy(better(images))).max()
    assert 0 < gap < 0.1
