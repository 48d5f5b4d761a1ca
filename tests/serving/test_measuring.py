"""Measuring: candidates in turns, models left as they were, one meaning of latency."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_tensornet as kt
from keras_tensornet import layers
from keras_tensornet.serving import frozen, measure, measure_models, measuring
from keras_tensornet.serving.latency import example_inputs
from keras_tensornet.wording import change, parameters, speed

PACKAGE = Path(kt.__file__).parent


def small_model():
    return keras.Sequential(
        [keras.Input((8,)), layers.TRDense(6, rank=2), layers.TTDense(5, rank=2)]
    )


def test_candidates_are_called_in_turns_forwards_and_backwards():
    order, times = [], iter(range(100))
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    timing = measure(calls, repeats=3, seconds=0, warm_up=1, clock=lambda: next(times))
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert (timing.median, timing.least, timing.repeats) == ({"a": 1, "b": 1}, {"a": 1, "b": 1}, 3)


def test_the_median_and_the_least_of_each_are_kept():
    ticks = iter([0, 5, 10, 12, 20, 21, 30, 39, 40, 43, 50, 51])
    timing = measure({"a": lambda: None, "b": lambda: None}, 3, 0, 0, clock=lambda: next(ticks))
    # a takes 5, 9 and 3; b 2, 1 and 1: the second round runs backwards
    assert timing.median == {"a": 5, "b": 1} and timing.least == {"a": 3, "b": 1}
    assert timing.ratio("b", to="a") == 0.2 and timing.milliseconds("a") == 5000
    assert "median of 3 calls in turns" in str(timing) and "0.20 x a" in str(timing)
    assert timing.cores >= 1


def test_it_goes_on_until_enough_time_was_measured():
    ticks = iter(range(1000))
    timing = measure({"a": lambda: None}, repeats=2, seconds=7, clock=lambda: next(ticks))
    assert timing.repeats == 7


def test_models_are_measured_frozen_and_left_as_they_were(monkeypatch):
    model = small_model()
    seen = []
    monkeypatch.setattr(
        type(model.layers[0]),
        "_plan_and_kernels",
        lambda layer, *given, real=type(model.layers[0])._plan_and_kernels: (
            seen.append(layer.frozen),
            real(layer, *given),
        )[1],
    )
    timing = measure_models({"m": model}, 2, unfrozen={"live": model}, repeats=1, seconds=0)
    assert list(timing.median) == ["m", "live"]
    assert set(seen) == {True, False}
    assert not any(layer.frozen for layer in model.layers)
    model.layers[0].freeze(4)
    measure_models({"m": model}, 2, repeats=1, seconds=0)
    assert [layer.frozen for layer in model.layers] == [True, False]
    with frozen(model):
        assert all(layer.frozen for layer in model.layers)
    assert [layer.frozen for layer in model.layers] == [True, False]


def test_example_inputs_fit_the_model_and_keep_a_fixed_batch():
    image = keras.Input((None, None, 3), name="image")
    token = keras.Input((4,), dtype="int32", name="token")
    outputs = keras.layers.Dense(2)(keras.layers.GlobalMaxPooling2D()(image))
    model = keras.Model({"image": image, "token": token}, [outputs, token])
    batch = example_inputs(model, 3)
    assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
        "image": ((3, 32, 32, 3), "float32"),
        "token": ((3, 4), "int32"),
    }
    data = {"image": np.ones((2, 5, 5, 3)), "token": np.arange(8).reshape(2, 4)}
    assert example_inputs(model, 3, data)["token"].tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [0, 1, 2, 3],
    ]
    timing = measure_models({"m": model}, 3, batch, repeats=1, seconds=0)
    assert timing.median["m"] > 0
    fixed = keras.Sequential([keras.Input((4,), batch_size=7), keras.layers.Dense(2)])
    assert example_inputs(fixed, 3).shape == (7, 4)

    class Subclassed(keras.Model):
        """Says nothing of its inputs."""

        def call(self, inputs):
            """Nothing."""
            return inputs

    with pytest.raises(TypeError, match="must be a built Keras model"):
        example_inputs(Subclassed(), 3)


def test_words_never_say_0_92x_faster():
    assert speed(1.0, 1.09) == "1.09x slower" and speed(1.09, 1.0) == "1.09x faster"
    assert speed(1.0, 1.001) == "the same time"
    assert parameters(100, 25) == "4.00x fewer" and parameters(25, 100) == "4.00x more"
    for before in (0.5, 1.0, 3.0):
        for after in (0.4, 1.0, 7.0):
            factor, word = change(before, after, "faster", "slower", "same")
            assert float(factor[:-1]) >= 1
            assert word == ("faster" if after < before else "slower" if after > before else "same")


def test_there_is_one_timing_loop():
    """Only the measuring module takes the time of calls; others time what happens once."""
    once = {
        "compression/recovery/clock.py",
        "compression/recovery/recovering.py",
        "compression/recovery/run.py",
        "compression/smallest.py",
        "demo/training.py",
        "training/admm.py",
        "training/pipeline.py",
    }
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("perf_counter", "monotonic", "timeit")
    }
    assert found - once == {"serving/measuring.py"}


def test_the_measuring_module_needs_the_standard_library_only():
    tree = ast.parse(Path(measuring.__file__).read_text())
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module)
    assert not {name.split(".")[0] for name in names} & {"keras", "keras_tensornet", "numpy"}
