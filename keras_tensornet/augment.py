"""Other inputs made from those at hand, for training that needs no labels.

`recover` lets a compressed network learn what a dense one says of its inputs, and the dense one
says something of any input. So a thousand images can be made into many more: shifted, mirrored,
mixed. A network that has seen more of them is nearer to the dense one on images that it has not
seen (Beyer et al., "Knowledge distillation: a good teacher is patient and consistent", 2022).

Each function here gives an `augment` of `RecoverySettings`: `(inputs, random) -> inputs`, batches
of arrays (batch, ...) in the model's own structure, and a `numpy.random.Generator`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

__all__ = ["chained", "mixed", "shifted"]

Augment = Callable[[Any, np.random.Generator], Any]
# Axes from which on whole numbers are taken for those of an image.
IMAGES = 4


def shifted(most: float = 0.125, mirrored: bool = True) -> Augment:
    """Images (batch, height, width, channels), each shifted and perhaps mirrored (He et al. 2016).

    Args:
        most: share of the height and of the width by which an image is moved at most; what comes
            in from outside is zero.
        mirrored: whether half of the images are mirrored, left to right. Not for digits or text.

    Examples:
        >>> images = np.ones((2, 8, 8, 3), "float32")
        >>> shifted()(images, np.random.default_rng(0)).shape
        (2, 8, 8, 3)
    """
    if not 0.0 <= most < 1.0:
        raise ValueError(f"`most` must lie in [0, 1). Received: most={most}.")

    def augment(images: Any, random: np.random.Generator) -> Any:
        _check_images(images)
        count, height, width, _ = images.shape
        up, left = int(most * height), int(most * width)
        padded = np.pad(images, ((0, 0), (up, up), (left, left), (0, 0)))
        corners = random.integers(0, (2 * up + 1, 2 * left + 1), (count, 2))
        turned = (random.random(count) < 0.5) & mirrored
        result = np.empty_like(images)
        for place, (row, column) in enumerate(corners):
            window = padded[place, row : row + height, column : column + width]
            result[place] = window[:, ::-1] if turned[place] else window
        return result

    return augment


def mixed(share: float = 0.5) -> Augment:
    """Examples mixed with one another: any inputs of floats.

    A batch is left as it is, or each example becomes a weighted mean with another (mixup: Zhang et
    al. 2018), or gets a part of another in its place (CutMix: Yun et al. 2019): a box of an image,
    a stretch of a signal. Where one of several inputs holds tokens, masks or categories, between
    two of which there is nothing, all are left as they are. Such are integers, and floats without
    fractions in fewer than four axes; images may hold whole numbers.

    Args:
        share: of batches that are mixed. Half of these, where inputs have axes between the first
            and the last, are cut instead of averaged.

    Examples:
        >>> x = np.random.default_rng(0).normal(size=(4, 6))
        >>> mixed(1.0)(x, np.random.default_rng(0)).shape
        (4, 6)
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"`share` must lie in [0, 1]. Received: share={share}.")

    def augment(inputs: Any, random: np.random.Generator) -> Any:
        leaves = keras.tree.flatten(inputs)
        if random.random() >= share or not can_mix(inputs):
            return inputs
        other = random.permutation(len(leaves[0]))
        cut = random.random() < 0.5 and all(leaf.ndim > 2 for leaf in leaves)
        own = random.beta(1.0, 1.0, len(other))  # how much of each example stays
        own = np.maximum(own, 1.0 - own)
        if not cut:
            return keras.tree.map_structure(lambda leaf: _averaged(leaf, leaf[other], own), inputs)
        corner = random.random((len(other), max(leaf.ndim for leaf in leaves)))
        return keras.tree.map_structure(
            lambda leaf: _with_boxes(leaf, leaf[other], 1.0 - own, corner), inputs
        )

    return augment


def chained(*augments: Augment) -> Augment:
    """One augmentation after another.

    Examples:
        >>> images = np.zeros((2, 8, 8, 3), "float32")
        >>> chained(shifted(), mixed())(images, np.random.default_rng(0)).shape
        (2, 8, 8, 3)
    """
    for one in augments:
        if not callable(one):
            raise TypeError(f"An augmentation must be a function. Received: {one!r}.")

    def augment(inputs: Any, random: np.random.Generator) -> Any:
        for one in augments:
            inputs = one(inputs, random)
        return inputs

    return augment


def _averaged(own: np.ndarray, other: np.ndarray, weight: np.ndarray) -> np.ndarray:
    weight = weight.reshape(-1, *[1] * (own.ndim - 1))
    return (weight * own + (1.0 - weight) * other).astype(own.dtype)


def _with_boxes(
    own: np.ndarray, other: np.ndarray, share: np.ndarray, corner: np.ndarray
) -> np.ndarray:
    """Examples with a box of others in them; all axes but the first and the last are cut."""
    result, extents = own.copy(), own.shape[1:-1]
    for place in range(len(own)):
        side = share[place] ** (1.0 / len(extents))  # so that the box has that share
        box: list[Any] = [place]
        for axis, extent in enumerate(extents):
            size = round(side * extent)
            start = int(corner[place, axis] * (extent - size + 1))
            box.append(slice(start, start + size))
        result[tuple(box)] = other[tuple(box)]
    return result


def can_mix(inputs: Any) -> bool:
    """Whether `mixed` mixes such inputs: all are floats, and none holds tokens or the like."""
    return all(
        np.issubdtype(leaf.dtype, np.floating)
        and (leaf.ndim >= IMAGES or bool((leaf != np.round(leaf)).any()))
        for leaf in keras.tree.flatten(inputs)
    )


def _check_images(images: Any) -> None:
    if not isinstance(images, np.ndarray) or images.ndim != IMAGES:
        received = getattr(images, "shape", type(images).__name__)
        raise ValueError(
            "Shifting takes one array of images (batch, height, width, channels). Received: "
            f"{received}. Write a function for inputs of another kind."
        )
