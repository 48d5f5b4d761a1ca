"""What a plan does not reach is in its table, and a model that did not shrink is spoken of."""

import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_tensornet import (
    CompressionPlan,
    cli,
    compress_model,
    compression_report,
    plan_compression,
    tbasis_model,
)
from keras_tensornet.tbasis import plan_tbasis
from keras_tensornet.training import admm_compress


@keras.saving.register_keras_serializable("unreached")
class Mix(layers.Layer):
    """A matrix and a bias of its own."""

    def __init__(self, units=6, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.mix = self.add_weight(shape=(input_shape[-1], self.units), name="mix")
        self.bias = self.add_weight(shape=(self.units,), name="bias")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.mix) + self.bias

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("unreached")
class Block(layers.Layer):
    """Holds a layer of its own, one of Keras', a normalisation, and a matrix."""

    def build(self, input_shape):
        self.inner, self.norm, self.out = Mix(6), layers.BatchNormalization(), layers.Dense(6)
        self.inner.build(input_shape)
        for layer in (self.norm, self.out):
            layer.build((*input_shape[:-1], 6))
        self.turn = self.add_weight(shape=(6, 6), name="turn")

    def call(self, inputs):
        return self.out(self.norm(self.inner(inputs)) @ self.turn)


@keras.saving.register_keras_serializable("unreached")
class Bare(keras.Model):
    """Holds a matrix in no layer."""

    def build(self, input_shape):
        self.bare = self.add_weight(shape=(input_shape[-1], 5), name="bare")

    def call(self, inputs):
        return inputs @ self.bare


@keras.saving.register_keras_serializable("unreached")
class Subclassed(keras.Model):
    """Everything from attributes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.SeparableConv1D(8, 3, name="sep"), Mix(name="mix"), Bare(name="bare")]

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs


def everything():
    inputs = keras.Input((8, 8, 4))
    x = layers.SeparableConv2D(8, 3, name="separable")(inputs)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2D(8, 1, name="conv")(x)
    x = layers.Reshape((16, 8))(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = Block(name="block")(x)
    x = layers.LayerNormalization(axis=(1, 2))(x)
    x = layers.SimpleRNN(5, name="rnn")(x)
    return keras.Model(inputs, Mix(3, name="head")(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((2, 9, 4), "float32"))
    return model


def kernels(model):
    """Every matrix of a model but those of normalisations."""
    found = {
        id(weight): weight
        for layer in [model, *model._flatten_layers()]
        if not isinstance(layer, (layers.BatchNormalization, layers.LayerNormalization))
        for weight in layer._trainable_variables
        if len([extent for extent in weight.shape if extent > 1]) > 1 and "bias" not in weight.name
    }
    return [(tuple(weight.shape), weight) for weight in found.values()]


MODELS = {
    "Functional": everything,
    "Sequential": lambda: keras.Sequential([keras.Input((9, 4)), layers.SeparableConv1D(8, 3)]),
    "subclassed": subclassed,
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_kernel_has_a_row(kind):
    model = MODELS[kind]()
    plan = plan_compression(model, rank=1, exclude=())
    assert sorted(tuple(row.kernel_shape) for row in plan) == sorted(
        shape for shape, _ in kernels(model)
    )
    assert len({row.path for row in plan}) == len(plan)
    for row in plan:
        assert row.supported != row.note.startswith("not supported: "), row
        assert row.supported or row.params == row.dense_params == np.prod(row.kernel_shape)
    assert CompressionPlan.from_json(plan.to_json()) == plan
    assert plan.params == compress_model(model, plan=plan).count_params()


def test_reasons_and_order():
    plan = plan_compression(everything(), rank=1, exclude=())
    notes = {row.path: row.note for row in plan if not row.supported}
    assert list(notes) == [
        "separable",
        "separable/pointwise_kernel",
        "depthwise",
        "block",
        "block/inner",
        "rnn",
        "rnn/recurrent_kernel",
        "head",
    ]
    for path, words in {
        "separable": "two smaller kernels",
        "depthwise": "one small filter",
        "block/inner": "Mix has weights of its own; see `compression.kinds.register`",
        "rnn": "there is no factorized SimpleRNN",
    }.items():
        assert words in notes[path]
    paths = [row.path for row in plan]
    assert (
        paths.index("depthwise") < paths.index("conv") < paths.index("block") < paths.index("rnn")
    )
    assert {f"attention/_{part}_dense" for part in ("query", "key", "value", "output")} < set(paths)
    missed = sum(row.dense_params for row in plan if not row.supported)
    assert f"layers that no format stands for: {missed} parameters" in str(plan)
    assert plan["block/out"].format == "tt"


def test_a_weight_of_a_model_itself():
    (row,) = (row for row in plan_compression(subclassed(), rank=1) if "bare" in row.path)
    assert row.layer == "Bare" and "in none of its layers" in row.note


def test_quantised_layers_and_those_that_compute_otherwise():
    class Doubled(layers.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    model = keras.Sequential([keras.Input((6,)), Doubled(5, name="doubled"), layers.Dense(4)])
    model.layers[1].quantize("int8")
    plan = plan_compression(model, rank=1)
    assert [row.supported for row in plan] == [False, False]
    assert "Doubled changes what Dense computes" in plan["doubled"].note
    assert "quantised to int8" in plan[model.layers[1].name].note


@pytest.mark.parametrize(
    "layer, settings, words",
    [
        (layers.SeparableConv1D(8, 3), {"rank": 1}, "two smaller kernels"),
        (Mix(), {"energy": 0.5}, "Mix has weights of its own"),
        (layers.Dense(4), {"rank": 1}, r"\(classifier\)"),
        (layers.Dense(4), {"rank": 4, "exclude": ()}, r"\(would grow\)"),
        (layers.Dense(4), {"params": 1.0, "exclude": ()}, "budget suffices"),
        (layers.ReLU(), {"rank": 1}, "none has a kernel"),
    ],
)
def test_what_does_not_shrink_is_said_once(layer, settings, words):
    model = keras.Sequential([keras.Input((9, 4)), type(layer).from_config(layer.get_config())])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        same = compress_model(model, **settings)
    assert same.count_params() == model.count_params()
    (said,) = [str(one.message) for one in caught if one.category is UserWarning]
    assert said.startswith(f"Nothing in '{model.name}' became smaller")
    assert "`exclude=()`" in said and "kinds.register" in said
    assert re.search(words, said)


def test_a_row_that_is_not_supported_cannot_be_asked_for():
    model = keras.Sequential([keras.Input((4,)), Mix(name="mix"), layers.Dense(8, name="dense")])
    plan = plan_compression(model, rank=1, exclude=())
    with pytest.raises(ValueError, match="'mix' of class Mix stays dense: not supported"):
        plan.with_layer("mix", 1, "tt")
    for argument in ("include", "exclude"):
        with pytest.raises(ValueError, match="'mix' is not supported: Mix has weights"):
            plan_compression(model, rank=1, **{argument: Mix})
    other = keras.Sequential([keras.Input((4,)), Mix(name="mix"), Mix(8, name="dense")])
    with pytest.raises(ValueError, match="compresses 'dense', of which in"):
        compress_model(other, plan=plan)
    with pytest.raises(ValueError, match=r"'mix' 0.* \(not supported: Mix"):
        plan_compression(other, params=0.5)


def test_the_layer_before_one_of_its_own_is_no_classifier():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="hidden"), Mix(2)])
    assert plan_compression(model, rank=1)["hidden"].format == "tt"


def test_a_basis_lists_what_it_does_not_reach():
    model = keras.Sequential(
        [keras.Input((9, 4)), layers.Dense(16), layers.LSTM(6, name="lstm"), Mix(name="mix")]
    )
    rows = {row.path: row for row in plan_tbasis(model, 2, 2).rows}
    assert list(rows)[1:] == ["lstm", "lstm/recurrent_kernel", "mix"]
    assert "not supported" in rows["mix"].reason and rows["mix"].params == 36
    with pytest.raises(
        ValueError, match=r"No layer .* can share a basis(.|\n)*'mix': not supported"
    ):
        plan_tbasis(model, 2, 2, exclude="dense.*")
    with pytest.warns(UserWarning, match="Nothing becomes smaller on this basis"):
        tbasis_model(model, 4, 4)


def test_reports_admm_and_commands(tmp_path, capsys):
    model = keras.Sequential([keras.Input((9, 4)), layers.SeparableConv1D(4, 3, name="sep")])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"leaves all of them dense(.|\n)*sep.*not supported"):
        admm_compress(model, (np.zeros((2, 9, 4)), np.zeros((2, 7, 4))), rank=1, epochs=1)
    report = compression_report(model, model, repeats=0)
    report.to_html(tmp_path / "report.html")
    report.plot(tmp_path / "report.png")
    path = str(tmp_path / "model.keras")
    model.save(path)
    for command in ("inspect", "plan --rank 1", f"compress --rank 1 -o {tmp_path / 'small.keras'}"):
        name, *options = command.split()
        assert cli.main([name, path, *options]) == 0
        told = capsys.readouterr()
        assert "two smaller kernels" in told.out + told.err, command
    assert "keras-tensornet: Nothing in" in told.err and "UserWarning" not in told.err
