"""A small Transformer classifier whose every weight matrix is factorized, beside its dense twin.

The task needs no download: scikit-learn's 8 x 8 digits, each read as a sequence of 64 tokens, one
for each pixel, with its brightness 0 to 16 as the token. Embeddings, the four projections of every
attention, the feed-forward layers and the classifier are tensor rings; only biases and layer
normalisations are dense.

    python examples/transformer.py             # minutes; runs already in the results are skipped
    python examples/transformer.py --smoke     # seconds: a few steps, nothing is kept

Writes down parameters and accuracy of both, and how far the saved and the exported models are from
the model in memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import records

from keras_tensornet import datasets
from keras_tensornet.layers import FactorizedMultiHeadAttention, TRDense, TREmbedding

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "transformer.json"
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


def run(settings: dict) -> dict:
    """Train one of the two; of the factorized one also what becomes of it in files."""
    digits = datasets.load("digits")
    chosen = slice(settings["examples"])
    train_set = as_tokens(digits.x_train)[chosen], digits.y_train[chosen]
    test_set = as_tokens(digits.x_test)[chosen], digits.y_test[chosen]
    keras.utils.set_random_seed(settings["seed"])
    factorized = settings["model"] == "factorized"
    model = make_classifier(Factorized if factorized else Dense, blocks=settings.get("blocks", 2))
    start = time.perf_counter()
    accuracy = train(model, (*train_set, *test_set), settings["epochs"], settings["seed"])
    result = {"settings": settings, "params": model.count_params(), "test_accuracy": accuracy}
    result["seconds"] = round(time.perf_counter() - start, 1)
    if factorized:
        result["largest_difference_of_logits"] = differences(model, test_set[0][:8])
    return result


def main() -> None:
    """Train what has not been trained, then print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="one epoch on little data")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    shared = {"data": "digits", "epochs": arguments.epochs, "examples": None}
    if arguments.smoke:
        shared |= {"epochs": 1, "examples": 64, "blocks": 1}
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "smoke.json" if arguments.smoke else arguments.results
        for seed in arguments.seeds[:1] if arguments.smoke else arguments.seeds:
            for model in ("dense", "factorized"):
                settings = {"model": model, "seed": seed, **shared}
                if records.find(results, settings) is None:
                    records.add(results, run(settings))
        for entry in records.read(results):
            settings = entry["settings"]
            print(
                f"{settings['model']:10}  seed {settings['seed']}  {entry['params']:7,} parameters"
                f"  test accuracy {entry['test_accuracy']:.1%}"
            )
            for name, difference in entry.get("largest_difference_of_logits", {}).items():
                print(f"largest difference of logits, {name}: {difference:.1e}")


if __name__ == "__main__":
    main()
