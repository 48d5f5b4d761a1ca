"""Dense layers whose kernel is a tensor network.

Sources: Tensor Ring Nets (Wang et al. 2018, section 3.1) for `TRDense`; Tensorizing Neural
Networks (Novikov et al. 2015) for `TTDense`; De Lathauwer 2008 and Ye et al. 2018 for `BTDense`;
Grasedyck 2010 and Yin et al. 2021 for `HTDense`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tensornet import validation
from keras_tensornet.contraction import Workload
from keras_tensornet.execution import run_matmul
from keras_tensornet.layers.common import FactorizedMethods, serialisable
from keras_tensornet.networks import Network
from keras_tensornet.shapes import rows_of
from keras_tensornet.types import Config, Identifier, Implementation, Modes, Rank, Shape, Tensor


@serialisable
class FactorizedDense(FactorizedMethods, keras.layers.Layer):
    """A `keras.layers.Dense` whose kernel is a tensor network of any format, or of your own.

    Computes `activation(x @ kernel + bias)`, where the kernel is the merge of small cores. The
    kernel is merged only where a plan finds that faster; see `.plan`.

    Args:
        units: size of the output.
        rank: bond sizes: an int for all, or a tuple as the format takes it.
        format: name of the format, "tr" by default.
        network: a `keras_tensornet.Network` of your own, instead of `format` and `rank`.
        in_modes: factors of the input size, or how many; None picks balanced ones.
        out_modes: factors of `units`, or how many; None picks balanced ones.
        implementation: "factorized" applies the cores in stages, "reconstructed" merges the
            kernel and runs the dense product, "auto" chooses by predicted time; or a chain of
            stages as `plan.describe()` writes it; or a dict of these with the keys "inference" and
            "training".
        kernel_initializer: of the merged kernel; by default `MergedVarianceScaling()`.
        kernel_regularizer: of the merged kernel; an L2 penalty is computed from the cores.
        kernel_constraint: of the merged kernel, which is then always merged.
        activation, use_bias, bias_initializer, bias_regularizer, activity_regularizer,
            bias_constraint, **kwargs: as in `keras.layers.Dense`.

    Input shape:
        (batch, ..., input size)

    Output shape:
        (batch, ..., units)

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if modes do not multiply to the sizes, or a rank is below 1 or of the wrong
            length.
    """

    def __init__(
        self,
        units: int,
        *,
        rank: Rank = None,
        format: str | None = None,
        network: Network | None = None,
        in_modes: Modes = None,
        out_modes: Modes = None,
        activation: Identifier = None,
        use_bias: bool = True,
        kernel_initializer: Identifier = None,
        bias_initializer: Identifier = "zeros",
        kernel_regularizer: Identifier = None,
        bias_regularizer: Identifier = None,
        activity_regularizer: Identifier = None,
        kernel_constraint: Identifier = None,
        bias_constraint: Identifier = None,
        implementation: Implementation = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.units = validation.positive_int("units", units)
        self._set_arguments(
            rank,
            format,
            network,
            in_modes,
            out_modes,
            implementation,
            activation,
            use_bias,
            kernel_initializer,
            bias_initializer,
            kernel_regularizer,
            bias_regularizer,
            kernel_constraint,
            bias_constraint,
        )
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True

    @staticmethod
    def dense_class() -> type[keras.layers.Layer]:
        """The dense twin."""
        return keras.layers.Dense

    def build(self, input_shape: Shape) -> None:
        """Create the cores and the bias for inputs (batch, ..., input size)."""
        in_size = input_shape[-1]
        if in_size is None:
            raise ValueError(
                "The last axis of the inputs must be known when the layer is built. Received: "
                f"input shape {tuple(input_shape)}. Give the size, for example in keras.Input."
            )
        self._build_kernel(self._matrix_modes(in_size, self.units, "units"))
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: in_size})
        self._finish_build(input_shape)

    def workload(
        self, input_shape: Shape, training: bool = False, merged: bool = False
    ) -> Workload:
        """What plans need to know of inputs of that shape: all axes but the last are rows."""
        rows = rows_of(input_shape[:-1])
        return Workload(rows=rows, training=training, merged=merged)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Apply the cores by the plan for this batch, then bias and activation."""
        plan, kernels = self._plan_and_kernels(tuple(inputs.shape), bool(training))
        outputs = run_matmul(plan, inputs, kernels, self.network.size, self.modes)
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """(batch, ..., units)"""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> Config:
        """All arguments as plain values."""
        return {**super().get_config(), "units": self.units, **self._common_config()}


@serialisable
class TRDense(FactorizedDense):
    """Dense layer with a tensor-ring kernel (Wang et al. 2018): cores (r, n, r) on a ring.

    `rank` is an int or one size per bond; R^2 times the sum of all modes are its parameters.

    Examples:

    >>> layer = TRDense(300, rank=15, in_modes=(4, 7, 4, 7), out_modes=(3, 4, 5, 5))
    >>> layer.build((None, 784))
    >>> layer.network.num_params
    8775
    """

    format = "tr"


@serialisable
class TTDense(FactorizedDense):
    """Dense layer with a TT-matrix kernel (Novikov et al. 2015): cores (r, i_k, o_k, r').

    `rank` is an int or the inner ranks, one fewer than the cores.

    Examples:

    >>> layer = TTDense(625, rank=4, in_modes=(7, 4, 7, 4), out_modes=(5, 5, 5, 5))
    >>> layer.build((None, 784))
    >>> layer.count_params()
    1725
    """

    format = "ttm"


@serialisable
class CPDense(FactorizedDense):
    """Dense layer with a CP kernel: a factor (n, R) for each mode, R rank-one terms (`rank`).

    Examples:

    >>> layer = CPDense(10, rank=6, in_modes=(4, 5), out_modes=(2, 5))
    >>> layer.build((None, 20))
    >>> layer.network.num_params
    96
    """

    format = "cp"


@serialisable
class TuckerDense(FactorizedDense):
    """Dense layer with a Tucker kernel: a core of size r_k on each mode, and factors (n_k, r_k).

    `rank` is an int or one entry for each mode; a mode whose rank is its size has no factor. The
    core grows with the power of the number of modes, so by default each side has at most two.

    Examples:

    >>> layer = TuckerDense(10, rank=(2, 2, 5, 6), in_modes=(2, 2, 5), out_modes=(10,))
    >>> layer.build((None, 20))
    >>> layer.network.core_shapes
    ((2, 2, 5, 6), (10, 6))
    """

    format = "tucker"


@serialisable
class BTDense(FactorizedDense):
    """Dense layer with a block-term Tucker kernel: a sum of B Tucker blocks on paired modes.

    `rank` is (B, r) for B blocks of rank r, (B, r_1, ...) with one rank for each pair (i_k, o_k),
    or an int for both. One input and one output mode are not paired.

    Examples:

    >>> layer = BTDense(10, rank=(2, 6), in_modes=(4, 5), out_modes=(2, 5))
    >>> layer.build((None, 20))
    >>> layer.network.num_params
    468
    """

    format = "bt"


@serialisable
class HTDense(FactorizedDense):
    """Dense layer with a hierarchical Tucker kernel: leaves (i_k, o_k, r) on a binary tree.

    `rank` is an int or one entry for each node below the root, leaves first. One input and one
    output mode are not paired.

    Examples:

    >>> layer = HTDense(10, rank=3, in_modes=(4, 5), out_modes=(2, 5))
    >>> layer.build((None, 20))
    >>> layer.network.core_shapes
    ((4, 2, 3), (5, 5, 3), (3, 3))
    """

    format = "ht"
