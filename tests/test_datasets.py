"""Data sets: shapes, ranges, determinism, and what a user without data or packages is told."""

import builtins
import os
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from keras_tensornet import datasets

SHARED = Path(__file__).parents[2] / "shared" / "data" / "tfds"


def prepared_folder(name):
    """The folder that holds the prepared data, or a skip that says why there is none."""
    for folder in (os.environ.get("TFDS_DATA_DIR"), SHARED):
        if folder and Path(folder, name).is_dir():
            return str(folder)
    pytest.skip(f"no prepared {name}: set TFDS_DATA_DIR")


def forget_package(monkeypatch, package):
    """Make `import package` fail as if it were not installed."""
    original = builtins.__import__

    def importing(name, *args, **options):
        if name.split(".")[0] == package:
            raise ImportError(f"No module named '{name}'")
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", importing)


def check_arrays(data, image_shape, num_train, num_test):
    assert data.x_train.shape == (num_train, *image_shape)
    assert data.x_test.shape == (num_test, *image_shape)
    assert data.y_train.shape == (num_train,)
    assert data.y_test.shape == (num_test,)
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert data.y_train.dtype == data.y_test.dtype == np.int32
    assert data.num_classes == 10
    assert set(data.y_train) == set(data.y_test) == set(range(10))


def test_digits_are_complete_and_in_range():
    pytest.importorskip("sklearn")
    data = datasets.load("digits")
    check_arrays(data, (8, 8, 1), 1437, 360)
    assert data.name == "digits"
    assert data.x_train.min() == 0.0
    assert data.x_train.max() == 1.0
    # scikit-learn's order runs through the digits over and over, so the last fifth is balanced
    assert np.bincount(data.y_test).min() >= 33


def test_digits_are_the_same_at_every_call_and_split_without_overlap():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    first, second = datasets.load("digits"), datasets.load("digits")
    for one, other in zip(first[:4], second[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    bunch = sklearn_datasets.load_digits()
    images = np.concatenate([first.x_train, first.x_test])[..., 0]
    np.testing.assert_array_equal(images * 16, bunch.images)
    np.testing.assert_array_equal(np.concatenate([first.y_train, first.y_test]), bunch.target)


def test_mnist():
    pytest.importorskip("tensorflow_datasets")
    folder = prepared_folder("mnist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", folder)
        data = datasets.load("mnist")
    check_arrays(data, (28, 28, 1), 60_000, 10_000)
    assert (data.x_train.min(), data.x_train.max()) == (0.0, 1.0)
    # the published mean pixel of MNIST's training images
    assert data.x_train.mean() == pytest.approx(0.1307, abs=1e-3)


def test_cifar10():
    pytest.importorskip("tensorflow_datasets")
    folder = prepared_folder("cifar10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", folder)
        data = datasets.load("cifar10")
    check_arrays(data, (32, 32, 3), 50_000, 10_000)
    np.testing.assert_array_equal(np.bincount(data.y_train), 5_000)
    # Standardised by channel, in float64 because float32 sums over millions of pixels lose digits;
    # a JPEG round trip of the files may move both by a few hundredths.
    pixels = data.x_train[:10_000].reshape(-1, 3).astype("float64")
    np.testing.assert_allclose(pixels.mean(0), 0.0, atol=0.05)
    np.testing.assert_allclose(pixels.std(0), 1.0, atol=0.05)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="`name` must be one of 'digits', 'mnist', 'cifar10'"):
        datasets.load("imagenet")


@pytest.mark.parametrize(
    ("name", "package"), [("digits", "sklearn"), ("mnist", "tensorflow_datasets")]
)
def test_missing_package_names_the_extra(monkeypatch, name, package):
    forget_package(monkeypatch, package)
    with pytest.raises(ImportError, match=r'pip install "keras-tensornet\[datasets\]"'):
        datasets.load(name)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_without_data_or_network_one_line_names_the_variable(monkeypatch, tmp_path, name):
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
    asked = []

    def unreachable(request, timeout):
        asked.append((request.full_url, request.method, timeout))
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(FileNotFoundError, match="TFDS_DATA_DIR") as error:
        datasets.load(name)
    message = str(error.value)
    assert str(tmp_path) in message
    assert "no network" in message
    assert "\n" not in message
    # one question to the source that the data set itself names, instead of minutes of retries
    ((url, method, timeout),) = asked
    assert url in tensorflow_datasets.builder(name).url_infos
    assert (method, timeout) == ("HEAD", datasets.SOURCE_TIMEOUT)


def test_batches_hold_every_pair_once_in_another_order_each_epoch():
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10)
    dataset = datasets.batches(x, y, batch_size=4, seed=1)
    epochs = [[(a.numpy(), b.numpy()) for a, b in dataset] for _ in range(2)]
    orders = []
    for epoch in epochs:
        assert [len(labels) for _, labels in epoch] == [4, 4, 2]
        orders.append(np.concatenate([labels for _, labels in epoch]))
        assert np.array_equal(np.concatenate([rows for rows, _ in epoch]), x[orders[-1]])
        assert sorted(orders[-1]) == list(range(10))
    assert not np.array_equal(*orders)
    again = datasets.batches(x, y, batch_size=4, seed=1)
    assert np.array_equal(np.concatenate([labels for _, labels in again]), orders[0])
    assert dataset.options().autotune.enabled is False


@pytest.mark.parametrize(
    ("rows", "labels", "size", "words"),
    [
        (3, 4, 2, "same number of rows, at least one. Received: 3 and 4 rows"),
        (0, 0, 2, "Received: 0 and 0 rows"),
        (3, 3, 0, "`batch_size` must be at least 1. Received: batch_size=0"),
    ],
)
def test_batches_refuse_arrays_that_do_not_match(rows, labels, size, words):
    with pytest.raises(ValueError, match=words):
        datasets.batches(np.zeros((rows, 2)), np.zeros(labels), size)
