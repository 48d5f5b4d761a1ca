"""What is shipped: the cores, the merged kernels, or stock layers; and which of these is best.

All files but `.keras` are frozen when they are written: for the serving batch each
layer gets the plan that is fastest once its kernels are merged, and the file holds those kernels.
The dense layer is one of the plans, so these files are never slower, and nothing is merged in a
request. Only a T-Basis stays as it is: its size is what it is for, and "dense" is the fast form.
A `.keras` file keeps variables; to load without this package it needs dense layers.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_tensornet import keras_internals, validation
from keras_tensornet.back_to_keras import to_dense_model, to_stock_model
from keras_tensornet.layers import TBasis
from keras_tensornet.reading import Signature, read_inputs
from keras_tensornet.rewriting.walker import rewrite_model
from keras_tensornet.serving.freezing import factorized_layers

FORMS = ("factorized", "dense", "stock")
AUTO = "auto"
# LiteRT's plain interpreter has no loops, PyTorch traces none, OpenVINO converts not all of Keras'.
UNROLLED = ("litert", "openvino", "torch")
MERGED_WHEN_WRITTEN = ("tf_saved_model", "litert", "onnx", "openvino", "torch")


def choose_form(model: keras.Model, format: str = "tf_saved_model") -> str:
    """The form that `as_="auto"` ships: "factorized", but "dense" for `.keras` files.

    Models without factorized layers are shipped as "dense" too, and so are models with a T-Basis,
    whose kernels would otherwise be merged in each request.

    Args:
        model: a built model.
        format: of the file.
    """
    frozen = format in MERGED_WHEN_WRITTEN and factorized_layers(model)
    return "factorized" if frozen and not _has_basis(model) else "dense"


def _has_basis(model: keras.Model) -> bool:
    return any(isinstance(layer, TBasis) for layer in keras_internals.flatten_layers(model))


def in_form(
    model: keras.Model, form: str, batch_size: int, format: str = "tf_saved_model"
) -> keras.Model:
    """The model in a form, frozen for a batch size if the file holds no variables.

    The given model stays as it was.

    Args:
        model: a built model.
        form: one of `FORMS`.
        batch_size: that plans are made for.
        format: of the file that it will be written to.

    Raises:
        TypeError: for a model that cannot be built again from its configuration.
        ValueError: if there is no such form.
    """
    validation.one_of("as_", form, FORMS)
    if form != "factorized":
        return to_stock_model(model) if form == "stock" else to_dense_model(model)
    if format not in MERGED_WHEN_WRITTEN or not factorized_layers(model):
        return model
    result = rewrite_model(model, lambda layer, path: None)
    for layer in factorized_layers(result):
        if format == "onnx":
            # The converter takes no captured tensors, but folds what follows from constants.
            layer.implementation = layer.plan_for(batch_size, merged=True).describe()
        else:
            layer.freeze(batch_size)
    return result


def has_graph(model: keras.Model) -> bool:
    """Whether a model says by itself what its inputs and outputs are."""
    return bool(getattr(model, "inputs", None))


def as_graph(model: keras.Model, samples: Any = None) -> keras.Model:
    """A model that has a graph as it is; any other as the one layer of a Functional model.

    Args:
        model: a built model.
        samples: inputs, of which the shapes and types are taken.
    """
    if has_graph(model):
        return model
    signature = Signature.of(model)
    specs = signature.examples()
    if samples is not None:
        arrays = keras.tree.flatten(read_inputs(model, samples, name="samples").first(1).x)
        specs = [(array.shape, str(array.dtype)) for array in arrays]
    inputs = signature.pack(
        [
            keras.Input(shape[1:], dtype=dtype, name=name)
            for name, (shape, dtype) in zip(signature.names, specs, strict=True)
        ]
    )
    return keras.Model(inputs, model(inputs), name=model.name)


def unrolled(model: keras.Model, given: keras.Model) -> keras.Model:
    """The model with its recurrent layers unrolled, for formats without loops.

    Args:
        model: in its form; changed in place unless it is the given one.
        given: what was to be exported; it stays as it was.
    """
    if all(layer.unroll for layer in recurrent_layers(model)):
        return model
    if model is given:
        model = rewrite_model(model, lambda layer, path: None)
    for layer in recurrent_layers(model):
        layer.unroll = True
    return model


def recurrent_layers(model: keras.Model) -> list[Any]:
    """All recurrent layers of a model, those inside wrappers too."""
    layers = keras_internals.flatten_layers(model)
    return [layer for layer in layers if isinstance(layer, keras.layers.RNN)]


def needs_package(model: keras.Model) -> bool:
    """Whether a `.keras` file of the model can only be loaded where this package is installed."""
    layers = keras_internals.flatten_layers(model)
    return any(type(layer).__module__.partition(".")[0] == "keras_tensornet" for layer in layers)
