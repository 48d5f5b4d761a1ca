"""Accuracy against parameters for a trained ResNet-20: every format, calibrated and by budget.

Compresses a trained CIFAR-10 ResNet-20 without any training, in every format, at several sizes,
with ranks by a uniform share and by one budget, with and without calibration data, and draws the
figure. With `--finetune EPOCHS` it trains models that were compressed by budget with calibration:
three times fewer parameters without loss is the claim of Gabor & Zdunek 2022 for tensor trains.

With `--ablation` it says what each step of calibration is worth: layers weighted by sensitivity,
and later layers fitted to the inputs of the compressed network.

With `--recover` it trains them on the same unlabelled images, towards the dense model's outputs,
for several draws of the images (`--seeds`, `--images`).

    python examples/compress_resnet20.py --model resnet20_cifar10.keras
    python examples/compress_resnet20.py --model resnet20_cifar10.keras --recover
    python examples/compress_resnet20.py --model resnet20_cifar10.keras \\
        --formats tt tr --sizes 3 4 --finetune 3

Every run is written to the results file as soon as it is done; an interrupted study goes on where
it stopped. `--model` is any `.keras` classifier of CIFAR-10 images normalised as
`keras_tensornet.datasets.load("cifar10")` does.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import records

from keras_tensornet import augment, datasets, models
from keras_tensornet.compression import (
    Calibration,
    RecoverySettings,
    calibrate,
    compress_model,
    plan_compression,
    recover,
)
from keras_tensornet.files import write_whole
from keras_tensornet.training import finetune

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results"
FORMATS = ("tt", "tucker", "tr", "cp", "ttm", "ht", "bt")
SIZES = (2.0, 4.0)
# Seed and number of the training images that calibrate.
SEED, IMAGES = 0, 1000


@dataclass(frozen=True)
class Study:
    """What all runs share: the model, the images, and where the numbers go."""

    model: keras.Model
    data: datasets.ImageData
    calibration: Calibration
    results: Path
    work: Path | None = None
    timed: bool = True
    seconds: float | None = None

    def accuracy(self, model) -> float:
        """Share of the test images that are classified correctly."""
        outputs = model.predict(self.data.x_test, batch_size=500, verbose=0)
        return float(np.mean(outputs.argmax(-1) == self.data.y_test))

    def run(self, format: str, size: float, ranks: str, calibrated: bool) -> None:
        """Compress once and write the accuracy down, unless that has been done."""
        settings = {"format": format, "size": size, "ranks": ranks, "calibrated": calibrated}
        if records.find(self.results, settings) is not None:
            return
        start = time.perf_counter()
        small = self.compressed(format, size, ranks, calibrated)
        seconds = round(time.perf_counter() - start, 1)
        run = {"settings": settings, "params": small.count_params(), "seconds": seconds}
        run["accuracy"] = self.accuracy(small)
        records.add(self.results, run)
        print(f"{settings}: {run['params']:,} parameters, {run['accuracy']:.4f}", flush=True)

    def compressed(self, format: str, size: float, ranks: str, calibrated: bool) -> keras.Model:
        """The model with `1 / size` of the parameters."""
        data = self.calibration if calibrated else None
        if ranks == "budget":
            return compress_model(
                self.model, format, params=1.0 / size, calibration_data=data, recover=False
            )
        share = uniform_share(self.model, format, self.model.count_params() / size)
        return compress_model(
            self.model, format=format, share=share, calibration_data=data, recover=False
        )

    def recovered(self, format: str, size: float, seed: int, images: int) -> None:
        """Compress by budget with calibration, recover without labels, write both accuracies down.

        Without `seconds` the number of steps is fixed, so that the machine has no part in the
        result; with them it is what a user gets in that time.
        """
        settings = {"format": format, "size": size, "recover": True, "seed": seed, "images": images}
        settings |= {} if self.seconds is None else {"seconds": self.seconds}
        if records.find(self.results, settings) is not None:
            return
        small, seconds = self._kept(format, size, f"{seed}_{images}")
        run = {"settings": settings, "params": small.count_params(), "before": self.accuracy(small)}
        how = RecoverySettings(seconds=self.seconds, augment=augment.shifted(), seed=seed)
        better = recover(self.model, small, self.calibration, how)
        done = better.recovery
        if self.timed:
            run |= {"seconds": {"compression": seconds, "recovery": round(done.seconds, 1)}}
        run |= {"steps": done.steps, "held_out": [done.before, done.after]}
        run["accuracy"] = self.accuracy(better)
        records.add(self.results, run)
        print(f"{settings}: {run['before']:.4f} -> {run['accuracy']:.4f}", flush=True)

    def _kept(self, format: str, size: float, draw: str) -> tuple[keras.Model, float | None]:
        """The compressed model and its seconds, from the folder of work where it is there."""
        path = None if self.work is None else self.work / f"{format}_{size:g}_{draw}.keras"
        if path is not None and path.exists():
            return keras.models.load_model(path), None
        start = time.perf_counter()
        small = self.compressed(format, size, "budget", True)
        seconds = round(time.perf_counter() - start, 1)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            small.save(path)
        return small, seconds

    def ablated(self, format: str, size: float, sensitivity: bool, sequential: bool) -> None:
        """Compress by budget with calibration, with and without its steps; nothing is trained."""
        steps = {"sensitivity": sensitivity, "sequential": sequential}
        settings = {"format": format, "size": size, **steps}
        if records.find(self.results, settings) is not None:
            return
        start = time.perf_counter()
        small = compress_model(
            self.model,
            format,
            params=1.0 / size,
            calibration_data=self.calibration,
            recover=False,
            **steps,
        )
        run = {"settings": settings, "params": small.count_params()}
        run["seconds"] = round(time.perf_counter() - start, 1)
        run["accuracy"] = self.accuracy(small)
        records.add(self.results, run)
        print(f"{settings}: {run['accuracy']:.4f}, {run['seconds']} s", flush=True)

    def finetuned(self, format: str, size: float, epochs: int) -> None:
        """Compress by budget with calibration, train, and write the accuracy down."""
        settings = {"format": format, "size": size, "finetune": epochs}
        if records.find(self.results, settings) is not None:
            return
        small = self.compressed(format, size, "budget", True)
        before = self.accuracy(small)
        start = time.perf_counter()
        trained = finetune(
            small,
            (self.data.x_train, self.data.y_train),
            epochs=epochs,
            teacher=self.model,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        run = {"settings": settings, "params": small.count_params(), "before": before}
        run["seconds"] = round(time.perf_counter() - start, 1)
        run["accuracy"] = self.accuracy(trained)
        records.add(self.results, run)
        print(f"{settings}: {before:.4f} -> {run['accuracy']:.4f}", flush=True)


def uniform_share(model: keras.Model, format: str, params: float) -> float:
    """The share, the same for every layer, at which the whole model has just so many parameters.

    The parameters follow from the ranks alone, so plans without calibration tell them.
    """
    low, high = 0.005, 1.0
    for _ in range(9):
        middle = (low + high) / 2
        plan = plan_compression(model, format=format, share=middle)
        low, high = (middle, high) if plan.params <= params else (low, middle)
    return low


def draw(results: Path, path: Path, dense: tuple[int, float]) -> None:
    """Accuracy against parameters: one panel without calibration, one with."""
    from matplotlib.figure import Figure

    runs = [run for run in records.read(results) if "ranks" in run["settings"]]
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    colours = dict(zip(FORMATS, [f"C{number}" for number in range(len(FORMATS))], strict=True))
    for calibrated, axes in zip((False, True), panels, strict=True):
        axes.axhline(dense[1], color="grey", linewidth=0.8)
        axes.annotate("dense", (dense[0], dense[1]), fontsize=8, va="bottom", ha="right")
        for format, ranks in product(FORMATS, ("uniform", "budget")):
            chosen = {"format": format, "ranks": ranks, "calibrated": calibrated}
            points = sorted(
                (run["params"], run["accuracy"])
                for run in runs
                if {name: run["settings"][name] for name in chosen} == chosen
            )
            if points:
                style = "-o" if ranks == "budget" else "--^"
                axes.plot(*zip(*points, strict=True), style, color=colours[format], markersize=4,
                          label=f"{format}, {ranks}")  # fmt: skip
        title = "calibrated on 1,000 images" if calibrated else "weights only"
        axes.set(xlabel="parameters", xscale="log", title=f"{title}, no training")
    panels[0].set_ylabel("test accuracy")
    panels[1].legend(fontsize=7, ncols=2)
    write_whole(path, lambda draft: figure.savefig(draft, dpi=130))


def calibration(model: keras.Model, data, seed: int, images: int) -> Calibration:
    """What some training images say of the model, drawn by a seed, without their labels."""
    chosen = np.random.default_rng(seed).permutation(len(data.x_train))[:images]
    return calibrate(model, data.x_train[chosen])


def load_model(path: Path | None) -> keras.Model:
    """The trained model, or for a smoke run a small one without training."""
    if path is not None:
        return keras.models.load_model(path)
    keras.utils.set_random_seed(SEED)
    model = models.resnet_cifar(8)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def main() -> None:
    """Run what is missing, then draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a trained .keras file")
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--sizes", nargs="+", type=float, default=SIZES, help="times smaller")
    parser.add_argument(
        "--finetune", type=int, default=0, metavar="EPOCHS", help="train compressed models instead"
    )
    parser.add_argument("--recover", action="store_true", help="recover compressed models instead")
    parser.add_argument("--ablation", action="store_true", help="steps of calibration one by one")
    parser.add_argument("--seeds", nargs="+", type=int, default=(SEED,), help="of the images")
    parser.add_argument("--images", type=int, default=IMAGES, help="training images, no labels")
    parser.add_argument("--results", type=Path, default=FOLDER / "compression_resnet20.json")
    parser.add_argument("--seconds", type=float, help="limit of each recovery, not its steps")
    parser.add_argument("--work", type=Path, help="keep compressed models here, to go on with")
    parser.add_argument(
        "--untimed", action="store_true", help="leave seconds out: other work runs beside"
    )
    parser.add_argument("--smoke", action="store_true", help="random weights and images, seconds")
    arguments = parser.parse_args()
    if arguments.smoke:
        random = np.random.default_rng(SEED)
        x, y = random.standard_normal((64, 32, 32, 3)).astype("float32"), random.integers(0, 10, 64)
        data = datasets.ImageData(x, y, x, y, 10, "noise")
        arguments.formats, arguments.sizes = arguments.formats[:1], arguments.sizes[:1]
        arguments.results = Path(tempfile.mkdtemp()) / "results.json"
    elif arguments.model is None:
        parser.error("give --model, a trained .keras file, or --smoke")
    else:
        data = datasets.load("cifar10")
    model = load_model(arguments.model)
    study = Study(model, data, calibration(model, data, SEED, IMAGES), arguments.results)
    dense = (model.count_params(), study.accuracy(model))
    print(f"dense: {dense[0]:,} parameters, {dense[1]:.4f}", flush=True)
    if arguments.recover:
        for seed in arguments.seeds:
            known = calibration(model, data, seed, arguments.images)
            timed = not arguments.untimed
            study = Study(
                model, data, known, arguments.results, arguments.work, timed, arguments.seconds
            )
            for size, format in product(arguments.sizes, arguments.formats):
                study.recovered(format, size, seed, arguments.images)
        return
    if arguments.ablation:
        for format, size in product(arguments.formats, arguments.sizes):
            for steps in product((False, True), repeat=2):
                study.ablated(format, size, *steps)
        return
    for format, size in product(arguments.formats, arguments.sizes):
        if arguments.finetune:
            study.finetuned(format, size, arguments.finetune)
            continue
        for calibrated, ranks in product((True, False), ("budget", "uniform")):
            study.run(format, size, ranks, calibrated)
        draw(arguments.results, arguments.results.with_suffix(".png"), dense)


if __name__ == "__main__":
    main()
