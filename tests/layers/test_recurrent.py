"""LSTM and GRU: equal to the dense Keras layer with the merged kernels, for every option."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tensornet import Network, layers
from tests.layers.support import BACKEND, array, tensorflow_only
from tests.references import relative_error

# Two sums of some dozens of float32 products through saturating functions, five steps.
TOLERANCE = 1e-5
LAYERS = ("TTLSTM", "TRLSTM", "TTGRU", "TRGRU")
MASK = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1], [1, 1, 1, 1, 1]], bool)
OPTIONS = {
    "plain": {},
    "sequences": {"return_sequences": True},
    "state": {"return_state": True},
    "backwards": {"go_backwards": True, "return_sequences": True},
    "unrolled": {"unroll": True, "return_state": True, "return_sequences": True},
    "zero output": {"zero_output_for_mask": True, "return_sequences": True},
    "activations": {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
    "no bias": {"use_bias": False},
    "dropout": {"dropout": 0.4, "seed": 3},
    "recurrent dropout": {"recurrent_dropout": 0.4, "seed": 3},
    "recurrent cores": {"recurrent_rank": 2},
    "staged": {"recurrent_rank": 2, "implementation": "factorized"},
    "merged": {"recurrent_rank": 2, "implementation": "reconstructed"},
    "cores and dropout": {"recurrent_rank": 2, "recurrent_dropout": 0.4, "seed": 3},
    "padded": {"units": 37, "recurrent_rank": 2, "out_modes": None},
}
GRU_OPTIONS = {
    "reset before": {"reset_after": False},
    "reset before, staged": {
        "reset_after": False,
        "recurrent_rank": 2,
        "implementation": "factorized",
    },
    "reset before, dropout": {"reset_after": False, "recurrent_dropout": 0.4, "seed": 3},
    "reset before, no bias": {"reset_after": False, "use_bias": False},
}
LSTM_OPTIONS = {"no forget bias": {"unit_forget_bias": False}}


def sequences(batch=3, steps=5, features=12, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, steps, features)).astype("float32")


def make(name, **options):
    arguments = {"units": 6, "rank": 2, "in_modes": (3, 4), "out_modes": (2, 3), **options}
    return getattr(layers, name)(**arguments)


def built(name, batch=None, **options):
    layer = make(name, **options)
    layer.build((batch, 5, 12))
    if layer.bias is not None:
        rng = np.random.default_rng(5)
        layer.bias.assign(rng.standard_normal(tuple(layer.bias.shape)))
    return layer


def as_list(outputs):
    return [array(part) for part in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]


def assert_same(layer, dense, inputs, **call):
    found, wanted = as_list(layer(inputs, **call)), as_list(dense(inputs, **call))
    assert [part.shape for part in found] == [part.shape for part in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def cases():
    for name in LAYERS:
        extra = GRU_OPTIONS if "GRU" in name else LSTM_OPTIONS
        for title, options in {**OPTIONS, **extra}.items():
            yield pytest.param(name, options, id=f"{name}-{title.replace(' ', '_')}")


@pytest.mark.parametrize("name, options", list(cases()))
def test_outputs_equal_the_dense_layer_with_the_merged_kernels(name, options):
    layer = built(name, **options)
    dense = layer.to_dense_layer()
    inputs = sequences()
    assert_same(layer, dense, inputs)
    assert_same(layer, dense, inputs, mask=ops.convert_to_tensor(MASK))
    # The same masks are drawn from the same seed, so that dropout is equal too.
    assert_same(layer, dense, inputs, training=True)


@pytest.mark.parametrize("name", LAYERS)
def test_initial_states_and_stateful_layers_carry_on_like_the_dense_layer(name):
    layer = built(name)
    dense = layer.to_dense_layer()
    states = [np.full((3, 6), 0.3, "float32")] * (2 if "LSTM" in name else 1)
    states = [ops.convert_to_tensor(state) for state in states]
    assert_same(layer, dense, sequences(), initial_state=states)
    layer = built(name, batch=3, stateful=True)
    dense = layer.to_dense_layer()
    first = array(layer(sequences()))
    dense(sequences())
    assert_same(layer, dense, sequences())
    layer.reset_state()
    np.testing.assert_allclose(array(layer(sequences())), first, atol=TOLERANCE)


@pytest.mark.parametrize("name", ("TTLSTM", "TRGRU"))
def test_bidirectional_and_bare_cells(name):
    layer = built(name, return_sequences=True)
    both = keras.layers.Bidirectional(layer)
    dense = keras.layers.Bidirectional(layer.to_dense_layer())
    both.build((None, 5, 12))
    dense.build((None, 5, 12))
    for name in ("forward_layer", "backward_layer"):
        trained = getattr(both, name).to_dense_layer()
        getattr(dense, name).set_weights(trained.get_weights())
    assert_same(both, dense, sequences(), mask=ops.convert_to_tensor(MASK))
    cell = layer.cell
    looped = keras.layers.RNN(cell, return_sequences=True)
    assert_same(looped, layer, sequences())
    stacked = keras.layers.RNN([type(cell)(4, rank=2), keras.layers.LSTMCell(3)])
    assert stacked(sequences()).shape == (3, 3)
    again = type(cell).from_config(cell.get_config())
    assert again.get_config() == cell.get_config()


def test_a_bare_cell_keeps_its_dropout_masks_for_the_whole_sequence():
    cell = layers.TTGRUCell(6, rank=2, dropout=0.5, recurrent_dropout=0.5, seed=1)
    looped = keras.layers.RNN(cell, return_sequences=True)
    layer = layers.TTGRU(
        6, rank=2, dropout=0.5, recurrent_dropout=0.5, seed=1, return_sequences=True
    )
    looped.build((None, 5, 12))
    layer.build((None, 5, 12))
    layer.set_weights(looped.get_weights())
    np.testing.assert_allclose(
        array(looped(sequences(), training=True)),
        array(layer(sequences(), training=True)),
        atol=TOLERANCE,
    )


PUBLISHED = [  # Yang et al. 2017: modes, TT-GRU, TT-LSTM parameters of the input kernel
    ((8, 20, 20, 18), 3232, 3360),
    ((4, 20, 20, 36), 3328, 3392),
]


@pytest.mark.parametrize("in_modes, gru, lstm", PUBLISHED)
def test_the_published_parameter_counts(in_modes, gru, lstm):
    for layer_class, count in ((layers.TTGRU, gru), (layers.TTLSTM, lstm)):
        layer = layer_class(256, rank=4, in_modes=in_modes, out_modes=(4, 4, 4, 4))
        layer.build((None, 6, 57600))
        assert layer.network.num_params == count
        assert layer.recurrent_kernel.shape == (256, 256 * layer.cell.gates)


def test_the_gates_are_the_most_significant_part_of_the_first_output_mode():
    layer = built("TTLSTM", rank=4)
    kernel = array(layer.kernel)
    cores = [array(core) for core in layer.cores]
    assert cores[0].shape[2] == 4 * 2
    for gate in range(4):
        gated = [cores[0][:, :, 2 * gate : 2 * gate + 2], cores[1]]
        merged = np.einsum("aiob,bjpc->ijop", *gated).reshape(12, 6)
        assert relative_error(kernel[:, 6 * gate : 6 * gate + 6], merged) < 1e-6


@pytest.mark.parametrize("name", LAYERS)
def test_from_layer_at_full_rank_is_the_dense_layer_and_thresholds_choose_ranks(name):
    initial = keras.initializers.GlorotUniform(seed=0)
    dense_class = make(name).dense_class()
    dense = dense_class(6, return_sequences=True, name="trained", kernel_initializer=initial)
    dense.build((None, None, 12))
    converted = getattr(layers, name)
    full = {"rank": 24, "recurrent_rank": 24, "out_modes": (2, 3)}
    with pytest.warns(UserWarning, match="above what the modes allow"):
        layer = converted.from_layer(dense, **full)
    assert layer.name == "trained"
    assert_same(layer, dense, sequences())
    coarse = converted.from_layer(dense, energy=0.5, out_modes=(2, 3))
    assert coarse.network.num_params < layer.network.num_params
    fine = converted.from_layer(dense, eps=0.1, out_modes=(2, 3))
    wanted = array(dense.cell.kernel)
    assert np.linalg.norm(array(fine.kernel) - wanted) < 0.1001 * np.linalg.norm(wanted)


def test_a_trained_stateful_gru_without_reset_after_converts():
    dense = keras.layers.GRU(6, stateful=True, reset_after=False)
    dense.build((3, 5, 12))
    layer = layers.TTGRU.from_layer(dense, rank=6, in_modes=(3, 4), out_modes=(2, 3))
    assert layer.cell.reset_after is False
    assert layer.states[0].shape == (3, 6)


@pytest.mark.parametrize("name", ("TTLSTM", "TRGRU"))
def test_saving_cloning_and_fitting(name, tmp_path):
    inputs = keras.Input((None, 12))
    hidden = keras.layers.Masking()(inputs)
    hidden = keras.layers.Bidirectional(
        make(name, return_sequences=True, recurrent_rank=2, kernel_regularizer="l2")
    )(hidden)
    hidden = make(name, in_modes=None, dropout=0.1, recurrent_dropout=0.1, seed=1)(hidden)
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    model.compile(keras.optimizers.Adam(0.02), "mse")
    x, y = sequences(8), np.ones((8, 2), "float32")
    losses = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(model(x)), array(loaded(x)))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(array(model(x)), array(clone(x)))


def test_every_weight_has_a_gradient_and_frozen_layers_refuse_training():
    if BACKEND != "tensorflow":
        pytest.skip("needs TensorFlow's functions")
    import tensorflow as tf

    for name in LAYERS:
        layer = built(name, recurrent_rank=2)
        with tf.GradientTape() as tape:
            outputs = tf.reduce_sum(layer(sequences(), training=True) ** 2)
        gradients = tape.gradient(outputs, [v.value for v in layer.trainable_variables])
        assert all(float(tf.reduce_sum(g**2)) > 0 for g in gradients)
        wanted = array(layer(sequences()))
        layer.cell.freeze()
        np.testing.assert_allclose(array(layer(sequences())), wanted, atol=TOLERANCE)
        with pytest.raises(RuntimeError, match="is frozen"):
            layer(sequences(), training=True)
        layer.cell.unfreeze()


@pytest.mark.parametrize("policy", ("mixed_bfloat16", "mixed_float16", "float64"))
def test_precision(policy):
    if policy == "float64" and BACKEND == "jax":
        pytest.skip("JAX has no float64 unless it is switched on for the whole process")
    layer = built("TTLSTM", dtype=policy, recurrent_rank=2)
    outputs = layer(sequences())
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    assert layer.cores[0].dtype == ("float64" if policy == "float64" else "float32")
    reference = layer.to_dense_layer()(sequences())
    np.testing.assert_allclose(
        array(ops.cast(outputs, "float32")), array(ops.cast(reference, "float32")), atol=0.02
    )


def test_the_plan_counts_all_steps_as_rows():
    layer = built("TTLSTM")
    assert layer.plan_for(7).workload.rows == 7 * 5
    assert "35 rows" in str(layer.plan_for(7))


def test_an_orthogonal_recurrent_initializer_keeps_its_variance_in_cores():
    variances = []
    for seed in range(8):  # few cores: one draw is far from its mean
        initial = keras.initializers.Orthogonal(seed=seed)
        layer = layers.TRGRU(64, rank=2, recurrent_rank=6, recurrent_initializer=initial)
        layer.build((None, 5, 12))
        variances.append(np.var(array(layer.recurrent_kernel)))
    assert np.mean(variances) == pytest.approx(1 / (3 * 64), rel=0.3)
    assert isinstance(layer.cell.recurrent_initializer, keras.initializers.Orthogonal)


def test_regularizers_and_constraints_act_on_the_merged_kernels():
    layer = built("TTGRU", kernel_regularizer=keras.regularizers.L2(0.5), recurrent_rank=2,
                  recurrent_regularizer=keras.regularizers.L2(0.5))  # fmt: skip
    wanted = [0.5 * np.sum(array(k) ** 2) for k in (layer.kernel, layer.recurrent_kernel)]
    assert sorted(float(loss) for loss in layer.losses) == pytest.approx(sorted(wanted), rel=1e-4)
    layer = built("TTGRU", kernel_constraint=keras.constraints.MaxNorm(0.1), recurrent_rank=2,
                  recurrent_constraint=keras.constraints.MaxNorm(0.1))  # fmt: skip
    for kernel in (layer.kernel, layer.recurrent_kernel):
        assert np.linalg.norm(array(kernel), axis=0).max() < 0.1 + 1e-6
    assert_same(layer, layer.to_dense_layer(), sequences())


def test_a_network_of_your_own():
    network = Network.parse(
        "i0 o0 a b, i1 o1 a, o2 b", {"i0": 3, "i1": 4, "o0": 4, "o1": 2, "o2": 3, "a": 2, "b": 2}
    )
    layer = layers.FactorizedLSTM(6, network=network)
    layer.build((None, 5, 12))
    assert_same(layer, layer.to_dense_layer(), sequences())
    again = layers.FactorizedLSTM.from_config(layer.get_config())
    assert again.cell.network_argument == network


BAD = [
    ({"rank": 0}, ValueError, "`rank` must be at least 1"),
    ({"units": 2.5}, TypeError, "`units` must be an integer"),
    ({"recurrent_rank": 0}, ValueError, "`recurrent_rank` must be at least 1"),
    ({"recurrent_rank": "2"}, TypeError, "`recurrent_rank` must be an integer"),
    ({"dropout": 1.5}, ValueError, r"`dropout` is the share .* must lie in \[0, 1\)"),
    ({"recurrent_dropout": "x"}, TypeError, "`recurrent_dropout` must be a number"),
    ({"seed": 1.5}, TypeError, "`seed` must be an integer or None"),
    ({"bond_dropout": 1.0}, ValueError, r"`bond_dropout` is the share .* must lie in \[0, 1\)"),
    ({"implementation": 2}, ValueError, "`implementation` must be one of"),
    ({"use_cudnn": True}, ValueError, "use_cudnn"),
]


@pytest.mark.parametrize("options, error, text", BAD)
def test_bad_arguments_raise(options, error, text):
    with pytest.raises(error, match=text):
        make("TTLSTM", **options)


def test_bad_shapes_and_sources_raise():
    with pytest.raises(ValueError, match="`out_modes` must multiply to `units`"):
        make("TTGRU", out_modes=(2, 2)).build((None, 5, 12))
    with pytest.raises(ValueError, match="`in_modes` must multiply to the number of features"):
        make("TTGRU", in_modes=(2, 2)).build((None, 5, 12))
    with pytest.raises(ValueError, match="last axis of the inputs must be known"):
        make("TTGRU").build((None, 5, None))
    network = Network.parse("i0 a, a o0", {"i0": 12, "o0": 24, "a": 2})
    with pytest.raises(ValueError, match="A `recurrent_rank` needs a `format`"):
        layers.FactorizedLSTM(6, network=network, recurrent_rank=2)
    gru = keras.layers.GRU(6)
    gru.build((None, 5, 12))
    with pytest.raises(TypeError, match=r"from_layer takes a keras.layers.LSTM"):
        layers.TTLSTM.from_layer(gru, rank=2)
    with pytest.raises(ValueError, match="is not built"):
        layers.TTLSTM.from_layer(keras.layers.LSTM(6), rank=2)
    with pytest.raises(ValueError, match="exactly one of `rank`, `energy` and `eps`"):
        layers.TTGRU.from_layer(gru)


@tensorflow_only
@pytest.mark.parametrize("unroll", (True, False))
def test_saved_model_and_litert(unroll, tmp_path):
    import tensorflow as tf

    inputs = keras.Input(batch_shape=(2, 5, 12))
    hidden = make("TTLSTM", unroll=unroll, return_sequences=True)(inputs)
    model = keras.Model(inputs, make("TRGRU", in_modes=None, unroll=unroll)(hidden))
    x = sequences(2)
    wanted = array(model(x))
    if unroll:
        model.export(tmp_path / "saved", verbose=False)
        restored = tf.saved_model.load(str(tmp_path / "saved"))
        np.testing.assert_allclose(array(restored.serve(x)), wanted, atol=TOLERANCE)
    # A loop is made of built-in operations for a fixed batch only, which `export` does not keep.
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)
