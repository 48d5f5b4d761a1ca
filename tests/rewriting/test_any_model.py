"""The law of "any Keras model": models of KerasHub and hand-written ones, through everything."""

import importlib.util
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_tensornet.compression import compress_model, plan_compression
from keras_tensornet.compression.kinds import find_targets, kind_of
from keras_tensornet.export import export_model
from keras_tensornet.layers.common import FactorizedMethods
from keras_tensornet.reading import read_inputs
from keras_tensornet.rewriting.walker import walk_layers
from tests.rewriting import hub, objects

HUB = importlib.util.find_spec("keras_hub") is not None
NEEDS_HUB = pytest.mark.skipif(not HUB, reason="keras-hub is not installed (extra `hub`)")
QUICK = ("distil_bert", "mixed")  # one of each; the others run where slow tests do
CASES = {name: (made, None) for name, made in objects.OBJECTS.items()} | hub.CASES
PARAMETERS = [
    pytest.param(
        name,
        marks=[NEEDS_HUB] * (name in hub.CASES) + [pytest.mark.slow] * (name not in QUICK),
    )
    for name in CASES
]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module", params=PARAMETERS)
def case(request):
    keras.utils.set_random_seed(0)
    made, inputs = CASES[request.param]
    model = made()
    return model, objects.data(model) if inputs is None else inputs


@pytest.fixture(scope="module")
def half(case):
    return compress_model(case[0], format="tt", params=0.5, exclude=())


def outputs(model, inputs):
    return [keras.ops.convert_to_numpy(out) for out in keras.tree.flatten(model(inputs))]


def off(first, second):
    """The largest difference relative to the largest entry of each output."""
    pairs = zip(first, second, strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-9)) for a, b in pairs)


def every_kernel_at_full_rank(model):
    plan = plan_compression(model, format="tt", energy=1.0, exclude=())
    for choice in plan:
        if choice.kernel_shape and not choice.note.startswith("not supported"):
            plan = plan.with_layer(choice.path, 10**6, format="tt", in_modes=1, out_modes=1)
    return plan


def test_the_plan_lists_every_kernel(case):
    model, _ = case
    listed = {id(target.layer) for target in find_targets(model)}
    for layer in model._flatten_layers():
        if kind_of(layer) is not None:
            assert id(layer) in listed, layer.path
    paths = [choice.path for choice in plan_compression(model, rank=1, exclude=())]
    assert len(paths) == len(set(paths)) >= len(listed)


def test_full_rank_changes_nothing(case):
    model, inputs = case
    full = compress_model(model, plan=every_kernel_at_full_rank(model))
    layers = [getattr(layer, "cell", layer) for _, layer in walk_layers(full)]
    replaced = sum(isinstance(layer, FactorizedMethods) for layer in layers)
    assert replaced == len(find_targets(model))
    # Two products in float32 for one.
    assert off(outputs(model, inputs), outputs(full, inputs)) < 1e-5


def test_half_the_parameters_are_half(case, half):
    model, _ = case
    # Within 1 %, or what one more rank of a layer costs: 90 parameters of the pyramid's 1,928.
    step = max(0.01, 90 / model.count_params())
    assert 0.5 - step < half.count_params() / model.count_params() <= 0.5
    assert type(half).__name__ == type(model).__name__
    assert isinstance(half, type(model))


def keras_clones(model) -> bool:
    """Whether Keras' own clone_model takes a dense model that was made from its configuration.

    Some layers of KerasHub it cannot clone once they have been loaded, and ties it breaks.
    """
    serialized = keras.saving.serialize_keras_object(model)
    try:
        loaded = keras.saving.deserialize_keras_object(serialized)
        keras.models.clone_model(loaded).set_weights(model.get_weights())
    except Exception:
        return False
    return True


def test_saved_and_loaded_outputs_are_bit_equal(case, half, tmp_path):
    model, inputs = case
    half.save(tmp_path / "half.keras")
    back = keras.models.load_model(tmp_path / "half.keras", compile=False)
    pairs = zip(outputs(half, inputs), outputs(back, inputs), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    if keras_clones(model):
        clone = keras.models.clone_model(half)
        clone.set_weights(half.get_weights())
        assert off(outputs(half, inputs), outputs(clone, inputs)) < 1e-6
    assert len({variable.path for variable in half.variables}) == len(half.variables)


def test_training_reaches_every_core(case):
    model, inputs = case
    small = compress_model(model, format="tt", params=0.5, exclude=())
    small.compile("sgd")
    before = {v.path: keras.ops.convert_to_numpy(v) for v in small.trainable_variables}
    targets = [np.random.default_rng(0).normal(size=o.shape) for o in outputs(small, inputs)]

    def loss():
        pairs = zip(keras.tree.flatten(small(inputs, training=True)), targets, strict=True)
        return sum(keras.ops.mean((out - want) ** 2) for out, want in pairs)

    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, [v.value for v in small.trainable_variables])
    names = [v.path for v in small.trainable_variables]
    missing = [n for n, g in zip(names, gradients, strict=True) if "core_" in n and g is None]
    assert not missing and before


# Their attention adds axes to a mask of unknown length, for which LiteRT has no operation; dense
# models are no different. With a length of its own each of them is exported.
OPEN = ("gemma", "gemma_lm", "llama")
# Its upsampling needs images of a known size when a graph is traced, in the dense model too.
NOT_EXPORTED = ("deeplab",)
EXPORTED = tuple(name for name in hub.CASES if name not in NOT_EXPORTED)


def of_length(model, inputs):
    """A model that takes sequences of one length."""
    given = {name: keras.Input(x.shape[1:], dtype="int32", name=name) for name, x in inputs.items()}
    return keras.Model(given, model(given))


def write_all(name, folder):
    """One model as `.keras` file, SavedModel and LiteRT file, with inputs and outputs."""
    made, inputs = CASES[name]
    model = made()
    inputs = objects.data(model) if inputs is None else inputs
    small = compress_model(model, format="tt", rank=2, exclude=())
    small.save(folder / f"{name}.keras")
    report = export_model(small, folder / name, samples=inputs, verify=False)
    fixed = of_length(small, inputs) if name in OPEN else small
    lite = export_model(fixed, folder / f"{name}.tflite", "litert", samples=inputs, verify=False)
    arrays = keras.tree.flatten(read_inputs(small, inputs).arrays().x)
    named = {f"in:{key}": array for key, array in zip(report.inputs, arrays, strict=True)}
    # Not as in training, which KerasHub's SegFormer takes a plain call for, dense as well.
    results = keras.tree.flatten(small(inputs, training=False))
    named |= {
        f"out:{key}": keras.ops.convert_to_numpy(result)
        for key, result in zip(report.outputs, results, strict=True)
    }
    # Inputs without a name of their own are called differently in each file.
    np.savez(folder / f"{name}.npz", **named, litert=list(lite.inputs))


@pytest.mark.slow
@pytest.mark.parametrize("names", [tuple(objects.OBJECTS), pytest.param(EXPORTED, marks=NEEDS_HUB)])
def test_what_is_saved_and_exported_is_the_same_in_a_new_process(names, tmp_path):
    for name in names:
        write_all(name, tmp_path)
    command = [sys.executable, "-m", "tests.rewriting.fresh", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "RESULT" in run.stdout, run.stderr[-3000:]
    found = json.loads(run.stdout.partition("RESULT")[2])
    assert set(found) == set(names)
    for name, distances in found.items():
        assert distances["keras"] == 0.0, (name, distances)
        assert distances["tf_saved_model"] < 1e-4, (name, distances)
        assert distances["litert"] < 1e-4, (name, distances)


@NEEDS_HUB
@pytest.mark.slow
@pytest.mark.parametrize("made", [hub.gemma_lm, hub.gpt2_lm])
def test_a_language_model_writes_the_same_text_at_full_rank(made, tmp_path):
    keras.utils.set_random_seed(0)
    model = made()
    model.compile(sampler="greedy")
    prompt = {
        "token_ids": np.array([[3, 5, 7, 9] + [0] * 8] * 2),
        "padding_mask": np.array([[1] * 4 + [0] * 8] * 2),
    }
    expected = model.generate(prompt, stop_token_ids=None)["token_ids"]
    full = compress_model(model, plan=every_kernel_at_full_rank(model))
    np.testing.assert_array_equal(full.generate(prompt, stop_token_ids=None)["token_ids"], expected)
    full.save(tmp_path / "full.keras")
    back = keras.models.load_model(tmp_path / "full.keras", compile=False)
    back.compile(sampler="greedy")
    np.testing.assert_array_equal(back.generate(prompt, stop_token_ids=None)["token_ids"], expected)
