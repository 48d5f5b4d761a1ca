"""EinsumDense with a tensor-network kernel: any equation that is a matrix product up to reshaping.

The projections of multi-head attention are such layers. The kernel's summed labels become one input
size and its new labels one output size; both are then split into modes as in a dense layer.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tensornet import validation
from keras_tensornet.contraction import Plan, Workload
from keras_tensornet.execution import one_unknown, run_matmul
from keras_tensornet.layers.common import FactorizedMethods, serialisable
from keras_tensornet.layers.equations import parse_equation
from keras_tensornet.networks import Network
from keras_tensornet.shapes import rows_of
from keras_tensornet.types import Config, Identifier, Implementation, Modes, Rank, Shape, Tensor


@serialisable
class FactorizedEinsumDense(FactorizedMethods, keras.layers.Layer):
    """A `keras.layers.EinsumDense` whose kernel is a tensor network of any format, or of your own.

    Args:
        equation: `"inputs,kernel->outputs"`, a matrix product up to reshaping: each label is in
            exactly two of the three terms. An ellipsis may stand first or last.
        output_shape: as in `keras.layers.EinsumDense`, without the batch.
        rank: bond sizes: an int for all, or a tuple as the format takes it.
        format: name of the format, "tr" by default.
        network: a `keras_tensornet.Network` of your own, instead of `format` and `rank`.
        in_modes: factors of the product of the labels that are summed over, or how many.
        out_modes: factors of the product of the kernel's new labels, or how many.
        implementation, kernel_initializer, kernel_regularizer, kernel_constraint, bond_dropout,
            seed: as in `FactorizedDense`; regularizer and constraint see the kernel in the shape
            of the equation's second term.
        activation, bias_axes, bias_initializer, bias_regularizer, activity_regularizer,
            bias_constraint, **kwargs: as in `keras.layers.EinsumDense`.

    Input shape:
        As the equation's first term says.

    Output shape:
        As its last term says.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the equation is no matrix product, shapes do not fit it, or modes do not
            multiply to the sizes.

    Examples:

    >>> layer = FactorizedEinsumDense("abc,cde->abde", (None, 4, 8), rank=3, bias_axes="de")
    >>> layer.compute_output_shape((None, 10, 32))
    (None, 10, 4, 8)
    """

    def __init__(
        self,
        equation: str,
        output_shape: int | Shape | None,
        *,
        rank: Rank = None,
        format: str | None = None,
        network: Network | None = None,
        in_modes: Modes = None,
        out_modes: Modes = None,
        activation: Identifier = None,
        bias_axes: str | None = None,
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
        self.equation = equation
        self.partial_output_shape = _output_shape(output_shape)
        self.bias_axes = bias_axes
        self._equation = parse_equation(equation)
        self._set_arguments(
            rank,
            format,
            network,
            in_modes,
            out_modes,
            implementation,
            activation,
            bias_axes is not None,
            kernel_initializer,
            bias_initializer,
            kernel_regularizer,
            bias_regularizer,
            kernel_constraint,
            bias_constraint,
        )

    @staticmethod
    def dense_class() -> type[keras.layers.Layer]:
        """The dense twin."""
        return keras.layers.EinsumDense

    def build(self, input_shape: Shape) -> None:
        """Create the cores and the bias for inputs of that shape."""
        equation, shape = self._equation, tuple(input_shape)
        size = equation.sizes(shape, self.partial_output_shape)
        bias_shape = None
        if self.bias_axes is not None:
            bias_shape = equation.bias_shape(self.bias_axes, size, len(shape))
        rows, columns = equation.matrix_shape(size)
        modes = self._matrix_modes(rows, columns, f"the size of '{equation.new}'")
        self._build_kernel(equation.kernel_modes(modes, size), bias_shape)
        _, summed = equation.input_axes(len(shape))
        axes = {axis - len(shape): shape[axis] for axis in summed}
        self.input_spec = keras.layers.InputSpec(ndim=len(shape), axes=axes)
        self._finish_build(shape)

    def workload(
        self, input_shape: Shape, training: bool = False, merged: bool = False
    ) -> Workload:
        """What plans need to know of inputs of that shape."""
        rows, _ = self._equation.input_axes(len(input_shape))
        count = rows_of(input_shape[axis] for axis in rows)
        return Workload(rows=count, training=training, merged=merged)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Apply the cores by the plan for these shapes, then bias and activation."""
        plan, kernels = self._plan_and_kernels(tuple(inputs.shape), bool(training))
        outputs = self._product(inputs, plan, kernels)
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def _product(self, inputs: Tensor, plan: Plan, kernels: list[Tensor]) -> Tensor:
        equation, modes, ndim = self._equation, self.modes, len(inputs.shape)
        rows, summed = equation.input_axes(ndim)
        shape = ops.shape(inputs)
        lead = tuple(shape[axis] for axis in rows)
        # (rows..., summed...) -> (positions, in)
        flat = ops.reshape(_transposed(inputs, (*rows, *summed)), (-1, modes.in_size))
        if plan.implementation == "reconstructed":
            back = sorted(range(len(modes.order)), key=modes.order.__getitem__)
            kernels = [ops.reshape(_transposed(kernels[0], tuple(back)), modes.plain_shape)]
        outputs = run_matmul(plan, flat, kernels, self.network.size, modes)
        new = modes.split[len(summed) :]
        outputs = ops.reshape(outputs, one_unknown((*lead, *new)))
        return _transposed(outputs, equation.output_order(ndim))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the outputs, as the equation's last term says."""
        equation = self._equation
        return equation.output_shape(tuple(input_shape), self.partial_output_shape)

    def get_config(self) -> Config:
        """All arguments as plain values."""
        config = {**super().get_config(), **self._common_config()}
        config.pop("use_bias")
        return config | {
            "equation": self.equation,
            "output_shape": self.partial_output_shape,
            "bias_axes": self.bias_axes,
        }

    def _input_shape_for(self, kernel_shape: tuple[int, ...], like: keras.layers.Layer) -> Shape:
        """An input shape from which the layer builds to that kernel, with as many axes as `like`'s.

        Rows need no size but the one that `output_shape` may give.
        """
        ndim = like.input_spec.ndim
        size = self._equation.output_sizes(self.partial_output_shape, ndim)
        size |= dict(zip(self._equation.kernel, kernel_shape, strict=True))
        shape = [size.get(label) for label in self._equation.inputs]
        more = [None] * (ndim - len(shape))
        return tuple([*more, *shape] if self._equation.ellipsis == "left" else [*shape, *more])


@serialisable
class TREinsumDense(FactorizedEinsumDense):
    """EinsumDense with a tensor-ring kernel; `rank` as in `TRDense`."""

    format = "tr"


@serialisable
class TTEinsumDense(FactorizedEinsumDense):
    """EinsumDense with a TT-matrix kernel; `rank` as in `TTDense`."""

    format = "ttm"


@serialisable
class CPEinsumDense(FactorizedEinsumDense):
    """EinsumDense with a CP kernel of `rank` rank-one terms."""

    format = "cp"


@serialisable
class TuckerEinsumDense(FactorizedEinsumDense):
    """EinsumDense with a Tucker kernel; `rank` as in `TuckerDense`."""

    format = "tucker"


@serialisable
class BTEinsumDense(FactorizedEinsumDense):
    """EinsumDense with a block-term Tucker kernel; `rank` as in `BTDense`."""

    format = "bt"


@serialisable
class HTEinsumDense(FactorizedEinsumDense):
    """EinsumDense with a hierarchical Tucker kernel; `rank` as in `HTDense`."""

    format = "ht"


def _transposed(array: Tensor, axes: tuple[int, ...]) -> Tensor:
    return array if axes == tuple(range(len(axes))) else ops.transpose(array, axes)


def _output_shape(value: int | Shape | None) -> Shape:
    """`output_shape` as a tuple of sizes, None where the inputs give them."""
    if not isinstance(value, (tuple, list)):
        return (validation.positive_int("output_shape", value),)
    return tuple(
        None if extent is None else validation.positive_int("output_shape", extent)
        for extent in value
    )
