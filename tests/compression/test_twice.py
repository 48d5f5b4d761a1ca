"""Compressing what is compressed already is said aloud."""

import warnings

import keras
import pytest
from keras import layers

from keras_tensornet import compress_model, plan_compression, to_dense_model


def stack(*names):
    return keras.Sequential([keras.Input((16,)), *(layers.Dense(16, name=name) for name in names)])


@pytest.mark.parametrize("rule", [{"rank": 1}, {"params": 0.5}, {"energy": 0.5}])
def test_a_model_of_cores_only_is_refused(rule):
    small = compress_model(stack("one", "two"), rank=4, exclude=())
    with pytest.raises(ValueError, match=r"factorized already: 'one', 'two'.*to_dense_model"):
        plan_compression(small, **rule, exclude=())
    again = compress_model(to_dense_model(small), rank=1, exclude=())
    assert again.count_params() < small.count_params()


def test_what_is_left_is_compressed_and_the_rest_named():
    small = compress_model(stack("one", "two"), rank=4, exclude="two")
    with pytest.warns(UserWarning, match="are left as they are: 'one'"):
        both = compress_model(small, rank=2, exclude=())
    assert both.count_params() < small.count_params()
    assert [tuple(w.shape) for w in both.layers[0].weights] == [
        tuple(w.shape) for w in small.layers[0].weights
    ]


def test_a_dense_model_is_compressed_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        compress_model(stack("one", "two"), rank=4, exclude=())
