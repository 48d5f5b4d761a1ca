"""What a report measures on whole models: file size, latency, scores."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import keras
import numpy as np

WARM_UP = 2


def file_bytes(model: keras.Model) -> int:
    """Size of the model's `.keras` file, without the state of its optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path, include_optimizer=False)
        return path.stat().st_size


def example_batch(model: keras.Model, data, batch_size: int):
    """A batch of inputs: the first of the data, else zeros; None where shapes are unknown."""
    if data is not None:
        return keras.tree.map_structure(lambda array: np.asarray(array[:batch_size]), data[0])
    if any(None in tensor.shape[1:] for tensor in model.inputs):
        return None
    return keras.tree.map_structure(
        lambda tensor: np.zeros((batch_size, *tensor.shape[1:]), tensor.dtype), model.input
    )


def latencies(models: Mapping[str, keras.Model], batch, repeats: int) -> dict[str, float]:
    """Median milliseconds of one batch for each model; the models take turns, call by call."""
    if batch is None or repeats < 1:
        return {}
    for model in models.values():
        for _ in range(WARM_UP):
            model.predict_on_batch(batch)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            start = time.perf_counter()
            model.predict_on_batch(batch)
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * median(values) for name, values in times.items()}


def scores(model: keras.Model, dense: keras.Model, data) -> dict[str, float]:
    """The metrics that the dense model was compiled with, or the accuracy of class indices.

    Raises:
        ValueError: if neither can be computed.
    """
    if data is None:
        return {}
    inputs, targets = data
    if model.compiled and dense.compiled:
        return model.evaluate(inputs, targets, verbose=0, return_dict=True)
    outputs, targets = model.predict(inputs, verbose=0), np.asarray(targets)
    if not isinstance(outputs, np.ndarray) or targets.shape != outputs.shape[:-1]:
        raise ValueError(
            "A model that is not compiled is scored by the accuracy of class indices. Received: "
            f"targets of shape {targets.shape}. Compile the dense model with metrics of your own."
        )
    return {"accuracy": float(np.mean(outputs.argmax(-1) == targets))}


def versions() -> dict[str, str]:
    """What a reader needs to judge milliseconds."""
    return {
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "cores": str(os.cpu_count()),
    }
