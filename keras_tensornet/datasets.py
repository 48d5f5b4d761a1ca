"""Image data for the examples, studies and tests: one call, NumPy arrays, always the same split.

`digits` is bundled with scikit-learn and needs no download; `mnist` and `cifar10` are read from
where tensorflow-datasets has prepared them. Both packages are optional:

    pip install "keras-tensornet[datasets]"
"""

from __future__ import annotations

import os
import urllib.request
from typing import Any, NamedTuple

import numpy as np

from keras_tensornet import validation

NAMES = ("digits", "mnist", "cifar10")

# Of scikit-learn's 1,797 digits, those before this one are for training.
DIGITS_TRAIN = 1437

# Mean and standard deviation of CIFAR-10's red, green and blue training pixels.
CIFAR10_MEAN = np.array([125.3, 123.0, 113.9], "float32")
CIFAR10_STD = np.array([63.0, 62.1, 66.7], "float32")

# tensorflow-datasets retries for minutes when it is offline, so its source is asked first.
SOURCE_TIMEOUT = 5.0  # seconds


class ImageData(NamedTuple):
    """A labelled image data set, split into training and test.

    Attributes:
        x_train, x_test: `(images, height, width, channels)`, float32, normalised as `load` says.
        y_train, y_test: `(images,)`, int32 class indices.
        num_classes: number of classes.
        name: what `load` was asked for.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    name: str


def load(name: str) -> ImageData:
    """Load a data set by name; the same call always returns the same arrays in the same order.

    | name | images | train, test | normalisation |
    |---|---|---|---|
    | `digits` | 8x8x1 | 1,437, 360 (the last) | pixels / 16, in [0, 1] |
    | `mnist` | 28x28x1 | 60,000, 10,000 | pixels / 255, in [0, 1] |
    | `cifar10` | 32x32x3 | 50,000, 10,000 | (pixels - `CIFAR10_MEAN`) / `CIFAR10_STD` |

    `mnist` and `cifar10` are looked for in the folder that the environment variable `TFDS_DATA_DIR`
    names (`~/tensorflow_datasets` by default) and downloaded to it once if they are not there.

    Args:
        name: `"digits"`, `"mnist"` or `"cifar10"`.

    Raises:
        ValueError: if the name is unknown.
        ImportError: if scikit-learn or tensorflow-datasets is needed and not installed.
        FileNotFoundError: if the data is neither on disk nor can be downloaded.

    >>> load("digits").x_train.shape
    (1437, 8, 8, 1)
    """
    validation.one_of("name", name, NAMES)
    return _load_digits() if name == "digits" else _load_tfds(name)


def batches(x: np.ndarray, y: np.ndarray, batch_size: int = 128, seed: int | None = None) -> Any:
    """Arrays as a `tf.data.Dataset` for `fit`, in another order each epoch, without a late end.

    `fit` on arrays, on TensorFlow, starts a thread that tunes the input pipeline. TensorFlow 2.21
    joins it when an epoch is over, and it sleeps up to as long as the epoch took: an epoch can take
    twice its time. Here the tuner is off.

    Args:
        x, y: arrays of the same length.
        batch_size: images in a batch; the last batch may be smaller.
        seed: of the order; the same seed gives the same orders. By default the global seed, as
            `keras.utils.set_random_seed` sets it.

    Returns:
        a dataset of `(x, y)` batches: `model.fit(batches(x, y), epochs=5, shuffle=False)`, as it
        shuffles by itself and Keras warns otherwise.

    Raises:
        ValueError: if the arrays differ in length or are empty, or `batch_size` is below 1.
        TypeError: if `batch_size` is no int.
    """
    validation.positive_int("batch_size", batch_size)
    if len(x) != len(y) or not len(x):
        raise ValueError(
            "`x` and `y` must have the same number of rows, at least one. Received: "
            f"{len(x)} and {len(y)} rows."
        )
    import tensorflow as tf

    images, labels = tf.constant(x), tf.constant(y)
    rows = tf.data.Dataset.range(len(y)).shuffle(len(y), seed=seed).batch(batch_size)
    dataset = rows.map(lambda row: (tf.gather(images, row), tf.gather(labels, row))).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _load_digits() -> ImageData:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing_package("digits", "scikit-learn") from error
    bunch = load_digits()
    images = (bunch.images[..., np.newaxis] / 16.0).astype("float32")  # (1797, 8, 8, 1)
    labels = bunch.target.astype("int32")
    # Not shuffled: neighbours share a writer, who would otherwise be on both sides of the split.
    train, test = slice(None, DIGITS_TRAIN), slice(DIGITS_TRAIN, None)
    return ImageData(images[train], labels[train], images[test], labels[test], 10, "digits")


def _load_tfds(name: str) -> ImageData:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise _missing_package(name, "tensorflow-datasets", str(error)) from error
    builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    if not builder.is_prepared():
        _download(builder, name)
    arrays = []
    for split in ("train", "test"):
        whole_split = builder.as_dataset(
            split=split, batch_size=-1, as_supervised=True, shuffle_files=False
        )
        images, labels = tfds.as_numpy(whole_split)
        arrays += [_normalise(name, images), labels.astype("int32")]
    x_train, y_train, x_test, y_test = arrays
    return ImageData(x_train, y_train, x_test, y_test, 10, name)


def _normalise(name: str, pixels: np.ndarray) -> np.ndarray:
    images = pixels.astype("float32")
    if name == "cifar10":
        images -= CIFAR10_MEAN
        images /= CIFAR10_STD
    else:
        images /= 255.0
    return images


def _download(builder: Any, name: str) -> None:
    """Prepare the data in place, or say in one line what is missing and what to do."""
    try:
        # the addresses and sizes of its files are part of each builder
        source = min(builder.url_infos, key=lambda url: builder.url_infos[url].size)
        request = urllib.request.Request(source, method="HEAD")
        urllib.request.urlopen(request, timeout=SOURCE_TIMEOUT).close()
        builder.download_and_prepare()
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileNotFoundError(
            f"The {name} data is not in {builder.data_path} and could not be downloaded "
            f"({reason}). Set the environment variable TFDS_DATA_DIR to a folder that "
            "tensorflow-datasets has prepared, or run once with network access."
        ) from error


def _missing_package(name: str, package: str, reason: str = "") -> ImportError:
    because = f" ({reason})" if reason else ""
    return ImportError(
        f'load("{name}") needs {package}, which could not be imported{because}. '
        'Install it with: pip install "keras-tensornet[datasets]"'
    )
