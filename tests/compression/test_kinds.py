"""A kind of layer that is registered here is planned, compressed, calibrated, tuned and shipped."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_tensornet
from keras_tensornet import layers
from keras_tensornet.compression import kinds
from keras_tensornet.kernels import relative_error
from tests.layers.support import array


class Gained(keras.layers.Dense):
    """A dense layer whose outputs are multiplied by a constant."""

    def __init__(self, units, gain=3.0, **kwargs):
        super().__init__(units, **kwargs)
        self.gain = gain

    def call(self, inputs, training=None):
        return self.gain * super().call(inputs, training)

    def get_config(self):
        return {**super().get_config(), "gain": self.gain}


class FactorizedGained(layers.FactorizedDense):
    """The same with cores."""

    def __init__(self, units, gain=3.0, **kwargs):
        super().__init__(units, **kwargs)
        self.gain = gain

    @staticmethod
    def dense_class():
        return Gained

    def call(self, inputs, training=None):
        return self.gain * super().call(inputs, training)

    def get_config(self):
        return {**super().get_config(), "gain": self.gain}


class Squared(keras.layers.Layer):
    """A layer of its own: outputs (x W)^2, the matrix under another name."""

    def build(self, input_shape):
        self.weight = self.add_weight(shape=(input_shape[-1], 12), name="weight")

    def call(self, inputs):
        return ops.square(inputs @ self.weight)


class FactorizedSquared(layers.FactorizedDense):
    """The same with cores."""

    @staticmethod
    def dense_class():
        return Squared

    def call(self, inputs, training=None):
        return ops.square(super().call(inputs, training))

    def to_dense_layer(self):
        dense = Squared(name=self.name)
        dense.build(self.built_shape)
        dense.weight.assign(self.kernel)
        return dense


class SquaredKind(kinds.Kind):
    """What differs from a dense layer."""

    def kernels(self, layer):
        return {"rank": layer.weight}

    def shell(self, layer, arguments):
        result = self.factorized(12, use_bias=False, name=layer.name, **arguments)
        result.build((None, layer.weight.shape[0]))
        return result

    fresh = shell

    def workload(self, layer, holder, batch_size):
        return holder.workload((batch_size, layer.weight.shape[0]), merged=True)

    def geometry(self, layer):
        return None


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(kinds, "KINDS", dict(kinds.KINDS))
    kinds.register(kinds.Kind(Gained, FactorizedGained, "dense"))
    kinds.register(SquaredKind(Squared, FactorizedSquared))


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((10,))
    x = Gained(14, name="gained")(inputs)
    x = Squared(name="squared")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


X = np.random.default_rng(0).normal(size=(40, 10)).astype("float32")
Y = np.random.default_rng(1).normal(size=(40, 3)).astype("float32")


def test_plan_compress_report_freeze_and_the_way_back(model):
    small = keras_tensornet.compress_model(model, "tt", energy=0.8)
    plan = keras_tensornet.plan_compression(model, "tt", energy=0.8)
    assert [(row.path, row.layer, row.format) for row in plan] == [
        ("gained", "Gained", "tt"),
        ("squared", "Squared", "tt"),
        ("head", "Dense", None),
    ]
    assert plan.flops[0] == 2 * (10 * 14 + 14 * 12 + 12 * 3)
    assert small.get_layer("gained").gain == 3.0
    report = keras_tensornet.compression_report(model, small, repeats=0)
    for row, name in zip(report.layers, ("gained", "squared"), strict=False):
        dense = kinds.find_targets(model)[("gained", "squared").index(name)].kernel
        error = relative_error(array(small.get_layer(name).kernel), array(dense))
        assert row.format == "tt" and row.error == pytest.approx(error, rel=1e-5)
    outputs = array(small(X))
    back = keras_tensornet.to_dense_model(small)
    assert [type(back.get_layer(name)) for name in ("gained", "squared")] == [Gained, Squared]
    np.testing.assert_allclose(array(back(X)), outputs, rtol=1e-4, atol=1e-4)
    # Stock layers cannot say what these calls do, so they are not made to.
    stock = keras_tensornet.to_stock_model(small)
    assert [type(stock.get_layer(name)) for name in ("gained", "squared")] == [Gained, Squared]
    keras_tensornet.freeze(small)
    np.testing.assert_allclose(array(small(X)), outputs, rtol=1e-4, atol=1e-4)


def test_full_rank_keeps_the_outputs(model):
    plan = keras_tensornet.plan_compression(model, "tt", rank=1)
    for name in ("gained", "squared"):
        plan = plan.with_layer(name, 99)
    small = keras_tensornet.compress_model(model, plan=plan)
    np.testing.assert_allclose(array(small(X)), array(model(X)), rtol=1e-4, atol=1e-4)


def test_calibration_takes_part_or_says_that_it_does_not(model):
    rule = {"format": "tt", "rank": 3}
    by_weights = keras_tensornet.compress_model(model, **rule)
    plan = keras_tensornet.plan_compression(model, **rule, calibration_data=X)
    assert plan["gained"].note == "" and plan["squared"].note == "not calibrated"
    by_outputs = keras_tensornet.compress_model(model, plan=plan, calibration_data=X)

    def error(small):
        outputs = [
            keras.Model(one.inputs, one.get_layer("gained").output) for one in (model, small)
        ]
        return relative_error(*(array(one(X)) for one in reversed(outputs)))

    assert error(by_outputs) < error(by_weights)


def test_rank_tools_tuning_and_search(model):
    small = keras_tensornet.compress_model(model, "tt", rank=4)
    tuning = keras_tensornet.autotune(small, batch_size=4, candidates=2)
    assert {found.layer for found in tuning.measurements} == {"gained", "squared"}
    lower = keras_tensornet.round_layer(small.get_layer("gained"), rank=2)
    assert type(lower) is FactorizedGained and lower.network.rank[1:-1] == (2,)
    assert keras_tensornet.truncate_ranks(small).count_params() == small.count_params()

    keras_tuner = pytest.importorskip("keras_tuner")
    for trained in (True, False):
        hypermodel = keras_tensornet.TensorNetHyperModel(
            model, ("tt",), rank=(2, 3), energy=None, trained=trained
        )
        built = hypermodel.build(keras_tuner.HyperParameters())
        assert type(built.get_layer("squared")) is FactorizedSquared


def test_admm_pulls_its_kernels(model):
    model.compile("sgd", "mse")
    admm = keras_tensornet.ADMM(format="tt", rank=2)
    model.fit(X, Y, epochs=1, verbose=0, callbacks=[admm])
    assert {choice.path for choice in admm.plan if choice.format} == {"gained", "squared"}


def test_what_cannot_be_registered():
    with pytest.raises(TypeError, match=r"Only a `keras_tensornet\.compression\.kinds\.Kind`"):
        kinds.register(Gained)
    with pytest.raises(ValueError, match="Layers of class Dense have a kind already"):
        kinds.register(kinds.Kind(keras.layers.Dense, layers.FactorizedDense))
