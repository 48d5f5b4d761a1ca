"""What is relied on in Keras that has no public name: each test fails when Keras changes it."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_tensornet import keras_internals as internals


class Holder(layers.Layer):
    """A layer that holds layers in an attribute, a list and a dict, and a weight of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one = layers.Dense(3, name="one")
        self.many = [layers.Dense(3, name="two")]
        self.named = {"three": layers.Dense(3, name="three")}

    def build(self, shape):
        self.own = self.add_weight(shape=(3,), name="own")
        for layer in (self.one, *self.many, *self.named.values()):
            layer.build(shape)

    def call(self, x):
        return self.named["three"](self.many[0](self.one(x))) + self.own


@pytest.fixture
def holder():
    layer = Holder(name="holder")
    layer.build((None, 3))
    return layer


@pytest.fixture
def graph():
    inputs = keras.Input((3,))
    first = layers.Dense(4, name="first")
    x = first(inputs)
    return keras.Model(inputs, layers.Add(name="sum")([x, layers.Dense(4, name="second")(x)]))


def test_attributes_are_what_a_layer_s_own_code_has_set(holder):
    names = [name for name, _ in internals.attributes(holder)]
    assert set(names) >= {"one", "many", "named", "own"}
    assert not {"_layers", "_tracker", "name", "built", "dtype_policy"} & set(names)
    assert list(internals.attributes(layers.Layer())) == []


def test_tracked_layers_and_variables_of_its_own(holder):
    assert {layer.name for layer in internals.tracked_layers(holder)} == {"one", "two", "three"}
    below = internals.flatten_layers(holder, include_self=False)
    assert {layer.name for layer in below} == {"one", "two", "three"}
    assert internals.flatten_layers(holder)[0] is holder
    assert [variable.name for variable in internals.own_variables(holder)] == ["own"]


def test_a_sequential_has_its_input_layer_and_a_graph():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    kinds = [type(layer) for layer in internals.sequential_layers(model)]
    assert kinds == [layers.InputLayer, layers.Dense]
    assert internals.graph_of(model).outputs[0].shape == (None, 2)
    assert internals.graph_of(keras.Sequential([layers.Dense(2)])) is None


def test_nodes_come_after_those_whose_results_they_take(graph):
    assert internals.graph_of(graph) is graph
    names = [node.operation.name for node in internals.graph_nodes(graph)]
    assert names[1:] == ["first", "second", "sum"]


def test_a_graph_is_gone_through_with_another_call(graph):
    called = []

    def call(operation, *args, **kwargs):
        called.append(operation.name)
        return operation(*args, **kwargs)

    x = np.ones((2, 3), "float32")
    found = keras.ops.convert_to_numpy(internals.run_graph(graph, x, call))
    np.testing.assert_array_equal(found, keras.ops.convert_to_numpy(graph(x)))
    assert {"first", "second", "sum"} <= set(called)


def test_calls_users_and_makers(graph):
    first, last = graph.get_layer("first"), graph.get_layer("sum")
    assert len(internals.calls_of(first)) == 1
    assert {user.name for user in internals.users_of(first)} == {"second", "sum"}
    assert internals.maker_of(graph.outputs[0]) == (last, 0, 0)
    assert internals.maker_of(np.zeros(3))[0] is None


@pytest.mark.parametrize("sequential", [False, True])
def test_an_operation_is_replaced_in_its_place(graph, sequential):
    if sequential:
        graph = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="first")])
    old = graph.get_layer("first")
    new = layers.Dense(4, name="first")
    new.build((None, 3))
    x = np.ones((2, 3), "float32")
    before = keras.ops.convert_to_numpy(graph(x))
    internals.replace_operations(graph, {id(old): new})
    assert graph.get_layer("first") is new
    assert np.abs(keras.ops.convert_to_numpy(graph(x)) - before).max() > 0
    assert any(variable is new.kernel for variable in graph.trainable_variables)
    assert not any(variable is old.kernel for variable in graph.trainable_variables)


def test_a_built_layer_takes_another_sublayer(holder):
    new = layers.Dense(3, name="new")
    new.build((None, 3))
    with pytest.raises(ValueError, match="cannot add new elements"):
        holder.one = new
    old = holder.one
    internals.retrack(holder, {id(old): new})
    internals.set_attribute(holder, "one", new)
    assert holder.one is new
    assert any(variable is new.kernel for variable in holder.variables)
    assert not any(variable is old.kernel for variable in holder.variables)


def test_paths_of_variables_move(holder):
    layer = layers.Dense(3, name="new")
    layer.build((None, 3))
    internals.move_to(layer, "holder/one")
    assert layer.path == "holder/one" and layer.kernel.path == "holder/one/kernel"


def test_build_shapes_are_copied():
    source, target = layers.Dense(3), layers.Dense(3)
    source.build((None, 5))
    internals.copy_build_shapes(source, target)
    assert target.built and target.get_build_config() == source.get_build_config()


def test_what_compile_was_given_is_known(graph):
    assert internals.compile_arguments(graph) is None
    graph.compile("sgd", "mse", metrics=["mae"])
    given = internals.compile_arguments(graph)
    assert given["optimizer"] is graph.optimizer
    assert (given["loss"], given["metrics"]) == ("mse", ["mae"])


def test_a_lambda_knows_its_output_shape():
    assert internals.lambda_output_shape(layers.Lambda(lambda x: x, output_shape=(3,))) == (3,)


def test_random_states_are_listed():
    model = keras.Sequential([keras.Input((3,)), layers.Dropout(0.5)])
    states = internals.carried_states(model.layers[0])
    assert states and all(isinstance(each, keras.random.SeedGenerator) for each in states)


def test_projections_of_attention_have_their_names():
    layer = layers.MultiHeadAttention(2, 3)
    layer.build((None, 4, 6), (None, 4, 6))
    found = internals.layers_named(layer, ("query", "key", "value", "output"))
    assert all(isinstance(each, layers.EinsumDense) for each in found.values())


def test_keras_own_cells_have_a_base_that_draws_masks():
    base = internals.masked_cell()
    assert issubclass(layers.GRUCell, base)
    assert {"get_dropout_mask", "reset_dropout_mask"} <= set(dir(base))


@pytest.mark.parametrize("layer", [layers.Dense(4), layers.Embedding(6, 4), layers.Conv1D(4, 2)])
def test_the_variable_beneath_lora(layer):
    layer.build((None, 6, 3) if isinstance(layer, layers.Conv1D) else (None, 3))
    plain = layer.embeddings if isinstance(layer, layers.Embedding) else layer.kernel
    layer.enable_lora(2)
    assert internals.adapted_kernel(layer) is plain


def test_what_a_model_without_a_graph_was_built_with():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x["a"] + x["b"])

    model = Model()
    assert internals.built_shapes(model) is None
    model({name: np.ones((2, 3)) for name in "ab"})
    assert internals.built_shapes(model) == {"a": (2, 3), "b": (2, 3)}


def test_calls_are_noted_and_layers_left_as_they_were(holder):
    noted, x = [], np.ones((2, 3), "float32")
    with internals.calls_noted([holder.one], lambda inputs: noted.append(inputs.shape)):
        holder(x)
    holder(x)
    assert noted == [(2, 3)] and "call" not in vars(holder.one)
