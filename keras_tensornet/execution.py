"""Running plans on activations with `keras.ops`, for every backend.

A plan's stages are applied one after another. Channels are always the last axis and their labels
are flattened into it, so that batch, height and width may be unknown: products see the activations
as (positions, channels), convolutions as (batch, *spatial, channels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_tensornet.contraction.pairwise import Labels
from keras_tensornet.contraction.plans import Plan
from keras_tensornet.contraction.stages import Stage
from keras_tensornet.modes import KernelModes
from keras_tensornet.types import Tensor

# `(inputs, kernel, axes) -> outputs`: the layer's own convolution over some of its spatial axes.
Convolution = Callable[..., Tensor]


def stage_kernels(plan: Plan, cores: Sequence[Tensor]) -> list[Tensor]:
    """The merged kernel of each stage of a plan, in the dtype of the cores."""
    return [stage.merge.run(cores, ops) for stage in plan.stages]


def run_plan(
    plan: Plan,
    inputs: Tensor,
    kernels: Sequence[Tensor],
    size: Mapping[str, int],
    convolve: Convolution | None = None,
    depthwise: Convolution | None = None,
) -> Tensor:
    """Apply a plan.

    Args:
        plan: the stages.
        inputs: (..., channels), the labels of `plan.stages[0].before` flattened into channels.
        kernels: of the stages, from `stage_kernels`; cast to the dtype of `inputs`.
        size: the size of each label.
        convolve: `(inputs, kernel, axes) -> outputs` with a kernel (*extents, in, out).
        depthwise: the same with a kernel (*extents, channels, depth).

    Returns:
        outputs: (..., filters), the labels of `plan.finish` flattened into filters.
    """
    outputs = inputs
    for stage, kernel in zip(plan.stages, kernels, strict=True):
        kernel = ops.cast(kernel, inputs.dtype)
        outputs = _Running(stage, size, convolve, depthwise).apply(outputs, kernel)
    return _reorder(outputs, plan.stages[-1].after, plan.finish, size)


def run_matmul(
    plan: Plan,
    inputs: Tensor,
    kernels: Sequence[Tensor],
    size: Mapping[str, int],
    modes: KernelModes,
) -> Tensor:
    """Multiply by a kernel (in_size, out_size), merged or in stages, cutting any padding off.

    Args:
        plan: the stages.
        inputs: (..., in_size)
        kernels: of the stages; of a reconstructed plan the merged kernel in Keras layout.
        size: the size of each label.
        modes: of the kernel.

    Returns:
        (..., out_size)
    """
    if plan.implementation == "reconstructed":
        return ops.matmul(inputs, ops.cast(kernels[0], inputs.dtype))
    in_padding, out_padding = modes.padding
    flat = inputs if len(inputs.shape) == 2 else ops.reshape(inputs, (-1, modes.in_size))
    if in_padding:
        flat = ops.pad(flat, ((0, 0), (0, in_padding)))
    outputs = run_plan(plan, flat, kernels, size)
    if out_padding:
        outputs = outputs[:, : modes.out_size]
    if len(inputs.shape) == 2:
        return outputs
    return ops.reshape(outputs, (*leading(inputs), modes.out_size))


class _Running:
    """One stage with the sizes of its labels at hand."""

    def __init__(
        self,
        stage: Stage,
        size: Mapping[str, int],
        convolve: Convolution | None,
        depthwise: Convolution | None,
    ) -> None:
        self.stage = stage
        self.size = size
        # Given wherever a stage has spatial axes.
        self.convolve: Any = convolve
        self.depthwise: Any = depthwise
        self.carried, self.shared, self.contracted, self.new = (
            math.prod(size[label] for label in labels)
            for labels in (stage.carried, stage.shared, stage.contracted, stage.new)
        )

    def apply(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """(..., before) -> (..., after)."""
        stage = self.stage
        arranged = (*stage.carried, *stage.shared, *stage.contracted)
        inputs = _reorder(inputs, stage.before, arranged, self.size)
        if stage.axes:
            kernel = ops.reshape(kernel, (*stage.extents, self.shared, self.contracted, self.new))
            return getattr(self, f"_{stage.op}")(inputs, kernel)
        kernel = ops.reshape(kernel, (self.shared, self.contracted, self.new))
        return getattr(self, f"_{stage.op}")(inputs, kernel)

    def _matmul(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        # (..., carried * contracted) @ (contracted, new) -> (..., carried * new)
        if self.carried == 1 and len(inputs.shape) == 2:
            return ops.matmul(inputs, kernel[0])
        if self._is_pointwise_convolution(inputs):
            return self._pointwise(inputs, kernel)
        flat = ops.reshape(inputs, (-1, self.contracted))
        outputs = ops.matmul(flat, kernel[0])
        return ops.reshape(outputs, (*leading(inputs), self.carried * self.new))

    def _is_pointwise_convolution(self, inputs: Tensor) -> bool:
        """Whether a product on images is a 1x1 convolution instead.

        TensorFlow's is up to twice as fast as its product of tall matrices, and the bias that
        follows is fused into it; other backends lay images out anew for a convolution.
        """
        if self.convolve is None or len(inputs.shape) != 4:
            return False
        known = self.carried == 1 or isinstance(inputs.shape[2], int)
        return known and keras.backend.backend() == "tensorflow"

    def _pointwise(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        # (B, H, W * carried, contracted) * (1, 1, contracted, new), carried being next to W
        lead, width = leading(inputs), inputs.shape[2]
        if self.carried > 1:
            wide = (*lead[:2], width * self.carried, self.contracted)
            inputs = ops.reshape(inputs, wide)
        kernel = ops.reshape(kernel, (1, 1, self.contracted, self.new))
        outputs = ops.conv(inputs, kernel, padding="valid", data_format="channels_last")
        if self.carried > 1:
            outputs = ops.reshape(outputs, (*lead[:2], width, self.carried * self.new))
        return outputs

    def _scale(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        # (..., carried, shared, 1) * (shared, new) -> (..., carried, shared, new)
        spread = ops.reshape(inputs, (-1, self.carried, self.shared, 1))
        outputs = ops.multiply(spread, ops.reshape(kernel, (self.shared, self.new)))
        return ops.reshape(outputs, (*leading(inputs), self._width_after()))

    def _stacked(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        # (positions * carried, shared, contracted) -> (shared, positions * carried, contracted)
        stack = ops.reshape(inputs, (-1, self.shared, self.contracted))
        outputs = ops.matmul(ops.transpose(stack, (1, 0, 2)), kernel)
        outputs = ops.transpose(outputs, (1, 0, 2))
        return ops.reshape(outputs, (*leading(inputs), self._width_after()))

    def _conv(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        kernel = ops.reshape(kernel, (*self.stage.extents, self.contracted, self.new))
        return self.convolve(inputs, kernel, self.stage.axes)

    def _depthwise(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        # one kernel for each shared channel, the same for all carried ones
        kernel = ops.reshape(kernel, (*self.stage.extents, self.shared, self.new))
        if self.carried > 1:
            tiles = (1,) * len(self.stage.extents) + (self.carried, 1)
            kernel = ops.tile(kernel, tiles)
        return self.depthwise(inputs, kernel, self.stage.axes)

    def _batched(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        # (B, *spatial, carried, contracted) -> (carried * B, *spatial, contracted)
        *spatial, _ = ops.shape(inputs)[1:]
        stack = ops.reshape(inputs, (-1, self.carried, self.contracted))
        stack = ops.transpose(stack, (1, 0, 2))
        stack = ops.reshape(stack, (*one_unknown((-1, *spatial)), self.contracted))
        outputs = self._conv(stack, kernel)
        lead = leading(outputs)
        outputs = ops.reshape(outputs, (self.carried, -1, self.new))
        outputs = ops.transpose(outputs, (1, 0, 2))
        batch = ops.shape(inputs)[0]
        lead = one_unknown((batch if isinstance(batch, int) else -1, *lead[1:]))
        return ops.reshape(outputs, (*lead, self.carried * self.new))

    def _block(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        # a kernel for every (carried, shared) block on the diagonal of one wide convolution
        extents, blocks = self.stage.extents, self.carried * self.shared
        if self.carried > 1:
            tiles = (1,) * len(extents) + (self.carried, 1, 1)
            kernel = ops.tile(kernel, tiles)
        kernel = ops.reshape(kernel, (*extents, blocks, self.contracted, 1, self.new))
        eye = ops.reshape(ops.eye(blocks, dtype=kernel.dtype), (blocks, 1, blocks, 1))
        wide = (*extents, blocks * self.contracted, blocks * self.new)
        kernel = ops.reshape(ops.multiply(kernel, eye), wide)
        return self.convolve(inputs, kernel, self.stage.axes)

    def _width_after(self) -> int:
        return self.carried * self.shared * self.new


def leading(array: Tensor) -> tuple[int, ...]:
    """All axes but the last, as a reshape target: at most one -1, dynamic sizes else."""
    return one_unknown(tuple(ops.shape(array)[:-1]))


def one_unknown(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A reshape target: -1 for the only unknown axis; several stay dynamic."""
    unknown = [axis for axis, extent in enumerate(shape) if not isinstance(extent, int)]
    if len(unknown) == 1 and -1 not in [
        shape[axis] for axis in range(len(shape)) if axis not in unknown
    ]:
        return tuple(-1 if axis == unknown[0] else extent for axis, extent in enumerate(shape))
    return shape


def _reorder(array: Tensor, labels: Labels, wanted: Labels, size: Mapping[str, int]) -> Tensor:
    """Bring the labels that are flattened into the last axis into another order."""
    if labels == wanted:
        return array
    split = ops.reshape(array, (-1, *(size[label] for label in labels)))
    axes = (0, *(1 + labels.index(label) for label in wanted))
    width = math.prod(size[label] for label in labels)
    return ops.reshape(ops.transpose(split, axes), (*leading(array), width))
