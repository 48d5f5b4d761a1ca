"""What ADMM adds to training: an update of Z and U, and the pull in each step.

    python benchmarks/admm.py

ResNet-32 on images of CIFAR-10's size, batch 128, at a quarter of the parameters, in formats that
are found by SVDs and by least squares. The update is projected in threads, one for each core. An
epoch is 391 of the measured steps.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import statistics
import time
import warnings

import common
import keras
import numpy as np

from keras_tensornet import models
from keras_tensornet.training import ADMM

FORMATS = ("tt", "tucker", "tr", "cp")
BATCH = 128
STEPS_OF_EPOCH = 391
SHARE = 0.25
SEED = 0


class Stopwatch(keras.callbacks.Callback):
    """Milliseconds of each step but the first two of a `fit`, which trace."""

    def __init__(self):
        super().__init__()
        self.steps: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if batch >= 2:
            self.steps.append(1e3 * (time.perf_counter() - self.began))


def admm_row(format: str, depth: int, rounds: int, steps: int) -> dict:
    """Steps with and without the pull in turns, and the updates between them."""
    keras.utils.set_random_seed(SEED)
    model = models.resnet_cifar(depth)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), loss)
    rng = np.random.default_rng(SEED)
    images = rng.normal(size=(steps * BATCH, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 10, len(images))
    plain, pulled = Stopwatch(), Stopwatch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        admm = ADMM(format=format, share=SHARE, every="epoch")
        for _ in range(rounds):
            for callbacks in ([plain], [admm, pulled]):
                model.fit(images, labels, batch_size=BATCH, callbacks=callbacks, verbose=0)
    step, with_pull = statistics.median(plain.steps), statistics.median(pulled.steps)
    epoch = 1e-3 * step * STEPS_OF_EPOCH
    update = statistics.median(admm.seconds)
    return {
        "case": f"resnet{depth} {format} {1 / SHARE:g}x",
        "kernels": len(admm.history),
        "update s": update,
        "epoch s": epoch,
        "update/epoch": update / epoch,
        "step ms": step,
        "step with pull": with_pull / step,
    }


def main() -> None:
    """Measure, print and write the results."""
    arguments = common.parse(__doc__)
    depth, rounds, steps = (8, 1, 4) if arguments.smoke else (32, 2, 12)
    rows = []
    for format in FORMATS[:1] if arguments.smoke else FORMATS:
        if arguments.only in format:
            rows.append(admm_row(format, depth, rounds, steps))
            keras.backend.clear_session()
            print(rows[-1], flush=True)
    print(common.show(rows, list(rows[0]) if rows else []))
    print(f"written to {common.save('admm', rows, arguments.out, batch=BATCH, seed=SEED)}")


if __name__ == "__main__":
    main()
