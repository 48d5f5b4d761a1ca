"""A format is data: one that is registered here, in a few lines, works wherever formats do."""

import json
import math

import keras
import numpy as np
import pytest

import keras_tensornet
from keras_tensornet import cli, compression, formats, layers, round_layer, truncate_ranks
from keras_tensornet.decompositions import tt_svd
from keras_tensornet.formats import base
from tests.layers.support import array

RULES = (
    {"rank": 3},
    {"energy": 0.8},
    {"eps": 0.4},
    {"share": 0.4},
    {"params": 0.6},
    {"flops": 0.6},
    {"vbmf": True},
)


def pair(modes, rank):
    """The whole format: inputs and spatial modes in one core, outputs in the other."""
    inputs, outputs = base.channel_labels(modes)
    left = (*inputs, *(label for label, _ in base.spatial_labels(modes)))
    (bond,) = base.expand_rank(rank, 1, "pair", "r0")
    return base.make_network("pair", modes, [(*left, "r0"), ("r0", *outputs)], {"r0": bond})


def decompose_pair(tensor, network, ranks=None, **how):
    split = len(network.cores[0]) - 1
    how = {"ranks": network.rank, "pad": True} if ranks else how
    left, right = tt_svd(tensor.reshape(math.prod(tensor.shape[:split]), -1), **how)
    return [
        left.reshape(*tensor.shape[:split], -1),
        right.reshape(len(right), *tensor.shape[split:]),
    ]


PAIR = formats.Format("pair", "pair of cores", pair, decompose_pair)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(formats, "FORMATS", dict(formats.FORMATS))
    return formats.register(PAIR)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(8, 3, padding="same", name="first"),
            keras.layers.Conv2D(12, 3, name="second"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(16, name="third"),
            keras.layers.Dense(4, name="head"),
        ]
    )


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda: layers.FactorizedDense(12, rank=3, format="pair"), (None, 10)),
        (lambda: layers.FactorizedConv2D(12, 3, rank=3, format="pair", groups=2), (None, 5, 5, 8)),
        (lambda: layers.FactorizedEmbedding(30, 8, rank=3, format="pair"), (None, 4)),
        (lambda: layers.FactorizedLSTM(6, rank=3, format="pair", recurrent_rank=2), (None, 4, 5)),
    ],
    ids=["dense", "conv", "embedding", "lstm"],
)
def test_layers_train_save_and_lower_their_ranks(layer, shape, tmp_path):
    layer = layer()
    inputs = keras.Input(shape[1:])
    outputs = keras.layers.Flatten()(layer(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(outputs))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).integers(0, 5, (4, *shape[1:])).astype("float32")
    assert np.isfinite(model.train_on_batch(x, np.ones((4, 1))))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(again(x)), array(model(x)))
    network = getattr(layer, "cell", layer).network
    assert network.name == "pair" and layer.weights
    smaller = round_layer(layer, rank=2)
    assert getattr(smaller, "cell", smaller).network.rank == (2,)
    near = round_layer(layer, energy=0.999999)
    np.testing.assert_allclose(array(near.kernel), array(layer.kernel), atol=2e-2)
    assert truncate_ranks(layer).network == network


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: next(iter(rule)))
@pytest.mark.parametrize("calibrated", (False, True), ids=("weights", "outputs"))
def test_every_rule_compresses_a_model(model, rule, calibrated):
    x = np.random.default_rng(1).normal(size=(32, 6, 6, 2)).astype("float32")
    data = x if calibrated else None
    plan = compression.plan_compression(model, "pair", **rule, exclude=(), calibration_data=data)
    small = compression.compress_model(model, plan=plan, calibration_data=data)
    chosen = [choice for choice in plan if choice.format]
    # A budget may take a truncated SVD where that loses less, and says so.
    others = [choice for choice in chosen if choice.format != "pair"]
    assert chosen and all(choice.note == "a truncated SVD loses less" for choice in others)
    assert small.count_params() == plan.params < model.count_params()
    assert np.isfinite(array(small(x))).all()


def test_a_budget_of_time():
    model = keras.Sequential([keras.Input((3000,)), keras.layers.Dense(3000, name="wide")])
    plan = compression.plan_compression(model, "pair", latency=0.8, exclude=())
    assert plan["wide"].format is not None


def test_it_takes_part_in_the_search_of_formats_and_in_the_tuner(model, monkeypatch):
    keras_tuner = pytest.importorskip("keras_tuner")
    first = formats.Format("pair", "pair of cores", pair, decompose_pair, auto_order=-1)
    monkeypatch.setitem(formats.FORMATS, "pair", first)
    assert formats.automatic()[0] == "pair"
    plan = compression.plan_compression(model, "auto", params=0.6)
    assert plan.params < model.count_params()

    hypermodel = keras_tensornet.tuner.TensorNetHyperModel(model, ("pair",), energy=(0.5, 0.7))
    hp = keras_tuner.HyperParameters()
    built = hypermodel.build(hp)
    assert "pair_energy" in hp.values
    assert built.get_layer("third").network.name == "pair"
    by_rank = formats.Format("pair", "pair", pair, decompose_pair, ranks_by_trial=True)
    monkeypatch.setitem(formats.FORMATS, "pair", by_rank)
    hp = keras_tuner.HyperParameters()
    assert keras_tensornet.tuner.TensorNetHyperModel(model, ("pair",)).build(hp)
    assert "pair_rank" in hp.values


def test_a_nested_format_is_decomposed_once_and_cut(model, monkeypatch):
    pytest.importorskip("keras_tuner")
    from keras_tensornet.compression.kinds import find_targets
    from keras_tensornet.tuner.decompositions import Decompositions

    def values(cores):  # left is orthonormal: the rows of right carry the singular values
        return [np.linalg.norm(cores[1].reshape(len(cores[1]), -1), axis=1)]

    nested = formats.Format("pair", "pair", pair, decompose_pair, nested_values=values)
    monkeypatch.setitem(formats.FORMATS, "pair", nested)
    target = find_targets(model)[1]
    cache = Decompositions()
    by_energy = cache.layer(target, "pair", "energy", 0.8, {})
    by_rank = cache.layer(target, "pair", "rank", by_energy.rank[0], {})
    np.testing.assert_array_equal(array(by_energy.kernel), array(by_rank.kernel))
    fresh = layers.FactorizedConv2D.from_layer(target.layer, rank=by_rank.rank, format="pair")
    np.testing.assert_allclose(array(by_rank.kernel), array(fresh.kernel), atol=1e-5)
    assert cache.made == 1


def test_the_command_line_knows_it(model, tmp_path, capsys):
    model.save(tmp_path / "model.keras")
    command = ["plan", str(tmp_path / "model.keras"), "--format", "pair", "--params", "0.6"]
    assert cli.main([*command, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["settings"]["format"] == "pair"
    with pytest.raises(SystemExit):
        cli.main(["compress", "--help"])
    assert ", pair or auto" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_registered():
    with pytest.raises(TypeError, match="Only a `keras_tensornet"):
        formats.register("pair")
    for name in ("tt", "auto", "tbasis", "pair", "a b"):
        with pytest.raises(ValueError, match="must be an identifier that is not in use"):
            formats.register(formats.Format(name, name, pair, decompose_pair))
