"""Embeddings whose table is a tensor network, looked up without building the table.

Sources: Tensorized embedding layers (Hrinchuk et al. 2020) for `TTEmbedding`; the ring of Tensor
Ring Nets (Wang et al. 2018) for `TREmbedding`. The lookup is in `keras_tensornet.contraction.rows`.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import constraints, initializers, ops, regularizers

from keras_tensornet import validation
from keras_tensornet.contraction import Workload
from keras_tensornet.contraction.rows import CHOICES, row_plan
from keras_tensornet.kernels import rank_for_threshold
from keras_tensornet.layers.common import FactorizedMethods, serialisable
from keras_tensornet.layers.conversion import DENSE_ONLY, check_source, one_threshold
from keras_tensornet.layers.implementation import choices
from keras_tensornet.modes import KernelModes, balanced_modes, resolve_modes
from keras_tensornet.networks import Network
from keras_tensornet.shapes import rows_of
from keras_tensornet.types import Config, Identifier, Implementation, Modes, Rank, Shape, Tensor


@serialisable
class FactorizedEmbedding(FactorizedMethods, keras.layers.Layer):
    """A `keras.layers.Embedding` whose table is a tensor network of any format, or of your own.

    An index is split into digits, one for each input mode; they select slices of the cores, whose
    contraction is the row of the table. The table is built only where a plan finds that faster
    (small tables, many indices), and never with `implementation="factorized"`.

    Args:
        input_dim: size of the vocabulary, the largest index plus one.
        output_dim: size of a row.
        rank: bond sizes: an int for all, or a tuple as the format takes it.
        format: name of the format, "tr" by default.
        network: a `keras_tensornet.Network` of your own, instead of `format` and `rank`.
        in_modes: factors whose product is at least `input_dim`, or how many; None picks balanced
            ones. A product above `input_dim` leaves rows unused: printing `layer.modes` says so.
        out_modes: factors of `output_dim`, or how many; None picks balanced ones.
        embeddings_initializer: of the merged table; "uniform" gives it the variance that
            `keras.layers.Embedding` starts with.
        embeddings_regularizer: of the merged table; an L2 penalty is computed from the cores.
        embeddings_constraint: of the merged table, which is then always merged.
        mask_zero: whether index 0 is padding that is masked out.
        weights: a table (input_dim, output_dim) to start from, decomposed at this rank.
        implementation: "factorized", "reconstructed", or "auto", the one predicted to be faster
            for the number of indices; or a dict of these with the keys "inference" and "training".
        bond_dropout, seed: see `FactorizedMethods`.
        **kwargs: as in `keras.layers.Embedding`.

    Input shape:
        (batch, ...) of integers in [0, input_dim); others do what they do in the dense twin on the
        same backend.

    Output shape:
        (batch, ..., output_dim)

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `in_modes` multiply to less than `input_dim`, `out_modes` not to
            `output_dim`, or a rank is below 1 or of the wrong length.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        rank: Rank = None,
        format: str | None = None,
        network: Network | None = None,
        in_modes: Modes = None,
        out_modes: Modes = None,
        embeddings_initializer: Identifier = "uniform",
        embeddings_regularizer: Identifier = None,
        embeddings_constraint: Identifier = None,
        mask_zero: bool = False,
        weights: Any = None,
        implementation: Implementation = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_dim = validation.positive_int("input_dim", input_dim)
        self.output_dim = validation.positive_int("output_dim", output_dim)
        self._set_arguments(
            rank,
            format,
            network,
            in_modes,
            out_modes,
            implementation,
            None,
            False,
            embeddings_initializer,
            None,
            embeddings_regularizer,
            None,
            embeddings_constraint,
            None,
        )
        self.mask_zero = mask_zero
        self.supports_masking = mask_zero
        # Indices given as floats must not be rounded to half precision.
        self.autocast = False
        if weights is not None:
            self.build()
            self.assign_kernel(weights[0] if isinstance(weights, list) else weights)

    @staticmethod
    def dense_class() -> type[keras.layers.Layer]:
        """The dense twin."""
        return keras.layers.Embedding

    @property
    def embeddings(self) -> Tensor:
        """The merged table, under the name that the dense twin has for it."""
        return self.kernel

    def _checked_implementation(self, implementation: Implementation) -> str | dict[str, str]:
        resolved = super()._checked_implementation(implementation)
        for choice in choices(resolved):  # rows are looked up, so there are no chains of stages
            validation.one_of("implementation", choice, CHOICES)
        return resolved

    def build(self, input_shape: Shape | None = None) -> None:
        """Create the cores; the shape of the indices does not matter."""
        if self.built:
            return
        own = self.network_argument
        if own is not None:
            spanned = own.kernel_modes()
            modes = self._modes(spanned.in_modes, spanned.out_modes)
        else:
            modes = self._modes(self.in_modes, self.out_modes)
        self._build_cores(modes)
        self.bias = None
        self._finish_build(input_shape or (None,))

    def _modes(self, in_modes: Modes, out_modes: Modes) -> KernelModes:
        if isinstance(in_modes, tuple):
            if math.prod(in_modes) < self.input_dim:
                raise ValueError(
                    "`in_modes` must multiply to at least `input_dim`. Received: "
                    f"in_modes={in_modes}, which multiplies to {math.prod(in_modes)}, and "
                    f"input_dim={self.input_dim}. Use in_modes={balanced_modes(self.input_dim)} "
                    "or leave it None."
                )
            rows = in_modes
        else:
            rows = resolve_modes("in_modes", in_modes, self.input_dim, "`input_dim`")
        columns = resolve_modes("out_modes", out_modes, self.output_dim, "`output_dim`")
        return KernelModes(self.input_dim, self.output_dim, rows or (1,), columns)

    def workload(
        self, input_shape: Shape, training: bool = False, merged: bool = False
    ) -> Workload:
        """What plans need to know of inputs of that shape: every index is a row."""
        rows = rows_of(input_shape)
        return Workload(rows=rows, training=training, merged=merged)

    def tunable_plans(
        self, training: bool, merged: bool, input_shape: Shape, most: int
    ) -> list[str]:
        """The ways to look rows up, the fastest prediction first; there are two."""
        if self._reparametrised:
            return ["reconstructed"]
        plan = self.plan_for(training=training, merged=merged, input_shape=input_shape)
        return [name for name, _ in plan.candidates]

    def tuning_inputs(self, shape: tuple[int, ...]) -> np.ndarray:
        """Indices of that shape."""
        return np.random.default_rng(0).integers(0, self.input_dim, shape).astype("int32")

    def _usual_shape(self) -> tuple[int | None, ...]:
        """The shape of the indices: that of the call in a graph, for it was built without."""
        if len(self.built_shape) == 1:
            try:
                return tuple(self.input.shape)
            except (AttributeError, ValueError):  # never called, or in several places
                pass
        return self.built_shape

    def _make_plan(self, workload: Workload, implementation: str) -> Any:
        # A `RowPlan`, in the place of the `Plan` of other layers.
        return row_plan(self.network, workload, implementation)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Rows of the table, (batch, ...) -> (batch, ..., output_dim)."""
        inputs = ops.convert_to_tensor(inputs)
        if inputs.dtype not in ("int32", "int64"):
            inputs = ops.cast(inputs, "int32")
        plan: Any
        plan, parts = self._plan_and_kernels(tuple(inputs.shape), bool(training))
        if plan.implementation == "reconstructed":
            return ops.cast(ops.take(parts[0], inputs, axis=0), self.compute_dtype)
        rows = plan.run(parts, self._within(ops.reshape(inputs, (-1,))), ops)
        rows = ops.cast(rows[:, : self.output_dim], self.compute_dtype)
        return ops.reshape(rows, (*_shape(inputs), self.output_dim))

    def _within(self, indices: Tensor) -> Tensor:
        """Count negative indices from the end, and keep those too large out of padded rows."""
        indices = ops.where(ops.less(indices, 0), indices + self.input_dim, indices)
        padding, _ = self.modes.padding
        if not padding:
            return indices
        return ops.where(ops.less(indices, self.input_dim), indices, indices + padding)

    def _kernels_of(self, plan: Any, training: bool = False) -> list[Tensor]:
        if plan.implementation == "reconstructed":
            return [self._kernel.merged(training)]
        return self._kernel.values(training)

    def compute_mask(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Where the indices are not 0, if `mask_zero`."""
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """(batch, ..., output_dim)"""
        return (*input_shape, self.output_dim)

    @classmethod
    def from_layer(
        cls,
        layer: keras.Layer,
        rank: Rank = None,
        energy: float | None = None,
        eps: float | None = None,
        energy_norm: str = "frobenius",
        **kwargs: Any,
    ) -> None:
        """A factorized embedding that stands for a trained `keras.layers.Embedding`.

        Args:
            layer: a built `keras.layers.Embedding`.
            rank: rank of the cores, or
            energy: share in (0, 1] of squared singular values that each unfolding keeps, or
            eps: relative error allowed for the whole table. Exactly one of the three.
            energy_norm: "nuclear" takes the share of their sum instead of their squares.
            **kwargs: further arguments of this class, such as `in_modes`.

        Returns:
            A built layer of this class with the same name and settings.

        Raises:
            TypeError: if the layer is of another kind.
            ValueError: if it is not built, or not exactly one of rank, energy, eps is given.
        """
        check_source(cls, layer)
        threshold = one_threshold(rank, energy, eps, energy_norm)
        known = {key: value for key, value in layer.get_config().items() if key not in DENSE_ONLY}
        table = ops.convert_to_numpy(layer.embeddings)
        if threshold:
            probe = cls.from_config(known | kwargs | {"rank": 1})
            modes = probe._modes(probe.in_modes, probe.out_modes)
            rank = rank_for_threshold(probe._format, modes, table, **threshold)
        result = cls.from_config(known | kwargs | {"rank": rank})
        result.build()
        result.assign_kernel(table)
        return result

    def to_dense_layer(self) -> keras.layers.Layer:
        """The `keras.layers.Embedding` with the merged table and the same settings."""
        self._built_kernel()
        config = {key: self.get_config()[key] for key in ("name", "trainable", "dtype")}
        dense = keras.layers.Embedding(
            self.input_dim,
            self.output_dim,
            embeddings_initializer="zeros",
            embeddings_regularizer=self.kernel_regularizer,
            embeddings_constraint=self.kernel_constraint,
            mask_zero=self.mask_zero,
            activity_regularizer=self.activity_regularizer,
            **config,
        )
        dense.build()
        dense.set_weights([ops.convert_to_numpy(self.kernel)])
        return dense

    def get_config(self) -> Config:
        """All arguments as plain values."""
        common = self._common_config()
        shared = ("rank", "in_modes", "out_modes", "implementation", "bond_dropout", "seed")
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            **{key: common[key] for key in (*shared, "format", "network") if key in common},
            "embeddings_initializer": initializers.serialize(self.kernel_initializer),
            "embeddings_regularizer": regularizers.serialize(self.kernel_regularizer),
            "embeddings_constraint": constraints.serialize(self.kernel_constraint),
            "activity_regularizer": regularizers.serialize(self.activity_regularizer),
            "mask_zero": self.mask_zero,
        }


@serialisable
class TREmbedding(FactorizedEmbedding):
    """Embedding with a tensor-ring table: cores (r, n, r), input modes first.

    Arguments as in `FactorizedEmbedding`.

    Examples:

    >>> layer = TREmbedding(1000, 64, rank=4)
    >>> layer.build()
    >>> layer.network.num_params, 1000 * 64
    (688, 64000)
    """

    format = "tr"


@serialisable
class TTEmbedding(FactorizedEmbedding):
    """Embedding with a TT-matrix table (Hrinchuk et al. 2020): cores (r, i_k, o_k, r').

    `rank` is an int or the inner ranks, one fewer than the cores; other arguments as in
    `FactorizedEmbedding`.

    Examples:

    >>> layer = TTEmbedding(50257, 768, rank=8, in_modes=(34, 37, 40), out_modes=(8, 8, 12))
    >>> layer.build()
    >>> layer.network.num_params, str(layer.modes)
    (24960, '34 x 37 x 40 (padded from 50257) -> 8 x 8 x 12')
    """

    format = "ttm"


def _shape(inputs: Tensor) -> tuple[int, ...]:
    """The shape as a reshape target: a single unknown axis is -1."""
    shape = tuple(ops.shape(inputs))
    unknown = [axis for axis, extent in enumerate(shape) if not isinstance(extent, int)]
    empty = any(isinstance(extent, int) and extent == 0 for extent in shape)
    if len(unknown) == 1 and not empty:
        return tuple(-1 if axis == unknown[0] else extent for axis, extent in enumerate(shape))
    return shape
