"""LSTM and GRU layers whose input kernel is a tensor network.

The inputs of all time steps are multiplied by the input kernel at once, outside the loop; Keras'
own loop then runs the recurrent part, so masks, `go_backwards`, `stateful`, `unroll` and
`Bidirectional` work as they do for `keras.layers.LSTM` and `keras.layers.GRU`.

Sources: Tensor-train recurrent neural networks for video classification (Yang et al. 2017);
Compressing recurrent neural networks with tensor ring for action recognition (Pan et al. 2019).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops, regularizers

from keras_tensornet.contraction import Plan
from keras_tensornet.kernels import FactorizedKernel, decompose_kernel, rank_for_threshold
from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.conversion import FACTORIZED_ONLY, check_source, one_threshold
from keras_tensornet.layers.gated import (
    FactorizedGRUCell,
    FactorizedLSTMCell,
    TRGRUCell,
    TRLSTMCell,
    TTGRUCell,
    TTLSTMCell,
)
from keras_tensornet.layers.mixin import ByName
from keras_tensornet.types import Config, Identifier, Implementation, Rank, Shape, Tensor

LAYER_ARGUMENTS = ("name", "trainable", "dtype")


def _of_cell(name: str, text: str) -> property:
    """A read-only attribute of the layer that its cell holds."""
    return property(lambda layer: getattr(layer.cell, name), doc=text)


class FactorizedRNN(ByName, keras.layers.RNN):
    """What `FactorizedLSTM` and `FactorizedGRU` share; `cell_class` does the steps."""

    cell_class: Any

    def __init__(
        self,
        units: int,
        *,
        rank: Rank = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        activity_regularizer: Identifier = None,
        **kwargs: Any,
    ) -> None:
        own = {key: kwargs.pop(key) for key in LAYER_ARGUMENTS if key in kwargs}
        of_cell = {key: value for key, value in own.items() if key != "name"}
        super().__init__(
            self.cell_class(units, rank=rank, name="cell", **of_cell, **kwargs),
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            zero_output_for_mask=zero_output_for_mask,
            activity_regularizer=activity_regularizer,
            **own,
        )
        self.input_spec = keras.layers.InputSpec(ndim=3)

    units = _of_cell("units", "Size of the state and of the output.")
    rank = _of_cell("rank", "The rank argument of the input kernel.")
    network = _of_cell("network", "The labels and sizes of the input kernel's cores.")
    modes = _of_cell("modes", "The modes of the input kernel, the gates in the first output mode.")
    cores = _of_cell("cores", "The cores of the input kernel.")
    kernel = _of_cell("kernel", "The merged input kernel (features, gates * units).")
    recurrent_kernel = _of_cell("recurrent_kernel", "The recurrent kernel (units, gates * units).")
    recurrent_cores = _of_cell("recurrent_cores", "The cores of the recurrent kernel, if any.")
    bias = _of_cell("bias", "The bias, shaped as that of the dense layer.")

    def rank_holders(self) -> dict[str, FactorizedKernel]:
        """The kernels that are networks, by the argument that takes their ranks."""
        return self.cell.rank_holders()

    @property
    def implementation(self) -> str | dict[str, str]:
        """How the input kernel is applied to all steps at once; it is the cell's."""
        return self.cell.implementation

    @implementation.setter
    def implementation(self, implementation: Implementation) -> None:
        self.cell.implementation = implementation

    @property
    def plan(self) -> Plan:
        """How the product of all inputs with the input kernel is computed; print it."""
        return self.plan_for()

    def plan_for(
        self,
        batch_size: int | None = None,
        training: bool = False,
        merged: bool = False,
        input_shape: Shape | None = None,
    ) -> Plan:
        """The plan for sequences of shape (batch, time, features): batch * time rows."""
        shape = tuple(input_shape or self._sequence_shape)
        shape = (batch_size or shape[0], *shape[1:])
        return self.cell.plan_for(training=training, merged=merged, input_shape=shape)

    @classmethod
    def dense_class(cls) -> type[keras.layers.Layer]:
        """The dense twin."""
        return getattr(keras.layers, cls.cell_class.dense_class().__name__.removesuffix("Cell"))

    def build(self, sequences_shape: Shape, initial_state_shape: Any = None) -> None:
        """Build the cell for sequences (batch, time, features)."""
        super().build(sequences_shape, initial_state_shape)
        self._sequence_shape = self.cell.sequence_shape = tuple(sequences_shape)

    def inner_loop(
        self, sequences: Tensor, initial_state: Any, mask: Tensor, training: bool = False
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Multiply all inputs by the input kernel, then loop over the recurrent part."""
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        with self.cell.sequence(sequences, initial_state, bool(training)) as projected:
            return super().inner_loop(projected, initial_state, mask, training=training)

    @classmethod
    def from_layer(
        cls,
        layer: keras.Layer,
        rank: Rank = None,
        energy: float | None = None,
        eps: float | None = None,
        energy_norm: str = "frobenius",
        **kwargs: Any,
    ) -> keras.Layer:
        """A factorized layer that stands for a trained `keras.layers.LSTM` or `GRU`.

        Args:
            layer: a built layer of the dense kind.
            rank: rank of the input kernel's cores, or
            energy: share in (0, 1] of squared singular values that each unfolding keeps, or
            eps: relative error allowed for the input kernel. Exactly one of the three.
            energy_norm: "nuclear" takes the share of their sum instead of their squares.
            **kwargs: further arguments of this class, such as `in_modes`, or `recurrent_rank`,
                with which the recurrent kernel is decomposed as well.

        Returns:
            A built layer of this class with the same name, biases and settings.

        Raises:
            TypeError: if the layer is of another kind.
            ValueError: if it is not built, or not exactly one of rank, energy, eps is given.
        """
        check_source(cls, layer)
        threshold = one_threshold(rank, energy, eps, energy_norm)
        config = layer.get_config() | kwargs
        kernel = ops.convert_to_numpy(layer.cell.kernel)
        if threshold:
            probe = cls.from_config(config | {"rank": 1}).cell
            rank = rank_for_threshold(
                probe._format, probe.gated_modes(len(kernel)), kernel, **threshold
            )
        result = cls.from_config(config | {"rank": rank})
        result.build((_batch_of(layer), None, len(kernel)))
        result.assign_weights_of(layer)
        return result

    def assign_weights_of(self, layer: keras.Layer) -> None:
        """Decompose or copy the weights of a dense layer of the same sizes into this one."""
        self.cell.assign_kernel(layer.cell.kernel)
        self.assign_recurrence_of(layer)

    def assign_recurrence_of(self, layer: keras.Layer) -> None:
        """Take the recurrent kernel and the biases of a dense layer, but not its input kernel."""
        cell = self.cell
        recurrent = ops.convert_to_numpy(layer.cell.recurrent_kernel)
        holder = cell._recurrent_cores
        if holder is None:
            cell._recurrent_variable.assign(recurrent)
        else:
            holder.assign(decompose_kernel(recurrent, holder.network, holder.modes))
        if cell.bias is not None:
            # A copy: on JAX the two would share a buffer, which training one of them deletes.
            cell.bias.assign(ops.copy(layer.cell.bias))

    def to_dense_layer(self) -> keras.layers.Layer:
        """The dense Keras layer with the merged kernels, the same biases and settings."""
        cell = self.cell
        recurrent = {"recurrent_rank", "recurrent_format", "recurrent_modes"}
        left_out = {*recurrent, *FACTORIZED_ONLY} - {"seed"}
        config = {key: value for key, value in self.get_config().items() if key not in left_out}
        dense = self.dense_class().from_config(config)
        dense.build((_batch_of(self), None, cell.modes.in_size))
        dense.cell.kernel.assign(cell.kernel)
        dense.cell.recurrent_kernel.assign(ops.copy(cell.recurrent_kernel))
        if cell.bias is not None:
            dense.cell.bias.assign(ops.copy(cell.bias))
        return dense

    def get_config(self) -> Config:
        """All arguments as plain values."""
        base = super().get_config()
        del base["cell"]
        of_cell = self.cell.get_config()
        activity = regularizers.serialize(self.activity_regularizer)
        return {**of_cell, **base, "activity_regularizer": activity}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> FactorizedRNN:
        """The layer that `get_config` described; there is no cell in the configuration."""
        return cls(**config)


@serialisable
class FactorizedLSTM(FactorizedRNN):
    """A `keras.layers.LSTM` whose input kernel is a tensor network of any format, or of your own.

    Args:
        units: size of the state and of the output.
        rank: bond sizes of the input kernel: an int for all, or a tuple as the format takes it.
        format: name of the format, "tr" by default.
        network: a `keras_tensornet.Network` of your own that spans (features, 4 * units).
        in_modes: factors of the number of features, or how many; None picks balanced ones.
        out_modes: factors of `units`, or how many; the four gates multiply the first of them.
        recurrent_rank: None leaves the recurrent kernel dense; else its rank, as `rank`.
        recurrent_format: name of the recurrent kernel's format; None takes `format`.
        recurrent_modes: factors of `units`, or how many, for both sides of the recurrent kernel,
            the gates folded in as above; None takes as many as the outputs have.
        implementation: how the input kernel is applied to all steps at once: "factorized",
            "reconstructed", or "auto", which chooses by predicted time; or a chain of stages; or a
            dict of these with the keys "inference" and "training". The recurrent cores are merged
            once per sequence as far as that pays.
        bond_dropout: share of the indices of each bond that is dropped in training, drawn once per
            sequence.
        kernel_initializer, kernel_regularizer, kernel_constraint: of the merged input kernel.
        recurrent_initializer, recurrent_regularizer, recurrent_constraint: of the (merged)
            recurrent kernel; "orthogonal" gives recurrent cores the variance of an orthogonal one.
        dropout: share of the features that is dropped, with one mask for all gates and steps.
        **kwargs: all other arguments of `keras.layers.LSTM` but `use_cudnn`.

    Input shape:
        (batch, time, features). Batch and time may be unknown.

    Output shape:
        (batch, units), or (batch, time, units) with `return_sequences`; with `return_state` also
        the two states.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if modes do not multiply to the sizes, or a rank is below 1 or of the wrong
            length.
    """

    cell_class = FactorizedLSTMCell


@serialisable
class FactorizedGRU(FactorizedRNN):
    """A `keras.layers.GRU` whose input kernel is a tensor network of any format, or of your own.

    Arguments, shapes and errors as in `FactorizedLSTM`, with three gates instead of four;
    `reset_after` as in `keras.layers.GRU`.
    """

    cell_class = FactorizedGRUCell


@serialisable
class TTLSTM(FactorizedLSTM):
    """LSTM with a TT-matrix input kernel (Yang et al. 2017): cores (r, i_k, o_k, r').

    Arguments as in `FactorizedLSTM`.

    Examples:

    >>> layer = TTLSTM(256, rank=4, in_modes=(8, 20, 20, 18), out_modes=(4, 4, 4, 4))
    >>> layer.build((None, 6, 57600))
    >>> layer.network.num_params, 57600 * 4 * 256
    (3360, 58982400)
    """

    cell_class = TTLSTMCell


@serialisable
class TRLSTM(FactorizedLSTM):
    """LSTM with a tensor-ring input kernel (Pan et al. 2019); arguments as in `FactorizedLSTM`."""

    cell_class = TRLSTMCell


@serialisable
class TTGRU(FactorizedGRU):
    """GRU with a TT-matrix input kernel (Yang et al. 2017); arguments as in `FactorizedLSTM`."""

    cell_class = TTGRUCell


@serialisable
class TRGRU(FactorizedGRU):
    """GRU with a tensor-ring input kernel; arguments as in `FactorizedLSTM`."""

    cell_class = TRGRUCell


def _batch_of(layer: keras.Layer) -> int | None:
    """The batch that a stateful layer was built for."""
    return layer.states[0].shape[0] if layer.stateful and layer.states else None
