"""Back to stock Keras: models without any layer of this package.

`to_dense_model` merges every kernel; the model is as large as the dense one. `to_stock_model` keeps
the factorization: each layer becomes a chain of stock layers (1x1, Dx1, 1xD and DxD convolutions,
depthwise ones, Dense), for tools that know no custom layer.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_tensornet.back_to_keras.stock import stock_chain
from keras_tensornet.layers import TBasis
from keras_tensornet.layers.tbasis.common import TBasisMethods
from keras_tensornet.rewriting.walker import rewrite_model, walk_layers


def to_dense_model(model: keras.Model) -> keras.Model:
    """Return a new model in which every factorized layer is its dense Keras layer, merged.

    The given model stays as it was. Names, compile state and all other weights are kept; outputs
    agree up to rounding. A model with a T-Basis becomes one flat model, because layers of nested
    models share what belongs to the outermost.

    Raises:
        TypeError: for a model that cannot be built again from its configuration.
    """
    return rewrite_model(_without_basis(model), lambda layer, path: _dense(layer))


def to_stock_model(model: keras.Model) -> keras.Model:
    """Return a new model in which every factorized layer is a chain of stock Keras layers.

    The given model stays as it was. The last layer of a chain has the factorized layer's name, bias
    and activation, so `get_layer(name).output` is what it was; the others are called `name_part0`,
    `name_part1` and so on. Outputs agree up to rounding.

    The chain is the one with the fewest parameters among those that stock layers can express. Where
    that saves nothing over the merged kernel, or there is none (a kernel constraint, padded modes,
    an embedding, a recurrent layer), the layer becomes its dense Keras layer.

    Raises:
        TypeError: for a model that cannot be built again from its configuration.
    """
    return rewrite_model(_without_basis(model), lambda layer, path: _stock(layer))


def is_factorized(layer: keras.Layer) -> bool:
    """Whether a layer is of this package and has a dense Keras layer that it stands for."""
    return hasattr(layer, "to_dense_layer") and hasattr(type(layer), "dense_class")


def _dense(layer: keras.Layer) -> Any:
    return layer.to_dense_layer() if is_factorized(layer) else None


def _stock(layer: keras.Layer) -> Any:
    if not is_factorized(layer):
        return None
    return stock_chain(layer) or layer.to_dense_layer()


def _without_basis(model: keras.Model) -> keras.Model:
    """The model with its T-Basis layers merged: their kernels need the basis, which all share."""
    if not any(isinstance(layer, (TBasis, TBasisMethods)) for _, layer in walk_layers(model)):
        return model
    from keras_tensornet.tbasis import to_dense_model as merge_basis  # imports this package

    return merge_basis(model)
