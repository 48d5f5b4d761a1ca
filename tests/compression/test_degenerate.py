"""Laws of kernels and data that say nothing: refused or kept dense, with the layer's name."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_tensornet as ktn
from keras_tensornet.layers import TTDense

RANDOM = np.random.default_rng(0)
DATA = RANDOM.normal(size=(9, 12)).astype("float32")
RULES = [
    {"rank": 2},
    {"energy": 0.5},
    {"eps": 0.5},
    {"share": 0.5},
    {"vbmf": True},
    {"params": 0.9},
    {"flops": 0.9},
    {"params": 0.9, "format": "auto"},
    {"params": 0.9, "calibration_data": DATA},
]


def model(bad):
    result = keras.Sequential(
        [
            keras.Input((12,)),
            L.Dense(16, name="good"),
            L.Dense(16, name="bad"),
            L.Dense(48, name="wide"),
            L.Dense(3, name="out"),
        ]
    )
    layer = result.get_layer("bad")
    layer.kernel.assign(np.where(np.eye(16) > 0, bad, 0.0))
    return result


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_kernel_of_zeros_stays_dense_and_says_so(rule):
    dense = model(0.0)
    notes = {choice.path: choice.note for choice in ktn.plan_compression(dense, **rule)}
    assert notes["bad"] == "kernel is all zeros"
    small = ktn.compress_model(dense, **rule, **({"recover": False} if len(rule) > 2 else {}))
    assert type(small.get_layer("bad")) is L.Dense
    assert np.isfinite(small(DATA)).all()
    with pytest.raises(ValueError, match="all zeros stay dense until trained: bad"):
        ktn.plan_compression(dense, params=0.01)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_kernel_that_is_not_finite_is_refused_with_its_path(rule, bad):
    broken = model(bad)
    words = r"kernel of layer 'bad' must be finite. Received: 16 NaN or infinite entries of 256"
    with pytest.raises(ValueError, match=words):
        ktn.compress_model(broken, **rule)
    plan = ktn.plan_compression(model(1.0), rank=2)
    with pytest.raises(ValueError, match=words):
        ktn.compress_model(broken, plan=plan)
    with pytest.raises(ValueError, match="weights of layer 'bad' must be finite"):
        TTDense.from_layer(broken.get_layer("bad"), rank=2)
    left = ktn.plan_compression(broken, rank=1, exclude="bad")
    assert {choice.path for choice in left if choice.format} >= {"good", "wide"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("form", ["array", "one entry", "batches"])
def test_calibration_data_that_is_not_finite_is_refused(form, bad):
    broken = DATA.copy()
    broken[slice(None) if form == "array" else 3] = bad
    data = [DATA, broken] if form == "batches" else broken
    for call in (ktn.plan_compression, ktn.compress_model):
        with pytest.raises(ValueError, match=r"`calibration_data` must be finite. Received: \d+"):
            call(model(1.0), rank=2, calibration_data=data)


def test_a_model_that_makes_its_own_nans_is_refused_with_the_layer():
    inputs = keras.Input((12,))
    outputs = L.Dense(4)(L.Dense(16, name="after")(keras.ops.log(inputs)))
    with pytest.raises(ValueError, match="layer 'after' is given NaN or infinite inputs"):
        ktn.plan_compression(keras.Model(inputs, outputs), rank=1, calibration_data=-abs(DATA))


def test_data_of_zeros_is_refused_and_layers_it_does_not_reach_say_so():
    with pytest.raises(ValueError, match=r"inputs of all of them are zero \('good'"):
        ktn.plan_compression(bias_free(), rank=2, calibration_data=np.zeros_like(DATA))
    plan = ktn.plan_compression(bias_free(dead=True), rank=2, calibration_data=DATA)
    notes = {choice.path: choice.note for choice in plan}
    assert "not calibrated" in notes["second"] and "not calibrated" not in notes["good"]
    assert "or of its kernel where it is not calibrated" in str(plan)
    plan = ktn.plan_compression(bias_free(), rank=2, calibration_data=DATA)
    assert plan.measure == "output" and "not calibrated" not in str(plan)


def bias_free(dead=False):
    """Dense layers without biases; in a dead one every unit of the first is switched off."""
    result = keras.Sequential(
        [
            keras.Input((12,)),
            L.Dense(16, "relu", use_bias=dead, name="good"),
            L.Dense(16, use_bias=False, name="second"),
            L.Dense(3, use_bias=False, name="out"),
        ]
    )
    if dead:
        result.get_layer("good").bias.assign(np.full(16, -1e3))
    return result


@pytest.mark.parametrize("shape", [(4, 12, 12, 3), (4, 8, 8, 1), (8, 8, 3)], ids=str)
def test_images_of_another_size_are_refused(shape):
    images = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.Flatten(), L.Dense(2)])
    with pytest.raises(ValueError, match=r"takes \(batch, 8, 8, 3\), not"):
        ktn.plan_compression(images, rank=1, calibration_data=np.ones(shape, "float32"))
