"""Truncation removes dead indices exactly; rounding is t3f's for trains, near-best for rings."""

import keras
import numpy as np
import pytest

from keras_tensornet import Network, layers, round_layer, truncate_ranks
from tests.layers.support import array, tensorflow_only


def relative(found, wanted) -> float:
    found, wanted = array(found), array(wanted)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def all_layers():
    modes = {"in_modes": (3, 4), "out_modes": (3, 4)}
    own = Network.parse(
        "i0 a b, i1 b c, o0 c d, o1 d a",
        {"i0": 3, "i1": 4, "o0": 3, "o1": 4} | dict.fromkeys("abcd", 3),
    )
    yield "TRDense", layers.TRDense(12, rank=4, **modes), (None, 12)
    yield "TTDense", layers.TTDense(12, rank=4, in_modes=(3, 2, 2), out_modes=(3, 2, 2)), (None, 12)
    yield "own", layers.FactorizedDense(12, network=own), (None, 12)
    yield "TuckerDense", layers.TuckerDense(12, rank=3, **modes), (None, 12)
    yield "CPDense", layers.CPDense(12, rank=9, **modes), (None, 12)
    yield "BTConv2D", layers.BTConv2D(6, 3, rank=(2, 3)), (None, 5, 5, 5)
    yield "HTDense", layers.HTDense(12, rank=4, **modes), (None, 12)
    yield "TRConv2D", layers.TRConv2D(6, 3, rank=3, groups=2), (None, 5, 5, 4)
    yield "TTConv2D", layers.TTConv2D(6, 3, rank=3, data_format="channels_first"), (None, 4, 5, 5)
    yield "TTEmbedding", layers.TTEmbedding(57, 12, rank=4, in_modes=(4, 4, 4)), (None,)
    yield "TRLSTM", layers.TRLSTM(6, rank=4, recurrent_rank=3, out_modes=(2, 3)), (None, 4, 12)
    yield "TTGRU", layers.TTGRU(6, rank=4, stateful=True, out_modes=(2, 3)), (2, 4, 12)


CASES = [pytest.param(layer, shape, id=name) for name, layer, shape in all_layers()]


def kill(layer, keep: int = 1) -> str:
    """Set all but some indices of a bond to zero in one of its cores; return the bond."""
    cell = getattr(layer, "cell", layer)
    bond = max(cell.network.bonds, key=cell.network.size.get)
    place = next(k for k, labels in enumerate(cell.network.cores) if bond in labels)
    axis = cell.network.cores[place].index(bond)
    core = np.moveaxis(array(cell.cores[place]).copy(), axis, 0)
    core[keep:] = 0
    cell.cores[place].assign(np.moveaxis(core, 0, axis))
    return bond


@pytest.mark.filterwarnings("error:Some ranks")
@pytest.mark.parametrize("layer, shape", CASES)
def test_truncation_removes_dead_indices_and_nothing_else(layer, shape):
    if not layer.built:
        layer.build(shape)
    whole = truncate_ranks(layer)
    assert whole.network.num_params == layer.network.num_params
    bond = kill(layer)
    before = [array(weight).copy() for weight in layer.weights]
    smaller = truncate_ranks(layer)
    assert type(smaller) is type(layer) and smaller.name == layer.name
    assert smaller.network.size[bond] == 1 < layer.network.size[bond]
    assert relative(smaller.kernel, layer.kernel) < 1e-6
    for old, new in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(old, array(new))
    again = type(smaller).from_config(smaller.get_config())
    assert again.get_config() == smaller.get_config()


@pytest.mark.parametrize("layer, shape", CASES)
def test_rounding_lowers_ranks_and_keeps_everything_else(layer, shape):
    if not layer.built:
        layer.build(shape)
    if layer.network.name == "custom":
        with pytest.raises(ValueError, match="Rounding is for layers of a named format"):
            round_layer(layer, rank=2)
        return
    for rule, bound in (({"eps": 0.2}, 0.2), ({"eps": 0.0}, 1e-6), ({"energy": 1.0}, 1e-6)):
        rounded = round_layer(layer, **rule)
        assert rounded.network.num_params <= layer.network.num_params
        assert relative(rounded.kernel, layer.kernel) < bound + 1e-6
    rounded = round_layer(layer, rank=2)
    assert max(rounded.network.rank) <= 2
    if getattr(layer, "bias", None) is not None:
        np.testing.assert_array_equal(array(rounded.bias), array(layer.bias))
    if hasattr(layer, "recurrent_cores") and layer.recurrent_cores:
        assert max(rounded.cell._recurrent_cores.network.rank) <= 2


@tensorflow_only
def test_train_rounding_is_that_of_t3f():
    t3f = pytest.importorskip("t3f")
    import tensorflow as tf

    layer = layers.TTDense(12, rank=4, in_modes=(3, 2, 2), out_modes=(3, 2, 2), use_bias=False)
    layer.build((None, 12))
    cores = [tf.convert_to_tensor(core) for core in layer.cores]
    shape = [[3, 2, 2], [3, 2, 2]]
    train = t3f.TensorTrain(cores, shape, tt_ranks=layer.network.rank)
    for rank in (1, 2, 3):
        theirs = t3f.full(t3f.round(train, max_tt_rank=rank)).numpy()
        ours = array(round_layer(layer, rank=rank).kernel)
        # Both are the same sequence of best cuts; float32 in t3f, so not to the last digit.
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_model_is_truncated_as_a_whole_and_stays_as_it_was():
    inputs = keras.Input((12,))
    shared = layers.TRDense(12, rank=3, name="shared")
    model = keras.Model(inputs, keras.layers.Dense(2)(shared(keras.layers.ReLU()(shared(inputs)))))
    kill(shared)
    x = np.random.default_rng(0).standard_normal((5, 12)).astype("float32")
    smaller = truncate_ranks(model)
    assert smaller.get_layer("shared").network.num_params < shared.network.num_params
    np.testing.assert_allclose(array(smaller(x)), array(model(x)), atol=1e-5)
    assert smaller.count_params() < model.count_params()


def test_a_dead_bond_keeps_one_index_and_a_ring_that_spans_everything_is_cut_exactly():
    layer = layers.TTDense(12, rank=3, in_modes=(3, 4), out_modes=(3, 4))
    layer.build((None, 12))
    layer.cores[0].assign(np.zeros(layer.cores[0].shape))
    assert truncate_ranks(layer).rank == (1,)
    ring = layers.TRDense(4, rank=(2, 9, 5), in_modes=(3,), out_modes=(2, 2))
    ring.build((None, 3))
    kill(ring, keep=8)
    assert relative(truncate_ranks(ring).kernel, ring.kernel) < 1e-6


def test_a_bond_that_its_neighbour_cannot_use_any_more_is_made_smaller_exactly():
    sizes = {"i0": 4, "i1": 2, "o0": 8, "a": 4, "b": 8, "c": 2}
    for cores in ("i0 a, a i1 b, b o0", "i0 a c, c a i1 b, b o0"):
        known = {label: sizes[label] for label in cores.replace(",", " ").split()}
        layer = layers.FactorizedDense(8, network=Network.parse(cores, known))
        layer.build((None, 8))
        core = array(layer.cores[0]).copy()
        core[:, 1:] = 0
        layer.cores[0].assign(core)
        smaller = truncate_ranks(layer)
        assert smaller.network.size["a"] == 1
        assert smaller.network.size["b"] < 8
        assert relative(smaller.kernel, layer.kernel) < 1e-6


def test_bad_arguments_raise():
    layer = layers.TRDense(12, rank=3)
    with pytest.raises(ValueError, match="is not built"):
        truncate_ranks(layer)
    layer.build((None, 12))
    with pytest.raises(ValueError, match="exactly one of `rank`, `energy` and `eps`"):
        round_layer(layer)
    with pytest.raises(ValueError, match="exactly one of"):
        round_layer(layer, rank=2, eps=0.1)
    with pytest.raises(ValueError, match=r"`tol` is the share .* must lie in \[0, 1\)"):
        truncate_ranks(layer, tol=1.5)
    dense = keras.layers.Dense(3)
    for function in (truncate_ranks, lambda given: round_layer(given, rank=2)):
        with pytest.raises(TypeError, match="Only layers of keras_tensornet have ranks"):
            function(dense)
