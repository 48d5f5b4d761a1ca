"""Slow references in plain NumPy, in float64 and independent of the engine.

Cores are merged by one `np.einsum` over all labels at once; convolutions are sums over kernel
positions, written for any number of spatial axes.
"""

from __future__ import annotations

import itertools
import math
import string

import numpy as np


def merge_labels(cores, core_labels, wanted) -> np.ndarray:
    """The cores summed over every label that is not wanted, axes in the order wanted."""
    labels = dict.fromkeys(itertools.chain(*core_labels, wanted))
    letter = dict(zip(labels, string.ascii_letters, strict=False))
    terms = ["".join(letter[label] for label in core) for core in core_labels]
    result = "".join(letter[label] for label in wanted)
    arrays = [np.asarray(core, dtype="float64") for core in cores]
    return np.einsum(",".join(terms) + "->" + result, *arrays, optimize="greedy")


def merged_kernel(network, modes, cores) -> np.ndarray:
    """The dense kernel in Keras layout (*kernel_size, in, groups * out), any padding cut off."""
    spatial = [label for label, _ in network.spatial]
    outputs = [label for label in network.out_labels if label != network.group_label]
    group = [network.group_label] if network.group_label else []
    tensor = merge_labels(cores, network.cores, [*spatial, *network.in_labels, *group, *outputs])
    padded_in = math.prod(network.size[label] for label in network.in_labels)
    padded_out = math.prod(network.size[label] for label in outputs)
    kernel = tensor.reshape(*modes.kernel_size, padded_in, modes.groups, padded_out)
    kernel = kernel[..., : modes.in_size, :, : modes.out_size]
    kernel = kernel.reshape(*modes.kernel_size, modes.in_size, modes.groups * modes.out_size)
    return kernel.reshape(modes.split).transpose(modes.order) if modes.order else kernel


def dense(inputs, kernel, bias=None) -> np.ndarray:
    """(..., in) -> (..., out)"""
    outputs = np.einsum("...i,io->...o", inputs, kernel)
    return outputs if bias is None else outputs + bias


def conv(
    inputs,
    kernel,
    bias=None,
    strides=1,
    padding="valid",
    dilation=1,
    groups=1,
    channels_first=False,
) -> np.ndarray:
    """Convolution of (B, *spatial, C) or (B, C, *spatial) with (*kernel_size, C / groups, F)."""
    inputs = np.asarray(inputs, dtype="float64")
    if channels_first:
        inputs = np.moveaxis(inputs, 1, -1)
    ndim = kernel.ndim - 2
    strides, dilation = _each(strides, ndim), _each(dilation, ndim)
    inputs = _padded(inputs, kernel.shape[:ndim], strides, dilation, padding)
    extents = [
        (inputs.shape[1 + axis] - dilation[axis] * (kernel.shape[axis] - 1) - 1) // strides[axis]
        + 1
        for axis in range(ndim)
    ]
    filters, width = kernel.shape[-1], kernel.shape[-2]
    outputs = np.zeros((len(inputs), *extents, filters))
    per_group = filters // groups
    for tap in itertools.product(*(range(extent) for extent in kernel.shape[:ndim])):
        window = inputs[
            (
                slice(None),
                *(
                    slice(
                        tap[axis] * dilation[axis],
                        tap[axis] * dilation[axis] + (extents[axis] - 1) * strides[axis] + 1,
                        strides[axis],
                    )
                    for axis in range(ndim)
                ),
            )
        ]
        for group in range(groups):
            mine = slice(group * per_group, (group + 1) * per_group)
            part = window[..., group * width : (group + 1) * width]
            outputs[..., mine] += np.einsum("...i,io->...o", part, kernel[tap][:, mine])
    if bias is not None:
        outputs = outputs + bias
    return np.moveaxis(outputs, -1, 1) if channels_first else outputs


def conv_transpose(
    inputs, kernel, bias, shape, strides, padding, dilation, channels_first=False
) -> np.ndarray:
    """Transposed convolution of (B, *spatial, C) with (*kernel_size, F, C), outputs of `shape`.

    Each input is spread over the positions that its kernel reaches; "same" padding then cuts as
    much off the start as off the end, the odd one off the end.
    """
    inputs = np.asarray(inputs, dtype="float64")
    if channels_first:
        inputs = np.moveaxis(inputs, 1, -1)
        shape = (shape[0], *shape[2:], shape[1])
    ndim = kernel.ndim - 2
    reach = [dilation[axis] * (kernel.shape[axis] - 1) + 1 for axis in range(ndim)]
    full = [(inputs.shape[1 + k] - 1) * strides[k] + reach[k] for k in range(ndim)]
    room = [max(full[k], shape[1 + k]) for k in range(ndim)]
    spread = np.zeros((len(inputs), *room, kernel.shape[-2]))
    for tap in itertools.product(*(range(extent) for extent in kernel.shape[:ndim])):
        starts = [tap[k] * dilation[k] for k in range(ndim)]
        stops = [starts[k] + (inputs.shape[1 + k] - 1) * strides[k] + 1 for k in range(ndim)]
        window = tuple(slice(starts[k], stops[k], strides[k]) for k in range(ndim))
        spread[(slice(None), *window)] += np.einsum("...i,oi->...o", inputs, kernel[tap])
    for k in range(ndim):
        cut = max(full[k] - shape[1 + k], 0) // 2 if padding == "same" else 0
        spread = np.take(spread, range(cut, cut + shape[1 + k]), axis=1 + k)
    outputs = spread if bias is None else spread + bias
    return np.moveaxis(outputs, -1, 1) if channels_first else outputs


def relative_error(found, wanted) -> float:
    """Largest absolute difference over the largest absolute entry wanted (or 1 if that is zero)."""
    found, wanted = np.asarray(found, dtype="float64"), np.asarray(wanted, dtype="float64")
    if found.shape != wanted.shape:
        raise ValueError(f"shapes differ: {found.shape} and {wanted.shape}")
    if not found.size:
        return 0.0
    return float(np.max(np.abs(found - wanted)) / (np.max(np.abs(wanted)) or 1.0))


def _each(value, ndim: int) -> tuple[int, ...]:
    return (value,) * ndim if isinstance(value, int) else tuple(value)


def _padded(inputs, kernel_size, strides, dilation, padding) -> np.ndarray:
    """Zeros around the inputs: TensorFlow's "same" puts the odd one at the end."""
    widths = [(0, 0)]
    for axis, kernel in enumerate(kernel_size):
        extent, reach = inputs.shape[1 + axis], dilation[axis] * (kernel - 1)
        if padding == "same":
            total = max(0, (-(-extent // strides[axis]) - 1) * strides[axis] + reach + 1 - extent)
            widths.append((total // 2, total - total // 2))
        else:
            widths.append((reach, 0) if padding == "causal" else (0, 0))
    return np.pad(inputs, [*widths, (0, 0)])
