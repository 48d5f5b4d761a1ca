"""One function for each file format: what it writes, and what its outputs are called.

Inputs are named after the model's input tensors, outputs after the layers that give them, so that a
signature reads `serving_default(image=...) -> {"fc2": ...}`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tensornet import keras_internals
from keras_tensornet.export.compaction import compacted
from keras_tensornet.export.forms import recurrent_layers
from keras_tensornet.layers.implementation import BEING_WRITTEN

SERVING = "serving_default"
Endpoint = str | Callable[..., Any]


def named_inputs(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """The input tensors of a model by name, batch size unknown."""
    return {tensor.name: tensor for tensor in keras.tree.flatten(model.inputs)}


def output_names(model: keras.Model) -> list[str]:
    """A name for each output: its layer's, numbered where one layer has several."""
    names: list[str] = []
    for tensor in keras.tree.flatten(model.outputs):
        operation = tensor._keras_history.operation
        name = operation.name.replace("/", "_")
        names.append(name if name not in names else f"{name}_{len(names)}")
    return names


def write_saved_model(
    model: keras.Model, temporary: Path, endpoints: Mapping[str, Endpoint]
) -> None:
    """A SavedModel with `serving_default` and further endpoints, batch size open.

    It holds each variable once, and only those that an endpoint reads: of a frozen layer its merged
    kernel and not the cores.
    """
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    # What endpoints read is found by Keras itself; a model that is tracked as such would be stored
    # a second time. Lookup tables are found only in what is tracked, and a module is enough.
    holder = tf.Module()
    holder.model = model
    archive.track(holder)
    specs = input_specs(model)
    archive.add_endpoint(SERVING, serving_function(model), input_signature=specs)
    for name, endpoint in endpoints.items():
        archive.add_endpoint(name, endpoint_function(model, name, endpoint), input_signature=specs)
    # TensorFlow also traces models that stand inside of this one, and as if they were trained.
    written = BEING_WRITTEN.set(True)
    try:
        archive.write_out(str(temporary), verbose=False)
    finally:
        BEING_WRITTEN.reset(written)


def write_litert(
    model: keras.Model,
    temporary: Path,
    quantize: str | None,
    calibration: Mapping[str, np.ndarray] | None,
) -> None:
    """A LiteRT file of built-in operations only, so that the plain interpreter runs it.

    Args:
        model: to write.
        temporary: path of the file.
        quantize: None, "float16" (weights) or "int8" (weights and, with data, activations).
        calibration: inputs by name that give the ranges of activations, or None.

    Raises:
        ValueError: if a recurrent layer's sequences are of unknown length, so that it cannot be
            unrolled.
    """
    import tensorflow as tf

    holder = tf.Module()
    holder.serve = signed(constant_function(model), model)
    with lengths_known(model):
        function = holder.serve.get_concrete_function()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        elif quantize == "int8" and calibration is not None:
            converter.representative_dataset = lambda: _one_by_one(calibration)
        temporary.write_bytes(compacted(converter.convert()))


def write_onnx(model: keras.Model, temporary: Path) -> None:
    """An ONNX file, batch size open.

    Raises:
        ValueError: if Keras' own grouped convolutions are in it.
    """
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    grouped = [
        layer.name
        for layer in keras_internals.flatten_layers(model)
        if isinstance(layer, kinds) and layer.groups > 1
    ]
    if grouped:
        raise ValueError(
            "Keras compiles grouped convolutions on CPU, and what is compiled cannot be written as "
            f"ONNX. Received: layers {', '.join(grouped)}. Use as_='factorized' or 'dense' for "
            "factorized layers, or another format."
        )
    model.export(str(temporary), format="onnx", verbose=False, input_signature=_as_given(model))


def write_keras(model: keras.Model, temporary: Path) -> None:
    """Keras' own file."""
    model.save(temporary)


def input_specs(model: keras.Model) -> list[keras.InputSpec]:
    """The signature of the inputs, batch size open."""
    return [
        keras.InputSpec(shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=name)
        for name, tensor in named_inputs(model).items()
    ]


def serving_function(model: keras.Model) -> Callable[..., Any]:
    """`(*inputs) -> outputs by name`, in inference."""
    names = output_names(model)

    def serve(*inputs: Any) -> Any:
        outputs = keras.tree.flatten(call_model(model, inputs))
        return dict(zip(names, outputs, strict=True))

    return serve


def constant_function(model: keras.Model) -> Callable[..., Any]:
    """The serving function with the weights as constants, which converters can fold."""
    serve = serving_function(model)
    values = [
        (variable, keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(variable)))
        for variable in model.variables
    ]

    def constant(*inputs: Any) -> Any:
        with keras.StatelessScope(state_mapping=values):
            return serve(*inputs)

    return constant


class UnknownLengthError(ValueError):
    """A recurrent layer cannot be unrolled."""


def signed(function: Callable[..., Any], model: keras.Model) -> Any:
    """A `tf.function` of the inputs of a model, batch size open."""
    import tensorflow as tf

    specs = [tf.TensorSpec(spec.shape, spec.dtype, spec.name) for spec in input_specs(model)]
    return tf.function(function, input_signature=specs)


@contextmanager
def lengths_known(model: keras.Model) -> Iterator[None]:
    """While a model is traced whose recurrent layers are unrolled: errors of unknown lengths.

    Raises:
        UnknownLengthError: if the length of a sequence is not known.
    """
    try:
        yield
    except Exception as error:
        names = [layer.name for layer in recurrent_layers(model)]
        shapes = [tensor.shape[1:] for tensor in named_inputs(model).values()]
        words = ("Unrolling requires", "Cannot unroll", "Constraints violated")
        open_axis = any(extent is None for shape in shapes for extent in shape)
        if not (names and open_axis and any(part in str(error) for part in words)):
            raise
        raise UnknownLengthError(
            "Files of this format have no loops, so recurrent layers are unrolled, and the "
            f"length of their sequences is not known. Received: layers {', '.join(names)}. Give "
            "the model's input a length, keras.Input((length, ...)), or use another format."
        ) from error


def endpoint_function(model: keras.Model, name: str, endpoint: Endpoint) -> Callable[..., Any]:
    """The function of a further endpoint.

    Args:
        model: that is exported.
        name: of the endpoint, and of its output.
        endpoint: name of a layer whose output is served, or a function of the model's outputs that
            returns a tensor or a dict of tensors.

    Raises:
        ValueError: if the model has no such layer.
        TypeError: if it is neither.
    """
    if isinstance(endpoint, str):
        known = [layer.name for layer in model.layers]
        if endpoint not in known:
            raise ValueError(
                f"Endpoint {name!r} must name a layer of the exported model. Received: "
                f"{endpoint!r}. It has: {', '.join(known)}."
            )
        part = keras.Model(model.inputs, model.get_layer(endpoint).output)
        return lambda *inputs: {name: call_model(part, inputs)}
    if not callable(endpoint):
        raise TypeError(
            f"Endpoint {name!r} must be the name of a layer or a function of the outputs. "
            f"Received: {endpoint!r}."
        )

    def serve(*inputs: Any) -> Any:
        outputs = endpoint(call_model(model, inputs))
        return outputs if isinstance(outputs, dict) else {name: outputs}

    return serve


def call_model(model: keras.Model, inputs: Any) -> Any:
    """Call a model on its inputs as a flat sequence."""
    if isinstance(model, keras.Sequential) or len(inputs) == 1:
        packed = inputs[0]
        if not isinstance(model, keras.Sequential):
            packed = keras.tree.pack_sequence_as(model.input, [packed])
    else:
        packed = keras.tree.pack_sequence_as(model.input, list(inputs))
    return model(packed, training=False)


def quantized_keras(model: keras.Model) -> keras.Model:
    """The model with int8 kernels in its Dense, EinsumDense and Embedding layers; in place.

    Raises:
        ValueError: if no layer of the model can be quantized by Keras.
    """
    kinds = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding)
    if not any(isinstance(layer, kinds) for layer in keras_internals.flatten_layers(model)):
        raise ValueError(
            "Keras quantizes Dense, EinsumDense and Embedding layers, and the model has none. "
            "Use format='litert', which quantizes convolutions too."
        )
    model.quantize("int8")
    return model


def _as_given(model: keras.Model) -> Any:
    """Input specs in the structure in which the model takes its inputs."""
    specs = input_specs(model)
    if isinstance(model, keras.Sequential):
        return specs
    packed = keras.tree.pack_sequence_as(model.input, specs)
    return packed if isinstance(packed, (list, tuple)) else [packed]


def _one_by_one(calibration: Mapping[str, np.ndarray]) -> Iterator[Any]:
    count = min(len(array) for array in calibration.values())
    for place in range(count):
        yield {name: array[place : place + 1] for name, array in calibration.items()}
