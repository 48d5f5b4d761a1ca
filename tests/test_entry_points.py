"""Every entry point takes every way in which a model can have been built."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_tensornet as ktn
from keras_tensornet import cli
from keras_tensornet.export import export_model
from keras_tensornet.training import admm_compress

X = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
Y = np.arange(8) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def stack():
    return [
        layers.Dense(16, "relu", name="one"),
        layers.BatchNormalization(name="norm"),
        layers.Dense(12, name="two"),
        layers.Dense(3, name="head"),
    ]


def through(x, chain):
    for layer in chain:
        x = layer(x)
    return x


def built():
    model = keras.Sequential(stack())
    model.build((None, 6))
    return model


def called():
    model = keras.Sequential(stack())
    model(X)
    return model


def functional():
    inputs = keras.Input((6,))
    return keras.Model(inputs, through(inputs, stack()))


def in_lists():
    inputs = keras.Input((6,))
    return keras.Model([inputs], [through(inputs, stack())])


def nested():
    chain, inner = stack(), keras.Input((6,))
    part = keras.Model(inner, through(inner, chain[:2]), name="inner")
    inputs = keras.Input((6,))
    return keras.Model(inputs, through(part(inputs), chain[2:]))


@keras.saving.register_keras_serializable("tests_entry_points")
class Block(layers.Layer):
    """Layers in a list and a dict."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(16, "relu"), layers.BatchNormalization()]
        self.last = {"two": layers.Dense(12)}

    def build(self, shape):
        self.parts[0].build(shape)
        for layer in (self.parts[1], self.last["two"]):
            layer.build((*shape[:-1], 16))

    def call(self, x, training=None):
        return self.last["two"](self.parts[1](self.parts[0](x), training=training))


@keras.saving.register_keras_serializable("tests_entry_points")
class Net(keras.Model):
    """A model without a graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block, self.head = Block(), layers.Dense(3)

    def call(self, x, training=None):
        return self.head(self.block(x, training=training))


def composite():
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3, name="head")(Block(name="block")(inputs)))


def subclassed():
    model = Net(name="net")
    model(X)
    return model


MODELS = {
    "Sequential": lambda: keras.Sequential([keras.Input((6,)), *stack()]),
    "built": built,
    "called": called,
    "fixed batch": lambda: keras.Sequential([keras.Input(batch_shape=(8, 6)), *stack()]),
    "Functional": functional,
    "in lists": in_lists,
    "nested": nested,
    "nested Sequential": lambda: keras.Sequential(
        [keras.Input((6,)), keras.Sequential(stack()[:2], name="inner"), *stack()[2:]]
    ),
    "composite": composite,
    "subclassed": subclassed,
}


def small(model):
    return ktn.compress_model(model, rank=2, exclude=())


def command(model, folder):
    model.save(folder / "model.keras")
    arguments = ["compress", str(folder / "model.keras"), "-o", str(folder / "small.keras")]
    assert cli.main([*arguments, "--rank", "2", "--all", "--report", str(folder / "r.md")]) == 0


ENTRIES = {
    "plan": lambda model, _: ktn.plan_compression(model, share=0.7, calibration_data=X),
    "compress": lambda model, _: ktn.compress_model(model, rank=2, calibration_data=X)(X),
    "report": lambda model, _: ktn.compression_report(model, small(model), repeats=1),
    "report on data": lambda model, _: ktn.compression_report(model, small(model), (X, Y)),
    "export": lambda model, folder: export_model(small(model), folder / "m", verify=False),
    "autotune": lambda model, _: ktn.autotune(small(model), batch_size=8, candidates=1),
    "freeze": lambda model, _: ktn.unfreeze(ktn.freeze(small(model)))(X),
    "finetune": lambda model, _: ktn.finetune(small(model), (X, Y), epochs=1, loss=LOSS),
    "teacher": lambda model, _: ktn.finetune(
        small(model), (X, Y), epochs=1, loss=LOSS, teacher=model
    ),
    "recover": lambda model, _: ktn.recover(
        model, small(model), X, ktn.RecoverySettings(epochs=1, seconds=2)
    ),
    "T-Basis": lambda model, _: ktn.to_dense_model(ktn.tbasis_model(model, size=4, rank=2))(X),
    "fitted T-Basis": lambda model, _: ktn.fit_tbasis(model, size=4, rank=2, steps=2),
    "back": lambda model, _: ktn.to_stock_model(ktn.to_dense_model(small(model)))(X),
    "command": command,
}


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", MODELS)
def test_every_entry_point_takes_every_model(kind, entry, compiled, tmp_path, capsys):
    model = MODELS[kind]()
    if compiled:
        model.compile("sgd", LOSS, metrics=["accuracy"], run_eagerly=True)
    if kind in ("called", "nested"):
        model.save(tmp_path / "kept.keras")
        model = keras.models.load_model(tmp_path / "kept.keras")
    ENTRIES[entry](model, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_admm_takes_every_model(kind):
    model = MODELS[kind]()
    model.compile("sgd", LOSS, run_eagerly=True)
    settings = {"epochs": 1, "finetune_epochs": 1, "fit_arguments": {"batch_size": 8}}
    assert admm_compress(model, (X, Y), rank=2, exclude=(), **settings).model(X).shape == (8, 3)
