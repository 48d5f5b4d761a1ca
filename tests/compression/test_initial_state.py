"""Laws of models whose layers take more than one input: recurrent layers with an initial state."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_tensornet as ktn
from keras_tensornet.layers import FactorizedGRU, FactorizedLSTM
from keras_tensornet.rewriting.walker import walk_layers

FACTORIZED = {"LSTM": FactorizedLSTM, "GRU": FactorizedGRU}


def encoder_decoder(kind, both_ways=False):
    """An encoder whose states start the decoder; all input kernels have rank 2."""
    recurrent = getattr(L, kind)
    sources, targets = keras.Input((None, 12)), keras.Input((None, 12))

    def layer(name, **settings):
        made = recurrent(8, name=name, **settings)
        return L.Bidirectional(made, name=f"{name}_both") if both_ways else made

    _, *states = layer("encoder", return_state=True)(sources)
    single = kind == "GRU" and not both_ways
    start = states[0] if single else states
    outputs = layer("decoder", return_sequences=True)(targets, initial_state=start)
    model = keras.Model([sources, targets], L.Dense(3, name="classifier")(outputs))
    random = np.random.default_rng(0)
    for _, layer in walk_layers(model):
        if isinstance(layer, recurrent):
            rows, columns = layer.cell.kernel.shape
            left, right = random.normal(size=(rows, 2)), random.normal(size=(2, columns))
            layer.cell.kernel.assign(0.3 * left @ right)
            layer.cell.bias.assign(random.normal(size=layer.cell.bias.shape))
    return model


def batch():
    random = np.random.default_rng(1)
    return [random.normal(size=(2, steps, 12)).astype("float32") for steps in (5, 3)]


def recurrent_layers(model):
    return [
        layer
        for _, layer in walk_layers(model)
        if isinstance(layer, (FactorizedGRU, FactorizedLSTM))
    ]


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_encoders_and_decoders_compress_without_loss_at_full_rank(kind, both_ways, calibrated):
    model = encoder_decoder(kind, both_ways)
    data = batch() if calibrated else None
    arguments = {"in_modes": 1, "out_modes": 1}
    overrides = {
        path: {"rank": 2, **arguments}
        for path, layer in walk_layers(model)
        if type(layer) is getattr(L, kind)
    }
    states = {f"{path}/recurrent_kernel": None for path in overrides}  # of full rank: dense
    small = ktn.compress_model(model, rank=2, overrides=overrides | states, calibration_data=data)
    assert len(recurrent_layers(small)) == len(overrides) == (4 if both_ways else 2)
    assert small.count_params() < model.count_params()
    for result in (small, ktn.to_dense_model(small), ktn.to_stock_model(small)):
        # float32 rounding of the cores, through a few steps
        np.testing.assert_allclose(result(batch()), model(batch()), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_layer_with_an_initial_state_is_planned_and_excluded(kind):
    model = encoder_decoder(kind)
    plan = ktn.plan_compression(model, rank=1)
    kernels = [
        path for name in ("encoder", "decoder") for path in (name, f"{name}/recurrent_kernel")
    ]
    assert [choice.path for choice in plan.layers] == [*kernels, "classifier"]
    assert all(choice.dense_flops > 0 for choice in plan.layers)
    small = ktn.compress_model(model, rank=1, exclude="decoder")
    assert type(small.get_layer("decoder")) is getattr(L, kind)
    assert isinstance(small.get_layer("encoder"), FACTORIZED[kind])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_from_layer_takes_a_layer_with_an_initial_state(kind):
    layer = encoder_decoder(kind).get_layer("decoder")
    other = FACTORIZED[kind].from_layer(layer, rank=2, in_modes=1, out_modes=1, format="tt")
    random = np.random.default_rng(2)
    inputs = random.normal(size=(2, 3, 12)).astype("float32")
    count = 2 if kind == "LSTM" else 1
    states = [random.normal(size=(2, 8)).astype("float32") for _ in range(count)]
    expected = layer(inputs, initial_state=states)
    for each in (other, other.to_dense_layer()):
        np.testing.assert_allclose(each(inputs, initial_state=states), expected, rtol=0, atol=2e-5)
