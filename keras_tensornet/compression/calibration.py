"""What calibration data says of the layers: the moments of their input patches.

Only layers whose patches can be recorded, and are not too long, take part; the plan says of the
others that they are not calibrated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_tensornet.compression.covariance import Geometry, patch_moments
from keras_tensornet.compression.kinds import Target, find_targets
from keras_tensornet.rewriting.walker import walk_layers

# A Gram matrix of this side takes 0.5 GiB in float64; longer patches are not calibrated.
LONGEST_PATCH = 8192


class Knowledge(NamedTuple):
    """What is known of one layer.

    Attributes:
        gram: E[x x^T] of its input patches, (groups, patch, patch).
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
        data: the inputs.
        known: `path -> Knowledge`.
    """

    data: object
    known: Mapping[str, Knowledge]


def calibrate(model: keras.Model, data) -> Calibration:
    """Run a model on calibration data once, for any number of plans and compressions.

    Args:
        model: a built dense model; it stays as it was.
        data: inputs of the model, as in `plan_compression`.

    Returns:
        A `Calibration`, to be given as `calibration_data`.

    Raises:
        TypeError: if the data can be read only once.
        ValueError: if it holds no batch.
    """
    return Calibration(data, _known(model, find_targets(model), data))


def knowledge_of(model: keras.Model, targets: list[Target], data) -> Mapping[str, Knowledge]:
    """`path -> Knowledge` from a `Calibration`, or from data on the spot."""
    if isinstance(data, Calibration):
        return data.known
    return _known(model, targets, data)


def calibration_inputs(data):
    """The inputs of a `Calibration`, or the data itself."""
    return data.data if isinstance(data, Calibration) else data


def _known(model: keras.Model, targets: list[Target], data) -> dict[str, Knowledge]:
    if isinstance(data, Iterator):
        raise TypeError(
            "`calibration_data` is read twice, for the layers and for batch normalisation, and an "
            f"iterator can be read once only. Received: {data!r}. Give arrays, a list of batches, "
            "a tf.data.Dataset or a PyDataset."
        )
    inside = _directly_called(model)
    chosen = [
        target
        for target in targets
        if target.row.patches
        and target.path in inside
        and Geometry(target.layer).patch <= LONGEST_PATCH
    ]
    moments = patch_moments(model, [target.path for target in chosen], data)
    known = {}
    for target in chosen:
        gram, mean = moments[target.path]
        if np.trace(gram, axis1=1, axis2=2).min() > 0:  # else its inputs were all zero
            absorbed = mean if absorbs_mean(target.layer) else None
            known[target.path] = Knowledge(gram, absorbed, output_scale(target.layer))
    return known


def absorbs_mean(layer) -> bool:
    """Whether a constant added to a layer's output can be taken out again without training."""
    norms = _normalisations_after(layer)
    return layer.use_bias or (bool(norms) and all(norm.trainable for norm in norms))


def output_scale(layer) -> np.ndarray | None:
    """|gamma| / sigma of the one batch normalisation that follows a layer, per output channel."""
    norms = _normalisations_after(layer)
    if len(norms) != 1 or norms[0].moving_variance.shape != (layer.kernel.shape[-1],):
        return None
    variance = ops.convert_to_numpy(norms[0].moving_variance) + norms[0].epsilon
    gamma = 1.0 if norms[0].gamma is None else np.abs(ops.convert_to_numpy(norms[0].gamma))
    scale = gamma / np.sqrt(variance)
    # A channel that normalisation switches off still counts a little: its cores must stay finite.
    return np.maximum(scale, 1e-3 * scale.max()) if scale.max() > 0 else None


def _normalisations_after(layer) -> list:
    """The batch normalisations that are all that a linear layer's output goes to, else none."""
    users = [node.operation for node in layer._outbound_nodes]
    if layer.activation is not keras.activations.linear:
        return []
    every = all(isinstance(user, keras.layers.BatchNormalization) for user in users)
    return users if every else []


def _directly_called(model) -> set[str]:
    """Paths of layers that a graph calls itself; inside wrappers a recorder cannot stand."""
    return {path for path, layer in walk_layers(model) if layer._inbound_nodes}
