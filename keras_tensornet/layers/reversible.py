"""Embeddings that also project back to the vocabulary, with a table that is a tensor network.

Language models look token rows up at their input and multiply by the same table at their output.
Both are computed from the cores: the lookup as in `FactorizedEmbedding`, the projection as a dense
layer whose kernel is the transposed table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
from keras import ops

from keras_tensornet.contraction import Workload, make_plan
from keras_tensornet.execution import run_matmul, stage_kernels
from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.embedding import FactorizedEmbedding
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.shapes import rows_of
from keras_tensornet.types import Config, Shape, Tensor


@serialisable
class FactorizedReversibleEmbedding(FactorizedEmbedding):
    """A `keras.layers.ReversibleEmbedding` whose table is a tensor network.

    Args:
        input_dim, output_dim: size of the vocabulary and of a row.
        tie_weights: whether the projection back uses the transposed table. If not, it has a dense
            kernel of its own, `reverse_embeddings`: (output_dim, input_dim).
        reverse_dtype: in which the projection back is computed; the compute dtype by default.
        logit_soft_cap: logits are `cap * tanh(logits / cap)`, if given.
        **kwargs: as in `FactorizedEmbedding`.

    Call arguments:
        inputs: indices (batch, ...), or with `reverse=True` states (batch, ..., output_dim).
        reverse: whether to project states back to the vocabulary.

    Output shape:
        (batch, ..., output_dim), or (batch, ..., input_dim) with `reverse=True`.

    Examples:

    >>> layer = FactorizedReversibleEmbedding(1000, 64, rank=8, format="tt", in_modes=1)
    >>> states = layer(keras.ops.zeros((2, 5), "int32"))
    >>> layer(states, reverse=True).shape
    TensorShape([2, 5, 1000])
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        tie_weights: bool = True,
        reverse_dtype: Any = None,
        logit_soft_cap: float | None = None,
        **kwargs: Any,
    ) -> None:
        weights = kwargs.pop("weights", None)
        super().__init__(input_dim, output_dim, **kwargs)
        self.tie_weights = tie_weights
        self.reverse_dtype = reverse_dtype
        self.logit_soft_cap = logit_soft_cap
        if weights is not None:
            self.build()
            self.assign_kernel(weights[0] if isinstance(weights, list) else weights)

    @staticmethod
    def dense_class() -> type[keras.layers.Layer]:
        """The dense twin."""
        return keras.layers.ReversibleEmbedding

    def build(self, input_shape: Shape | None = None) -> None:
        """Create the cores, and the kernel of the projection back if it is not tied."""
        if self.built:
            return
        super().build(input_shape)
        if not self.tie_weights:
            self.built = False
            self.reverse_embeddings = self.add_weight(
                name="reverse_embeddings",
                shape=(self.output_dim, self.input_dim),
                initializer="uniform",
            )
            self.built = True

    def call(  # type: ignore[override]  # `reverse` stands where Keras has it
        self, inputs: Tensor, reverse: bool = False, training: bool | None = None
    ) -> Tensor:
        """Rows of the table; with `reverse`, states times the transposed table."""
        if not reverse:
            return super().call(inputs, training=training)
        inputs = ops.cast(inputs, self.reverse_dtype or self.compute_dtype)
        if self.tie_weights:
            logits = self._project(inputs, bool(training))
        else:
            logits = ops.matmul(inputs, ops.cast(self.reverse_embeddings, inputs.dtype))
        if self.logit_soft_cap is None:
            return logits
        return ops.tanh(logits / self.logit_soft_cap) * self.logit_soft_cap

    def reverse_plan(self, rows: int | None = None, training: bool = False) -> Any:
        """How the projection back is computed for a number of states."""
        implementation = self.implementation
        if isinstance(implementation, dict):
            implementation = implementation["training" if training else "inference"]
        if self.kernel_constraint is not None:
            implementation = "reconstructed"
        network, _ = self._transposed()
        return make_plan(
            network, Workload(rows=rows_of((rows,)), training=training), implementation
        )

    def _project(self, inputs: Tensor, training: bool) -> Tensor:
        network, modes = self._transposed()
        shape = tuple(inputs.shape[:-1])
        plan = self.reverse_plan(None if None in shape else rows_of(shape), training)
        if plan.implementation == "reconstructed":
            table = self._kernel.merged(training)
            if self._frozen is not None and self._frozen.plan.implementation == "reconstructed":
                table = self._frozen.kernels[0]
            kernels = [ops.transpose(table)]
        else:
            kernels = stage_kernels(plan, self._kernel.values(training))
        return run_matmul(plan, inputs, kernels, network.size, modes)

    def _transposed(self) -> tuple[Network, KernelModes]:
        network, modes = self.network, self.modes
        turned = replace(network, in_labels=network.out_labels, out_labels=network.in_labels)
        return turned, replace(
            modes,
            in_size=modes.out_size,
            out_size=modes.in_size,
            in_modes=modes.out_modes,
            out_modes=modes.in_modes,
        )

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Where the indices are not 0, if `mask_zero`; none for states."""
        if not self.mask_zero or not keras.backend.is_int_dtype(inputs.dtype):
            return None
        return ops.not_equal(inputs, 0)

    def compute_output_shape(self, input_shape: Shape, reverse: bool = False) -> Shape:
        """(batch, ..., output_dim), or (batch, ..., input_dim) with `reverse`."""
        if reverse:
            return (*input_shape[:-1], self.input_dim)
        return (*input_shape, self.output_dim)

    def compute_output_spec(
        self, inputs: Tensor, reverse: bool = False, training: bool | None = None
    ) -> Any:
        """The shape above, in the dtype that the projection or the lookup is computed in."""
        shape = self.compute_output_shape(tuple(inputs.shape), reverse)
        dtype = (self.reverse_dtype if reverse else None) or self.compute_dtype
        return keras.KerasTensor(shape, dtype=dtype)

    def to_dense_layer(self) -> keras.layers.Layer:
        """The `keras.layers.ReversibleEmbedding` with the merged table and the same settings."""
        self._built_kernel()
        config = super().to_dense_layer().get_config()
        extra = {key: getattr(self, key) for key in _OWN}
        dense = keras.layers.ReversibleEmbedding.from_config(config | extra)
        dense.build()
        weights = [self.kernel] + ([] if self.tie_weights else [self.reverse_embeddings.value])
        dense.set_weights([ops.convert_to_numpy(weight) for weight in weights])
        return dense

    def get_config(self) -> Config:
        """All arguments as plain values."""
        return {**super().get_config(), **{key: getattr(self, key) for key in _OWN}}


_OWN = ("tie_weights", "reverse_dtype", "logit_soft_cap")
