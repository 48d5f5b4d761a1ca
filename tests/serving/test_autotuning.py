"""Tuning: measured choices are applied, saved with the model, and read from a file."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_tensornet as kt
from keras_tensornet import layers
from keras_tensornet.serving.autotuning import Tuning


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((None, None, 4)),
            layers.TRConv2D(8, 3, 2, padding="same", name="first"),
            layers.TRConv2D(8, 3, 2, padding="same", name="second"),
            layers.TRConv2D(8, 3, 2, padding="same", name="third"),
            keras.layers.GlobalAveragePooling2D(),
            layers.TTDense(5, 2, name="head"),
        ]
    )


@pytest.mark.parametrize("training", [False, True])
def test_the_fastest_measured_chain_is_kept(model, training):
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype("float32")
    before = ops.convert_to_numpy(model(images))
    seen = []
    tuning = kt.autotune(model, 2, training, candidates=2, progress=lambda *step: seen.append(step))
    assert [found.layer for found in tuning.measurements] == ["first", "second", "third", "head"]
    assert seen[-1] == (4, 4, "head")
    phase, other = ("training", "inference") if training else ("inference", "training")
    for found in tuning.measurements:
        times = [time for _, time in found.milliseconds]
        assert times == sorted(times)
        assert any(chain.endswith(":dense") for chain, _ in found.milliseconds)
        implementation = model.get_layer(found.layer).implementation
        assert implementation == {phase: found.chosen, other: "auto"}
    # layers of equal shapes share their measurement
    second, third = tuning.measurements[1:3]
    assert second.milliseconds == third.milliseconds
    np.testing.assert_allclose(ops.convert_to_numpy(model(images)), before, rtol=1e-4, atol=1e-7)


def test_choices_are_saved_with_the_model(model, tmp_path):
    kt.autotune(model, 2, candidates=1)
    model.save(tmp_path / "tuned.keras")
    loaded = keras.models.load_model(tmp_path / "tuned.keras")
    first = loaded.get_layer("first")
    assert first.implementation == model.get_layer("first").implementation
    assert first.plan.describe() == first.implementation["inference"]


def test_choices_go_to_a_file_and_back(model, tmp_path):
    tuning = kt.autotune(model, 2, candidates=1)
    tuning.save(tmp_path / "tuning.json")
    other = keras.models.clone_model(model)
    other.get_layer("first").implementation = "auto"
    assert kt.apply_tuning(other, tmp_path / "tuning.json") is other
    assert other.get_layer("first").plan.describe() == tuning.measurements[0].chosen
    assert list(tmp_path.iterdir()) == [tmp_path / "tuning.json"]
    assert "chosen" in str(tuning)


def test_a_foreign_file_or_model_is_refused(model, tmp_path):
    path = tmp_path / "tuning.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="no file of tuned choices"):
        kt.apply_tuning(model, path)
    path.write_text(json.dumps({"training": False, "implementation": {"elsewhere": "auto"}}))
    with pytest.raises(ValueError, match=r"another model. Received layers \['elsewhere'\]"):
        kt.apply_tuning(model, path)
    assert model.get_layer("first").implementation == "auto"


def test_a_failed_save_leaves_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Tuning(False).save(tmp_path / "missing" / "tuning.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch_size", [0, -1])
def test_the_batch_size_must_be_positive(model, batch_size):
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        kt.autotune(model, batch_size)
