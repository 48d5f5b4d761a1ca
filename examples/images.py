"""Batches of images, shifted and mirrored at random, for the examples that train on CIFAR-10."""

from __future__ import annotations

import keras
import numpy as np


class ShiftedImages(keras.utils.PyDataset):
    """Whole batches in random order, shifted by up to some pixels and mirrored (He et al. 2016).

    An epoch's batches depend on the seed and the epoch's number alone, so that training which was
    interrupted goes on with the batches it would have had.

    Args:
        images: `(N, H, W, C)`.
        labels: `(N,)`.
        batch_size: images in a batch; those of an epoch's last, smaller one are left out.
        seed: of order, shifts and mirroring.
        epoch: number of the first epoch.
        shift: most pixels in each direction; what comes in from outside is zero.
    """

    def __init__(self, images, labels, batch_size: int, seed: int, epoch: int = 0, shift: int = 4):
        super().__init__()
        self.images = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
        self.size = images.shape[1:3]
        self.labels, self.batch_size, self.seed, self.shift = labels, batch_size, seed, shift
        self._begin(epoch)

    def __len__(self):
        return len(self.labels) // self.batch_size

    def __getitem__(self, index):
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        corners = rng.integers(0, 2 * self.shift + 1, (len(chosen), 2))
        mirrored = rng.random(len(chosen)) < 0.5
        height, width = self.size
        batch = np.empty((len(chosen), height, width, self.images.shape[3]), self.images.dtype)
        for place, (image, (top, left)) in enumerate(zip(chosen, corners, strict=True)):
            window = self.images[image, top : top + height, left : left + width]
            batch[place] = window[:, ::-1] if mirrored[place] else window
        return batch, self.labels[chosen]

    def on_epoch_end(self):
        """Another order for the next epoch."""
        self._begin(self.epoch + 1)

    def _begin(self, epoch: int) -> None:
        # Epoch 0 is seeded by the seed alone, as in the runs recorded with this scheme.
        self.epoch = epoch
        seed = (self.seed, epoch) if epoch else self.seed
        self.order = np.random.default_rng(seed).permutation(len(self.labels))
