"""Measuring the best few plans of each layer on the machine at hand, and keeping the fastest.

`implementation="auto"` predicts; `autotune` measures. Its choices become the `implementation` of
the layers, so they are saved with the model, and they can be kept in a small JSON file and applied
to the same architecture again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
from keras import ops

from keras_tensornet import validation
from keras_tensornet.compiled import forward_function, gradient_function
from keras_tensornet.files import write_text
from keras_tensornet.layers.common import FactorizedMethods
from keras_tensornet.rewriting.walker import walk_layers
from keras_tensornet.serving.freezing import (
    factorized_layers,
    forget_compiled_functions,
    pinned,
)
from keras_tensornet.serving.measuring import measure

PHASES = {False: ("inference", "frozen"), True: ("training",)}
WORDS = {"inference": "forward", "frozen": "frozen forward", "training": "training step"}


@dataclass(frozen=True)
class Measurement:
    """One layer's candidates in one phase.

    Attributes:
        layer: its path in the model, see `tuned_layers`.
        phase: "inference", "frozen" (kernels merged beforehand) or "training".
        input_shape: that it was measured with, batch included.
        milliseconds: `(chain, median milliseconds)`, fastest first.
        predicted: the chain that prediction alone would have chosen.
    """

    layer: str
    phase: str
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
        measurements: one for each layer and phase.
    """

    training: bool
    measurements: tuple[Measurement, ...] = field(default_factory=tuple)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the choices to a JSON file, whole or not at all."""
        chosen: dict[str, dict[str, str]] = {}
        for found in self.measurements:
            chosen.setdefault(found.layer, {})[found.phase] = found.chosen
        text = json.dumps({"implementation": chosen}, indent=2)
        write_text(path, text + "\n")

    def __str__(self) -> str:
        lines = [f"{'layer':<24} {'phase':<14} {'ms':>9} {'as predicted':>12}  chosen"]
        for found in self.measurements:
            times = dict(found.milliseconds)
            lines.append(
                f"{found.layer:<24} {WORDS[found.phase]:<14} {times[found.chosen]:9.3f} "
                f"{times[found.predicted]:12.3f}  {found.chosen}"
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

    The choice becomes the layer's `implementation`, so it is saved with the model: for inference,
    with kernels merged in each call and with kernels merged beforehand (frozen, or exported), or
    for training; the other phases stay as they are. Layers of equal shapes are measured once.

    Args:
        model: a built model.
        batch_size: to measure with.
        training: measure forward and backward passes instead of the forward pass alone.
        candidates: how many of the plans that are predicted to be fastest are measured; the
            reconstructed one is always among them.
        progress: called as `progress(done, total, layer_name)`.

    Returns:
        The measurements; print them, or `save` them for `apply_tuning`.

    Raises:
        ValueError: if a layer is frozen.
    """
    validation.positive_int("batch_size", batch_size)
    validation.positive_int("candidates", candidates)
    layers = tuned_layers(model)
    frozen = [name for name, layer in layers.items() if layer.frozen]
    if frozen:
        raise ValueError(
            "A frozen layer has its plan already. Received frozen layers: "
            f"{', '.join(frozen)}. Call keras_tensornet.unfreeze(model), tune, and freeze again."
        )
    jit_compile = bool(getattr(model, "jit_compile", False))
    known: dict[tuple[Any, ...], Any] = {}
    measurements = []
    for done, (name, layer) in enumerate(layers.items()):
        shape = layer.tuning_shape(batch_size)
        for phase in PHASES[training]:
            key = (phase, layer.network, shape, _settings(layer))
            if key not in known:
                known[key] = _measure(layer, shape, phase, candidates, jit_compile)
            measurements.append(Measurement(name, phase, shape, *known[key]))
            _choose(layer, {phase: measurements[-1].chosen})
        if progress is not None:
            progress(done + 1, len(layers), name)
    forget_compiled_functions(model)
    return Tuning(training, tuple(measurements))


def chain_is_slower(layer: FactorizedMethods, batch_size: int, jit_compile: bool = False) -> bool:
    """Whether a layer's chain of stages, frozen, is measured to be slower than the dense layer.

    Args:
        layer: that is predicted to be faster as a chain; it is left as it was.
        batch_size: to measure with.
        jit_compile: whether the model that it is in is compiled by XLA.
    """
    shape = layer.tuning_shape(batch_size)
    times, chain = _measure(layer, shape, "frozen", 1, jit_compile)
    return bool(times[0][0] != chain)


def measured_plans(
    layer: FactorizedMethods, batch_size: int, candidates: int, phase: str = "frozen"
) -> dict[str, float]:
    """Seconds of a layer's best few plans, and of the dense one: chain -> seconds.

    Args:
        layer: built, not frozen; left as it was.
        batch_size: to measure with.
        candidates: how many of the plans that are predicted to be fastest.
        phase: "inference", "frozen" or "training".
    """
    validation.one_of("phase", phase, tuple(WORDS))
    times, _ = _measure(layer, layer.tuning_shape(batch_size), phase, candidates, False)
    return {chain: 1e-3 * milliseconds for chain, milliseconds in times}


def apply_tuning(model: keras.Model, path: str | os.PathLike[str]) -> keras.Model:
    """Set the choices of a file that `Tuning.save` wrote, in place; returns the same model.

    Raises:
        ValueError: if the file names a layer that the model does not have, a choice that does not
            fit its layer, or is no such file; the model is then unchanged.
    """
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        chosen = {name: dict(phases) for name, phases in stored["implementation"].items()}
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is no file of tuned choices. Write one with `Tuning.save`."
        ) from error
    layers = tuned_layers(model)
    unknown = sorted(set(chosen) - set(layers))
    if unknown:
        raise ValueError(
            f"The tuned choices are for another model. Received layers {unknown}; this model has "
            f"{sorted(layers)}."
        )
    before = {name: layers[name].implementation for name in chosen}
    try:
        for name, phases in chosen.items():
            _choose(layers[name], phases)
    except (TypeError, ValueError) as error:
        for name, implementation in before.items():
            layers[name].implementation = implementation
        raise ValueError(
            f"The tuned choices do not fit layer '{name}' of this model: {error}"
        ) from error
    forget_compiled_functions(model)
    return model


def tuned_layers(model: keras.Model) -> dict[str, FactorizedMethods]:
    """The layers that plans are chosen for, each once: path -> layer.

    A path is that of `walk_layers`, followed by the name of the sublayer where a layer holds
    several; of a recurrent layer, whose cell holds the plan, it is the layer's own. Subclassed
    models cannot be walked; there the names of the layers are used, numbered where they repeat.
    """
    found: dict[str, FactorizedMethods] = {}
    seen = set()
    for name, layer in (*_walked(model), *((one.name, one) for one in factorized_layers(model))):
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        unique, count = name, 2
        while unique in found:
            unique, count = f"{name}#{count}", count + 1
        found[unique] = layer
    return found


def _walked(model: keras.Model) -> Iterator[tuple[str, FactorizedMethods]]:
    try:
        layers = list(walk_layers(model))
    except (TypeError, ValueError):
        return
    for path, layer in layers:
        inside = factorized_layers(layer)
        for one in inside:
            whole = one is layer or isinstance(layer, keras.layers.RNN)
            yield path if whole else f"{path}/{one.name}", one


def _measure(
    layer: Any, shape: tuple[int, ...], phase: str, candidates: int, jit_compile: bool
) -> tuple[Any, ...]:
    """Median milliseconds of the layer's best candidates, and the predicted choice."""
    training, merged = phase == "training", phase == "frozen"
    chains = layer.tunable_plans(training, merged, shape, candidates)
    before = layer.implementation
    dtype = layer.compute_dtype if layer.autocast else None
    inputs = ops.convert_to_tensor(layer.tuning_inputs(shape), dtype=dtype)
    make = gradient_function if training else forward_function
    calls = {}
    try:
        for chain in chains:
            _choose(layer, {phase: chain})
            if merged:
                layer.freeze(shape[0])
            call = make(layer, inputs, jit_compile, layer.tuned_call)
            calls[chain] = pinned(layer, call) if merged else call
            calls[chain]()  # traced while the chain is set
            if merged:
                layer.unfreeze()
    finally:
        if merged:
            layer.unfreeze()
        layer.implementation = before
    timing = measure(calls)
    times = sorted(((chain, timing.milliseconds(chain)) for chain in chains), key=lambda t: t[1])
    return tuple(times), chains[0]


def _choose(layer: keras.Layer, phases: Mapping[str, str]) -> None:
    before = layer.implementation
    if not isinstance(before, dict):
        before = {"inference": before, "training": before}
    layer.implementation = before | dict(phases)


def _settings(layer: keras.Layer) -> str:
    """What else decides the time of a layer: its class and configuration but for the name."""
    left_out = ("name", "implementation")
    config = {key: value for key, value in layer.get_config().items() if key not in left_out}
    return f"{type(layer).__name__}{sorted(config.items(), key=str)}"
