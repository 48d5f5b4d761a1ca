"""Laws of fitting later layers to the inputs that the compressed network gives them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_tensornet.compression import compress_model, reestimate_batch_norm, sequential
from keras_tensornet.compression.sequential import Pair

RANDOM = np.random.default_rng(0)


def deep(norm: bool = False) -> keras.Model:
    """Four layers of which each sees the errors of those before it."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for number in range(3):
        x = layers.Conv2D(12, 3, padding="same", use_bias=not norm, name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"norm{number}")(x) if norm else x
        x = layers.ReLU()(x)
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(6, name="last")(x))


def images(count: int = 128) -> np.ndarray:
    """Smooth noise, so that patches are correlated."""
    noise = RANDOM.normal(size=(count, 8, 8, 3))
    return (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)).astype("float32")


def error(model, small, data) -> float:
    """Relative squared error of the outputs."""
    wanted, found = (ops.convert_to_numpy(each(data)) for each in (model, small))
    return float(np.sum((wanted - found) ** 2) / np.sum((wanted - wanted.mean(0)) ** 2))


@pytest.mark.parametrize("format", ["tt", "tr", "cp", "tucker"])
@pytest.mark.parametrize("norm", [False, True])
def test_outputs_on_fresh_data_are_nearer_to_the_dense_ones(format, norm):
    data, fresh = images(256), images(256)
    model = reestimate_batch_norm(deep(norm), data)  # one that fits its data, as trained ones do
    settings = {"rank": 4, "exclude": "last", "calibration_data": data, "recover": False}
    errors = [
        error(model, compress_model(model, format, sequential=flag, **settings), fresh)
        for flag in (False, True)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("format", ["tt", "cp"])
def test_calibration_never_hurts_where_little_is_lost(format):
    """What few examples have of their own stays out: the statistics of a trained network too."""
    model = reestimate_batch_norm(deep(norm=True), images(256))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):  # trained on other examples than these
            mean, variance = (ops.convert_to_numpy(v) for v in layer.non_trainable_variables)
            drift = 0.3 * RANDOM.normal(size=mean.shape)
            layer.moving_mean.assign(mean + drift * np.sqrt(variance))
            layer.moving_variance.assign(variance * RANDOM.uniform(0.7, 1.3, mean.shape))
    data, fresh = images(64), images(256)
    settings = {"share": 0.9, "exclude": ("conv0", "last"), "recover": False}
    plain, known = (
        error(model, compress_model(model, format, **settings, **more), fresh)
        for more in ({}, {"calibration_data": data})
    )
    assert known < plain


def test_the_pair_is_that_of_the_slow_reference():
    own, other = RANDOM.normal(size=(2, 30, 4)), RANDOM.normal(size=(2, 30, 4)) + 1.0
    square, row = (2, 4, 4), (2, 4)
    pair = Pair(*(np.zeros(shape) for shape in (square, square, row, row)))
    pair.add(own[:, :10], other[:, :10])
    pair.add(own[:, 10:], other[:, 10:])
    gram, cross = pair.moments(centred=True)
    for group in range(2):
        mine, theirs = own[group] - own[group].mean(0), other[group] - other[group].mean(0)
        np.testing.assert_allclose(gram[group], mine.T @ mine / 30, atol=1e-12)
        np.testing.assert_allclose(cross[group], mine.T @ theirs / 30, atol=1e-12)


def test_the_mean_of_outputs_is_that_of_the_dense_network():
    model, data = deep(), images(512)
    small = compress_model(
        model, rank=3, exclude=("conv0", "last"), calibration_data=data, recover=False
    )
    probe = [keras.Model(each.inputs, each.get_layer("conv2").output) for each in (model, small)]
    wanted, found = (ops.convert_to_numpy(each(data)).mean((0, 1, 2)) for each in probe)
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())


def test_the_dense_model_stays_and_runs_are_equal():
    model, data = deep(norm=True), images()
    before = [ops.convert_to_numpy(variable).copy() for variable in model.variables]
    settings = {"rank": 3, "calibration_data": data, "recover": False}
    first, second = (compress_model(model, **settings) for _ in range(2))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))


def test_a_layer_that_is_not_better_on_the_data_kept_aside_keeps_its_cores(monkeypatch):
    model, data = deep(), images()
    settings = {"rank": 3, "calibration_data": data, "recover": False}
    monkeypatch.setattr(
        sequential, "refine", lambda *arguments: [core * 2.0 for core in arguments[-1]]
    )
    kept, plain = (compress_model(model, sequential=flag, **settings) for flag in (True, False))
    for name in ("conv1", "conv2"):
        for one, other in zip(kept.get_layer(name).cores, plain.get_layer(name).cores, strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))
