"""What the T-Basis studies share: one resumable run, its record, and the table of all runs."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import records


def run_once(
    results: Path,
    work: Path,
    settings: dict,
    build: Callable[[], keras.Model],
    optimizer: Callable[[], keras.optimizers.Optimizer],
    train,
    test: tuple,
) -> dict:
    """Train one network, unless the results have it; goes on from the last epoch if interrupted.

    Args:
        results: file of the records.
        work: folder for checkpoints, one subfolder a run.
        settings: what makes two runs the same.
        build: makes the uncompiled model.
        optimizer: makes the optimizer.
        train: `(x, y)` arrays or a `PyDataset`.
        test: `(x, y)` arrays.
    """
    done = records.find(results, settings)
    if done is not None:
        return done
    folder = work / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(settings["seed"])
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(), loss, metrics=["accuracy"])
    arrays = isinstance(train, tuple)
    model.fit(
        train[0] if arrays else train,
        train[1] if arrays else None,
        batch_size=settings["batch_size"] if arrays else None,
        epochs=settings["epochs"],
        validation_data=test,
        validation_batch_size=500,
        callbacks=[
            _Epochs(folder / "epochs.csv"),
            keras.callbacks.BackupAndRestore(folder / "backup"),
        ],
        verbose=0,
    )
    run = {"settings": settings, **_summary(model, folder / "epochs.csv")}
    records.add(results, run)
    shutil.rmtree(folder)
    return run


def table(results: Path, dense_params: int) -> str:
    """All runs, smallest network first in each group."""
    lines = [f"{'network':34} {'params':>8} {'ratio':>7} {'last':>7} {'best':>7}  epochs seed"]
    runs = sorted(records.read(results), key=lambda run: (run["settings"]["method"], run["params"]))
    for run in runs:
        settings = run["settings"]
        lines.append(
            f"{name_of(settings):34} {run['params']:>8,} {dense_params / run['params']:>6.1f}x "
            f"{run['last']:>7.4f} {run['best']:>7.4f}  {settings['epochs']:>6} "
            f"{settings['seed']:>4}"
        )
    return "\n".join(lines)


def name_of(settings: dict) -> str:
    """A short name for a run."""
    if settings["method"] == "dense":
        return "dense"
    basis = "" if settings["trainable_basis"] else " pseudo-random"
    adapters = "" if settings["adapters"] == "exp" else f" adapters={settings['adapters']}"
    return f"T-Basis{basis} B={settings['size']} R={settings['rank']}{adapters}"


class _Epochs(keras.callbacks.Callback):
    """Appends each epoch to a file, which an interrupted run finds again."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self.started
        row = [epoch, logs["loss"], logs["accuracy"], logs["val_accuracy"], round(seconds, 1)]
        with self.path.open("a") as file:
            csv.writer(file).writerow(row)
        print(f"  epoch {epoch + 1}: test accuracy {logs['val_accuracy']:.4f}", flush=True)


def _summary(model: keras.Model, path: Path) -> dict:
    with path.open() as file:
        rows = {int(row[0]): [float(value) for value in row[1:]] for row in csv.reader(file)}
    tested = [rows[epoch][2] for epoch in sorted(rows)]
    return {
        "params": records.parameters(model),
        "last": round(tested[-1], 4),
        "best": round(max(tested), 4),
        "test_accuracy": [round(value, 4) for value in tested],
        "seconds": round(sum(row[3] for row in rows.values()), 1),
    }
