"""Laws of calibration in place: a kernel's moments are those of what it is multiplied by, wherever
its layer stands, and the model is left as it was."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_tensornet import compress_model, plan_compression
from keras_tensornet.compression.calibration import calibrate
from keras_tensornet.compression.covariance import patch_moments
from keras_tensornet.compression.patches import Geometry
from keras_tensornet.compression.recording import Recorder, listening

RANDOM = np.random.default_rng(0)


def draw(*shape):
    return RANDOM.standard_normal(shape).astype("float32")


def moments(rows):
    """E[x x^T] and E[x] of rows (..., patch)."""
    rows = np.asarray(rows, "float64").reshape(-1, rows.shape[-1])
    return rows.T @ rows / len(rows), rows.mean(0)


def same(found, rows):
    gram, mean = moments(rows)
    np.testing.assert_allclose(found[0][0], gram, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1][0], mean, rtol=1e-4, atol=1e-5)


def test_a_layer_in_wrappers_and_a_shared_one_see_all_that_they_are_called_with():
    inputs = layers.Input((3, 4))
    shared = layers.Dense(4, name="shared")
    x = layers.TimeDistributed(layers.Dense(4, name="inner"), name="each")(inputs)
    model = keras.Model(inputs, [shared(shared(x)), layers.Dense(2, name="other")(x)])
    data = draw(10, 3, 4)
    found = patch_moments(model, ["each/inner", "shared", "other"], data, batch_size=4)
    same(found["each/inner"], data)
    x = ops.convert_to_numpy(model.get_layer("each")(data))
    same(found["other"], x)
    once = ops.convert_to_numpy(shared(x))
    same(found["shared"], np.concatenate([x, once]))


def test_projections_of_one_tensor_share_their_sums():
    inputs = layers.Input((5, 6))
    rows = [layers.EinsumDense("abc,cde->abde", (None, 2, 3), name=name) for name in "qkv"]
    model = keras.Model(inputs, [row(inputs) for row in rows])
    data = draw(4, 5, 6)
    found = patch_moments(model, "qkv", data)
    same(found["q"], data)
    assert found["q"][0] is found["k"][0] is found["v"][0]
    known = calibrate(model, data).known
    assert known["q"].gram is known["v"].gram and known["q"].mean is None  # no bias


def test_a_model_that_shares_in_one_batch_only_is_recorded_without_sharing():
    geometry, one, other = Geometry(built(layers.Dense(2), (1, 3))), draw(4, 3), draw(4, 3)
    one, other = ops.convert_to_tensor(one), ops.convert_to_tensor(other)
    recorder = Recorder()
    for second in (one, other):
        recorder.start(None)
        recorder.record("a", geometry, one)
        recorder.record("b", geometry, second)
    assert recorder.unsteady


@pytest.mark.parametrize(
    "equation, shape, output",
    [
        ("abc,cde->abde", (4, 5, 6), (None, 2, 3)),
        ("abcd,cde->abe", (4, 5, 2, 3), (None, 7)),
        ("acb,cd->abd", (4, 6, 5), (None, 3)),
        ("...b,bc->...c", (4, 5, 6), (2,)),
    ],
)
def test_einsum_outputs_have_the_squares_that_the_moments_say(equation, shape, output):
    layer = layers.EinsumDense(equation, output)
    data = draw(*shape)
    outputs = ops.convert_to_numpy(layer(data))
    kernel = ops.convert_to_numpy(layer.kernel)
    geometry = Geometry(layer)
    patches = geometry.patches(ops.convert_to_tensor(data))[0]
    summed = kernel.reshape(geometry.patch, -1)
    assert np.sum(outputs**2) == pytest.approx(np.sum((patches @ summed) ** 2), rel=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "padding": "same", "strides": 2},
        {"kernel_size": (3, 2), "strides": (2, 1)},
        {"kernel_size": 2, "dilation_rate": 2},
        {"kernel_size": 3, "strides": 2, "output_padding": 1},
        {"kernel_size": 3, "data_format": "channels_last", "padding": "same"},
    ],
    ids=str,
)
def test_transposed_convolutions_multiply_the_patches_that_are_recorded(arguments):
    layer = layers.Conv2DTranspose(3, use_bias=False, **arguments)
    data = draw(2, 4, 5, 2)
    outputs = ops.convert_to_numpy(layer(data))
    # (kh, kw, filters, channels) -> (kh kw channels, filters)
    kernel = ops.convert_to_numpy(layer.kernel).swapaxes(-1, -2).reshape(-1, 3)
    patches = Geometry(layer).patches(ops.convert_to_tensor(data))[0]
    np.testing.assert_allclose(patches @ kernel, outputs.reshape(-1, 3), atol=1e-5)


def test_positions_that_a_mask_leaves_out_do_not_count():
    ids = np.array([[1, 2, 0, 0], [3, 1, 2, 0]])
    inputs = layers.Input((4,), dtype="int32")
    x = layers.Embedding(5, 3, mask_zero=True, name="table")(inputs)
    x = layers.LSTM(2, return_sequences=True, name="lstm")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    found = patch_moments(model, ["lstm", "head"], ids)
    table = ops.convert_to_numpy(model.get_layer("table").embeddings)
    same(found["lstm"], table[ids[ids > 0]])
    hidden = keras.Model(inputs, model.get_layer("lstm").output).predict(ids, verbose=0)
    same(found["head"], hidden[ids > 0])


def test_an_input_called_padding_mask_leaves_positions_out():
    inputs = {"x": layers.Input((4, 3)), "padding_mask": layers.Input((4,))}
    x = layers.Dense(2, name="d")(inputs["x"])
    model = keras.Model(inputs, layers.Multiply()([x, inputs["padding_mask"][..., None]]))
    data, mask = draw(5, 4, 3), RANDOM.integers(0, 2, (5, 4))
    found = patch_moments(model, ["d"], {"x": data, "padding_mask": mask}, batch_size=2)
    same(found["d"], data[mask > 0])


@pytest.mark.parametrize("cls", [layers.LSTM, layers.GRU])
@pytest.mark.parametrize(
    "arguments", [{}, {"go_backwards": True}, {"return_state": True}, {"unroll": True}], ids=str
)
def test_recurrent_kernels_see_the_states_before_each_step(cls, arguments):
    layer = cls(3, name="r", **arguments)
    inputs = layers.Input((4, 2))
    model = keras.Model(inputs, layer(inputs))
    data = draw(5, 4, 2)
    found = patch_moments(model, ["r", "r/recurrent_kernel"], data)
    same(found["r"], data)
    twin = cls.from_config(layer.get_config() | {"return_sequences": True, "return_state": False})
    twin.build((None, 4, 2))
    twin.set_weights(layer.get_weights())
    states = ops.convert_to_numpy(twin(data))
    same(found["r/recurrent_kernel"], np.concatenate([0 * states[:, :1], states[:, :-1]], 1))


def test_layers_of_a_bidirectional_each_see_the_sequences():
    inputs = layers.Input((4, 2))
    both = layers.Bidirectional(layers.LSTM(3, name="l"), name="both")
    model = keras.Model(inputs, both(inputs))
    data = draw(5, 4, 2)
    paths = [f"both/{layer.name}" for layer in (both.forward_layer, both.backward_layer)]
    for found in patch_moments(model, paths, data).values():
        same(found, data)


def test_the_model_is_left_as_it_was_also_after_an_error_and_its_states_too():
    inputs = layers.Input(batch_shape=(2, 4, 3))
    lstm = layers.LSTM(2, stateful=True, name="lstm")
    dense = layers.Dense(2, name="d")
    model = keras.Model(inputs, dense(lstm(inputs)))
    before = [vars(layer).copy() for layer in (lstm, dense)]
    states = [ops.convert_to_numpy(state) for state in lstm.states]
    patch_moments(model, ["lstm", "lstm/recurrent_kernel", "d"], draw(4, 4, 3), batch_size=2)
    assert [vars(layer) for layer in (lstm, dense)] == before
    for old, state in zip(states, lstm.states, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(state), old)
    with pytest.raises(ValueError), listening(Recorder(), {"d": (dense, Geometry(dense), False)}):
        dense(draw(3, 5))
    assert vars(dense) == before[1]
    assert not lstm.return_sequences


def built(layer, shape):
    layer.build(shape)
    return layer


@pytest.mark.parametrize(
    "layer, shape, outputs",
    [
        (layers.EinsumDense("abc,cde->abde", (None, 4, 3), bias_axes="de"), (5, 8), 12),
        (layers.EinsumDense("abc,cde->abde", (None, 4, 3), bias_axes="e"), (5, 8), None),
        (layers.EinsumDense("abc,dc->abd", (None, 6), bias_axes="d"), (5, 8), 6),
        (layers.Conv2DTranspose(6, 3, strides=2, padding="same"), (4, 4, 8), 6),
        (layers.TimeDistributed(layers.Dense(6), name="each"), (5, 8), 6),
    ],
    ids=str,
)
def test_the_error_that_a_plan_states_is_that_of_the_outputs(layer, shape, outputs):
    """Around the mean where a bias takes it out, which `outputs` says."""
    layer = type(layer).from_config(layer.get_config())
    inputs = layers.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    data = draw(64, *shape) + 1
    arguments = {"rank": 2, "exclude": (), "calibration_data": data}
    (choice,) = plan_compression(model, format="tt", **arguments)
    small = compress_model(model, format="tt", recover=False, **arguments)
    dense, found = (ops.convert_to_numpy(one(data)).astype("float64") for one in (model, small))
    if outputs:
        rows = dense.reshape(-1, outputs)
        dense, found = rows - rows.mean(0), found.reshape(-1, outputs) - rows.mean(0)
    error = np.linalg.norm(found - dense) / np.linalg.norm(dense)
    assert choice.note == ""
    assert choice.error == pytest.approx(error, rel=0.02)  # the plan's moments have a ridge of 1 %
