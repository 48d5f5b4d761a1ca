"""Patches: the rows of the matrix that a layer multiplies with its kernel.

A dense layer multiplies its input vectors, a convolution the patches under its kernel, a transposed
convolution what of its input each output position sees, an `EinsumDense` the axes that its equation
sums over, a recurrent kernel the hidden states. Each is one row (patch entries) of a matrix X with
outputs X W for the plain kernel W (patch entries, outputs), see `KernelModes.plain_shape`.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet.layers.equations import parse_equation

# Patches of one batch that are summed up: neighbouring ones say nearly the same, and a part of them
# is as good and far quicker.
MOST_PATCHES = 8192
# Patch entries that a convolution lays out at a time, 64 MiB of float32.
MOST_ENTRIES = 1 << 24
# What is added to a recurrent layer's path to name its recurrent kernel.
RECURRENT_KERNEL = "recurrent_kernel"
RECURRENT = (keras.layers.LSTM, keras.layers.GRU)


class Geometry:
    """How a layer takes patches from its inputs.

    Args:
        layer: a built `Dense`, `EinsumDense`, convolution, `Conv2DTranspose`, `LSTM` or `GRU`.
        recurrent: of the hidden states of a recurrent layer, not of its inputs.

    Raises:
        ValueError: for an `EinsumDense` whose equation is no matrix product.
    """

    def __init__(self, layer: keras.Layer, recurrent: bool = False) -> None:
        self.groups, self.equation = 1, None
        self.kernel_size: tuple[int, ...] = ()
        if isinstance(layer, RECURRENT):
            kernel = layer.cell.recurrent_kernel if recurrent else layer.cell.kernel
            self.in_size = kernel.shape[0]
        elif isinstance(layer, keras.layers.EinsumDense):
            self.equation = parse_equation(layer.equation)
            sizes = zip(self.equation.kernel, layer.kernel.shape, strict=True)
            self.in_size = math.prod(size for label, size in sizes if label in self.equation.summed)
        else:
            self._read(layer)
        self.patch = math.prod(self.kernel_size) * self.in_size

    def _read(self, layer: keras.Layer) -> None:
        shape = tuple(layer.kernel.shape)
        self.kernel_size = shape[:-2]
        self.transposed = isinstance(layer, keras.layers.Conv2DTranspose)
        self.in_size = shape[-1] if self.transposed else shape[-2]
        self.groups = getattr(layer, "groups", 1)
        self.strides = getattr(layer, "strides", ())
        self.dilation_rate: tuple[int, ...] = getattr(layer, "dilation_rate", ())
        self.padding = getattr(layer, "padding", "valid")
        self.output_padding = getattr(layer, "output_padding", None)
        self.data_format = getattr(layer, "data_format", "channels_last")

    def patches(self, inputs: Any, mask: Any = None) -> np.ndarray:
        """(groups, at most about `MOST_PATCHES`, patch) in float32.

        Args:
            inputs: of the layer's call, in its own data format.
            mask: boolean over the leading axes of inputs, true where they count; not for
                convolutions.
        """
        if self.kernel_size:
            return self._convolved(ops.cast(inputs, "float32"))
        rows = self._rows(np.asarray(ops.convert_to_numpy(ops.cast(inputs, "float32"))))
        if mask is not None:
            mask = np.asarray(ops.convert_to_numpy(mask), dtype=bool)
            # Axes that the mask does not have follow: one entry stands for all of theirs.
            rows = rows[np.repeat(mask.ravel(), len(rows) // mask.size)]
        return rows[:: _step(len(rows))][None]

    def _rows(self, inputs: np.ndarray) -> np.ndarray:
        if self.equation is not None:
            kept, summed = self.equation.input_axes(inputs.ndim)
            inputs = inputs.transpose(*kept, *summed)
        return inputs.reshape(-1, self.in_size)

    def _convolved(self, inputs: Any) -> np.ndarray:
        """Patches of a convolution, some examples at a time."""
        ndim = len(self.kernel_size)
        if self.data_format == "channels_first":
            inputs = ops.transpose(inputs, (0, *range(2, ndim + 2), 1))
        positions = math.prod(inputs.shape[1:-1]) * (
            math.prod(self.strides) if self.transposed else 1
        )
        step = _step(len(inputs) * positions)
        at_once = max(1, MOST_ENTRIES // (positions * self.patch * self.groups))
        found = []
        for start in range(0, len(inputs), at_once):
            parts = inputs[start : start + at_once]
            parts = ops.split(parts, self.groups, axis=-1) if self.groups > 1 else [parts]
            taps = [ops.convert_to_numpy(self._taps(part)) for part in parts]
            found.append(np.stack([tap.reshape(-1, self.patch)[::step] for tap in taps]))
        return np.concatenate(found, axis=1)

    def _taps(self, inputs: Any) -> Any:
        """A convolution with the identity as its kernel: each patch entry becomes a channel."""
        identity = np.eye(self.patch, dtype="float32")
        identity = identity.reshape(*self.kernel_size, self.in_size, self.patch)
        if self.transposed:
            # Keras keeps transposed kernels as (*kernel_size, outputs, inputs).
            return ops.conv_transpose(
                inputs,
                identity.swapaxes(-1, -2),
                strides=self.strides,
                padding=self.padding,
                output_padding=self.output_padding,
                dilation_rate=self.dilation_rate,
                data_format="channels_last",
            )
        if self.padding == "causal":
            left = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            inputs = ops.pad(inputs, ((0, 0), (left, 0), (0, 0)))
        return ops.conv(
            inputs,
            identity,
            strides=self.strides,
            padding="valid" if self.padding == "causal" else self.padding,
            dilation_rate=self.dilation_rate,
            data_format="channels_last",
        )


def _step(count: int) -> int:
    return max(1, -(-count // MOST_PATCHES))
