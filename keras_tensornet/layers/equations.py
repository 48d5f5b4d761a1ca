"""Einsum equations that are matrix products up to reshaping, as pure data.

In "abc,cde->abde" the kernel's labels are of two kinds: c is summed over, d and e are new. With the
inputs as a matrix of (a b) x (c) and the kernel as (c) x (d e), the equation is one product, whose
rows are the labels a and b that the kernel does not have.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from keras_tensornet.modes import KernelModes
from keras_tensornet.types import Shape

Axes = tuple[int, ...]
PATTERN = re.compile(r"(\.\.\.)?([a-zA-Z]+)(\.\.\.)?,([a-zA-Z]+)->(\.\.\.)?([a-zA-Z]+)(\.\.\.)?")


@dataclass(frozen=True)
class Equation:
    """An equation `inputs,kernel->outputs`.

    Attributes:
        text: as the user wrote it.
        inputs, kernel, outputs: labels, without the ellipsis.
        ellipsis: "left", "right" or None, where inputs and outputs have further axes.
    """

    text: str
    inputs: str
    kernel: str
    outputs: str
    ellipsis: str | None

    @property
    def summed(self) -> str:
        """Labels of the kernel that are summed over, in its order."""
        return "".join(label for label in self.kernel if label in self.inputs)

    @property
    def new(self) -> str:
        """Labels of the kernel that are new in the outputs, in its order."""
        return "".join(label for label in self.kernel if label in self.outputs)

    def input_axes(self, ndim: int) -> tuple[Axes, Axes]:
        """Axes of the inputs that are rows, and those summed over in the kernel's order."""
        places = self._places(self.inputs, ndim)
        summed = tuple(places[label] for label in self.summed)
        return tuple(axis for axis in range(ndim) if axis not in summed), summed

    def output_order(self, ndim: int) -> Axes:
        """The transposition of (rows of the inputs, new labels) to the outputs' order.

        Args:
            ndim: number of axes of the inputs.
        """
        extra = ndim - len(self.inputs)
        axes = [f"{axis}" for axis in range(extra)]
        rows = [label for label in self.inputs if label not in self.summed]
        before = [*axes, *rows] if self.ellipsis == "left" else [*rows, *axes]
        before += self.new
        after = [*axes, *self.outputs] if self.ellipsis == "left" else [*self.outputs, *axes]
        return tuple(before.index(label) for label in after)

    def sizes(self, input_shape: Shape, output_shape: Shape) -> dict[str, int]:
        """The size of every label.

        Args:
            input_shape: with the batch.
            output_shape: the layer's argument: without the batch and without the ellipsis' axes.

        Raises:
            ValueError: if the shapes do not fit the equation, or a label of the kernel has no size.
        """
        least = len(self.inputs)
        if len(input_shape) < least or (self.ellipsis is None and len(input_shape) != least):
            raise ValueError(
                f"The inputs must have the axes that the equation {self.text!r} names. Received: "
                f"input shape {tuple(input_shape)}."
            )
        places = self._places(self.inputs, len(input_shape))
        size: dict[str, Any] = {label: input_shape[axis] for label, axis in places.items()}
        given = self.output_sizes(output_shape, len(input_shape))
        for label, extent in given.items():
            if size.get(label) is None:
                size[label] = extent
            elif None not in (extent, size[label]) and extent != size[label]:
                raise ValueError(
                    f"`output_shape` must agree with the inputs. Axis '{label}' of "
                    f"{self.text!r} is {size[label]} in the input shape {tuple(input_shape)} and "
                    f"{extent} in output_shape={tuple(output_shape)}."
                )
        for label in self.kernel:
            if size[label] is None:
                raise ValueError(
                    f"Every axis of the kernel must be known when the layer is built. Axis "
                    f"'{label}' of {self.text!r} is not. Received: input shape "
                    f"{tuple(input_shape)}, output_shape={tuple(output_shape)}."
                )
        return size

    def output_shape(self, input_shape: Shape, output_shape: Shape) -> Shape:
        """The shape of the outputs, with the batch."""
        size = self.sizes(input_shape, output_shape)
        rows, _ = self.input_axes(len(input_shape))
        before = [*(input_shape[axis] for axis in rows), *(size[label] for label in self.new)]
        shape = [before[axis] for axis in self.output_order(len(input_shape))]
        given = self.output_sizes(output_shape, len(input_shape))
        start = len(shape) - len(self.outputs) if self.ellipsis == "left" else 0
        for place, label in enumerate(self.outputs, start=start):
            shape[place] = shape[place] if shape[place] is not None else given.get(label)
        return tuple(shape)

    def bias_shape(self, bias_axes: str, size: Mapping[str, int], ndim: int) -> tuple[int, ...]:
        """The shape of a bias along some axes of the outputs, 1 along those after the first.

        Raises:
            ValueError: if a bias axis is none of the outputs, or its size is unknown.
        """
        for label in bias_axes:
            if label not in self.outputs or size.get(label) is None:
                raise ValueError(
                    f"`bias_axes` must name axes of the outputs '{self.outputs}' whose sizes are "
                    f"known. Received: bias_axes={bias_axes!r}."
                )
        first = min(self.outputs.index(label) for label in bias_axes)
        shape = [size[label] if label in bias_axes else 1 for label in self.outputs[first:]]
        extra = ndim - len(self.inputs) if self.ellipsis == "right" else 0
        return (*shape, *(1,) * extra)

    def kernel_modes(self, modes: KernelModes, size: Mapping[str, int]) -> KernelModes:
        """Modes of the (summed) x (new) matrix, with the kernel's own labels as its layout."""
        labels = self.summed + self.new
        order = tuple(labels.index(label) for label in self.kernel)
        return replace(modes, split=tuple(size[label] for label in labels), order=order)

    def matrix_shape(self, size: Mapping[str, int]) -> tuple[int, int]:
        """Rows and columns of the kernel as a matrix."""
        return (
            math.prod(size[label] for label in self.summed),
            math.prod(size[label] for label in self.new),
        )

    def _places(self, labels: str, ndim: int) -> dict[str, int]:
        start = ndim - len(labels) if self.ellipsis == "left" else 0
        return {label: start + axis for axis, label in enumerate(labels)}

    def output_sizes(self, output_shape: Shape, ndim: int) -> dict[str, Any]:
        """What `output_shape` says of the outputs' labels; the batch is not in it."""
        has_batch = self.ellipsis != "left" or ndim == len(self.inputs)
        labels = self.outputs[1:] if has_batch else self.outputs
        if len(output_shape) != len(labels):
            raise ValueError(
                f"`output_shape` must have one entry for each of the axes '{labels}', those of "
                f"the outputs of {self.text!r} without the batch. Received: "
                f"output_shape={tuple(output_shape)}."
            )
        return dict(zip(labels, output_shape, strict=True))


def parse_equation(text: str) -> Equation:
    """Read an equation and check that it is a matrix product up to reshaping.

    Raises:
        TypeError: if it is no string.
        ValueError: if it is malformed or no matrix product; the text says which label is why.

    >>> equation = parse_equation("abc,cde->abde")
    >>> equation.summed, equation.new
    ('c', 'de')
    """
    if not isinstance(text, str):
        raise TypeError(f"`equation` must be a string. Received: equation={text!r}.")
    match = PATTERN.fullmatch(text.replace(" ", ""))
    dots = match and [bool(match[group]) for group in (1, 3, 5, 7)]
    if not match or dots not in ([False] * 4, [True, False] * 2, [False, True] * 2):
        raise ValueError(
            "`equation` must have the form 'ab,bc->ac', '...b,bc->...c' or 'ab...,bc->ac...'. "
            f"Received: equation={text!r}."
        )
    terms = match[2], match[4], match[6]
    ellipsis = "left" if dots[0] else "right" if dots[1] else None
    for label in sorted(set("".join(terms))):
        reason = _why_no_product(label, *terms)
        if reason:
            raise ValueError(
                f"`equation` must be a matrix product up to reshaping. In {text!r} the label "
                f"'{label}' {reason}. Use a layer of your own for it, or keep EinsumDense."
            )
    return Equation(text, *terms, ellipsis)


def _why_no_product(label: str, inputs: str, kernel: str, outputs: str) -> str | None:
    """Why a label makes an equation no matrix product: it must be in exactly two terms, once."""
    if max(term.count(label) for term in (inputs, kernel, outputs)) > 1:
        return "occurs twice in one term, which takes a diagonal"
    found = label in inputs, label in kernel, label in outputs
    reasons = {
        (
            True,
            True,
            True,
        ): "is in all three terms, which takes a product for each index",
        (True, False, False): "is in the inputs only, where it would be summed without a kernel",
        (False, True, False): "is in the kernel only, where it would be summed without inputs",
        (False, False, True): "is in the outputs only, where nothing gives it a size",
    }
    return reasons.get(found)
