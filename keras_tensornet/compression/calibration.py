"""What calibration data says of the layers: the moments of their input patches.

Only layers whose patches can be recorded, and are not too long, take part; the plan says of the
others that they are not calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_tensornet.compression.covariance import patch_moments
from keras_tensornet.compression.kinds import Target, find_kernels
from keras_tensornet.layers.equations import parse_equation
from keras_tensornet.reading import Batches, read_inputs

# A Gram matrix of this side takes a quarter of a GiB; longer patches are not calibrated.
LONGEST_PATCH = 8192


class Knowledge(NamedTuple):
    """What is known of one layer.

    Attributes:
        gram: E[x x^T] of its input patches, (groups, patch, patch) in float32.
        mean: E[x], (groups, patch), where an error of the output's mean does not count because a
            bias of the layer or a batch normalisation after it takes it out; else None.
        scale: (filters,), what a unit of error of each output counts after the batch normalisation
            that follows; None where none follows.
    """

    gram: np.ndarray
    mean: np.ndarray | None
    scale: np.ndarray | None


@dataclass(frozen=True)
class Calibration:
    """What calibration data says of one model, to be used for several plans; see `calibrate`.

    Attributes:
        data: the inputs, to be read again.
        known: `path -> Knowledge`.
        sensitivities: of layers that a budget has asked for, `path -> sensitivity`.
    """

    data: Batches
    known: Mapping[str, Knowledge]
    sensitivities: dict[str, float] = field(default_factory=dict, compare=False, repr=False)


def calibrate(model: keras.Model, data: Any) -> Calibration:
    """Run a model on calibration data once, for any number of plans and compressions.

    Args:
        model: a built dense model; it stays as it was.
        data: inputs of the model, as in `plan_compression`.

    Returns:
        A `Calibration`, to be given as `calibration_data`.

    Raises:
        TypeError, ValueError: if the data does not fit the model, or holds no batch.
    """
    data = read_inputs(model, data, name="calibration_data")
    return Calibration(data, _known(model, find_kernels(model), data))


def knowledge_of(model: keras.Model, targets: list[Target], data: Any) -> Mapping[str, Knowledge]:
    """`path -> Knowledge` from a `Calibration`, or from data on the spot."""
    if isinstance(data, Calibration):
        return data.known
    return _known(model, targets, data)


def readable(model: keras.Model, data: Any) -> Any:
    """Calibration data of any form, such that it can be read more than once; None stays None."""
    if data is None or isinstance(data, Calibration):
        return data
    return read_inputs(model, data, name="calibration_data")


def calibration_inputs(data: Any) -> Any:
    """The inputs of a `Calibration`, or the data itself."""
    return data.data if isinstance(data, Calibration) else data


def _known(model: keras.Model, targets: list[Target], data: Any) -> dict[str, Knowledge]:
    by_path = {target.path: target for target in targets}
    found = {path: target.kind.geometry(target.layer) for path, target in by_path.items()}
    chosen = {
        path: geometry
        for path, geometry in found.items()
        if geometry is not None and geometry.patch <= LONGEST_PATCH
    }
    known = {}
    moments = patch_moments(model, chosen, data)
    if moments and not any(gram.any() for gram, _ in moments.values()):
        raise ValueError(
            "`calibration_data` must say something of the layers. Received: data on which the "
            f"inputs of all of them are zero ({', '.join(map(repr, moments))}). Give inputs such "
            "as the model sees in use."
        )
    for path, (gram, mean) in moments.items():
        if np.trace(gram, axis1=1, axis2=2).min() > 0:  # else its inputs were all zero
            target = by_path[path]
            outputs = math.prod(target.kernel_shape) // chosen[path].patch
            absorbed = mean if absorbs_mean(target, outputs) else None
            known[path] = Knowledge(gram, absorbed, output_scale(target.layer, outputs))
    return known


def absorbs_mean(target: Target, outputs: int) -> bool:
    """Whether a constant added to a layer's outputs can be taken out again without training.

    Args:
        target: whose kernel has changed.
        outputs: number of outputs for each patch, all groups together.
    """
    bias = target.kind.bias(target.layer)
    if bias is not None:
        variable, row = bias
        size = math.prod(variable.shape if row is None else variable.shape[1:])
        if size == outputs:
            return getattr(target.layer, "equation", None) is None or _in_order(target.layer)
    norms = normalisations_after(target.layer)
    return bool(norms) and all(
        norm.trainable and norm.moving_mean.shape == (outputs,) for norm in norms
    )


def _in_order(layer: keras.Layer) -> bool:
    """Whether the bias of an `EinsumDense` runs over the same axes as its kernel's columns."""
    equation = parse_equation(layer.equation)
    axes = [label for label in equation.outputs if label in layer.bias_axes]
    return "".join(axes) == equation.new


def output_scale(layer: keras.Layer, outputs: int) -> np.ndarray | None:
    """|gamma| / sigma of the one batch normalisation that follows a layer, per output channel."""
    norms = normalisations_after(layer)
    if len(norms) != 1 or norms[0].moving_variance.shape != (outputs,):
        return None
    variance = ops.convert_to_numpy(norms[0].moving_variance) + norms[0].epsilon
    gamma = 1.0 if norms[0].gamma is None else np.abs(ops.convert_to_numpy(norms[0].gamma))
    scale = gamma / np.sqrt(variance)
    # A channel that normalisation switches off still counts a little: its cores must stay finite.
    return np.maximum(scale, 1e-3 * scale.max()) if scale.max() > 0 else None


def normalisations_after(layer: keras.Layer) -> list[Any]:
    """The batch normalisations that are all that a linear layer's output goes to, else none."""
    users = [node.operation for node in layer._outbound_nodes]
    if layer.activation is not keras.activations.linear:
        return []
    every = all(isinstance(user, keras.layers.BatchNormalization) for user in users)
    return users if every else []
