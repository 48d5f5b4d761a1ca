"""T-Basis on ResNet-20 and CIFAR-10 at a small budget, the dense network at the same budget beside.

The T-Basis paper's recipe (section 5): SGD 0.1 with momentum and weight decay for what stays dense,
Adam 0.003 for basis, coefficients and adapters, both warmed up linearly and divided by 10 after
half and three quarters of the epochs; norm penalty 3e-4; shifts and flips. The paper trains for
1000 epochs, this study for 4, with a warm-up of 200 steps instead of 2000.

    python examples/tbasis_resnet20.py            # all runs; those already recorded are skipped
    python examples/tbasis_resnet20.py --smoke    # seconds: scikit-learn's digits, nothing is kept
    python examples/tbasis_resnet20.py --report   # only print the table
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tbasis_study
from images import ShiftedImages

from keras_tensornet import datasets, models
from keras_tensornet.tbasis import LinearWarmup, tbasis_model, tbasis_optimizer

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "tbasis_resnet20.json"
SIZES = ((16, 16), (8, 8), (16, 8))
DENSE_PARAMS = 269_722  # ResNet-20


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, nothing is kept")
    parser.add_argument("--report", action="store_true", help="no runs, only the table")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "tbasis_resnet20"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        smoke = arguments.smoke
        results = Path(folder) / "results.json" if smoke else arguments.results
        work = Path(folder) if smoke else arguments.work
        if not arguments.report:
            data = datasets.load("digits" if smoke else "cifar10")
            for settings in all_settings(arguments.epochs, smoke):
                run(results, work, settings, data)
        if results.exists():
            print(tbasis_study.table(results, DENSE_PARAMS))


def all_settings(epochs: int, smoke: bool) -> list[dict]:
    """Every run of the study."""
    common = {
        "task": ("resnet8 on digits" if smoke else "resnet20 on cifar10"),
        "epochs": 2 if smoke else epochs,
        "batch_size": 128,
        "seed": 0,
        "learning_rate": 0.1,
        "warmup_steps": 5 if smoke else 200,
    }
    basis = {
        "method": "tbasis",
        "mode": 9,
        "adapters": "exp",
        "trainable_basis": True,
        "adam_rate": 3e-3,
        "norm_penalty": 3e-4,
    }
    sizes = ((4, 4),) if smoke else SIZES
    return [
        {**common, "method": "dense"},
        *({**common, **basis, "size": size, "rank": rank} for size, rank in sizes),
    ]


def run(results: Path, work: Path, settings: dict, data) -> None:
    """One run of the study."""
    print(tbasis_study.name_of(settings), flush=True)
    train = ShiftedImages(data.x_train, data.y_train, settings["batch_size"], settings["seed"])
    tbasis_study.run_once(
        results,
        work,
        settings,
        functools.partial(_model, settings, data.x_train.shape[1:]),
        functools.partial(_optimizer, settings, len(train)),
        train,
        (data.x_test, data.y_test),
    )


def _model(settings: dict, shape) -> keras.Model:
    depth = 20 if shape == (32, 32, 3) else 8
    base = models.resnet_cifar(depth, shape, weight_decay=1e-4)
    if settings["method"] == "dense":
        return base
    return tbasis_model(
        base,
        settings["size"],
        settings["rank"],
        settings["mode"],
        adapters=settings["adapters"],
        norm_penalty=settings["norm_penalty"],
        seed=settings["seed"],
    )


def _optimizer(settings: dict, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    steps = settings["epochs"] * steps_per_epoch

    def divided(rate: float):
        return keras.optimizers.schedules.PiecewiseConstantDecay(
            [steps // 2, 3 * steps // 4], [rate, rate / 10, rate / 100]
        )

    warmup = settings["warmup_steps"]
    sgd = keras.optimizers.SGD(
        LinearWarmup(divided(settings["learning_rate"]), warmup), momentum=0.9
    )
    if settings["method"] == "dense":
        return sgd
    return tbasis_optimizer(sgd, divided(settings["adam_rate"]), warmup)


if __name__ == "__main__":
    main()
