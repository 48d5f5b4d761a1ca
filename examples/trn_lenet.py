"""LeNets as tensor rings on MNIST: Tables 2 and 4 of Tensor Ring Nets (Wang et al. 2018).

    TFDS_DATA_DIR=... python examples/trn_lenet.py lenet300      # Table 2, 40 epochs
    TFDS_DATA_DIR=... python examples/trn_lenet.py lenet5        # Table 4, 20 epochs

Trains the dense network, its tensor-ring twins, and for comparison what the paper compares with:
matrices of low rank in LeNet-300-100, Tucker in LeNet-5. Each run is appended, with its settings
and machine, to docs/results/trn_<network>.json; runs that are recorded there are not done again.
`--smoke` trains one rank on scikit-learn's digits for two epochs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import records

from keras_tensornet import datasets, layers, models

METHODS = ("dense", "ring", "matrix", "tucker")
FOLDER = Path(__file__).parents[1] / "docs" / "results"


@dataclass(frozen=True)
class Table:
    """One table of the paper: its runs and its protocol.

    Attributes:
        paper: `(method, rank) -> test error in %` as published; rank 0 is the dense network.
        epochs: of each run.
        learning_rate: of Adam at the start; it falls as a cosine. One for all ranks, where the
            paper chose one for each.
    """

    paper: dict[tuple[str, int], float]
    epochs: int
    learning_rate: float


TABLES = {
    "lenet300": Table(
        {
            ("dense", 0): 2.50,
            ("ring", 3): 8.53,
            ("ring", 5): 3.75,
            ("ring", 15): 2.64,
            ("ring", 50): 2.31,
            ("matrix", 10): 3.91,
            ("matrix", 20): 3.0,
            ("matrix", 50): 2.62,
        },
        epochs=40,
        learning_rate=2e-3,
    ),
    "lenet5": Table(
        {
            ("dense", 0): 0.79,
            ("ring", 3): 2.24,
            ("ring", 5): 1.64,
            ("ring", 10): 1.39,
            ("ring", 15): 0.81,
            ("ring", 20): 0.69,
            # The paper does not say which ranks; these give about its 189 thousand parameters.
            ("tucker", 115): 0.85,
        },
        epochs=20,
        learning_rate=2e-3,
    ),
}


def build(network: str, data: datasets.ImageData, method: str, rank: int) -> keras.Model:
    """The network with the layers of a method; rings have the paper's modes on MNIST's sizes."""
    shape = data.x_train.shape[1:]
    make = models.lenet300 if network == "lenet300" else models.lenet5
    if method == "dense":
        return make(shape, data.num_classes)
    modes = models.tensor_ring_modes(network) if data.name == "mnist" else {}

    def dense(units, *, name, **kwargs):
        if method == "ring":
            return layers.TRDense(units, rank=rank, name=name, **modes.get(name, {}), **kwargs)
        if method == "tucker" and name == "fc2":  # too small to gain from factors
            return keras.layers.Dense(units, name=name, **kwargs)
        # Inputs and outputs whole, a train is a product of two matrices.
        whole = {"format": "tt", "in_modes": 1, "out_modes": 1}
        return layers.FactorizedDense(units, rank=min(rank, units), name=name, **whole, **kwargs)

    def conv(filters, kernel_size, *, name, **kwargs):
        if method == "ring":
            own = modes.get(name, {})
            return layers.TRConv2D(
                filters, kernel_size, rank=rank, spatial="separate", name=name, **own, **kwargs
            )
        if name == "conv1":
            return keras.layers.Conv2D(filters, kernel_size, name=name, **kwargs)
        return layers.TuckerConv2D(filters, kernel_size, rank=(10, 20), name=name, **kwargs)

    factories = {"dense": dense} if network == "lenet300" else {"dense": dense, "conv": conv}
    return make(shape, data.num_classes, **factories)


def train(network: str, data: datasets.ImageData, settings: dict) -> dict:
    """One run: the settings, the parameter count, and the test error of each epoch in %."""
    method, rank = settings["method"], settings["rank"]
    keras.utils.set_random_seed(settings["seed"])
    model = build(network, data, method, rank)
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
        "paper_test_error": TABLES[network].paper.get((method, rank)),
        "seconds": round(time.perf_counter() - start, 1),
    }


def all_settings(arguments, dataset: str) -> Iterator[dict]:
    """The settings of every run asked for."""
    table = TABLES[arguments.network]
    wanted = [
        (method, rank)
        for method, rank in table.paper
        if method in arguments.methods and (not arguments.ranks or rank in arguments.ranks)
    ]
    for method, rank in [("ring", 5)] if arguments.smoke else wanted:
        for seed in arguments.seeds[:1] if arguments.smoke else arguments.seeds:
            yield {
                "dataset": dataset,
                "method": method,
                "rank": rank,
                "seed": seed,
                "epochs": 2 if arguments.smoke else arguments.epochs or table.epochs,
                "batch_size": 128,
                "learning_rate": arguments.learning_rate or table.learning_rate,
                "schedule": "cosine",
                "optimizer": "adam",
            }


def main() -> None:
    """Train what is not recorded yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="?", choices=list(TABLES), default="lenet300")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--ranks", type=int, nargs="+", help="only these ranks; dense is 0")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="instead of the paper's")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--results", type=Path, help="instead of docs/results")
    parser.add_argument("--smoke", action="store_true", help="seconds, nothing is kept")
    arguments = parser.parse_args()
    data = datasets.load("digits" if arguments.smoke else "mnist")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if arguments.smoke else FOLDER
        results = arguments.results or folder / f"trn_{arguments.network}.json"
        for settings in all_settings(arguments, data.name):
            run = records.find(results, settings)
            if run is None:
                run = train(arguments.network, data, settings)
                records.add(results, run)
            print(
                f"{settings['method']} rank {settings['rank']} seed {settings['seed']}: "
                f"{run['params']:,} parameters, error {run['test_error']} % "
                f"(paper: {run['paper_test_error']} %)",
                flush=True,
            )


if __name__ == "__main__":
    main()
