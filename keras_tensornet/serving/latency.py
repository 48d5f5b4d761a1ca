"""Latency, one meaning everywhere: milliseconds of one compiled call of a model on one batch.

Reports, searches, budgets, the demo and the benchmarks of whole models all measure with
`measure_models`: the forward pass as the backend compiles it, without the Python of `predict`,
factorized layers frozen, as an exported file runs them. An `ExportReport` measures the same of the
exported file, in its own process. Predicted times of contraction plans are called "predicted".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np

from keras_tensornet.compiled import forward_function
from keras_tensornet.reading import Signature
from keras_tensornet.serving.freezing import frozen, pinned
from keras_tensornet.serving.measuring import REPEATS, SECONDS, Timing, measure
from keras_tensornet.shapes import with_batch


def measure_models(
    models: Mapping[str, keras.Model],
    batch_size: int = 1,
    inputs: Any = None,
    unfrozen: Mapping[str, keras.Model] | None = None,
    repeats: int = REPEATS,
    seconds: float = SECONDS,
) -> Timing:
    """Measure the latency of models in turns, on the same inputs; they are left as they were.

    Args:
        models: name -> built model; their factorized layers are frozen for the measurement.
        batch_size: of the inputs; models of a fixed batch size keep it.
        inputs: a batch as the models take it; made by `example_inputs` by default.
        unfrozen: further models, or the same, that merge in every call as they do in training.
        repeats, seconds: see `measure`.
    """
    calls: dict[str, Callable[[], object]] = {}
    if inputs is None:
        inputs = example_inputs(next(iter(models.values())), batch_size)
    inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
    for name, model in (unfrozen or {}).items():
        calls[name] = pinned(model, forward_function(model, inputs))
        calls[name]()  # compiled before the same model may be frozen
    with ExitStack() as stack:
        for name, model in models.items():
            stack.enter_context(frozen(model, batch_size))
            calls[name] = pinned(model, forward_function(model, inputs))
        order = [*models, *(unfrozen or {})]
        return measure({name: calls[name] for name in order}, repeats, seconds)


def example_inputs(model: keras.Model, batch_size: int, data: Any = None) -> Any:
    """A batch for a model, in the structure that it is called with.

    Args:
        model: a built model. Unknown extents count as 32, those of a model without a graph are what
            it was built with; a fixed batch size wins over the one given.
        batch_size: number of examples.
        data: examples to take them from, repeated where they are too few; by default floats are
            normal, and integers zero.

    Raises:
        TypeError: if the model does not say which inputs it takes.
    """
    signature = Signature.of(model)
    batch_size = signature.batch_size or batch_size
    if data is not None:
        return keras.tree.map_structure(lambda array: _resized(array, batch_size), data)
    rng = np.random.default_rng(0)

    def example(shape: Any, dtype: Any) -> Any:
        shape = with_batch(shape, batch_size)
        if keras.backend.is_float_dtype(dtype):
            return rng.normal(size=shape).astype("float32")
        return np.full(shape, "") if dtype == "string" else np.zeros(shape, dtype)

    return signature.pack([example(*pair) for pair in signature.examples()])


def fixed_batch(model: keras.Model) -> int | None:
    """The batch size that a model was built for, or None where any will do."""
    return Signature.of(model).batch_size


def _resized(array: Any, batch_size: int) -> np.ndarray:
    array = np.asarray(array[:batch_size])
    return np.resize(array, (batch_size, *array.shape[1:]))
