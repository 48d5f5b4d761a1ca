"""Laws of rewriting inside layers that hold layers, subclassed models and models of models."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_tensornet.compression import compress_model
from keras_tensornet.compression.kinds import kind_of
from keras_tensornet.rewriting.walker import rewrite_model, walk_layers
from tests.rewriting.objects import OBJECTS, data


@pytest.fixture(scope="module", params=OBJECTS)
def model(request):
    keras.utils.set_random_seed(0)
    return OBJECTS[request.param]()


def outputs(model, inputs):
    return [keras.ops.convert_to_numpy(out) for out in keras.tree.flatten(model(inputs))]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def compressed(model, **options):
    options = {"format": "tt", "rank": 2, "exclude": ()} | options
    return compress_model(model, **options)


def test_the_walk_reaches_every_layer_that_keras_tracks(model):
    walked = {id(layer) for _, layer in walk_layers(model)}
    paths = [path for path, _ in walk_layers(model)]
    assert len(paths) == len(set(paths))
    for layer in model._flatten_layers():
        if kind_of(layer):
            assert id(layer) in walked, layer.path


def test_a_clone_computes_the_same_and_shares_nothing(model):
    inputs, before = data(model), None
    before = outputs(model, inputs)
    clone = rewrite_model(model, lambda layer, path: None)
    assert type(clone) is type(model)
    assert same(before, outputs(clone, inputs))
    assert not {id(v) for v in clone.variables} & {id(v) for v in model.variables}
    for variable in clone.trainable_variables:
        variable.assign(keras.ops.zeros_like(variable))
    assert same(before, outputs(model, inputs))


def test_replacements_are_saved_loaded_cloned_and_rewritten_again(model, tmp_path):
    small = compressed(model)
    assert small.count_params() < model.count_params()
    assert type(small).__name__ == type(model).__name__
    inputs = data(model)
    expected = outputs(small, inputs)
    small.save(tmp_path / "small.keras")
    back = keras.models.load_model(tmp_path / "small.keras")
    assert same(expected, outputs(back, inputs))
    assert len(back.weights) == len(small.weights) == len({id(v) for v in small.weights})
    back.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    assert same(expected, outputs(again, inputs))
    back.save_weights(tmp_path / "w.weights.h5")
    again.load_weights(tmp_path / "w.weights.h5")
    assert same(expected, outputs(rewrite_model(back, lambda layer, path: None), inputs))
    assert [path for path, _ in walk_layers(back)] == [path for path, _ in walk_layers(small)]
    assert [path for path, _ in walk_layers(model)] == [path for path, _ in walk_layers(small)]


def test_a_new_process_gives_equal_outputs(tmp_path):
    script = """
import json, sys
import keras, numpy as np
import keras_tensornet, tests.rewriting.objects as objects
model = keras.models.load_model(sys.argv[1])
outputs = keras.tree.flatten(model(objects.data(model)))
print("RESULT" + json.dumps([np.asarray(output).tolist() for output in outputs]))
"""
    model = compressed(OBJECTS["mixed"]())
    model.save(tmp_path / "m.keras")
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m.keras")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "RESULT" in run.stdout, run.stderr[-3000:]
    found = json.loads(run.stdout.partition("RESULT")[2])
    assert same(outputs(model, data(model)), [np.asarray(o, "float32") for o in found])
