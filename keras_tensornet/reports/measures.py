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

from keras_tensornet.reading import Batches, Signature

WARM_UP = 2


def file_bytes(model: keras.Model) -> int:
    """Size of the model's `.keras` file, without the state of its optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path, include_optimizer=False)
        return path.stat().st_size


def example_batch(model: keras.Model, data: Batches | None, batch_size: int):
    """A batch of inputs: the first of the data, else zeros; None where shapes are unknown."""
    if data is not None:
        return data.first(batch_size).x
    signature = Signature.of(model)
    if any(None in shape[1:] for shape in signature.shapes) or "string" in signature.dtypes:
        return None
    size = signature.batch_size or batch_size
    return signature.pack(
        [
            np.zeros((size, *shape[1:]), dtype)
            for shape, dtype in zip(signature.shapes, signature.dtypes, strict=True)
        ]
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


def scores(model: keras.Model, dense: keras.Model, data: Batches | None) -> dict[str, float]:
    """The metrics that the dense model was compiled with, or the accuracy of class indices.

    Raises:
        ValueError: if neither can be computed.
    """
    if data is None:
        return {}
    if model.compiled and dense.compiled:
        return model.evaluate(**data.for_evaluate(), verbose=0, return_dict=True)
    right = total = 0.0
    for inputs, targets, weight in data:
        outputs, shape = model.predict_on_batch(inputs), np.shape(targets)
        if isinstance(outputs, np.ndarray) and shape == (*outputs.shape[:-1], 1):
            targets, shape = targets[..., 0], outputs.shape[:-1]
        if not isinstance(outputs, np.ndarray) or shape != outputs.shape[:-1]:
            raise ValueError(
                "A model that is not compiled is scored by the accuracy of class indices. "
                f"Received: targets of shape {shape}. Compile the dense model with metrics of your "
                "own."
            )
        counts = np.ones(shape)
        if weight is not None:  # (batch,) or longer
            counts *= np.reshape(weight, np.shape(weight) + (1,) * (len(shape) - np.ndim(weight)))
        right += float(np.sum(counts * (outputs.argmax(-1) == targets)))
        total += float(np.sum(counts))
    return {"accuracy": right / max(total, 1e-12)}


def versions() -> dict[str, str]:
    """What a reader needs to judge milliseconds."""
    return {
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "cores": str(os.cpu_count()),
    }
