"""Which method should one take? LeNet-300-100 on MNIST by all of them, at equal sizes and epochs.

For a quarter, a sixteenth and a sixty-fourth of the parameters, ten epochs in all:

- scratch: every format, and T-Basis, from random cores, with the largest rank that fits;
- trained: five epochs of the dense network, compression by one budget with calibration, five epochs
  of fine-tuning; for T-Basis `fit_tbasis` in place of the compression;
- admm: three epochs of the dense network, four of ADMM, then decomposition and three epochs more.

    python examples/compare_methods.py            # what is missing; then the table and the figure
    python examples/compare_methods.py --report   # only these
    python examples/compare_methods.py --smoke    # scikit-learn's digits, nothing is kept

The classifier stays dense. Ranks of trained layers are those of `params=`, from scratch and by ADMM
the same for both layers.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import records
from admm_study import largest_rank

import keras_tensornet as ktn
from keras_tensornet import datasets, layers, models
from keras_tensornet.files import write_whole
from keras_tensornet.tbasis import fit_tbasis
from keras_tensornet.training import ADMM

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "compare_methods.json"
FORMATS = ("tr", "tt", "ttm", "cp", "tucker", "ht", "bt")
METHODS = (
    *(("scratch", format) for format in (*FORMATS, "tbasis")),
    *(("trained", format) for format in (*FORMATS, "tbasis", "auto")),
    *(("admm", format) for format in ("tt", "ttm")),
)
SHARES = (1 / 4, 1 / 16, 1 / 64)
# Epochs of the dense network, of ADMM, and of the small network.
EPOCHS = {"dense": [10, 0, 0], "scratch": [0, 0, 10], "trained": [5, 0, 5], "admm": [3, 4, 3]}
BATCH = 128
RATE = 0.002
BASIS_SIZE = 16
CALIBRATION = 1000


class Comparison:
    """The data and the trainings; `run` does one."""

    def __init__(self, data: datasets.ImageData, seed: int):
        self.data, self.seed = data, seed
        self.dense: dict[int, keras.Model] = {}

    def run(self, start: str, format: str, share: float | None) -> dict:
        """Train by one method; returns the model's size and its errors in percent."""
        began = time.perf_counter()
        keras.utils.set_random_seed(self.seed)
        before, admm, after = EPOCHS[start]
        outcome = {}
        if start == "dense":
            small = self.trained(before)
        elif start == "scratch":
            small = largest(self.data, format, share)
        else:
            model = self.trained(before)
            small = self.compressed(start, model, format, share, admm)
            outcome["error_before_finetuning"] = self.error(small)
        if after:
            self.fit(small, after)
        seconds = round(time.perf_counter() - began, 1)
        outcome |= {"params": small.count_params(), "test_error": self.error(small)}
        return {**outcome, "seconds": seconds}

    def trained(self, epochs: int) -> keras.Model:
        """A copy of the dense network after so many epochs."""
        if epochs not in self.dense:
            model = network(self.data)
            self.fit(model, epochs)
            self.dense[epochs] = model
        return ktn.rewrite_model(self.dense[epochs], lambda layer, path: None)

    def compressed(self, start: str, model, format: str, share: float, epochs: int):
        """The small network with the weights of the trained one."""
        most = model.count_params() * share
        if format == "tbasis":
            rank = largest_rank(lambda rank: on_basis(model, rank).count_params(), most)
            steps = 500 if self.data.name == "mnist" else 20
            how = {"exclude": "fc3", "steps": steps, "seed": self.seed}
            return fit_tbasis(model, BASIS_SIZE, rank, **how)[0]
        if start == "trained":
            plan = ktn.plan_compression(
                model, format, params=share, calibration_data=self.data.x_train[:CALIBRATION]
            )
            return ktn.compress_model(model, plan=plan)
        rank = largest_rank(
            lambda rank: ktn.plan_compression(model, format, rank=rank).params, most
        )
        admm = ADMM(format=format, rank=rank, rho=0.05, every=117)
        self.fit(model, epochs, keras.optimizers.SGD, 0.05, [admm], momentum=0.9, nesterov=True)
        return ktn.compress_model(model, plan=admm.plan)

    def fit(self, model, epochs, kind=keras.optimizers.Adam, rate=RATE, callbacks=(), **settings):
        """Train with a cosine decay."""
        steps = epochs * -(-len(self.data.y_train) // BATCH)
        schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(kind(schedule, **settings), loss, metrics=["accuracy"])
        arguments = {"epochs": epochs, "batch_size": BATCH, "callbacks": list(callbacks)}
        model.fit(self.data.x_train, self.data.y_train, verbose=0, **arguments)

    def error(self, model) -> float:
        """Test error in percent."""
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(loss=loss, metrics=["accuracy"])
        scores = model.evaluate(self.data.x_test, self.data.y_test, verbose=0, return_dict=True)
        return round(100 * (1 - scores["accuracy"]), 3)


def network(data: datasets.ImageData, **factories) -> keras.Model:
    """LeNet-300-100 for these images."""
    return models.lenet300(data.x_train.shape[1:], data.num_classes, **factories)


def largest(data: datasets.ImageData, format: str, share: float) -> keras.Model:
    """The network from random cores with the largest rank that keeps to the share."""
    dense = network(data)

    def build(rank: int) -> keras.Model:
        if format == "tbasis":
            return on_basis(dense, rank)

        def factorized(units, *, name, **kwargs):
            if name == "fc3":
                return keras.layers.Dense(units, name=name, **kwargs)
            return layers.FactorizedDense(units, rank=rank, format=format, name=name, **kwargs)

        return network(data, dense=factorized)

    most = dense.count_params() * share
    return build(largest_rank(lambda rank: build(rank).count_params(), most))


def on_basis(model: keras.Model, rank: int) -> keras.Model:
    """The network on a T-Basis of that rank, from random values."""
    return ktn.tbasis_model(model, BASIS_SIZE, rank, exclude="fc3", seed=0)


def report(runs: list[dict], figure: Path | None) -> None:
    """A table: a method a row, a size a column; and the figure."""
    print("| start | method | " + " | ".join(f"1/{round(1 / s)}" for s in SHARES) + " |")
    print("|---|---|" + "---|" * len(SHARES))
    for start, format in (("dense", ""), *METHODS):
        cells = []
        for share in SHARES if start != "dense" else (None,):
            group = [run for run in runs if key_of(run) == (start, format, share)]
            errors = ", ".join(f"{run['test_error']:.2f}" for run in group)
            cells.append(f"{errors} ({group[0]['params']:,})" if group else "")
        print(f"| {start} | {format} | " + " | ".join(cells) + " |")
    if figure is not None:
        draw(runs, figure)


def key_of(run: dict) -> tuple:
    """What distinguishes runs but for their seed."""
    return tuple(run["settings"][name] for name in ("start", "format", "share"))


def draw(runs: list[dict], figure: Path) -> None:
    """Mean error against parameters: a line for each method, a panel for each start."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = {"scratch": "from random cores", "trained": "from the trained network"}
    plot, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharex=True, sharey=True)
    dense = [run["test_error"] for run in runs if run["settings"]["start"] == "dense"]
    for axis, start in zip(axes, titles, strict=True):
        for (began, format), place in zip(METHODS, [*range(8), *range(9), 1, 2], strict=True):
            if began != start and not (start == "trained" and began == "admm"):
                continue
            points = []
            for share in SHARES:
                group = [run for run in runs if key_of(run) == (began, format, share)]
                if group:
                    errors = [run["test_error"] for run in group]
                    points.append((group[0]["params"], sum(errors) / len(errors)))
            if points:
                style = "s--" if began == "admm" else "o-"
                label = f"{format}, ADMM" if began == "admm" else format
                axis.plot(*zip(*points, strict=True), style, color=f"C{place}", label=label)
        if dense:
            axis.axhline(sum(dense) / len(dense), color="0.5", linestyle=":", label="dense")
        axis.set(title=titles[start], xscale="log", yscale="log", xlabel="parameters")
        axis.set_xticks([4000, 16000, 64000], ["4,000", "16,000", "64,000"])
        axis.set_yticks(
            [1.5, 2, 3, 4, 6, 10, 20, 50], ["1.5", "2", "3", "4", "6", "10", "20", "50"]
        )
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("test error, %")
    plot.tight_layout()
    write_whole(figure, lambda path: plot.savefig(path, dpi=120))


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, nothing is kept")
    parser.add_argument("--report", action="store_true", help="no runs, only the report")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        smoke = arguments.smoke
        results = Path(folder) / "results.json" if smoke else RESULTS
        cases = [("dense", "", None)]
        cases += [(*method, share) for share in SHARES for method in METHODS]
        if smoke:
            starts = {("dense", ""), ("scratch", "tr"), ("trained", "tbasis"), ("admm", "tt")}
            cases = [case for case in cases if case[:2] in starts and case[2] in (None, SHARES[0])]
        if not arguments.report:
            data = datasets.load("digits" if smoke else "mnist")
            for seed in arguments.seeds[:1] if smoke else arguments.seeds:
                comparison = Comparison(data, seed)
                for case in cases:
                    settings = dict(zip(("start", "format", "share"), case, strict=True))
                    settings |= {"seed": seed, "data": data.name, "batch_size": BATCH}
                    settings |= {"learning_rate": RATE, "epochs": EPOCHS[case[0]]}
                    if records.find(results, settings):
                        continue
                    outcome = comparison.run(*case)
                    records.add(results, {"settings": settings, **outcome})
                    print(*case, outcome, flush=True)
        report(records.read(results), None if smoke else RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
