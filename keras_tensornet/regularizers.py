"""Regularisers that act on bonds: dropout of bond indices, and group lasso on them.

Dropping index a of a bond takes the a-th term out of the sum over that bond in every core that
carries it. One mask is drawn for each bond and applied in one of its cores. The merged kernel is
linear in each mask, the masks are independent and of mean one, so its expectation is exactly
the merged kernel without dropout.

Group lasso treats as one group all entries that vanish together when an index of a bond is dropped,
and drives whole indices to zero; `keras_tensornet.truncate_ranks` then removes them.

Sources: Kolbeinsson et al., "Tensor dropout for robust learning" (2021); Yuan and Lin, "Model
selection and estimation in regression with grouped variables" (2006).
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import NoReturn

import keras
from keras import ops

from keras_tensornet.networks import Network
from keras_tensornet.types import Config, Tensor

# Below this norm a group counts as zero, where its gradient is not defined.
SMALLEST_NORM = 1e-8


def drop_bonds(
    network: Network, cores: Sequence[Tensor], rate: float, seed: keras.random.SeedGenerator
) -> list[Tensor]:
    """The cores with a random share of the indices of each bond dropped, the others scaled.

    Each index of each bond is dropped with probability `rate`, or multiplied by 1 / (1 - rate).
    Bonds of size 1 (the ends of a train) are left alone.

    Args:
        network: the labels of the cores.
        cores: tensors.
        rate: in [0, 1).
        seed: a `keras.random.SeedGenerator`.
    """
    cores = list(cores)
    for bond in network.bonds:
        size = network.size[bond]
        if size > 1:
            place = next(place for place, core in enumerate(network.cores) if bond in core)
            mask = keras.random.dropout(ops.ones((size,), cores[place].dtype), rate, seed=seed)
            shape = [size if label == bond else 1 for label in network.cores[place]]
            cores[place] = ops.multiply(cores[place], ops.reshape(mask, shape))
    return cores


@keras.saving.register_keras_serializable(package="keras_tensornet")
class BondGroupLasso(keras.regularizers.Regularizer):
    """Penalises the norm of everything that belongs to one index of one bond.

    penalty = strength * sum over bonds b, over indices a of b: sqrt(sum over the cores that carry b
    of the squares of their a-th slice)

    Give it as `kernel_regularizer` (or `embeddings_regularizer`, `recurrent_regularizer`) to any
    layer of this package. After training, `keras_tensornet.truncate_ranks` removes the indices
    that it has driven to zero.

    Args:
        strength: non-negative number.

    Raises:
        TypeError: if `strength` is no number, or the regularizer is given to a layer without bonds.
        ValueError: if `strength` is negative.

    Examples:

    >>> from keras_tensornet.layers import TRDense
    >>> layer = TRDense(8, rank=3, kernel_regularizer=BondGroupLasso(1e-3))
    >>> layer.build((None, 8))
    >>> len(layer.losses)
    1
    """

    def __init__(self, strength: float = 0.001) -> None:
        if isinstance(strength, bool) or not isinstance(strength, (float, numbers.Real)):
            raise TypeError(
                f"`strength` must be a number. Received: strength={strength!r} of type "
                f"{type(strength).__name__}."
            )
        if not strength >= 0:
            raise ValueError(f"`strength` must not be negative. Received: strength={strength}.")
        self.strength = float(strength)

    def of_cores(self, network: Network, cores: Sequence[Tensor]) -> Tensor:
        """The penalty of the cores of a network, a scalar."""
        norms = [
            ops.sum(ops.sqrt(ops.maximum(slice_squares(network, cores, bond), SMALLEST_NORM**2)))
            for bond in network.bonds
            if network.size[bond] > 1
        ]
        return self.strength * sum(norms) if norms else ops.zeros(())

    def __call__(self, x: Tensor) -> NoReturn:
        raise TypeError(
            "BondGroupLasso acts on the bonds between the cores of a factorized layer. Received a "
            f"tensor of shape {tuple(x.shape)}, which has none. Give it to a layer of "
            "keras_tensornet, as `kernel_regularizer`."
        )

    def get_config(self) -> Config:
        """Plain values of the arguments."""
        return {"strength": self.strength}


def slice_squares(network: Network, cores: Sequence[Tensor], bond: str) -> Tensor:
    """Sum of squares of everything that belongs to each index of a bond: (bond size,)."""
    return sum(
        ops.sum(ops.square(core), axis=_axes_but(labels, bond))
        for labels, core in zip(network.cores, cores, strict=True)
        if bond in labels
    )


def _axes_but(labels: tuple[str, ...], bond: str) -> tuple[int, ...]:
    return tuple(axis for axis, label in enumerate(labels) if label != bond)
