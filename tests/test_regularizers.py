"""Bond dropout keeps the expectation exactly; group lasso finds ranks that truncation removes."""

from itertools import product

import keras
import numpy as np
import pytest
from keras import ops

from keras_tensornet import Network, layers, truncate_ranks
from keras_tensornet.regularizers import BondGroupLasso, drop_bonds
from tests import references
from tests.layers.support import array

NETWORKS = {
    "ring": "a i0 b, b i1 c, c o0 a",
    "train": "i0 a, a i1 o0 b, b o1",
    "shared bond": "i0 a, i1 a, o0 a",
    "square": "i0 a b, i1 b c, o0 c d, o1 d a",
}


def network(cores: str) -> Network:
    labels = set(cores.replace(",", " ").split())
    return Network.parse(cores, dict.fromkeys(labels, 2))


@pytest.mark.parametrize("cores", NETWORKS.values(), ids=NETWORKS)
def test_the_merged_kernel_is_multilinear_in_one_mask_per_bond(cores, monkeypatch):
    """Averaged over all masks with their probabilities, the merged kernel is exactly the kernel."""
    net, rate = network(cores), 0.25
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype("float64") for shape in net.core_shapes]
    modes = net.kernel_modes()
    tensors = [ops.convert_to_tensor(core, "float64") for core in arrays]
    expected = 0.0
    for kept in product((0.0, 1.0), repeat=2 * len(net.bonds)):
        masks = iter(np.reshape(kept, (-1, 2)) / (1 - rate))
        probability = np.prod([(1 - rate) if each else rate for each in kept])
        monkeypatch.setattr(
            keras.random, "dropout", lambda x, rate, seed, m=masks: ops.cast(next(m), x.dtype)
        )
        dropped = [array(core) for core in drop_bonds(net, tensors, rate, seed=0)]
        assert next(masks, None) is None  # every bond has had its mask
        expected += probability * references.merged_kernel(net, modes, dropped)
    np.testing.assert_allclose(expected, references.merged_kernel(net, modes, arrays), atol=1e-12)


def all_layers(**options):
    return [
        (layers.TRDense(6, rank=3, **options), (4, 12)),
        (layers.TTConv2D(6, 3, rank=3, **options), (2, 5, 5, 4)),
        (layers.TTEmbedding(30, 6, rank=3, **options), (4,)),
        (layers.TRLSTM(6, rank=3, recurrent_rank=3, **options), (2, 4, 12)),
        (layers.TTGRU(6, rank=3, **options), (2, 4, 12)),
    ]


def test_bond_dropout_is_on_in_training_only_seeded_and_in_the_configuration():
    for (layer, shape), (twin, _) in zip(
        all_layers(bond_dropout=0.5, seed=7), all_layers(bond_dropout=0.5, seed=7), strict=True
    ):
        inputs = np.arange(np.prod(shape)).reshape(shape) % 7
        inputs = inputs.astype("int32" if len(shape) == 1 else "float32")
        plain = array(layer(inputs))
        np.testing.assert_array_equal(plain, array(layer(inputs)))
        drawn = [array(layer(inputs, training=True)) for _ in range(4)]
        assert any(np.abs(outputs - plain).max() > 1e-6 for outputs in drawn)
        assert any(np.abs(outputs - drawn[0]).max() > 1e-6 for outputs in drawn[1:])
        twin(inputs)
        twin.set_weights(layer.get_weights())
        for outputs in drawn:
            np.testing.assert_array_equal(outputs, array(twin(inputs, training=True)))
        config = layer.get_config()
        assert (config["bond_dropout"], config["seed"]) == (0.5, 7)
        assert "bond_dropout" not in layer.to_dense_layer().get_config()


def test_a_layer_with_bond_dropout_fits_and_reloads(tmp_path):
    model = keras.Sequential([keras.Input((12,)), layers.TRDense(6, rank=3, bond_dropout=0.3)])
    model.compile("adam", "mse")
    x = np.ones((8, 12), "float32")
    model.fit(x, np.ones((8, 6)), epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(model(x)), array(loaded(x)))
    assert loaded.layers[0].bond_dropout == 0.3


def test_the_group_lasso_is_the_sum_of_the_norms_of_all_slices():
    layer = layers.TRDense(6, rank=(2, 3, 2), in_modes=(4,), out_modes=(2, 3),
                           kernel_regularizer=BondGroupLasso(0.7))  # fmt: skip
    layer.build((None, 4))
    net, cores = layer.network, [array(core) for core in layer.cores]
    wanted = 0.0
    for bond in net.bonds:
        for index in range(net.size[bond]):
            squares = [
                np.sum(np.take(core, index, labels.index(bond)) ** 2)
                for labels, core in zip(net.cores, cores, strict=True)
                if bond in labels
            ]
            wanted += np.sqrt(sum(squares))
    assert float(layer.losses[0]) == pytest.approx(0.7 * wanted, rel=1e-5)


def test_the_group_lasso_has_finite_gradients_at_zero_and_ignores_bonds_of_size_one():
    layer = layers.TTDense(6, rank=1, kernel_regularizer=BondGroupLasso())
    layer.build((None, 12))
    assert float(layer.losses[0]) == 0.0
    model = keras.Sequential([layers.TTDense(6, rank=2, kernel_regularizer=BondGroupLasso(0.1))])
    model.build((None, 12))
    for core in model.layers[0].cores:
        core.assign(ops.zeros_like(core))
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 12)), np.ones((4, 6)), verbose=0)
    assert all(np.isfinite(array(weight)).all() for weight in model.weights)


def test_training_with_the_group_lasso_finds_the_rank_that_the_data_have():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    modes = {"in_modes": (4, 4), "out_modes": (2, 4), "use_bias": False}
    true = layers.TTDense(8, rank=2, **modes)
    true.build((None, 16))
    kernel = array(true.kernel) / np.std(array(true.kernel))
    x = rng.standard_normal((256, 16)).astype("float32")
    layer = layers.TTDense(8, rank=8, kernel_regularizer=BondGroupLasso(0.3), **modes)
    model = keras.Sequential([keras.Input((16,)), layer])
    rates = keras.optimizers.schedules.CosineDecay(0.05, 500)
    model.compile(keras.optimizers.Adam(rates), "mse")
    batches = np.tile(x, (50, 1))
    model.fit(batches, batches @ kernel, epochs=10, batch_size=256, shuffle=False, verbose=0)
    smaller = truncate_ranks(model, tol=1e-2)
    assert model.layers[0].network.rank == (1, 8, 1)
    assert smaller.layers[0].network.rank == (1, 2, 1)
    np.testing.assert_allclose(array(smaller(x)), array(model(x)), atol=0.05)
    assert np.std(x @ kernel - array(smaller(x))) < 0.1 * np.std(x @ kernel)


def test_bad_arguments_raise():
    for strength, error in ((-1, ValueError), ("x", TypeError), (True, TypeError)):
        with pytest.raises(error, match="`strength` must"):
            BondGroupLasso(strength)
    dense = keras.layers.Dense(3, kernel_regularizer=BondGroupLasso())
    dense.build((None, 2))
    with pytest.raises(TypeError, match="acts on the bonds between the cores"):
        _ = dense.losses
    again = keras.regularizers.get(keras.regularizers.serialize(BondGroupLasso(0.25)))
    assert isinstance(again, BondGroupLasso) and again.strength == 0.25
    for value, error in ((1.0, ValueError), (-0.1, ValueError), ("x", TypeError)):
        with pytest.raises(error, match="`bond_dropout`"):
            layers.TRDense(3, rank=2, bond_dropout=value)
