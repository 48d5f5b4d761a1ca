"""Read digits row by row: LSTMs whose kernels are tensor trains and rings against the dense LSTM.

An image is a sequence of its rows. A row of MNIST has 28 pixels only, so the input kernel is the
smaller part of the layer and the recurrent kernel the larger; the last rows factorize both. For
inputs as wide as LSTMs are compressed for in earnest see `video_lstm.py`.

    python examples/recurrent.py             # MNIST; runs already in the results are skipped
    python examples/recurrent.py --smoke     # seconds: the 8 x 8 digits of scikit-learn
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import records

from keras_tensornet import datasets, layers

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "recurrent.json"
UNITS = 256
ROW_MODES = {28: (4, 7), 8: (2, 4)}
MODELS = {
    "LSTM": {},
    "TTLSTM, input": {"layer": "TTLSTM", "rank": 4},
    "TRLSTM, input": {"layer": "TRLSTM", "rank": 5},
    "TTLSTM, both": {"layer": "TTLSTM", "rank": 4, "recurrent_rank": 8},
    "TRLSTM, both": {"layer": "TRLSTM", "rank": 5, "recurrent_rank": 8},
}


def make_model(settings: dict, row: int, rows: int) -> keras.Model:
    """One recurrent layer and a classifier of ten digits."""
    keras.utils.set_random_seed(settings["seed"])
    choice = dict(MODELS[settings["model"]])
    if choice:
        layer_class = getattr(layers, choice.pop("layer"))
        modes = {"in_modes": ROW_MODES[row], "out_modes": (16, 16)}
        lstm = layer_class(UNITS, seed=settings["seed"], **modes, **choice)
    else:
        lstm = keras.layers.LSTM(UNITS)
    model = keras.Sequential([keras.Input((rows, row)), lstm, keras.layers.Dense(10)])
    model.compile(
        keras.optimizers.Adam(settings["learning_rate"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def count(weights) -> int:
    """Number of entries of some variables."""
    return sum(math.prod(weight.shape) for weight in weights)


def run(settings: dict) -> dict:
    """Train and test one model."""
    data = datasets.load(settings["data"])
    train, test = (images[..., 0] for images in (data.x_train, data.x_test))
    chosen = slice(settings["train_images"])
    model = make_model(settings, train.shape[2], train.shape[1])
    lstm = model.layers[0]
    dense = isinstance(lstm, keras.layers.LSTM)
    began = time.perf_counter()
    history = model.fit(
        train[chosen],
        data.y_train[chosen],
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        validation_data=(test, data.y_test),
        verbose=0,
    ).history
    recurrent = [lstm.cell.recurrent_kernel]
    return {
        "settings": settings,
        "input_to_hidden_parameters": count([lstm.cell.kernel] if dense else lstm.cores),
        "recurrent_parameters": count(recurrent if dense else lstm.recurrent_cores or recurrent),
        "all_parameters": model.count_params(),
        "test_accuracy": history["val_accuracy"][-1],
        "test_accuracy_by_epoch": [round(value, 4) for value in history["val_accuracy"]],
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Run what has not been run, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, nothing kept")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--train-images", type=int, default=60_000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    shared = {"data": "mnist", "train_images": arguments.train_images, "batch_size": 128}
    shared |= {"epochs": arguments.epochs, "learning_rate": 2e-3}
    if arguments.smoke:
        shared |= {"data": "digits", "train_images": 64, "epochs": 1}
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "smoke.json" if arguments.smoke else arguments.results
        for model in arguments.models:
            for seed in arguments.seeds[:1] if arguments.smoke else arguments.seeds:
                settings = {"model": model, "seed": seed, **shared}
                if records.find(results, settings) is None:
                    records.add(results, run(settings))
        print_table(records.read(results))


def print_table(runs: list[dict]) -> None:
    """Parameters and accuracies of all runs."""
    print(f"{'model':14} {'input':>7} {'recurrent':>9} {'epochs':>6} {'test accuracy':>14}")
    for entry in runs:
        settings = entry["settings"]
        print(
            f"{settings['model']:14} {entry['input_to_hidden_parameters']:7,} "
            f"{entry['recurrent_parameters']:9,} {settings['epochs']:6} "
            f"{entry['test_accuracy']:14.2%}"
        )


if __name__ == "__main__":
    main()
