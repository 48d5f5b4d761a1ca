"""What calibration data says of the layers: the moments of their input patches.

Only layers whose patches can be recorded, and are not too long, take part; the plan says of the
others that they are not calibrated.
"""

from __future__ import annotations

import keras
import numpy as np

from keras_tensornet.compression.covariance import Geometry, patch_moments
from keras_tensornet.compression.targets import Target
from keras_tensornet.compression.walker import walk_layers

# A Gram matrix of this side takes 0.5 GiB in float64; longer patches are not calibrated.
LONGEST_PATCH = 8192


def calibrate(model: keras.Model, targets: list[Target], data) -> dict[str, tuple]:
    """`path -> (gram, mean)` for each target that can be calibrated.

    The mean is None where nothing after the layer absorbs an error of its output's mean: neither a
    bias of its own nor a batch normalisation, whose statistics are estimated again.

    Raises:
        ValueError: if the data holds no batch.
    """
    inside = {path for path, _ in walk_layers(model)} & _directly_called(model)
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
            known[target.path] = (gram, mean if absorbs_mean(target.layer) else None)
    return known


def absorbs_mean(layer) -> bool:
    """Whether a constant added to a layer's output can be taken out again without training."""
    if layer.use_bias:
        return True
    users = [node.operation for node in layer._outbound_nodes]
    linear = layer.activation is keras.activations.linear
    return (
        linear
        and bool(users)
        and all(isinstance(u, keras.layers.BatchNormalization) and u.trainable for u in users)
    )


def _directly_called(model) -> set[str]:
    """Paths of layers that a graph calls itself; inside wrappers a recorder cannot stand."""
    return {path for path, layer in walk_layers(model) if layer._inbound_nodes}
