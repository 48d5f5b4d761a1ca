"""Laws of cloning: the clone of any layer computes what the layer computes, bit for bit."""

import inspect
import pathlib
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import keras_tensornet as ktn
from keras_tensornet.compression.covariance import patch_moments
from keras_tensornet.rewriting.walker import rewrite_model
from tests.rewriting.cases import CASES, ROWS, WITHOUT_CASE, Scaled, Twice, adapted, normal


def keep(layer, path):
    return None


def clone_of(model):
    return rewrite_model(model, keep)


def values(outputs):
    outputs = [
        tf.sparse.to_dense(leaf) if isinstance(leaf, tf.SparseTensor) else leaf
        for leaf in keras.tree.flatten(outputs)
    ]
    return [np.asarray(keras.ops.convert_to_numpy(leaf)) for leaf in outputs]


def assert_equal(first, second):
    for one, two in zip(values(first), values(second), strict=True):
        np.testing.assert_array_equal(one, two)


def model_of(layer, data):
    """A Functional model of one layer, its weights away from their initial values."""
    inputs = keras.tree.map_structure(
        lambda leaf: keras.Input(leaf.shape[1:], dtype=tf.as_dtype(leaf.dtype).name), data
    )
    attends = isinstance(layer, (L.MultiHeadAttention, L.GroupQueryAttention))
    model = keras.Model(inputs, layer(*inputs) if attends else layer(inputs))
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if weight.dtype.startswith("float"):
            weight.assign(generator.uniform(0.1, 0.9, weight.shape))
    for part in model.layers:
        if isinstance(part, L.Normalization):
            part.finalize_state()
    return model


def exported():
    return {
        name: kind
        for name, kind in vars(keras.layers).items()
        if inspect.isclass(kind) and issubclass(kind, L.Layer)
    }


def test_every_class_that_keras_exports_has_a_case():
    names = {kind.__name__ for kind in exported().values()}
    assert names == set(CASES) | set(WITHOUT_CASE), names ^ (set(CASES) | set(WITHOUT_CASE))


@pytest.mark.parametrize("name", CASES)
def test_a_clone_computes_what_the_layer_computes(name):
    for layer, data in CASES[name]():
        model = model_of(layer, data)
        tensors = keras.tree.map_structure(tf.convert_to_tensor, data)
        clone = clone_of(model)
        # Random layers draw the same numbers, since their seeds are carried as well.
        for training in (False, True):
            outputs = []
            for each in (model, clone):
                random.seed(1)  # AugMix draws from Python's own generator
                outputs.append(each(tensors, training=training))
            assert_equal(*outputs)


def two_layers():
    """An adapted Normalization before dense layers."""
    norm = adapted(L.Normalization(), 5 + 3 * normal(200, 8))
    layers = [keras.Input((8,)), norm, L.Dense(32, activation="relu"), L.Dense(32), L.Dense(3)]
    return keras.Sequential(layers), 5 + 3 * normal(6, 8, seed=1)


@pytest.mark.parametrize(
    "through",
    [
        lambda model, data: rewrite_model(model, keep),
        lambda model, data: ktn.compress_model(model, rank=64, exclude=()),
        lambda model, data: ktn.compress_model(
            model, format="tt", rank=32, exclude=(), calibration_data=data, recover=False
        ),
        lambda model, data: ktn.to_dense_model(model),
        lambda model, data: ktn.to_stock_model(model),
        lambda model, data: ktn.freeze(model),
        lambda model, data: ktn.reestimate_batch_norm(model, data),
    ],
    ids=["rewrite", "compress", "calibrated", "dense", "stock", "freeze", "batch_norm"],
)
def test_every_function_of_a_model_keeps_what_was_adapted(through):
    model, data = two_layers()
    result = through(model, data)
    result = model if result is None else result
    np.testing.assert_allclose(result(data), model(data), rtol=0, atol=1e-5)  # rounding of cores


def test_a_basis_and_the_statistics_of_calibration_keep_what_was_adapted():
    model, data = two_layers()
    shared = ktn.tbasis_model(model, size=16, rank=8)
    norm = next(layer for layer in shared.layers if isinstance(layer, L.Normalization))
    assert_equal(norm(data), model.layers[0](data))
    moments = patch_moments(model, [model.layers[1].name], data)[model.layers[1].name]
    inputs = np.asarray(model.layers[0](data), "float64")
    np.testing.assert_allclose(moments[0][0], inputs.T @ inputs / len(inputs), rtol=1e-5, atol=1e-6)


@keras.saving.register_keras_serializable("clones")
class Counted(L.Layer):
    """Saves a table of its own, and builds what no call would build."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table, self.rows = Table(), None

    def adapt(self, rows):
        self.table.words = {str(row): row for row in range(rows)}
        self.grow(rows)

    def grow(self, rows):
        self.rows = self.add_weight(name="rows", shape=(rows,), initializer="uniform")

    def call(self, inputs):
        return inputs + keras.ops.sum(self.rows) + float(sum(self.table.words.values()))

    def get_build_config(self):
        return {"rows": self.rows.shape[0]}

    def build_from_config(self, config):
        self.grow(config["rows"])

    def save_own_variables(self, store):
        store["rows"] = self.rows
        store["length"] = np.array(len(self.table.words))

    def load_own_variables(self, store):
        self.rows.assign(store["rows"])
        self.length = int(store["length"][()])

    def save_assets(self, folder):
        pathlib.Path(folder, "words.txt").write_text(" ".join(self.table.words))

    def load_assets(self, folder):
        words = pathlib.Path(folder, "words.txt").read_text().split()
        assert len(words) == self.length
        self.table.words = {word: int(word) for word in words}


class Table:
    """No plain data: an attribute that only the layer's own hooks can carry."""

    words = {}


def test_layers_that_save_and_build_in_their_own_way():
    layer = Counted()
    layer.adapt(5)
    model = model_of(layer, ROWS)
    assert_equal(model(ROWS), clone_of(model)(ROWS))


def test_layers_that_keep_what_they_learned_in_plain_attributes():
    layer = Scaled()
    model = model_of(layer, ROWS)
    layer.learn(normal(9, 5, seed=4) * 3)
    clone = clone_of(model)
    assert_equal(model(ROWS), clone(ROWS))
    clone.layers[1].shift += 1.0
    assert not np.allclose(model(ROWS), clone(ROWS)), "the two share an array"


def test_what_is_frozen_within_a_layer_stays_frozen():
    layer = Twice(L.Dense(5))
    model = model_of(layer, ROWS)
    layer.layer.trainable = False
    clone = clone_of(model)
    assert not clone.layers[1].layer.trainable and not clone.trainable_variables


def test_a_saved_model_within_a_model(tmp_path):
    keras.Sequential([keras.Input((5,)), L.Dense(3)]).export(tmp_path / "saved", verbose=False)
    model = model_of(L.TFSMLayer(str(tmp_path / "saved"), call_endpoint="serve"), ROWS)
    assert_equal(model(ROWS), clone_of(model)(ROWS))


def test_what_cannot_be_carried_is_refused_in_words():
    class Writes(L.Layer):
        def save_own_variables(self, store):
            store["x"] = 1.0

        def load_own_variables(self, store):
            self.x = store["y"]

        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match=r"'writes' of type Writes.*cannot be carried over"):
        clone_of(model_of(Writes(name="writes"), ROWS))


class Shift(keras.Operation):
    """An operation of which the arguments are no plain values."""

    def __init__(self, by, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def call(self, inputs):
        return inputs + self.by

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def test_operations_are_cloned_with_their_arguments_and_never_shared():
    model = model_of(Shift(np.arange(5.0, dtype="float32")), ROWS)
    clone = clone_of(model)
    assert_equal(model(ROWS), clone(ROWS))
    assert clone.operations[1] is not model.operations[1]
    assert len(model.operations[1]._inbound_nodes) == 1
    with pytest.raises(ValueError, match="an operation has no state of its own"):
        clone_of(model_of(Shift(keras.Variable(np.zeros(5, "float32"))), ROWS))
