"""What is shipped: the cores, the merged kernels, or stock layers; and which of these is best.

The rule of `as_="auto"`, from predicted times at the serving batch:

    ship the cores, unless that is predicted to take more than 1.05 times as long as the dense
    layers; a `.keras` file always gets dense layers, so that it loads without this package.

A SavedModel keeps the cores as variables and merges them in every call, which is counted. LiteRT
and ONNX files hold constants, and what can be merged is merged when they are written; there cores
are never slower, because one of their plans is the dense layer itself.
"""

from __future__ import annotations

import math

import keras

from keras_tensornet import validation
from keras_tensornet.compression.walker import rewrite_model, walk_layers
from keras_tensornet.contraction import make_plan
from keras_tensornet.freezing import factorized_layers
from keras_tensornet.layers import TBasis
from keras_tensornet.layers.common import EXTENT_HINT, FactorizedMethods

FORMS = ("factorized", "dense", "stock")
AUTO = "auto"
SLACK = 1.05
MERGED_WHEN_WRITTEN = ("litert", "onnx")


def choose_form(model: keras.Model, format: str = "tf_saved_model", batch_size: int = 1) -> str:
    """The form that `as_="auto"` ships: "factorized" or "dense", by the rule of this module.

    Args:
        model: a built model.
        format: of the file.
        batch_size: that it will serve.
    """
    factorized = factorized_layers(model)
    if format == "keras" or not factorized:
        return "dense"
    cores, dense, merged = 0.0, 0.0, format in MERGED_WHEN_WRITTEN
    for layer in factorized:
        shape = _shape(layer, batch_size)
        cores += layer.plan_for(batch_size, merged=merged, input_shape=shape).seconds
        workload = layer.workload(shape, False, True)
        dense += make_plan(layer.network, workload, "reconstructed").seconds
    return "factorized" if cores <= SLACK * dense else "dense"


def in_form(
    model: keras.Model, form: str, batch_size: int, format: str = "tf_saved_model"
) -> keras.Model:
    """A new model in a form, planned for a batch size; the given model stays as it was.

    Args:
        model: a built model.
        form: one of `FORMS`.
        batch_size: that plans are made for.
        format: of the file that it will be written to.

    Raises:
        TypeError: if the model is subclassed and has to be rewritten.
        ValueError: if there is no such form.
    """
    validation.one_of("as_", form, FORMS)
    if form == "stock":
        from keras_tensornet.compression import to_stock_model

        return to_stock_model(_without_shared_basis(model))
    if form == "dense":
        return dense_model(model)
    if not factorized_layers(model):
        return model
    result = rewrite_model(model, lambda layer, path: None)
    for layer in factorized_layers(result):
        shape = _shape(layer, batch_size)
        plan = layer.plan_for(batch_size, merged=format in MERGED_WHEN_WRITTEN, input_shape=shape)
        before = layer.implementation
        training = before["training"] if isinstance(before, dict) else before
        layer.implementation = {"inference": plan.describe(), "training": training}
    return result


def dense_model(model: keras.Model) -> keras.Model:
    """A new model with merged kernels in plain Keras layers; the given model stays as it was."""
    model = _without_shared_basis(model)

    def merge(layer, path):
        if hasattr(layer, "to_dense_layer"):
            return layer.to_dense_layer()
        return None

    return rewrite_model(model, merge)


def needs_package(model: keras.Model) -> bool:
    """Whether a `.keras` file of the model can only be loaded where this package is installed."""
    layers = [model, *model._flatten_layers(include_self=False)]
    return any(type(layer).__module__.partition(".")[0] == "keras_tensornet" for layer in layers)


def _without_shared_basis(model: keras.Model) -> keras.Model:
    if any(isinstance(layer, TBasis) for _, layer in walk_layers(model)):
        from keras_tensornet.tbasis import to_dense_model

        return to_dense_model(model)
    return model


def _shape(layer: FactorizedMethods, batch_size: int) -> tuple[int, ...]:
    """The layer's input shape at a batch size; batch and unknown extents filled in."""
    shape = tuple(layer.built_shape)
    extents = [extent or EXTENT_HINT for extent in shape[1:]]
    return (batch_size, *extents) if math.prod(extents) else (batch_size,)
