"""Accuracy against bytes of the file: a trained ResNet-20 quantized, factorized, and both.

Every point is a file and what that file says of the test images: LiteRT files run in the LiteRT
interpreter, `.keras` files of `model.quantize` in Keras. Factorized networks are compressed by one
budget, calibrated on unlabelled training images, with and without recovery.

    python examples/bytes_resnet20.py --model resnet20_cifar10.keras --work FOLDER
    python examples/bytes_resnet20.py --smoke

Every point is written to the results file as soon as it is there, and compressed and recovered
models are kept in the folder of work, so that an interrupted study goes on where it stopped.
`--aware` adds networks that were recovered as int8 computes them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import records
from compress_resnet20 import load_model
from quantize import accuracy

from keras_tensornet import augment, datasets
from keras_tensornet.compression import RecoverySettings, calibrate, compress_model, recover
from keras_tensornet.export import export_model
from keras_tensornet.files import write_whole
from keras_tensornet.rewriting.walker import rewrite_model

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results"
FORMATS, SIZES = ("cp", "tt"), (2.0, 4.0, 8.0)
IMAGES, SEED, RANGES = 1000, 0, 200
NUMBERS = (None, "float16", "int8")
RECOVERY = {"none": "not recovered", "outputs": "recovered", "int8": "recovered for int8"}


@dataclass(frozen=True)
class Study:
    """The dense model, unlabelled images, and where results and models go."""

    model: keras.Model
    images: np.ndarray
    data: datasets.ImageData
    results: Path
    work: Path
    settings: RecoverySettings

    def point(self, settings: dict, model: Callable[[], keras.Model], numbers) -> None:
        """One LiteRT file, unless it has been measured."""
        settings = {**settings, "numbers": numbers or "float32", "file": "litert"}
        if records.find(self.results, settings) is not None:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.tflite")
            form = "dense" if settings["network"] == "dense" else "stock"
            export_model(
                model(),
                path,
                "litert",
                form,
                numbers,
                samples=self.images[:8],
                calibration_data=self.images[:RANGES],
                tolerance=1.0,
            )
            right = accuracy(path, self.data.x_test, self.data.y_test)
            self._add(settings, path.stat().st_size, right)

    def keras_point(self, numbers: str) -> None:
        """The dense model by `model.quantize`, which takes its dense layers."""
        settings = {"network": "dense", "numbers": numbers, "file": "keras"}
        if records.find(self.results, settings) is not None:
            return
        model = rewrite_model(self.model, lambda layer, path: None)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dense):
                layer.quantize(numbers)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.keras")
            model.save(path)
            outputs = model.predict(self.data.x_test, batch_size=500, verbose=0)
            right = float(np.mean(outputs.argmax(-1) == self.data.y_test))
            self._add(settings, path.stat().st_size, right)

    def compressed(self, format: str, size: float) -> keras.Model:
        """The network with `1 / size` of the parameters."""
        return self._kept(
            f"{format}_{size:g}_{SEED}_{IMAGES}",
            lambda: compress_model(
                self.model,
                format,
                params=1.0 / size,
                calibration_data=calibrate(self.model, self.images),
                recover=False,
            ),
        )

    def recovered(self, format: str, size: float, quantize: str | None = None) -> keras.Model:
        """The same, recovered on the same images; for int8 from what recovery gave."""
        start = self.compressed if quantize is None else self.recovered
        how = {**vars(self.settings), "quantize": quantize}
        return self._kept(
            f"{format}_{size:g}_{SEED}_{IMAGES}_{'recovered' if quantize is None else quantize}",
            lambda: recover(self.model, start(format, size), self.images, RecoverySettings(**how)),
        )

    def _kept(self, name: str, make: Callable[[], keras.Model]) -> keras.Model:
        path = self.work / f"{name}.keras"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make().save(path)
        return keras.models.load_model(path)

    def _add(self, settings: dict, size: int, right: float) -> None:
        records.add(self.results, {"settings": settings, "bytes": size, "accuracy": right})
        print(f"{settings}: {size:,} bytes, {right:.4f}", flush=True)


def draw(results: Path, path: Path) -> None:
    """Accuracy against bytes, on a logarithmic axis."""
    from matplotlib.figure import Figure

    runs = [run for run in records.read(results) if run["settings"]["file"] == "litert"]
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list] = {}
    for run in runs:
        settings = run["settings"]
        if settings["network"] == "dense":
            label = "dense"
        else:
            label = (
                f"{settings['network']}, {settings['numbers']}, {RECOVERY[settings['recovery']]}"
            )
        lines.setdefault(label, []).append((run["bytes"], 100 * run["accuracy"]))
    for label, points in sorted(lines.items()):
        style = "k-s" if label == "dense" else ("--o" if "not recovered" in label else "-o")
        axes.plot(*zip(*sorted(points), strict=True), style, markersize=4, label=label)
    axes.set(xscale="log", xlabel="bytes of the LiteRT file", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    write_whole(path, lambda draft: figure.savefig(draft, dpi=130))


def main() -> None:
    """Run what is missing, then draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a trained .keras file")
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--sizes", nargs="+", type=float, default=SIZES, help="times smaller")
    parser.add_argument("--seconds", type=float, default=72.0, help="limit of each recovery")
    parser.add_argument("--aware", action="store_true", help="recovered for int8 as well")
    parser.add_argument("--work", type=Path, help="keep compressed models here")
    parser.add_argument("--results", type=Path, default=FOLDER / "bytes_resnet20.json")
    parser.add_argument("--smoke", action="store_true", help="random weights and images")
    arguments = parser.parse_args()
    settings = RecoverySettings(seconds=arguments.seconds, augment=augment.shifted(), seed=SEED)
    work = arguments.work or Path(tempfile.mkdtemp())
    if arguments.smoke:
        random = np.random.default_rng(SEED)
        x, y = random.standard_normal((64, 32, 32, 3)).astype("float32"), random.integers(0, 10, 64)
        data = datasets.ImageData(x, y, x, y, 10, "noise")
        arguments.formats, arguments.sizes = ("tt",), (2.0,)
        arguments.results = Path(tempfile.mkdtemp()) / "results.json"
        settings = RecoverySettings(epochs=1, seed=SEED)
    elif arguments.model is None:
        parser.error("give --model, a trained .keras file, or --smoke")
    else:
        data = datasets.load("cifar10")
    chosen = np.random.default_rng(SEED).permutation(len(data.x_train))[:IMAGES]
    model = load_model(arguments.model)
    study = Study(model, data.x_train[chosen], data, arguments.results, work, settings)
    for numbers in NUMBERS:
        study.point({"network": "dense"}, lambda: model, numbers)
    for numbers in ("int8", "int4"):
        study.keras_point(numbers)
    for size, format in product(arguments.sizes, arguments.formats):
        ways = {"none": study.compressed, "outputs": study.recovered}
        if arguments.aware:
            ways["int8"] = lambda *what: study.recovered(*what, quantize="int8")
        for recovery, make in ways.items():
            named = {"network": format, "size": size, "recovery": recovery}
            for numbers in ("int8",) if recovery == "int8" else (None, "int8"):
                study.point(named, lambda make=make, what=(format, size): make(*what), numbers)
    draw(arguments.results, arguments.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
