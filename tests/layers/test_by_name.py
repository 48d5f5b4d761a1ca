"""Law: only what comes first is positional, in every layer, and the error says what to write."""

import inspect

import keras
import pytest

from keras_tensornet import layers

FIRST = {
    "EinsumDense": ("abc,cd->abd", (None, 4)),
    "Dense": (4,),
    "Conv": (4, 3),
    "LSTM": (4,),
    "GRU": (4,),
    "Embedding": (9, 4),
    "MultiHeadAttention": (2, 3),
}
# A basis and its cores have no twin in Keras whose arguments they could be confused with.
OWN = ("TBasis", "TBasisCores")
CLASSES = {
    name: getattr(layers, name)
    for name in layers.__all__
    if inspect.isclass(getattr(layers, name))
    and issubclass(getattr(layers, name), keras.layers.Layer)
    and name not in OWN
}


@pytest.mark.parametrize("name", CLASSES)
def test_all_but_the_sizes_is_given_by_name(name):
    cls = CLASSES[name]
    first = next(given for part, given in FIRST.items() if part in name)
    rank = {} if name.startswith("TBasis") else {"rank": 2}
    assert cls(*first, **rank).get_config()
    for third in (2, "relu", (2, 2)):
        with pytest.raises(TypeError, match=rf"{name} takes .* by position and all else by name"):
            cls(*first, third)


def test_the_error_names_both_meanings():
    with pytest.raises(TypeError) as found:
        layers.TRConv2D(64, 3, 2)
    assert "TRConv2D(64, 3, rank=2) for a rank" in str(found.value)
    assert "TRConv2D(64, 3, strides=2) for what Conv2D has there" in str(found.value)
    with pytest.raises(TypeError, match="activation='relu'"):
        layers.TRDense(10, "relu")
