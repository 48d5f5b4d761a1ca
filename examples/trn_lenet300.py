"""LeNet-300-100 as tensor rings on MNIST: Table 2 of Tensor Ring Nets (Wang et al. 2018).

    TFDS_DATA_DIR=... python examples/trn_lenet300.py --ranks 15 --epochs 10

Trains the dense network and its tensor-ring twins with Adam and appends each run, with its settings
and machine, to docs/results/trn_lenet300.json; runs that are recorded there are not done again.
`--smoke` trains one rank on scikit-learn's digits for two epochs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import records

from keras_tensornet import datasets, layers, models

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "trn_lenet300.json"
# Test error in % after 40 epochs, from Table 2 of the paper.
PAPER = {0: 2.50, 3: 8.53, 5: 3.75, 15: 2.64, 50: 2.31}


def build(data: datasets.ImageData, rank: int) -> keras.Model:
    """The dense network for rank 0, else rings with the paper's modes on MNIST's sizes."""
    shape = data.x_train.shape[1:]
    if rank == 0:
        return models.lenet300(shape, data.num_classes)
    modes = models.tensor_ring_modes("lenet300") if data.name == "mnist" else {}

    def dense(units, *, name, **kwargs):
        return layers.TRDense(units, rank, name=name, **modes.get(name, {}), **kwargs)

    return models.lenet300(shape, data.num_classes, dense=dense)


def train(data: datasets.ImageData, settings: dict) -> dict:
    """One run: the settings, the parameter count, and the test error of each epoch in %."""
    keras.utils.set_random_seed(settings["seed"])
    model = build(data, settings["rank"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    steps = settings["epochs"] * (len(data.x_train) // settings["batch_size"])
    rate = keras.optimizers.schedules.CosineDecay(settings["learning_rate"], steps)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    start = time.perf_counter()
    history = model.fit(
        data.x_train,
        data.y_train,
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        validation_data=(data.x_test, data.y_test),
        verbose=2,
    )
    errors = [round(100 * (1 - value), 3) for value in history.history["val_accuracy"]]
    return {
        "settings": settings,
        "params": model.count_params(),
        "test_error_by_epoch": errors,
        "test_error": errors[-1],
        "paper_test_error": PAPER.get(settings["rank"]),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    """Train every rank and seed that is not recorded yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[0, 3, 5, 15, 50])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.ranks, arguments.seeds, arguments.epochs = [5], [0], 2
    data = datasets.load("digits" if arguments.smoke else "mnist")
    for rank in arguments.ranks:
        for seed in arguments.seeds:
            settings = {
                "dataset": data.name,
                "rank": rank,
                "seed": seed,
                "epochs": arguments.epochs,
                "batch_size": arguments.batch_size,
                "learning_rate": arguments.learning_rate,
                "schedule": "cosine",
                "optimizer": "adam",
            }
            run = None if arguments.smoke else records.find(arguments.results, settings)
            if run is None:
                run = train(data, settings)
                if not arguments.smoke:
                    records.add(arguments.results, run)
            print(f"rank {rank} seed {seed}: {run['params']} params, error {run['test_error']} %")


if __name__ == "__main__":
    main()
