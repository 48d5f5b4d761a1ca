"""The basis that all T-Basis layers of a network share."""

from __future__ import annotations

import math
import random
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet import validation
from keras_tensornet.kernels import refused_quantize
from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.tbasis.envelopes import base_of
from keras_tensornet.types import Config, Shape, Tensor


@serialisable
class TBasis(keras.layers.Layer):
    """The shared basis of T-Basis layers: `size` tensors (rank, mode, rank) (Obukhov et al. 2020).

    Every core of every layer is a linear combination of these tensors. The basis is handed to the
    layers as a tensor of the graph, which is what lets one basis stay one through saving, loading,
    cloning and export. It does not depend on the inputs, which only tie it to the graph.

    Args:
        size: B, the number of tensors. Above mode * rank^2 they cannot all be independent; the
            paper advises against it and the layer warns.
        rank: R, the bond size of all rings.
        mode: N = n * n, the size of a core's mode. 9 for networks of 3x3 convolutions, 4 for dense
            networks.
        trainable: False for a basis that stays as drawn (pseudo-random, all of it described by the
            seed) or as loaded from another network.
        seed: integer. The same seed draws the same basis on every backend.
        **kwargs: `name`, `dtype`.

    Input shape:
        Any; the values are not used.

    Output shape:
        (size, rank, mode, rank), without a batch axis.

    Raises:
        TypeError: if an argument is no integer.
        ValueError: if one is below 1, or `mode` is no square.

    Examples:

    >>> inputs = keras.Input((32, 32, 3))
    >>> basis = TBasis(size=16, rank=8)(inputs)
    >>> x = keras.layers.Conv2D(16, 3)(inputs)
    >>> x = TBasisConv2D(32, 3)(x, basis=basis)
    >>> x = TBasisConv2D(64, 3)(x, basis=basis)

    Source: section 3.2, eq. (3); initial variance 1 / (B R), eq. (13).
    """

    def __init__(
        self,
        size: int,
        rank: int,
        mode: int = 9,
        trainable: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        # The basis stays in the variable dtype (float32 under mixed precision), as all cores do.
        super().__init__(trainable=trainable, autocast=False, **kwargs)
        self.size = validation.positive_int("size", size)
        self.rank = validation.positive_int("rank", rank)
        self.mode = base_of(mode) ** 2
        self.seed = None if seed is None else _seed(seed)
        self.supports_masking = True
        dimension = self.mode * self.rank**2
        if self.size > dimension:
            validation.warn_user(
                f"A basis of more than mode * rank^2 = {dimension} tensors cannot be independent "
                f"and wastes parameters. Received: size={self.size}, rank={self.rank}, "
                f"mode={self.mode}. Use size={dimension} or less, or a higher rank."
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(size, rank, mode, rank)"""
        return (self.size, self.rank, self.mode, self.rank)

    def build(self, input_shape: Shape | None = None) -> None:
        """Create the basis."""
        self.basis = self.add_weight(
            name="tbasis", shape=self.shape, initializer=self._draw, autocast=False
        )
        self.built = True

    def _draw(self, shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        # sigma_B^2 = 1 / (B R), eq. (13)
        generator = random_generator(self.seed)
        values = generator.normal(0.0, 1.0 / math.sqrt(self.size * self.rank), shape)
        return ops.convert_to_tensor(values, dtype=dtype)

    def call(self, inputs: Tensor) -> Tensor:
        """The basis, whatever the inputs."""
        return ops.convert_to_tensor(self.basis.value)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> None:
        """None: a basis has no time steps, whatever mask the inputs carry."""
        return None

    def compute_output_shape(self, input_shape: Shape | None = None) -> Shape:
        """(size, rank, mode, rank)"""
        return self.shape

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """In the variable dtype, unlike the outputs of other layers."""
        return keras.KerasTensor(self.shape, dtype=self.variable_dtype)

    quantize = refused_quantize

    def get_config(self) -> Config:
        """All arguments as plain values."""
        return {
            **super().get_config(),
            "size": self.size,
            "rank": self.rank,
            "mode": self.mode,
            "seed": self.seed,
        }


def random_generator(seed: int | None) -> np.random.Generator:
    """A NumPy generator; without a seed from Python's, which `keras.utils.set_random_seed` sets."""
    return np.random.default_rng(random.randrange(2**31) if seed is None else seed)


def basis_values(basis: Tensor) -> np.ndarray | None:
    """The values behind a basis tensor, or None where only its shape is known.

    Layers are built when they are first called, often on symbolic tensors. Those of a functional
    model remember the layer that made them, so the values can still be read.
    """
    if isinstance(basis, keras.KerasTensor):
        maker = getattr(getattr(basis, "_keras_history", None), "operation", None)
        return ops.convert_to_numpy(maker.basis) if isinstance(maker, TBasis) else None
    try:
        return np.asarray(ops.convert_to_numpy(basis))
    except (AttributeError, NotImplementedError, TypeError):
        # A tensor inside a compiled function: each backend refuses in its own way.
        return None


def check_basis_shape(
    given: Shape, rank: int | None = None, mode: int | None = None, name: str = ""
) -> tuple[int, int, int, int]:
    """Return a basis shape (B, R, N, R) as ints, or say what is wrong with it.

    Raises:
        ValueError: if it is not of that form, or of another rank or mode than a built layer's.
    """
    shape: Any = tuple(given)
    if len(shape) != 4 or None in shape or shape[1] != shape[3]:
        raise ValueError(
            f"`basis` must be the output of a TBasis layer, of shape (size, rank, mode, rank). "
            f"Received for layer '{name}': shape {shape}."
        )
    if (rank, mode) not in ((None, None), (shape[1], shape[2])):
        raise ValueError(
            f"Layer '{name}' was built for a basis of rank {rank} and mode {mode}. Received: a "
            f"basis of rank {shape[1]} and mode {shape[2]}. Give it the basis that it was built "
            "with, or make a new layer."
        )
    return shape


def _seed(seed: int | None) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise TypeError(f"`seed` must be a non-negative integer or None. Received: seed={seed!r}.")
    return seed
