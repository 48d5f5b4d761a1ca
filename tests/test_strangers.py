"""What strangers do: data, layers, precisions and places that the other tests do not think of."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_tensornet as ktn
from keras_tensornet.export import export_model

X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")


def stack(*others):
    return keras.Sequential([keras.Input((6,)), *others, layers.Dense(3, name="last")])


def compressed(model, data, **settings):
    settings = {"rank": 2, "exclude": (), "recover": False} | settings
    return ktn.compress_model(model, calibration_data=data, **settings)


def out(model, inputs):
    return ops.convert_to_numpy(model(inputs))


@pytest.mark.parametrize("kind", ["complex64", "datetime64[s]", "timedelta64[s]"])
def test_what_a_cast_would_maim_is_refused(kind):
    data = np.zeros(X.shape, "int64").astype(kind)
    with pytest.raises(ValueError, match=f"takes float32, not {kind}".replace("[", r"\[")):
        compressed(stack(layers.Dense(8)), data)


def test_data_without_examples_is_refused_before_anything_is_trained():
    model = stack(layers.Dense(8))
    for entry in (
        lambda: ktn.finetune(model, (X[:0], X[:0, :3]), loss="mse"),
        lambda: compressed(model, X[:0]),
        lambda: ktn.compression_report(model, model, (X[:0], X[:0, 0])),
        lambda: ktn.recover(model, compressed(model, X), X[:0]),
    ):
        with pytest.raises(ValueError, match=r"must hold at least one batch. Received: none"):
            entry()


def adapted():
    """A model on whose middle layer LoRA is enabled and has learned something."""
    model = stack(layers.Dense(8), layers.Dense(8, name="adapted"))
    layer = model.get_layer("adapted")
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.random.default_rng(1).normal(size=(2, 8)))
    return model


def test_calibration_sees_a_layer_with_lora_as_it_computes():
    model, plain = adapted(), adapted()
    kernel = ops.convert_to_numpy(plain.get_layer("adapted").kernel)
    merged = stack(layers.Dense(8), layers.Dense(8, name="adapted"))
    for own, other in zip(merged.layers, plain.layers, strict=True):
        own.bias.assign(other.bias)
        own.kernel.assign(kernel if own.name == "adapted" else other.kernel)
    for other, own in zip(model.layers, merged.layers, strict=True):
        if other.name != "adapted":
            other.set_weights(own.get_weights())
    layer = model.get_layer("adapted")
    layer._kernel.assign(kernel - (ops.convert_to_numpy(layer.kernel) - layer._kernel))
    np.testing.assert_allclose(out(model, X), out(merged, X), atol=1e-5)
    with_lora, without = compressed(model, X), compressed(merged, X)
    # The same kernels but for rounding, and float32 sums in another order.
    np.testing.assert_allclose(out(with_lora, X), out(without, X), atol=1e-3)
    assert with_lora.count_params() == without.count_params()


def test_spectral_normalisation_keeps_its_kernel_and_trains():
    inputs = keras.Input((6,))
    x = layers.SpectralNormalization(layers.Dense(8), name="spectral")(inputs)
    model = keras.Model(inputs, layers.Dense(6, name="free")(x))
    model(X, training=True)
    plan = ktn.plan_compression(model, rank=2, exclude=())
    assert "SpectralNormalization assigns to it" in plan["spectral/layer"].note
    small = ktn.compress_model(model, plan=plan)
    assert small.count_params() == plan.params < model.count_params()
    small.compile("sgd", "mse")
    small.fit(X, X, verbose=0)


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU])
def test_states_and_a_fixed_batch_are_calibrated_and_kept(kind):
    inputs = keras.Input(batch_shape=(4, 5, 6))
    x = kind(8, stateful=True, return_sequences=True, name="states")(inputs)
    model = keras.Model(inputs, layers.Dense(6, name="after")(layers.Dense(8)(x)))
    data = np.random.default_rng(2).normal(size=(16, 5, 6)).astype("float32")
    model(data[:4])
    before = [ops.convert_to_numpy(one) for one in model.get_layer("states").states]
    small = compressed(model, data)
    after = [ops.convert_to_numpy(one) for one in model.get_layer("states").states]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert small.get_layer("states").stateful and small(data[:4]).shape == (4, 5, 6)


def test_a_model_that_cannot_compute_on_the_data_says_so():
    class Fails(layers.Layer):
        def call(self, inputs):
            if not keras.utils.is_keras_tensor(inputs):
                raise RuntimeError("no such row")
            return inputs

        def compute_output_shape(self, shape):
            return shape

    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(8)(Fails()(inputs)))
    with pytest.raises(ValueError, match=r"cannot compute on `calibration_data`.*no such row"):
        compressed(model, X)


def test_an_einsum_that_is_no_matrix_product_stays_dense():
    inputs = keras.Input((4, 6))
    x = layers.EinsumDense("abc,bcd->abd", (4, 6), name="each")(inputs)
    model = keras.Model(inputs, layers.Dense(6, name="free")(layers.GRU(6, name="states")(x)))
    plan = ktn.plan_compression(model, rank=1, exclude=())
    assert plan["each"].note == "not supported: 'abc,bcd->abd' is no matrix product"
    assert [row.path for row in plan] == ["each", "states", "states/recurrent_kernel", "free"]
    assert ktn.compress_model(model, plan=plan).count_params() == plan.params


@pytest.mark.parametrize("other, what", [((6, 4), "outputs"), ((5, 3), "inputs")])
def test_a_teacher_of_other_inputs_or_outputs_is_refused(other, what):
    teacher = keras.Sequential([keras.Input(other[:1]), layers.Dense(other[1])])
    with pytest.raises(ValueError, match=f"`teacher` must have the {what} of the model"):
        ktn.finetune(stack(), (X, X[:, :3]), loss="mse", teacher=teacher)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float64"])
def test_files_of_every_precision_pass_their_check(policy, tmp_path):
    wide = layers.Dense(16, dtype=policy), layers.Dense(16, dtype=policy)
    model = keras.Sequential([keras.Input((6,)), *wide])
    small = compressed(model, X)
    assert small.layers[0].dtype_policy == model.layers[0].dtype_policy
    export_model(small, tmp_path / "small.keras", format="keras")


def test_a_place_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    with pytest.raises(OSError, match=r"small.keras' cannot be written: nothing can be made in"):
        export_model(stack(layers.Dense(8)), tmp_path / "small.keras", format="keras", verify=False)
