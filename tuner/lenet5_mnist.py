"""LeNet-5 on MNIST: tensor rings, tensor trains and T-Basis, against the tensor-ring paper.

Against Table 4 of Wang et al. 2018, with batch size 128 and Adam as there, but 15 epochs for its
20, a learning rate that decays by a cosine, and images shifted by up to two pixels for networks of
5,000 parameters and more. The search visits three ranks of each format. A trial's best epoch is
chosen by the accuracy on the last 5,000 training images; the errors that are reported are those on
the 10,000 test images. A search that was stopped goes on from `--work`.

    python tuner/lenet5_mnist.py             # all trials; docs/results/search_lenet5_mnist.*
    python tuner/lenet5_mnist.py --smoke     # a minute: scikit-learn's digits, nothing is kept
    python tuner/lenet5_mnist.py --report    # only print what was found
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "search_lenet5_mnist"
VALIDATION = 5000
BATCH = 128
# Pixels by which images are moved at random, for networks of at least so many parameters.
SHIFT, SHIFTED_FROM = 2, 5000
RATE = 0.004
SEED = 0
# Table 4: parameters and error in percent of ranks 3, 5, 10, 15 and 20. The paper cuts counts to
# hundreds: its network of rank 3 has 130 * 3 ** 2 + 400 = 1,570.
PAPER = ((1_500, 2.24), (3_600, 1.64), (11_000, 1.39), (23_400, 0.81), (40_700, 0.69))


def main() -> int:
    """Search, evaluate on the test images, keep, compare with the paper."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=9, help="at most so many; 9 are all")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lenet5_search")
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, nothing is kept")
    parser.add_argument("--report", action="store_true", help="no trials, only the table")
    arguments = parser.parse_args()
    if arguments.report:
        report(json.loads(RESULTS.with_suffix(".json").read_text()))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        smoke = arguments.smoke
        work = Path(folder) if smoke else arguments.work
        results = Path(folder, "search") if smoke else RESULTS
        tuner, data = search(work, 2 if smoke else arguments.trials, arguments.epochs, smoke)
        front = tested(tuner, data)
        results.parent.mkdir(parents=True, exist_ok=True)
        front.to_json(results.with_suffix(".json"), about=settings(arguments.epochs))
        front.to_csv(results.with_suffix(".csv"))
        front.plot(results.with_suffix(".png"), beside={"tensor-ring paper, Table 4": PAPER})
        print(front)
        report(json.loads(results.with_suffix(".json").read_text()))
    return 0


def settings(epochs: int) -> dict:
    """What a reader needs to repeat the search."""
    return {
        "epochs": epochs,
        "batch_size": BATCH,
        "optimizer": f"Adam {RATE}, cosine decay",
        "shift": f"images by up to {SHIFT} pixels at random, from {SHIFTED_FROM:,} parameters on",
        "validation": f"the last {VALIDATION} training images, which choose the epoch",
        "seed": SEED,
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("keras", "tensorflow", "keras-tuner")},
        },
    }


def search(work: Path, trials: int, epochs: int, smoke: bool):
    """The search; returns the tuner and the data."""
    import keras
    import keras_tuner

    from keras_tensornet import datasets
    from keras_tensornet.tuner import SizeObjective, TensorNetHyperModel

    data = datasets.load("digits" if smoke else "mnist")
    count = 64 if smoke else len(data.x_train) - VALIDATION
    held_out = slice(count, count + 64) if smoke else slice(count, None)
    epochs = 1 if smoke else epochs
    steps = epochs * -(-count // BATCH)

    def compile_model(model, hp):
        rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])

    class Study(TensorNetHyperModel):
        """Networks that could overfit are trained on shifted images."""

        def fit(self, hp, model, images, labels, **kwargs):
            shift = SHIFT if model.count_params() >= SHIFTED_FROM else 0
            return super().fit(hp, model, batches(images, labels, shift), **kwargs)

    hypermodel = Study(
        build_digits if smoke else build,
        ("tr", "tt", "tbasis"),
        rank=[3, 5, 20],
        basis_size=[8],
        exclude=(),  # the paper factorizes every layer
        arguments=None if smoke else tensor_ring_arguments,
        objective=SizeObjective(params=60_000),
        compile_model=compile_model,
        seed=SEED,
    )
    # It draws no point twice and takes up a trial that was interrupted; `GridSearch` (KerasTuner
    # 1.4) would visit all points too, but raises where a trial was interrupted.
    tuner = keras_tuner.RandomSearch(
        hypermodel,
        hypermodel.objective,
        max_trials=trials,
        max_consecutive_failed_trials=trials,
        seed=SEED,
        directory=str(work),
        project_name="lenet5",
    )
    tuner.search(
        data.x_train[:count],
        data.y_train[:count],
        validation_data=(data.x_train[held_out], data.y_train[held_out]),
        epochs=epochs,
        verbose=0,
    )
    return tuner, data


def batches(images, labels, shift: int):
    """Batches in random order, each image moved by up to `shift` pixels in both directions."""
    import keras
    import numpy as np

    size = images.shape[1]
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))

    class Batches(keras.utils.PyDataset):
        rng = np.random.default_rng(SEED)
        order = rng.permutation(len(labels))

        def __len__(self):
            return -(-len(labels) // BATCH)

        def on_epoch_end(self):
            self.order = self.rng.permutation(len(labels))

        def __getitem__(self, index):
            chosen = self.order[index * BATCH : (index + 1) * BATCH]
            corners = self.rng.integers(0, 2 * shift + 1, (len(chosen), 2))
            windows = [
                padded[image, row : row + size, column : column + size]
                for image, (row, column) in zip(chosen, corners, strict=True)
            ]
            return np.stack(windows), labels[chosen]

    return Batches()


def build():
    """The dense LeNet-5."""
    from keras_tensornet import models

    return models.lenet5()


def build_digits():
    """The dense LeNet-5 on digits of 8x8, enlarged to its images' size."""
    import keras

    from keras_tensornet import models

    inputs = keras.Input((8, 8, 1))
    x = keras.layers.CenterCrop(28, 28)(keras.layers.UpSampling2D(4)(inputs))
    return keras.Model(inputs, models.lenet5()(x))


def tensor_ring_arguments(path: str, format: str) -> dict:
    """The paper's modes for its format; the others take their own."""
    from keras_tensornet import models

    if format != "tr":
        return {}
    separate = {"spatial": "separate"} if path.startswith("conv") else {}
    return models.tensor_ring_modes("lenet5")[path] | separate


def tested(tuner, data):
    """The front over errors on the test images, in percent, in place of validation accuracies."""
    from dataclasses import replace

    from keras_tensornet.tuner import pareto

    found = pareto(tuner)
    trials = []
    for trial in found.trials:
        model = tuner.load_model(tuner.oracle.trials[trial.trial_id])
        scores = model.evaluate(data.x_test, data.y_test, verbose=0, return_dict=True)
        trials.append(replace(trial, metric=100.0 * (1.0 - scores["accuracy"])))
    return found.with_trials(trials, "test_error", "min")


def report(found: dict) -> None:
    """For each row of the paper, the best trial that is no larger."""
    print("tensor-ring paper, Table 4     best trial that is no larger")
    for params, error in PAPER:
        fitting = [trial for trial in found["trials"] if trial["params"] < params + 100]
        if not fitting:
            print(f"{params:>7,}  {error:.2f} %           none")
            continue
        best = min(fitting, key=lambda trial: trial["metric"])
        verdict = "dominates" if best["metric"] <= error else "does not"
        name = best["values"]["format"]
        print(
            f"{params:>7,}  {error:.2f} %           {best['params']:>7,}  {best['metric']:.2f} %  "
            f"{name:<7} {verdict}"
        )


if __name__ == "__main__":
    sys.exit(main())
