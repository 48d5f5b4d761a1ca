"""Factorized times quantized: bytes on disk and accuracy of LeNet-5 and ResNet-20 as LiteRT files.

Four files of each network: dense and factorized, float32 and int8 (weights and activations, ranges
from 200 training images). The accuracy is that of the file, run by the LiteRT interpreter on test
images. Nothing is fine-tuned after the compression.

    python examples/quantize.py --resnet20 resnet20.keras    # docs/results/quantize_litert.json
    python examples/quantize.py --smoke                      # a minute, nothing is kept

`--resnet20` is a trained `models.resnet_cifar(20)`; LeNet-5 is trained here.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import records

from keras_tensornet import datasets, models
from keras_tensornet.compression import compress_model
from keras_tensornet.export import export_model

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "quantize_litert.json"
# Shares of the dense parameters that the compressed networks keep.
SHARES = {"lenet5": 0.1, "resnet20": 0.5}
CALIBRATION = 200


def main() -> int:
    """Every network, every file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resnet20", type=Path, metavar="FILE.keras")
    parser.add_argument("--epochs", type=int, default=5, help="of LeNet-5")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--smoke", action="store_true", help="digits, one epoch, nothing is kept")
    arguments = parser.parse_args()
    print("network   form        bytes of float32, accuracy   bytes of int8, accuracy")
    if arguments.smoke:
        data = datasets.load("digits")
        study("digits", trained(small_cnn(), data, 3), data, 0.5, 100, keep=False)
        return 0
    data = datasets.load("mnist")
    dense = trained(models.lenet5(), data, arguments.epochs)
    study("lenet5", dense, data, SHARES["lenet5"], arguments.images)
    if arguments.resnet20:
        data = datasets.load("cifar10")
        dense = keras.models.load_model(arguments.resnet20)
        study("resnet20", dense, data, SHARES["resnet20"], arguments.images)
    return 0


def small_cnn() -> keras.Model:
    """A network for 8x8 images."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv1"),
            keras.layers.Conv2D(32, 3, activation="relu", name="conv2"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="fc1"),
            keras.layers.Dense(10, name="fc2"),
        ]
    )


def trained(model: keras.Model, data, epochs: int) -> keras.Model:
    """The model, trained by Adam."""
    keras.utils.set_random_seed(0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    model.fit(data.x_train, data.y_train, batch_size=128, epochs=epochs, verbose=0)
    return model


def study(name: str, dense: keras.Model, data, share: float, images: int, keep=True) -> None:
    """Compress, write four files, measure, print two lines."""
    calibration = data.x_train[:1000]
    compressed = compress_model(
        dense, "tt", params=share, calibration_data=calibration, recover=False
    )
    result = {"settings": {"network": name, "share": share, "test_images": images}}
    for label, model, form in (("dense", dense, "dense"), ("factorized", compressed, "stock")):
        row = {"params": model.count_params()}
        for quantize in (None, "int8"):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "model.tflite")
                report = export_model(
                    model,
                    file,
                    "litert",
                    form,
                    quantize,
                    samples=data.x_test[:8],
                    calibration_data=data.x_train[:CALIBRATION],
                    tolerance=None if quantize is None else 1.0,
                )
                row[quantize or "float32"] = {
                    "bytes": report.size,
                    "accuracy": accuracy(file, data.x_test[:images], data.y_test[:images]),
                }
        result[label] = row
        cells = (f"{row[q]['bytes']:>12,}  {row[q]['accuracy']:.2%}" for q in ("float32", "int8"))
        print(f"{name:<9} {label:<10}  {'         '.join(cells)}", flush=True)
    if keep:
        records.add(RESULTS, result)


def accuracy(file: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images that the LiteRT file classifies correctly."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_path=str(file))
    runner = interpreter.get_signature_runner("serving_default")
    (name,) = runner.get_input_details()
    hits = 0
    for first in range(0, len(images), 100):
        batch = images[first : first + 100]
        (logits,) = runner(**{name: batch}).values()
        hits += int((logits.argmax(axis=-1) == labels[first : first + 100]).sum())
    return hits / len(images)


if __name__ == "__main__":
    sys.exit(main())
