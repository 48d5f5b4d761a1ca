"""What a report measures on whole models: file size, latency, scores."""

from __future__ import annotations

import os
from collections.abc import Mapping

import keras
import numpy as np

from keras_tensornet import keras_internals
from keras_tensornet.files import scratch_folder
from keras_tensornet.reading import Batches, Signature
from keras_tensornet.saving import save_for_inference
from keras_tensornet.serving.latency import example_inputs, measure_models
from keras_tensornet.serving.measuring import Timing

LIVE = ", unfrozen"


def file_bytes(model: keras.Model) -> int:
    """Size of the model's `.keras` file, without the state of its optimizer."""
    with scratch_folder() as folder:
        temporary = folder / "model.keras"
        save_for_inference(model, temporary)
        return temporary.stat().st_size


def latencies(
    models: Mapping[str, keras.Model], data: Batches | None, batch_size: int, repeats: int
) -> Timing | None:
    """The latency of each model, and of those with factorized layers unfrozen too, all in turns."""
    dense = next(iter(models.values()))
    if repeats < 1 or (data is None and "string" in Signature.of(dense).dtypes):
        return None
    given = None if data is None else data.first(batch_size).x
    inputs = example_inputs(dense, batch_size, given)
    live = {name + LIVE: model for name, model in models.items() if _merges(model)}
    return measure_models(models, batch_size, inputs, live, repeats)


def unfrozen(timing: Timing | None, name: str) -> float | None:
    """Milliseconds of a model that is not frozen; of one without factorized layers the same."""
    if timing is None:
        return None
    return timing.milliseconds(name + LIVE if name + LIVE in timing.median else name)


def _merges(model: keras.Model) -> bool:
    """Whether a model has layers that merge cores, so that freezing it changes something."""
    layers = keras_internals.flatten_layers(model, include_self=False)
    return any(hasattr(layer, "unfreeze") for layer in layers)


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
