"""What all kinds of dense layers share: where kernels lie, what stands for them, what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_tensornet import formats
from keras_tensornet.compression.patches import Geometry
from keras_tensornet.contraction import Workload
from keras_tensornet.layers.conversion import DENSE_ONLY, settings_of
from keras_tensornet.shapes import built_shape


class Piece(NamedTuple):
    """What one kernel of a layer becomes.

    Attributes:
        format: name of the format.
        rank: argument of the factorized layer.
        arguments: further ones.
        cores: the arrays.
    """

    format: str
    rank: formats.Rank
    arguments: Mapping[str, Any]
    cores: list[Any]

    @property
    def all_arguments(self) -> dict[str, Any]:
        """Format, rank and the further arguments."""
        return {"format": self.format, "rank": self.rank, **self.arguments}


class Kind:
    """One kind of dense layer, and all that planning, calibration and searches ask of it.

    A new kind is an instance, or a subclass where a default does not fit, given to `register`. What
    is asked of the factorized layer, its class answers itself: see
    `keras_tensornet.layers.common.FactorizedMethods`.

    Args:
        dense: the class of the layer that is replaced. A subclass counts as it if it computes in
            the same way, as KerasHub's `ReversibleEmbedding`, see `kind_of`.
        factorized: the class that stands for it and takes any format by `format=`.
        family: of kernels, "dense" or "conv", by which formats say what suits trained ones
            (`Format.whole`); None for others.
        arranged: whether `Geometry` knows the patches of its inputs, so that it can be calibrated.
    """

    def __init__(
        self,
        dense: type[keras.layers.Layer],
        factorized: type[keras.layers.Layer],
        family: str | None = None,
        arranged: bool = True,
    ) -> None:
        self.dense, self.factorized = dense, factorized
        self.family, self.arranged = family, arranged

    def refusal(self, layer: keras.Layer) -> str:
        """Why a layer of this kind cannot be factorized all the same; "" where it can."""
        return ""

    def kernels(self, layer: keras.Layer) -> dict[str, keras.Variable]:
        """The kernels that cores can stand for, by the argument that takes their ranks.

        The first is the one that plans decompose.
        """
        return {"rank": layer.kernel}

    def kernel(self, layer: keras.Layer) -> keras.Variable:
        """The kernel that plans decompose."""
        return next(iter(self.kernels(layer).values()))

    def parts(self) -> dict[str, Kind]:
        """Further kernels that plans decompose: `name -> kind`, which says all about that one."""
        return {}

    def bias(self, layer: keras.Layer) -> tuple[keras.Variable, int | None] | None:
        """What is added to the kernel's product, in the dense layer and in the factorized one.

        Returns:
            The variable and which of its rows, None for all of it; None where there is no bias.
        """
        bias = getattr(layer, "bias", None)
        return None if bias is None else (bias, None)

    def assemble(self, layer: keras.Layer, pieces: Mapping[str, Piece]) -> keras.Layer:
        """The factorized layer with the cores that plans have found.

        Args:
            layer: the dense layer.
            pieces: `name -> Piece` of the kernels that are decomposed: "" is the first, the others
                are named as in `parts`.
        """
        piece = pieces[""]
        result = self.shell(layer, piece.all_arguments)
        self.holder(result).assign_cores(piece.cores)
        return result

    def arguments(self, layer: keras.Layer, format: str) -> dict[str, Any]:
        """Arguments of the factorized layer that suit a trained kernel in a format."""
        return formats.get(format).trained_arguments(self.family)

    def shell(self, layer: keras.Layer, arguments: dict[str, Any]) -> keras.Layer:
        """The factorized layer, built, with the dense one's settings and biases and unset cores."""
        config = settings_of(layer, DENSE_ONLY, self.dense) | {"kernel_initializer": "zeros"}
        result = self.factorized(**(config | arguments))
        result.build(built_shape(layer))
        # The initializer is only of use while building; the layer keeps the dense layer's.
        result.kernel_initializer = layer.kernel_initializer
        if layer.bias is not None:
            # A copy: on JAX the two would share a buffer, which training one of them deletes.
            result.bias.assign(ops.copy(layer.bias))
        return result

    def fresh(self, layer: keras.Layer, arguments: dict[str, Any]) -> keras.Layer:
        """The factorized layer, built, with weights as its initializers make them."""
        result = self.factorized(**(settings_of(layer, DENSE_ONLY, self.dense) | arguments))
        result.build(built_shape(layer))
        return result

    def holder(self, factorized: keras.Layer) -> Any:
        """What of the factorized layer holds the cores of the first kernel."""
        return factorized

    def workload(self, layer: keras.Layer, holder: Any, batch_size: int) -> Workload | None:
        """What one batch makes the kernel compute; None where nothing is multiplied."""
        return holder.workload((batch_size, *built_shape(layer)[1:]), merged=True)

    def geometry(self, layer: keras.Layer) -> Geometry | None:
        """The patches that the first kernel is multiplied with; None where they are not known."""
        if not self.arranged:
            return None
        try:
            return Geometry(layer)
        except ValueError:  # an einsum that is no matrix product, which no format takes either
            return None


def add_to_bias(bias: Any, shift: np.ndarray | None) -> None:
    """Add to a bias, or to one of its rows, see `Kind.bias`; None adds nothing."""
    if bias is None or shift is None:
        return
    variable, row = bias
    values = np.array(ops.convert_to_numpy(variable))
    place = values if row is None else values[row]
    place += shift.reshape(place.shape)
    variable.assign(values)
