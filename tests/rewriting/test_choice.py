"""Laws of choosing layers: exact names win, what matches nothing is an error, in every function."""

import re

import keras
import pytest
from keras import layers as L

import keras_tensornet as ktn
from keras_tensornet.tbasis import plan_tbasis


def model():
    inner = keras.Sequential([keras.Input((16,)), L.Dense(16, name="fc")], name="block")
    inputs = keras.Input((16,))
    x = L.Dense(16, name="fc.1")(inputs)
    x = L.Dense(16, name="fc_1")(x)
    x = L.Dense(16, name="fc(")(inner(x))
    return keras.Model(inputs, L.Dense(3, name="out")(x))


def compressed(**settings):
    plan = ktn.plan_compression(model(), rank=1, **settings)
    return {choice.path for choice in plan.layers if choice.format}


def excluded(exclude):
    return {row.path for row in plan_tbasis(model(), 2, 2, exclude=exclude).rows if row.reason}


@pytest.mark.parametrize(
    ("items", "paths"),
    [
        ("fc.1", {"fc.1"}),  # the name of a layer, though it would match "fc_1" as well
        ("fc(", {"fc("}),  # a name, though no regular expression
        ("fc.?1", {"fc.1", "fc_1"}),
        (["fc.1", r"fc_\d"], {"fc.1", "fc_1"}),
        ("fc", {"block/fc"}),
        ("block/.*", {"block/fc"}),
        (re.compile("^block"), {"block/fc"}),
        (lambda layer: layer.name.endswith("1"), {"fc.1", "fc_1"}),
    ],
)
def test_exact_names_win_over_regular_expressions(items, paths):
    assert compressed(include=items) == paths
    everything = {"fc.1", "fc_1", "fc(", "block/fc", "out"}
    assert compressed(exclude=items) == everything - paths
    if not callable(items):  # there a function takes the path as well
        assert excluded(items) == paths


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (
            "typo",
            "Received: 'typo', which matches none of 'fc.1', 'fc_1', 'block/fc', 'fc(', 'out'",
        ),
        ("fc.9", "'fc.9', which matches none"),
        (keras.layers.LSTM, "the class LSTM, which matches none"),
        (re.compile("zz"), r"re.compile('zz'), which matches none"),
        (["fc.1", keras.layers.GRU], "the class GRU, which matches none"),
        ("fc[", "'fc[', which is the name of no layer and no regular expression either"),
    ],
    ids=str,
)
def test_what_matches_nothing_is_refused(items, words):
    with pytest.raises(ValueError, match=r"`include`.*" + re.escape(words)):
        compressed(include=items)
    with pytest.raises(ValueError, match=r"`exclude`.*" + re.escape(words)):
        compressed(exclude=items)
    with pytest.raises(ValueError, match=r"`exclude`.*" + re.escape(words)):
        excluded(items)


def test_functions_that_are_true_for_no_layer_are_refused():
    def never(layer, path=""):
        return False

    for settings in ({"include": never}, {"exclude": never}):
        with pytest.raises(ValueError, match="the function never, which matches none"):
            compressed(**settings)
    with pytest.raises(ValueError, match="a function that is false for all of"):
        excluded(never)
    with pytest.raises(TypeError, match="chosen by its name, its path"):
        compressed(include=3)
