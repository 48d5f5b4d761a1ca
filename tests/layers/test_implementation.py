"""Laws of `layer.implementation`: checked whenever it is set, and followed once it is."""

import keras
import numpy as np
import pytest

from keras_tensornet import Network, layers
from keras_tensornet.layers import TBasis

SEQUENCE, IMAGE = (2, 3, 6), (2, 5, 5, 6)
CASES = {
    "dense": (lambda **k: layers.TRDense(10, rank=2, in_modes=(2, 3), **k), (2, 6)),
    "conv": (lambda **k: layers.TTConv2D(4, 3, rank=2, **k), IMAGE),
    "conv1d": (lambda **k: layers.CPConv1D(4, 2, rank=2, **k), SEQUENCE),
    "transpose": (lambda **k: layers.TRConv2DTranspose(4, 3, rank=2, **k), IMAGE),
    "einsum": (
        lambda **k: layers.TREinsumDense("abc,cd->abd", (None, 4), rank=2, **k),
        SEQUENCE,
    ),
    "lstm": (lambda **k: layers.TTLSTM(4, rank=2, in_modes=(2, 3), **k), SEQUENCE),
    "gru": (lambda **k: layers.TRGRU(4, rank=2, in_modes=(2, 3), **k), SEQUENCE),
    "attention": (
        lambda **k: layers.FactorizedMultiHeadAttention(2, 3, rank=2, **k),
        SEQUENCE,
    ),
    "embedding": (lambda **k: layers.TTEmbedding(9, 4, rank=2, **k), None),
}


def called(name, **settings):
    make, shape = CASES[name]
    layer = make(**settings)
    data = np.arange(6).reshape(2, 3) if shape is None else np.ones(shape, "float32")
    return layer, (lambda: layer(data, data) if name == "attention" else layer(data))


def parts(layer):
    """The layers that follow the choice."""
    if isinstance(layer, layers.FactorizedMultiHeadAttention):
        return list(layer.projections.values())
    return [getattr(layer, "cell", layer)]


@pytest.mark.parametrize("name", CASES)
def test_what_a_layer_cannot_follow_is_refused_when_it_is_set(name):
    layer, call = called(name)
    for _ in ("before it is built", "built"):
        for wrong in ("x", None, 3, {"inference": "auto"}, ["auto"]):
            with pytest.raises(ValueError, match="implementation"):
                layer.implementation = wrong
        assert layer.implementation == "auto"
        expected = keras.ops.convert_to_numpy(call())
    for wrong in ("0,7:matmul", "0:conv | 1:conv"):  # other cores, other stages
        with pytest.raises(ValueError):
            layer.implementation = wrong
    assert layer.implementation == "auto"
    for choice in ("reconstructed", {"inference": "auto", "training": "reconstructed"}):
        layer.implementation = choice
        assert layer.implementation == choice
        assert all(part.implementation == choice for part in parts(layer))
        assert layer.get_config()["implementation"] == choice
        found = keras.ops.convert_to_numpy(call())
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # order of float32 sums


@pytest.mark.parametrize("name", [name for name in CASES if name != "embedding"])
def test_a_chain_that_does_not_fit_is_refused_when_the_layer_is_built(name):
    _, call = called(name, implementation="0,9:matmul | 1:matmul")
    with pytest.raises(ValueError, match="every core of the network exactly once"):
        call()


def test_a_constraint_and_groups_on_a_basis_limit_the_choice():
    layer = layers.TRDense(10, rank=2, kernel_constraint="non_neg")
    with pytest.raises(ValueError, match="acts on the merged kernel"):
        layer.implementation = "factorized"
    with pytest.raises(ValueError, match="acts on the merged kernel"):
        layer.implementation = {"inference": "reconstructed", "training": "factorized"}
    layer.implementation = {"inference": "reconstructed", "training": "auto"}
    saved = type(layer).from_config(layer.get_config())
    assert saved.implementation == layer.implementation
    grouped = layers.TBasisConv2D(4, 3, groups=2)
    with pytest.raises(ValueError, match="groups"):
        grouped.implementation = "factorized"
    plain = layers.TBasisDense(4)
    inputs = keras.Input((6,))
    plain(inputs, basis=TBasis(4, 2)(inputs))
    for wrong in ("x", "0:matmul"):
        with pytest.raises(ValueError, match="must be one of"):
            plain.implementation = wrong
    plain.implementation = "reconstructed"
    assert plain.get_config()["implementation"] == "reconstructed"


def test_factorized_never_merges_and_raises_where_it_would_have_to():
    sizes = {"i0": 4, "o0": 4, "s0": 4, "a": 2}
    spread = Network.parse("i0 a s0, o0 a s0", sizes, spatial={"s0": (2, 2)})
    layer = layers.FactorizedConv2D(4, 2, network=spread, implementation="factorized")
    with pytest.raises(ValueError, match="never merged, and the cores of this network cannot"):
        layer.build((None, 5, 5, 4))
    auto = layers.FactorizedConv2D(4, 2, network=spread)
    auto.build((None, 5, 5, 4))
    with pytest.raises(ValueError, match="never merged"):
        auto.implementation = "factorized"
    assert auto.implementation == "auto" and auto.plan.implementation == "reconstructed"

    chosen = {"rank": 2, "implementation": "factorized"}
    for need in ({"recurrent_dropout": 0.5}, {"recurrent_constraint": "non_neg"}):
        layer = layers.TRLSTM(4, recurrent_rank=2, **need, **chosen)
        with pytest.raises(ValueError, match="`recurrent_dropout` and `recurrent_constraint` need"):
            layer.build((None, 3, 6))
    one = layers.TTDense(6, in_modes=(4,), out_modes=(6,), **chosen)
    with pytest.warns(UserWarning, match="single core"):
        one.build((None, 4))  # nothing is merged: the core is the kernel
