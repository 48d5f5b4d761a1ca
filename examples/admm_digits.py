"""What decomposition costs after ADMM, by the way that kernels are pulled: two small networks.

    python examples/admm_digits.py            # what is missing, then the table; minutes
    python examples/admm_digits.py --report   # only the tables
    python examples/admm_digits.py --smoke    # seconds, nothing is kept

scikit-learn's digits, networks trained from scratch with Adam: a CNN of 24, 48 and 64 filters as
tensor trains at a sixth of its parameters, and a dense network of three hidden layers of 96 units
as TT-matrices at a fifth. Pulled from the first step, then decomposed, then trained for a few
epochs more. Three seeds; settings were chosen while looking at them, so what U is worth is asked
again on three others.
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
from keras_tensornet.compression import compress_model
from keras_tensornet.training import ADMM

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "admm_digits.json"
SEEDS, FRESH_SEEDS = (0, 1, 2), (3, 4, 5)
BATCH, RATE, FINETUNE = 32, 3e-3, 4
# name of the network -> epochs, plan
NETWORKS = {
    "dense": (14, {"format": "ttm", "params": 1 / 5}),
    "cnn": (12, {"format": "tt", "params": 1 / 6}),
}
# what is pulled how; None is no ADMM at all
WAYS = {
    "none": None,
    "penalty": {"rho": 0.02},
    "growing pull": {},
    "growing pull, ranks found on the way": {"ranks_from": 3.0, "replan": 4},
    "pull 0.01, then hard": {"pull": 0.01, "hard": 1 / 3, "hard_every": 2},
    "pull 0.1, every epoch": {"pull": 0.1, "every": "epoch"},
    "growing pull, without U": {"dual": False},
    "growing pull, larger ranks first": {"ranks_from": 3.0},
}


FRESH_WAYS = ("growing pull", "growing pull, without U")


def build(network: str) -> keras.Model:
    """The dense network."""
    layers = keras.layers
    if network == "dense":
        hidden = [layers.Dense(96, activation="relu", name=f"hidden{n}") for n in (1, 2, 3)]
        return keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Flatten(), *hidden, layers.Dense(10, name="classifier")]
        )
    options = {"kernel_size": 3, "padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(24, name="conv1", **options),
            layers.Conv2D(48, name="conv2", **options),
            layers.MaxPooling2D(),
            layers.Conv2D(64, name="conv3", **options),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, name="classifier"),
        ]
    )


def compiled(model: keras.Model) -> keras.Model:
    """The model, ready for training."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss, metrics=["accuracy"])
    return model


def run(data: datasets.ImageData, settings: dict) -> dict:
    """Train, decompose, train on; the accuracies in %."""
    keras.utils.set_random_seed(settings["seed"])
    epochs, plan = settings["epochs"], settings["plan"]
    model = compiled(build(settings["network"]))
    admm = None if settings["admm"] is None else ADMM(**plan, **settings["admm"])
    began = time.perf_counter()
    arguments = {"batch_size": BATCH, "verbose": 0}
    callbacks = [] if admm is None else [admm]
    model.fit(data.x_train, data.y_train, epochs=epochs, callbacks=callbacks, **arguments)
    seconds = time.perf_counter() - began

    def accuracy(model) -> float:
        return round(100 * model.evaluate(data.x_test, data.y_test, verbose=0)[1], 2)

    chosen = plan if admm is None else {"plan": admm.plan}
    small = compiled(compress_model(model, **chosen))
    outcome = {"params": small.count_params(), "dense_params": model.count_params()}
    outcome |= {"before": accuracy(model), "after": accuracy(small)}
    small.fit(data.x_train, data.y_train, epochs=settings["finetune"], **arguments)
    outcome |= {"finetuned": accuracy(small), "seconds": round(seconds, 1)}
    if admm is not None:
        outcome["residuals"] = {
            path: round(rows["primal"][-1], 5) for path, rows in admm.history.items()
        }
    return outcome


def report(runs: list[dict], seeds=SEEDS) -> None:
    """Means over the seeds."""
    print("| network | kernels are pulled | before | at decomposition | drop | after four epochs |")
    print("|---|---|---|---|---|---|")
    for network in NETWORKS:
        for way in WAYS:
            found = [
                one
                for one in runs
                if (one["settings"]["network"], one["settings"]["way"]) == (network, way)
                and one["settings"]["seed"] in seeds
            ]
            if found:
                before, after, end = (
                    np.mean([one[key] for one in found]) for key in ("before", "after", "finetuned")
                )
                figures = [
                    f"{before:.2f} %",
                    f"{after:.2f} %",
                    f"{before - after:.2f}",
                    f"{end:.2f} %",
                ]
                print(f"| {network} | {way} | {' | '.join(figures)} |")


def main() -> None:
    """Train what is not recorded yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, nothing is kept")
    parser.add_argument("--report", action="store_true", help="no runs, only the table")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json" if arguments.smoke else arguments.results
        data = datasets.load("digits")
        networks = list(NETWORKS.items())[:1] if arguments.smoke else list(NETWORKS.items())
        ways = ["growing pull"] if arguments.smoke else list(WAYS)
        for way in [] if arguments.report else ways:
            for network, (epochs, plan) in networks:
                fresh = FRESH_SEEDS if way in FRESH_WAYS else ()
                for seed in SEEDS[:1] if arguments.smoke else (*SEEDS, *fresh):
                    settings = {
                        "network": network,
                        "way": way,
                        "admm": WAYS[way],
                        "plan": plan,
                        "seed": seed,
                        "epochs": 2 if arguments.smoke else epochs,
                        "finetune": 1 if arguments.smoke else FINETUNE,
                        "batch_size": BATCH,
                        "learning_rate": RATE,
                    }
                    if records.find(results, settings) is None:
                        records.add(results, {"settings": settings, **run(data, settings)})
        report(records.read(results))
        if not arguments.smoke:
            report(records.read(results), FRESH_SEEDS)


if __name__ == "__main__":
    main()
