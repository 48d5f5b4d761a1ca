"""T-Basis on LeNet-5 and MNIST: accuracy against size, tensor rings of the same sizes beside it.

The protocol of `trn_lenet.py lenet5`, whose tensor rings are the comparison: 20 epochs, batch size
128, Adam, rates that fall as a cosine; here after the T-Basis paper's warm-up of 2000 steps. The
5x5 kernels need a basis of mode 25. Runs:

- T-Basis with a learned basis, for seven (B, R);
- pseudo-random bases: of the same (B, R), and of as many stored parameters;
- rank adapters "linear" and "none" against the default "exp".

    python examples/tbasis_lenet5.py             # all runs; those already recorded are skipped
    python examples/tbasis_lenet5.py --smoke     # seconds: scikit-learn's digits, nothing is kept
    python examples/tbasis_lenet5.py --report    # only the table and the figure
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import records
import tbasis_study

from keras_tensornet import datasets, models
from keras_tensornet.files import write_whole
from keras_tensornet.tbasis import LinearWarmup, tbasis_model, tbasis_optimizer

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "tbasis_lenet5.json"
RINGS = RESULTS.with_name("trn_lenet5.json")
MODE = 25
LEARNED = ((2, 4), (4, 4), (8, 4), (4, 8), (8, 8), (16, 8), (32, 8))
# The last two store as many numbers as the learned (4, 4) and (8, 8).
PSEUDO_RANDOM = ((4, 4), (8, 8), (127, 4), (992, 8))
ADAPTERS = ((4, 4, "none"), (8, 8, "none"), (4, 4, "linear"), (8, 8, "linear"))


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, nothing is kept")
    parser.add_argument("--report", action="store_true", help="no runs, only the report")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each network")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tbasis_lenet5")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        smoke = arguments.smoke
        results = Path(folder) / "results.json" if smoke else arguments.results
        work = Path(folder) if smoke else arguments.work
        if not arguments.report:
            data = datasets.load("digits" if smoke else "mnist")
            for seed in range(1 if smoke else arguments.seeds):
                for settings in all_settings(seed, smoke):
                    run(results, work, settings, data)
        if results.exists():
            print(tbasis_study.table(results, 429_100))
            if not smoke:
                draw(records.read(results), records.read(RINGS), results.with_suffix(".png"))


def all_settings(seed: int, smoke: bool) -> list[dict]:
    """Every run of the study, the main line first."""
    basis = [
        *((size, rank, "exp", True) for size, rank in LEARNED),
        *((size, rank, "exp", False) for size, rank in PSEUDO_RANDOM),
        *((size, rank, adapters, True) for size, rank, adapters in ADAPTERS),
    ]
    runs = [
        {
            "method": "tbasis",
            "size": size,
            "rank": rank,
            "mode": MODE,
            "adapters": adapters,
            "trainable_basis": learned,
            "learning_rate": 3e-3,
            "schedule": "cosine",
            "warmup_steps": 5 if smoke else 2000,
            "norm_penalty": 3e-4,
        }
        for size, rank, adapters, learned in basis
    ]
    if smoke:
        runs = [runs[0], runs[len(LEARNED)]]
    common = {
        "task": "lenet5 on " + ("digits" if smoke else "mnist"),
        "epochs": 2 if smoke else 20,
        "batch_size": 128,
        "seed": seed,
    }
    return [{**common, **settings} for settings in runs]


def run(results: Path, work: Path, settings: dict, data) -> None:
    """One run of the study."""
    print(tbasis_study.name_of(settings), flush=True)
    shape = data.x_train.shape[1:]
    steps = settings["epochs"] * -(-len(data.y_train) // settings["batch_size"])
    tbasis_study.run_once(
        results,
        work,
        settings,
        functools.partial(_model, settings, shape),
        functools.partial(_optimizer, settings, steps),
        (data.x_train, data.y_train),
        (data.x_test, data.y_test),
    )


def _model(settings: dict, shape) -> keras.Model:
    return tbasis_model(
        _lenet(shape),
        settings["size"],
        settings["rank"],
        settings["mode"],
        trainable_basis=settings["trainable_basis"],
        adapters=settings["adapters"],
        norm_penalty=settings["norm_penalty"],
        seed=settings["seed"],
    )


def _lenet(shape) -> keras.Model:
    if shape == (28, 28, 1):
        return models.lenet5(shape)
    # Digits are 8x8, too small for LeNet-5's second convolution; enlarged to its images' size.
    inputs = keras.Input(shape)
    x = keras.layers.UpSampling2D(4)(inputs)
    x = keras.layers.CenterCrop(28, 28)(x)
    return keras.Model(inputs, models.lenet5((28, 28, 1))(x))


def _optimizer(settings: dict, steps: int) -> keras.optimizers.Optimizer:
    def falling(rate: float):
        return keras.optimizers.schedules.CosineDecay(rate, steps)

    # The dense parts (first convolution, biases) keep an Adam of their own, warmed up as well.
    warmup = settings["warmup_steps"]
    rest = keras.optimizers.Adam(LinearWarmup(falling(1e-3), warmup))
    return tbasis_optimizer(rest, falling(settings["learning_rate"]), warmup)


def draw(runs: list[dict], rings: list[dict], figure: Path) -> None:
    """Test error after the last epoch against stored parameters."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    groups: dict[str, list[tuple]] = {}
    for run in runs:
        settings = run["settings"]
        basis = "learned" if settings["trainable_basis"] else "pseudo-random"
        adapters = "" if settings["adapters"] == "exp" else f", adapters {settings['adapters']}"
        point = (run["params"], 100 * (1 - run["last"]), f"{settings['size']}, {settings['rank']}")
        groups.setdefault(f"T-Basis, {basis}{adapters}", []).append(point)
    for run in rings:
        if run["settings"]["method"] == "ring" and run["settings"]["seed"] == 0:
            point = (run["params"], run["test_error"], f"r {run['settings']['rank']}")
            groups.setdefault("tensor rings", []).append(point)
    plot, axis = plt.subplots(figsize=(7.5, 4.5))
    for label, points in groups.items():
        points.sort()
        line = "o-" if label in ("T-Basis, learned", "tensor rings") else "x"
        axis.plot([x for x, _, _ in points], [y for _, y, _ in points], line, label=label)
        for x, y, name in points:
            axis.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axis.set(xscale="log", yscale="log", xlabel="parameters", ylabel="test error, %")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(ScalarFormatter())
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8)
    plot.tight_layout()
    write_whole(figure, lambda path: plot.savefig(path, dpi=120))


if __name__ == "__main__":
    main()
