"""Embeddings: rows of the merged table, without the table, for every format and network."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_tensornet import Network, formats, layers
from keras_tensornet.contraction import Workload
from keras_tensornet.contraction.rows import row_plan
from keras_tensornet.modes import KernelModes
from tests import references
from tests.layers.support import array, tensorflow_only

# Sums of some dozens of float32 products.
TOLERANCE = 1e-6
PEPS = "i0 o0 a b, i1 o1 a c, o2 b d, i2 c d"


def table_of(layer) -> np.ndarray:
    cores = [array(core) for core in layer.cores]
    return references.merged_kernel(layer.network, layer.modes, cores)


def built(name="TTEmbedding", **options):
    arguments = {"input_dim": 57, "output_dim": 12, "rank": 3, "in_modes": (4, 3, 5), **options}
    layer = getattr(layers, name)(**arguments)
    layer.build()
    return layer


def all_layers():
    for name in ("TTEmbedding", "TREmbedding"):
        yield pytest.param(name, {}, id=name)
    for format in formats.FORMATS:
        yield pytest.param("FactorizedEmbedding", {"format": format, "rank": 2}, id=format)
    sizes = {"i0": 4, "i1": 3, "i2": 5, "o0": 2, "o1": 3, "o2": 2}
    own = Network.parse(PEPS, sizes | dict.fromkeys("abcd", 2))
    shared = Network.parse("i0 o0 a, i0 i1 o1 a, i2 i0 o2 a", sizes | {"a": 2})
    for title, network in {"peps": own, "mode in several cores": shared}.items():
        options = {"network": network, "rank": None, "in_modes": None}
        yield pytest.param("FactorizedEmbedding", options, id=title.replace(" ", "_"))


@pytest.mark.filterwarnings("ignore:Some ranks")
@pytest.mark.parametrize("name, options", list(all_layers()))
@pytest.mark.parametrize("implementation", ("factorized", "reconstructed"))
def test_rows_are_those_of_the_merged_table(name, options, implementation):
    layer = built(name, implementation=implementation, **options)
    table = table_of(layer)
    assert table.shape == (57, 12)
    np.testing.assert_allclose(array(layer.kernel), table, atol=TOLERANCE)
    for indices in (np.arange(57), np.array([[0, 56, 3], [3, 3, -1]]), np.zeros((2, 0), int)):
        indices = indices.astype("int32")
        np.testing.assert_allclose(array(layer(indices)), table[indices], atol=TOLERANCE)
    assert layer.plan.implementation == implementation


@settings(max_examples=20)
@given(
    in_modes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    out_modes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    format=st.sampled_from(("tr", "tt", "ttm")),
    rank=st.integers(1, 3),
)
def test_row_plans_equal_the_merge_in_float64(in_modes, out_modes, format, rank):
    size = int(np.prod(in_modes))
    modes = KernelModes(size, int(np.prod(out_modes)), tuple(in_modes), tuple(out_modes))
    network = formats.get(format).build(modes, rank)
    rng = np.random.default_rng(0)
    cores = [rng.standard_normal(shape) for shape in network.core_shapes]
    wanted = references.merged_kernel(network, modes, cores)
    plan = row_plan(network, Workload(rows=7), "factorized")
    np.testing.assert_allclose(plan.run(cores, np.arange(size), np), wanted, atol=1e-12)


def test_the_plan_never_builds_the_table_unless_that_is_faster():
    layer = built("TTEmbedding", input_dim=50257, output_dim=768, rank=8, in_modes=(34, 37, 40),
                  out_modes=(8, 8, 12))  # fmt: skip
    assert layer.plan_for(1).implementation == "factorized"
    assert layer.plan_for(100_000).implementation == "reconstructed"
    staged = row_plan(layer.network, Workload(rows=100_000), "factorized")
    largest = max(int(np.prod(np.abs(step.shape))) for step in staged.contraction.steps)
    assert largest <= 8 * 768  # entries for each index: no step holds the vocabulary
    assert "padded from 50257" in str(layer.modes)
    assert "candidates" in str(layer.plan)


def test_indices_outside_do_what_they_do_in_the_dense_layer():
    layer = built(implementation="factorized")
    assert layer.modes.padding == (3, 0)
    dense = layer.to_dense_layer()
    for index in (57, 59, 60, 1000):
        results = []
        for each in (layer, dense):
            try:
                results.append(array(each(np.array([index], "int32"))))
            except Exception as error:
                results.append(type(error))
        ours, theirs = results
        if isinstance(theirs, type):
            assert ours is theirs
        else:  # JAX fills with NaN
            np.testing.assert_allclose(ours, theirs)


def test_masks_floats_and_unknown_shapes():
    layer = built(mask_zero=True, dtype="mixed_float16", implementation="factorized")
    indices = np.array([[0, 3, 56]])
    np.testing.assert_array_equal(array(layer.compute_mask(indices)), [[False, True, True]])
    outputs = layer(ops.convert_to_tensor(indices.astype("float32")))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    np.testing.assert_allclose(
        array(ops.cast(outputs, "float32")), table_of(layer)[indices], atol=1e-3
    )
    symbolic = layer(keras.Input((None,), dtype="int32"))
    assert symbolic.shape == (None, None, 12)
    lstm = layers.TTLSTM(4, rank=2)(symbolic)
    assert lstm.shape == (None, 4)


def test_the_default_initializer_has_the_variance_of_keras_uniform():
    layer = built("TREmbedding", input_dim=4096, output_dim=64, rank=6, in_modes=4)
    # 262,144 products of few cores: their variance over draws is far from that of one draw.
    kernels = [array(layer.kernel)]
    for seed in range(1, 12):
        initial = keras.initializers.RandomUniform(-0.05, 0.05, seed=seed)
        other = built("TREmbedding", input_dim=4096, output_dim=64, rank=6, in_modes=4,
                      embeddings_initializer=initial)  # fmt: skip
        kernels.append(array(other.kernel))
    assert np.var(kernels) == pytest.approx(0.05**2 / 3, rel=0.35)


def test_from_a_trained_embedding_and_back(tmp_path):
    dense = keras.layers.Embedding(57, 12, mask_zero=True, name="words")
    dense.build()
    table = array(dense.embeddings)
    with pytest.warns(UserWarning, match="above what the modes allow"):
        exact = layers.TTEmbedding.from_layer(dense, rank=99, in_modes=(4, 3, 5))
    np.testing.assert_allclose(array(exact.kernel), table, atol=TOLERANCE)
    assert exact.name == "words" and exact.mask_zero
    again = exact.to_dense_layer()
    assert again.get_config()["mask_zero"] and again.name == "words"
    np.testing.assert_allclose(array(again.embeddings), table, atol=TOLERANCE)
    for layer_class in (layers.TTEmbedding, layers.TREmbedding):
        near = layer_class.from_layer(dense, eps=0.2)
        error = np.linalg.norm(array(near.kernel) - table) / np.linalg.norm(table)
        assert error < 0.2001
        less = layer_class.from_layer(dense, energy=0.5)
        assert less.network.num_params < near.network.num_params
    given_weights = layers.TTEmbedding(57, 12, rank=99, in_modes=(4, 3, 5), weights=table)
    np.testing.assert_allclose(array(given_weights.kernel), table, atol=TOLERANCE)


@pytest.mark.parametrize("name", ("TTEmbedding", "TREmbedding"))
def test_training_saving_cloning(name, tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    hidden = getattr(layers, name)(57, 12, rank=3, mask_zero=True, implementation="factorized",
                                   embeddings_regularizer="l2")(inputs)  # fmt: skip
    hidden = keras.layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile(keras.optimizers.Adam(0.02), "mse")
    x = np.random.default_rng(0).integers(0, 57, (16, 5))
    y = (x[:, :1] > 20).astype("float32")
    losses = model.fit(x, y, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(model(x)), array(loaded(x)))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(array(model(x)), array(clone(x)))
    layer = model.layers[1]
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


def test_regularizer_and_constraint_act_on_the_table():
    layer = built(embeddings_regularizer=keras.regularizers.L2(0.3))
    assert float(layer.losses[0]) == pytest.approx(0.3 * np.sum(table_of(layer) ** 2), rel=1e-4)
    layer = built(embeddings_constraint=keras.constraints.MaxNorm(0.01, axis=1))
    assert np.linalg.norm(array(layer(np.arange(57))), axis=1).max() < 0.01 + 1e-6
    assert layer.plan.implementation == "reconstructed"


@tensorflow_only
def test_saved_model_litert_and_onnx(tmp_path):
    import tensorflow as tf

    inputs = keras.Input((6,), dtype="int32")
    model = keras.Model(inputs, built("TREmbedding", implementation="factorized")(inputs))
    x = np.random.default_rng(0).integers(0, 57, (1, 6)).astype("int32")
    wanted = array(model(x))
    model.export(tmp_path / "saved", verbose=False)
    restored = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(array(restored.serve(x)), wanted, atol=TOLERANCE)
    model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(str(tmp_path / "model.tflite"))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    found = session.run(None, {session.get_inputs()[0].name: x})[0]
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)


BAD = [
    ({"input_dim": 0}, ValueError, "`input_dim` must be at least 1"),
    ({"output_dim": 1.5}, TypeError, "`output_dim` must be an integer"),
    ({"in_modes": (4, 3, 4)}, ValueError, "`in_modes` must multiply to at least `input_dim`"),
    ({"out_modes": (5, 2)}, ValueError, "`out_modes` must multiply to `output_dim`"),
    ({"implementation": "fast"}, ValueError, "`implementation` must be one of"),
    ({"implementation": "0:matmul"}, ValueError, "`implementation` must be one of"),
    ({"rank": None}, TypeError, "`rank` must be an integer"),
    ({"weights": np.ones((3, 4))}, ValueError, "must have the shape of the dense kernel"),
]


@pytest.mark.parametrize("options, error, text", BAD)
def test_bad_arguments_raise(options, error, text):
    with pytest.raises(error, match=text):
        built(**options)
    with pytest.raises(TypeError, match=r"from_layer takes a keras.layers.Embedding"):
        layers.TTEmbedding.from_layer(keras.layers.Dense(3), rank=2)
    with pytest.raises(ValueError, match="to_dense_layer"):
        built().quantize("int8")
