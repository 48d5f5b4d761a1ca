"""Keep what the demo made, whole or not at all, and check it where this package is absent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

# Largest difference between the outputs of a model and of its SavedModel, in logits of order 10:
# the same float32 sums in another order.
TOLERANCE = 1e-4


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it in place in one step."""
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
        temporary = Path(folder, path.name)
        write(temporary)
        os.replace(temporary, path)


def save_model(model, path: Path) -> None:
    """Write a `.keras` file."""
    write_whole(path, lambda temporary: model.save(temporary))


def export_saved_model(model, folder: Path) -> None:
    """Write a SavedModel, replacing one that is there already."""
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent) as beside:
        temporary = Path(beside, folder.name)
        model.export(str(temporary), format="tf_saved_model", verbose=False)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)


def difference_in_clean_process(model, folder: Path, inputs: np.ndarray) -> float:
    """The largest difference of the SavedModel's outputs, in a new process, from the model's.

    That process cannot import keras_tensornet, and both sides compute on the CPU.

    Args:
        model: the Keras model that was exported.
        folder: of its SavedModel.
        inputs: (batch, *input shape of the model), float32.

    Raises:
        RuntimeError: if the other process fails; with the last line it wrote.
    """
    import keras

    from keras_tensornet.demo import clean_process

    with keras.device("cpu:0"):
        expected = keras.ops.convert_to_numpy(model(inputs, training=False))
    program = Path(clean_process.__file__).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as exchange:
        sent, received = Path(exchange, "inputs.npy"), Path(exchange, "outputs.npy")
        np.save(sent, inputs)
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder), str(sent), str(received)],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
            cwd=exchange,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"The SavedModel in {folder} does not run alone: {last_line}")
        outputs = np.load(received)
    return float(np.max(np.abs(outputs - expected)))
