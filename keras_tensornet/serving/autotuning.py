"""Measuring the best few plans of each layer on the machine at hand, and keeping the fastest.

`implementation="auto"` predicts; `autotune` measures. Its choices become the `implementation` of
the layers, so they are saved with the model, and they can be kept in a small JSON file and applied
to the same architecture again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_tensornet import validation
from keras_tensornet.compiled import forward_function, gradient_function
from keras_tensornet.contraction import candidate_plans
from keras_tensornet.files import write_text
from keras_tensornet.serving.freezing import factorized_layers, forget_compiled_functions
from keras_tensornet.serving.measuring import measure
from keras_tensornet.shapes import with_batch


@dataclass(frozen=True)
class Measurement:
    """One layer's candidates.

    Attributes:
        layer: name of the layer.
        input_shape: that it was measured with, batch included.
        milliseconds: `(chain, median milliseconds)`, fastest first.
        predicted: the chain that prediction alone would have chosen.
    """

    layer: str
    input_shape: tuple[int, ...]
    milliseconds: tuple[tuple[str, float], ...]
    predicted: str

    @property
    def chosen(self) -> str:
        """The fastest chain."""
        return self.milliseconds[0][0]


@dataclass(frozen=True)
class Tuning:
    """What `autotune` measured and chose; prints as a table and goes to JSON and back.

    Attributes:
        training: whether training steps were measured.
        measurements: one for each layer.
    """

    training: bool
    measurements: tuple[Measurement, ...] = field(default_factory=tuple)

    def save(self, path: str | os.PathLike) -> None:
        """Write the choices to a JSON file, whole or not at all."""
        chosen = {found.layer: found.chosen for found in self.measurements}
        text = json.dumps({"training": self.training, "implementation": chosen}, indent=2)
        write_text(path, text + "\n")

    def __str__(self) -> str:
        phase = "training step" if self.training else "forward"
        lines = [f"{'layer':<24} {phase + ' ms':>16} {'predicted choice ms':>20}  chosen"]
        for found in self.measurements:
            times = dict(found.milliseconds)
            lines.append(
                f"{found.layer:<24} {times[found.chosen]:16.3f} {times[found.predicted]:20.3f}  "
                f"{found.chosen}"
            )
        return "\n".join(lines)


def autotune(
    model: keras.Model,
    batch_size: int,
    training: bool = False,
    candidates: int = 4,
    progress: Callable[[int, int, str], None] | None = None,
) -> Tuning:
    """Measure the best few plans of every factorized layer and keep the fastest, in place.

    The choice becomes the layer's `implementation` (for inference or for training, the other stays
    as it is), so it is saved with the model. Layers of equal shapes are measured once.

    Args:
        model: a built model.
        batch_size: to measure with.
        training: measure forward and backward passes instead of the forward pass alone.
        candidates: how many of the plans that are predicted to be fastest are measured; the
            reconstructed one is always among them.
        progress: called as `progress(done, total, layer_name)`.

    Returns:
        The measurements; print them, or `save` them for `apply_tuning`.
    """
    validation.positive_int("batch_size", batch_size)
    validation.positive_int("candidates", candidates)
    layers = factorized_layers(model)
    jit_compile = bool(getattr(model, "jit_compile", False))
    known: dict = {}
    measurements = []
    for done, layer in enumerate(layers):
        shape = with_batch(layer.built_shape, batch_size)
        key = (layer.network, shape, _settings(layer))
        if key not in known:
            known[key] = _measure(layer, shape, training, candidates, jit_compile)
        times, predicted = known[key]
        found = Measurement(layer.name, shape, times, predicted)
        measurements.append(found)
        _choose(layer, training, found.chosen)
        if progress is not None:
            progress(done + 1, len(layers), layer.name)
    forget_compiled_functions(model)
    return Tuning(training, tuple(measurements))


def apply_tuning(model: keras.Model, path: str | os.PathLike) -> keras.Model:
    """Set the choices of a file that `Tuning.save` wrote, in place; returns the same model.

    Raises:
        ValueError: if the file names a layer that the model does not have, or is no such file;
            the model is then unchanged.
    """
    try:
        stored = json.loads(Path(path).read_text())
        training, chosen = bool(stored["training"]), dict(stored["implementation"])
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is no file of tuned choices. Write one with `Tuning.save`."
        ) from error
    layers = {layer.name: layer for layer in factorized_layers(model)}
    unknown = sorted(set(chosen) - set(layers))
    if unknown:
        raise ValueError(
            f"The tuned choices are for another model. Received layers {unknown}; this model has "
            f"{sorted(layers)}."
        )
    for name, chain in chosen.items():
        _choose(layers[name], training, chain)
    forget_compiled_functions(model)
    return model


def _measure(layer, shape, training, candidates, jit_compile) -> tuple:
    """Median milliseconds of the layer's best candidates, and the predicted choice."""
    plan = layer.plan_for(training=training, input_shape=shape)
    plans = candidate_plans(layer.network, plan.workload)
    chains = [found.describe() for found in plans[:candidates]]
    chains += [found.describe() for found in plans if found.implementation == "reconstructed"]
    if layer.kernel_constraint is not None:
        chains = ["reconstructed"]  # the constraint acts on the merged kernel
    chains = list(dict.fromkeys(chains))
    before = layer.implementation
    rng = np.random.default_rng(0)
    inputs = ops.convert_to_tensor(rng.normal(size=shape), dtype=layer.compute_dtype)
    make = gradient_function if training else forward_function
    calls = {}
    try:
        for chain in chains:
            layer.implementation = chain
            calls[chain] = make(layer, inputs, jit_compile)
            calls[chain]()  # traced while the chain is set
    finally:
        layer.implementation = before
    timing = measure(calls)
    times = sorted(((chain, timing.milliseconds(chain)) for chain in chains), key=lambda t: t[1])
    return tuple(times), chains[0]


def _choose(layer, training: bool, chain: str) -> None:
    before = layer.implementation
    if not isinstance(before, dict):
        before = {"inference": before, "training": before}
    layer.implementation = before | {"training" if training else "inference": chain}


def _settings(layer) -> str:
    """What else decides the time of a layer: its class and configuration but for the name."""
    config = {key: value for key, value in layer.get_config().items() if key != "name"}
    return f"{type(layer).__name__}{sorted(config.items(), key=str)}"
