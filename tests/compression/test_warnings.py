"""Laws of warnings: trials say nothing, the user's layers do, and the filters stay as they were."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_tensornet as ktn
from keras_tensornet import validation
from keras_tensornet.layers import TTDense


def many_layers():
    return keras.Sequential([keras.Input((16,)), *(L.Dense(24) for _ in range(5)), L.Dense(3)])


def inputs():
    return np.random.default_rng(0).normal(size=(8, 16)).astype("float32")


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 4},
        {"params": 0.6, "format": "auto", "calibration_data": True},
        {"energy": 0.6, "format": "tr"},
        {"share": 0.5, "format": "cp"},
    ],
    ids=str,
)
def test_compression_leaves_the_filters_and_warns_of_no_trial(settings):
    if "calibration_data" in settings:
        settings = settings | {"calibration_data": inputs()}
    model = many_layers()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        before = list(warnings.filters)
        for _ in range(2):
            ktn.compress_model(model, **settings)
            assert warnings.filters == before
        with pytest.raises(UserWarning, match="mine"):
            warnings.warn("mine", UserWarning, stacklevel=1)


def test_a_quiet_thread_leaves_the_others_to_speak():
    inside, done = threading.Event(), threading.Event()

    def quiet():
        with validation.quietly():
            validation.warn_user("not said")
            inside.set()
            done.wait(10)
            return validation.warn_user("not said either")

    with warnings.catch_warnings(record=True) as said, ThreadPoolExecutor(1) as pool:
        warnings.simplefilter("always")
        future = pool.submit(quiet)
        inside.wait(10)
        validation.warn_user("said")
        done.set()
        future.result()
        validation.warn_user("said again")
    assert [str(one.message) for one in said] == ["said", "said again"]


def test_layers_of_the_user_still_warn_of_ranks_that_are_cut():
    dense = L.Dense(8)
    dense.build((None, 8))
    with pytest.warns(UserWarning, match="above what the modes allow"):
        TTDense.from_layer(dense, rank=1000, in_modes=(2, 4), out_modes=(4, 2))
