"""ADMM on ResNet-20 and CIFAR-10: against direct decomposition, at equal epochs.

The ratios are those of Yin et al. 2021, Table 2: 4.5 and 6.8 times fewer parameters. Both ways
start from the same trained network, a file of stock Keras layers; its images are (pixels - mean) /
std of CIFAR-10's channels, as `keras_tensornet.datasets` returns them, and its outputs are logits.

    python examples/admm_resnet20.py --model resnet20_cifar10.keras
    python examples/admm_resnet20.py --smoke     # a minute: few images, nothing is kept
    python examples/admm_resnet20.py --report    # only print the table and draw the figure

Without `--model` the file is looked for in ../shared/pretrained, next to the repository.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import admm_study
import keras
import numpy as np

from keras_tensornet import datasets, models

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "admm_resnet20.json"
MODEL = ROOT.parent / "shared" / "pretrained" / "resnet20_cifar10.keras"
PAPER = {4.5: 0.9147, 6.8: 0.9103}
BATCH = 128
ARMS = ("direct", "calibrated", "admm", "pull")


class Augmented(keras.utils.PyDataset):
    """Batches of images, shifted by up to four pixels and mirrored at random (He et al. 2016)."""

    def __init__(self, images, labels, seed: int):
        super().__init__()
        self.images = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
        self.labels = labels
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.labels))

    def __len__(self):
        return len(self.labels) // BATCH

    def __getitem__(self, index):
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        rows, columns = self.rng.integers(0, 9, (2, len(chosen)))
        mirrored = self.rng.random(len(chosen)) < 0.5
        batch = np.empty((len(chosen), 32, 32, 3), "float32")
        for place, image in enumerate(chosen):
            row, column = rows[place], columns[place]
            crop = self.images[image, row : row + 32, column : column + 32]
            batch[place] = crop[:, ::-1] if mirrored[place] else crop
        return batch, self.labels[chosen]


def study(arguments, results: Path) -> admm_study.Study:
    """The comparison on the whole data set, or on a few images."""
    data = _noise() if arguments.smoke else datasets.load("cifar10")
    settings = {
        "task": "resnet8 on noise" if arguments.smoke else "resnet20 on cifar10",
        "epochs": {"admm": 1, "finetune": 1} if arguments.smoke else {"admm": 3, "finetune": 1},
        "batch_size": BATCH,
        "optimizer": "SGD, momentum 0.9, nesterov, cosine decay in each phase",
        "learning_rate": 0.02,
        "rho": 0.1,
        "adaptive_rho": False,
        "every": 1 if arguments.smoke else 98,  # four updates in an epoch
        "format": arguments.format,
        "calibration_images": 64 if arguments.smoke else 1000,
        "recovery_epochs": 1 if arguments.smoke else 30,
    }

    def trained(seed):
        if arguments.smoke:
            return models.resnet_cifar(8)
        return keras.models.load_model(arguments.model, compile=False)

    def compile(model, epochs, penalised):
        steps = max(epochs, 1) * (len(data.y_train) // BATCH)
        schedule = keras.optimizers.schedules.CosineDecay(settings["learning_rate"], steps)
        model.compile(
            keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

    def train(model, epochs, callbacks):
        batches = Augmented(data.x_train, data.y_train, seed=0)
        return model.fit(batches, epochs=epochs, callbacks=callbacks, verbose=0).history

    def evaluate(model):
        logits = model.predict(data.x_test, batch_size=500, verbose=0)
        return float(np.mean(np.argmax(logits, -1) == data.y_test))

    plan = {"format": arguments.format}
    parts = (trained, compile, train, evaluate, plan, data.x_train)
    return admm_study.Study(results, settings, *parts)


def _noise() -> datasets.ImageData:
    random = np.random.default_rng(0)
    images = random.standard_normal((2 * BATCH, 32, 32, 3)).astype("float32")
    labels = random.integers(0, 10, 2 * BATCH).astype("int32")
    return datasets.ImageData(images, labels, images[:64], labels[:64], 10, "noise")


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, nothing is kept")
    parser.add_argument("--report", action="store_true", help="no runs, only the report")
    parser.add_argument("--model", type=Path, default=MODEL, help="the trained network")
    parser.add_argument("--format", default="tt", help="tensor format")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs of each kind")
    arguments = parser.parse_args()
    if not (arguments.smoke or arguments.report or arguments.model.exists()):
        sys.exit(f"There is no model at {arguments.model}. Give one with --model.")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json" if arguments.smoke else RESULTS
        task = "resnet8 on noise"
        if not arguments.report:
            runs = study(arguments, results)
            arms = ("direct", "pull") if arguments.smoke else ARMS
            for seed in range(arguments.seeds):
                for ratio in (4.5,) if arguments.smoke else PAPER:
                    for arm in arms:
                        runs.run(arm, seed, ratio)
        if not arguments.smoke:
            task = "resnet20 on cifar10"
        admm_study.report(
            results, task, PAPER, None if arguments.smoke else RESULTS.with_suffix(".png")
        )


if __name__ == "__main__":
    main()
