"""How late an epoch of `fit` ends on arrays, and on `datasets.batches`.

    python benchmarks/epochs.py

LeNet-5 at batch 128. Epochs of different lengths: on arrays some take twice the time of their
steps, because TensorFlow joins a sleeping thread when an epoch is over.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import statistics
import time

import common
import keras
import numpy as np

from keras_tensornet import datasets, models

BATCH = 128
LENGTHS = (20, 30, 40, 50, 60, 80, 100, 120)
ROUNDS = 3


def milliseconds(model: keras.Model, x, y, steps: int, rounds: int) -> tuple[float, float]:
    """Median milliseconds a step of `fit` on arrays and on batches, in turns."""
    rows = steps * BATCH
    dataset = datasets.batches(x[:rows], y[:rows], BATCH)
    model.fit(dataset.take(1), shuffle=False, verbose=0)  # traces
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        began = time.perf_counter()
        model.fit(x[:rows], y[:rows], batch_size=BATCH, verbose=0)
        between = time.perf_counter()
        model.fit(dataset, shuffle=False, verbose=0)
        taken[0].append(between - began)
        taken[1].append(time.perf_counter() - between)
    arrays, batches = (1e3 * statistics.median(seconds) / steps for seconds in taken)
    return arrays, batches


def main() -> None:
    """Measure, print and write the results."""
    arguments = common.parse(__doc__)
    lengths, rounds = ((2,), 1) if arguments.smoke else (LENGTHS, ROUNDS)
    rng = np.random.default_rng(0)
    x = rng.random((max(lengths) * BATCH, 28, 28, 1), "float32")
    y = rng.integers(0, 10, len(x))
    model = models.lenet5()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(x[: 2 * BATCH], y[: 2 * BATCH], batch_size=BATCH, verbose=0)
    rows = []
    for steps in lengths:
        arrays, batches = milliseconds(model, x, y, steps, rounds)
        rows.append(
            {
                "steps": steps,
                "arrays, ms/step": arrays,
                "batches, ms/step": batches,
                "arrays/batches": arrays / batches,
            }
        )
    print(common.show(rows, list(rows[0])))
    print(f"written to {common.save('epochs', rows, arguments.out, batch=BATCH, rounds=rounds)}")


if __name__ == "__main__":
    main()
