"""Laws of compaction: the same model to every reader, in fewer bytes."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_tensornet.export import writers
from keras_tensornet.export.compaction import compacted

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="LiteRT is written from TensorFlow"
)
RANDOM = np.random.default_rng(0)


def outputs(content: bytes, images):
    import tensorflow as tf

    runner = tf.lite.Interpreter(model_content=content).get_signature_runner("serving_default")
    return runner(image=images)["out"]


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_outputs_are_the_same_in_fewer_bytes(quantize, monkeypatch, tmp_path):
    keras.utils.set_random_seed(0)
    x = inputs = layers.Input((8, 8, 3), name="image")
    for _ in range(2):
        x = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.Flatten()(x)))
    found = []
    monkeypatch.setattr(writers, "compacted", lambda content: found.append(content) or content)
    images = RANDOM.standard_normal((8, 8, 8, 3)).astype("float32")
    writers.write_litert(model, tmp_path / "m.tflite", quantize, {"image": images})
    small = compacted(found[0])
    np.testing.assert_array_equal(outputs(small, images), outputs(found[0], images))
    assert len(small) < len(found[0]) - 500
    assert compacted(small) == small
