"""ADMM on LeNet-5 and MNIST: against direct decomposition and training from scratch, same epochs.

The networks and the ratios are those of Yin et al. 2021, Table 1: LeNet-5 with TT-matrix layers of
one rank, 17.9 and 8.3 times fewer parameters. For each seed a dense network is trained first; then,
with the same number of epochs in all,

- admm: ADMM training of the dense network with the paper's penalty, decomposition, fine-tuning;
- pull: the same with the package's default, the growing pull;
- direct: decomposition, then fine-tuning for all epochs that are left;
- calibrated: the same by a budget, with calibration and recovery on 1,000 images first;
- scratch: the TT network from random cores, for all epochs;
- dense: the dense network, for all epochs.

    python examples/admm_lenet5.py            # all runs; those already in the results are skipped
    python examples/admm_lenet5.py --smoke    # seconds: scikit-learn's digits, nothing is kept
    python examples/admm_lenet5.py --report   # only print the table and draw the figure
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import admm_study
import keras

from keras_tensornet import datasets, models

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "admm_lenet5.json"
PAPER = {17.9: 0.9948, 8.3: 0.9951}
SEEDS = (0, 1, 2)
BATCH = 128


def study(arguments, results: Path, cache: Path) -> admm_study.Study:
    """The comparison on MNIST, or on scikit-learn's digits."""
    name = "digits" if arguments.smoke else "mnist"
    data = datasets.load(name)
    whole = {"dense": 4, "admm": 4, "finetune": 2}
    settings = {
        "task": f"lenet on {name}",
        "epochs": {"dense": 2, "admm": 1, "finetune": 1} if arguments.smoke else whole,
        "batch_size": BATCH,
        "optimizer": {
            "dense, scratch, fine-tuning": "Adam 0.001",
            "ADMM": "SGD 0.05, momentum 0.9, nesterov",
            "schedule": "cosine decay in each phase",
        },
        "rho": 0.05,
        "adaptive_rho": False,
        "every": 3 if arguments.smoke else 117,  # four updates in an epoch
        "format": "ttm",
        "calibration_images": 200 if arguments.smoke else 1000,
        "recovery_epochs": 1 if arguments.smoke else 30,
    }

    def trained(seed):
        file = cache / f"{settings['task'].replace(' ', '_')}_{seed}.keras"
        if not file.exists():
            model = models.lenet300((8, 8, 1)) if arguments.smoke else models.lenet5()
            compile(model, settings["epochs"]["dense"], False)
            train(model, settings["epochs"]["dense"], [])
            model.save(file)
        return keras.models.load_model(file, compile=False)

    def compile(model, epochs, penalised):
        steps = max(epochs, 1) * -(-len(data.y_train) // BATCH)
        schedule = keras.optimizers.schedules.CosineDecay(0.05 if penalised else 0.001, steps)
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True)
        model.compile(
            optimizer if penalised else keras.optimizers.Adam(schedule),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

    train = admm_study.trainer(data.x_train, data.y_train, BATCH)
    evaluate = admm_study.evaluator(data.x_test, data.y_test)
    plan = {"format": "ttm", "exclude": () if arguments.smoke else "conv1"}
    parts = (trained, compile, train, evaluate, plan, data.x_train)
    return admm_study.Study(results, settings, *parts)


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, nothing is kept")
    parser.add_argument("--report", action="store_true", help="no runs, only the report")
    parser.add_argument("--cache", type=Path, help="folder that keeps the dense networks")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json" if arguments.smoke else RESULTS
        task = "lenet on digits" if arguments.smoke else "lenet on mnist"
        if not arguments.report:
            cache = arguments.cache or Path(folder)
            cache.mkdir(parents=True, exist_ok=True)
            runs = study(arguments, results, cache)
            for seed in SEEDS[:1] if arguments.smoke else SEEDS:
                for ratio in (4.0,) if arguments.smoke else PAPER:
                    for arm in ("admm", "pull", "direct", "calibrated", "scratch"):
                        runs.run(arm, seed, ratio)
                runs.run("dense", seed, None)
        figure = None if arguments.smoke else RESULTS.with_suffix(".png")
        admm_study.report(results, task, PAPER, figure)


if __name__ == "__main__":
    main()
