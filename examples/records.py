"""Results files of the examples: read what is there, add a run, write it whole or not at all.

Runs that were interrupted go on after their last whole epoch: see `resumable_fit`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from keras_tensornet.files import write_whole


def read(path: Path) -> list[dict]:
    """The runs that a results file holds; none if it does not exist."""
    return json.loads(path.read_text())["runs"] if path.exists() else []


def find(path: Path, settings: dict) -> dict | None:
    """The run with exactly these settings, if it has been done."""
    return next((run for run in read(path) if run["settings"] == settings), None)


def add(path: Path, run: dict) -> None:
    """Append a run, with the machine it ran on; the file is replaced in one step."""
    write(path, {"runs": [*read(path), {**run, "machine": machine()}]})


def write(path: Path, content) -> None:
    """Write JSON so that a reader sees the old file or the new one, nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1) + "\n"
    write_whole(path, lambda draft: draft.write_text(text))


def resumable_fit(
    model, batches_from, settings: dict, work: Path | None, **arguments
) -> list[dict]:
    """Fit a model, going on where an earlier call with these settings was interrupted.

    Args:
        model: compiled.
        batches_from: `epoch -> batches`, an endless generator that begins with that epoch.
        settings: what makes this run different from others; `settings["epochs"]` is used.
        work: folder for what is needed to go on, emptied at the end; None keeps nothing.
        **arguments: of `model.fit`, among them `steps_per_epoch`.

    Returns:
        One dictionary of metrics and seconds for each epoch.
    """
    import keras

    if work is None:
        work = Path(tempfile.mkdtemp())
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = work / name
    log, state = folder / "epochs.json", folder / "backup" / "training_metadata.json"
    done = json.loads(state.read_text())["epoch"] if state.exists() else 0
    epochs = json.loads(log.read_text())[:done] if done else []
    began = time.perf_counter()

    def note(epoch, logs):
        nonlocal began
        seconds, began = time.perf_counter() - began, time.perf_counter()
        entry = {key: float(value) for key, value in logs.items()}
        epochs[epoch:] = [{**entry, "seconds": round(seconds, 1)}]
        write(log, epochs)

    # Callbacks run in order: an epoch that is backed up has been noted before.
    model.fit(
        batches_from(done),
        epochs=settings["epochs"],
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=note),
            keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=False),
        ],
        **arguments,
    )
    shutil.rmtree(folder)
    return epochs


def parameters(model) -> int:
    """Parameters that must be stored, without buffers: a pseudo-random basis is its seed."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def machine() -> dict:
    """What a reader needs to judge seconds: cores, system, versions."""
    packages = ("keras", "tensorflow", "numpy", "keras-tensornet")
    return {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
