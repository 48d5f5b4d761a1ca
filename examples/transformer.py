"""A small Transformer classifier whose every weight matrix is factorized, beside its dense twin.

The task needs no download: scikit-learn's 8 x 8 digits, each read as a sequence of 64 tokens, one
for each pixel, with its brightness 0 to 16 as the token. Embeddings, the four projections of every
attention, the feed-forward layers and the classifier are tensor rings; only biases and layer
normalisations are dense.

    python examples/transformer.py             # minutes
    python examples/transformer.py --smoke     # seconds: a few steps, to show that it works

Prints parameters and accuracy of both, and how far the saved and the exported models are from the
model in memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_tensornet import datasets
from keras_tensornet.layers import FactorizedMultiHeadAttention, TRDense, TREmbedding

TOKENS, LENGTH, CLASSES = 17, 64, 10


class Dense:
    """Makers of the dense twin's layers."""

    embedding = keras.layers.Embedding
    dense = keras.layers.Dense
    attention = keras.layers.MultiHeadAttention


class Factorized:
    """Makers of the same layers with tensor-ring kernels."""

    @staticmethod
    def embedding(rows, width, **kwargs):
        return TREmbedding(rows, width, rank=4, **kwargs)

    @staticmethod
    def dense(units, **kwargs):
        # The dense twin's initializer: it draws the merged kernel, not the cores.
        return TRDense(units, rank=8, kernel_initializer="glorot_uniform", **kwargs)

    @staticmethod
    def attention(heads, size, **kwargs):
        return FactorizedMultiHeadAttention(heads, size, rank=8, **kwargs)


def make_classifier(make, width: int = 64, heads: int = 4, blocks: int = 2) -> keras.Model:
    """The classifier with the layers that `make` makes: tokens (B, 64) to logits (B, 10)."""
    tokens = keras.Input((LENGTH,), dtype="int32")
    places = keras.ops.arange(LENGTH)
    x = make.embedding(TOKENS, width, name="tokens")(tokens)
    x = keras.layers.Add()([x, make.embedding(LENGTH, width, name="places")(places + 0 * tokens)])
    for _ in range(blocks):
        y = keras.layers.LayerNormalization()(x)
        x = keras.layers.Add()([x, make.attention(heads, width // heads)(y, y)])
        y = keras.layers.LayerNormalization()(x)
        y = make.dense(4 * width, activation="gelu")(y)
        x = keras.layers.Add()([x, make.dense(width)(y)])
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.LayerNormalization()(x))
    return keras.Model(tokens, make.dense(CLASSES)(x))


def as_tokens(images: np.ndarray) -> np.ndarray:
    """Images (n, 8, 8, 1) in [0, 1] as sequences (n, 64) of brightness 0 to 16."""
    return np.rint(images.reshape(len(images), LENGTH) * (TOKENS - 1)).astype("int32")


def train(model: keras.Model, data, epochs: int, seed: int) -> float:
    """Train and return the test accuracy."""
    keras.utils.set_random_seed(seed)
    model.compile(
        keras.optimizers.AdamW(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x_train, y_train, x_test, y_test = data
    model.fit(x_train, y_train, batch_size=32, epochs=epochs, verbose=0)
    return model.evaluate(x_test, y_test, verbose=0)[1]


def differences(model: keras.Model, tokens: np.ndarray) -> dict[str, float]:
    """Largest difference of logits after saving and loading, and after each kind of export."""
    import tensorflow as tf

    wanted = model.predict(tokens, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model.save(path / "model.keras")
        loaded = keras.models.load_model(path / "model.keras").predict(tokens, verbose=0)
        model.export(str(path / "saved"), verbose=False)
        saved = tf.saved_model.load(str(path / "saved"))
        served = saved.serve(tokens).numpy()
        model.export(str(path / "model.tflite"), format="litert", verbose=False)
        lite = run_lite(path / "model.tflite", tokens)
    found = {"Keras file": loaded, "SavedModel": served, "LiteRT": lite}
    return {name: float(np.max(np.abs(outputs - wanted))) for name, outputs in found.items()}


def run_lite(path: Path, tokens: np.ndarray) -> np.ndarray:
    """Outputs of a LiteRT file in the interpreter that has built-in operations only."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path))
    entry = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(entry["index"], tokens.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], tokens.astype(entry["dtype"]))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def main() -> None:
    """Train both, and check the factorized one saved and exported."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="one epoch on little data")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    digits = datasets.load("digits")
    few = 64 if arguments.smoke else None
    data = (as_tokens(digits.x_train)[:few], digits.y_train[:few])
    data += (as_tokens(digits.x_test)[:few], digits.y_test[:few])
    epochs = 1 if arguments.smoke else arguments.epochs
    for name, make in (("dense", Dense), ("factorized", Factorized)):
        keras.utils.set_random_seed(arguments.seed)
        model = make_classifier(make)
        accuracy = train(model, data, epochs, arguments.seed)
        print(f"{name:10}  {model.count_params():7,} parameters  test accuracy {accuracy:.1%}")
    for name, difference in differences(model, data[2][:8]).items():
        print(f"largest difference of logits, {name}: {difference:.1e}")


if __name__ == "__main__":
    main()
