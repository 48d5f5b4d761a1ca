"""Laws of recurrent layers under compression: both kernels are planned, calibrated and counted."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_tensornet import compress_model, formats, plan_compression, to_dense_model
from keras_tensornet.compression.kinds import find_kernels
from keras_tensornet.compression.planning import calibrated_subjects

RANDOM = np.random.default_rng(0)
KERNELS = ["first", "first/recurrent_kernel", "second", "second/recurrent_kernel"]


def model_of(first=layers.LSTM, second=layers.GRU, **arguments):
    inputs = layers.Input((6, 10))
    x = first(12, return_sequences=True, name="first")(inputs)
    x = second(8, name="second", **arguments)(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(RANDOM.standard_normal(weight.shape) * 0.4)
    return model


def sequences(count=24):
    return RANDOM.standard_normal((count, 6, 10)).astype("float32")


@pytest.mark.parametrize("arguments", [{}, {"reset_after": False}], ids=str)
@pytest.mark.parametrize("format", formats.FORMATS)
def test_a_plan_counts_what_is_made_and_full_rank_changes_nothing(format, arguments):
    model, data = model_of(**arguments), sequences()
    plan = plan_compression(model, format=format, share=0.9, exclude=())
    assert [choice.path for choice in plan] == [*KERNELS, "head"]
    small = compress_model(model, plan=plan)
    assert plan.params == small.count_params() < model.count_params()
    full = plan
    for path in (KERNELS[1], KERNELS[2]):
        full = full.with_layer(path, 10**6, format="tt", in_modes=1, out_modes=1)
    for path in (KERNELS[0], KERNELS[3], "head"):
        full = full.without_layer(path)
    found = compress_model(model, plan=full)
    assert type(found.get_layer("first")).__name__ == "FactorizedLSTM"
    wanted = ops.convert_to_numpy(model(data))
    np.testing.assert_allclose(ops.convert_to_numpy(found(data)), wanted, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(to_dense_model(found)(data)), wanted, atol=1e-5)


@pytest.mark.parametrize("format", ["tt", "tr", "auto"])
@pytest.mark.parametrize("share", [0.75, 0.5])
def test_a_budget_is_spent_on_both_kernels_and_survives_saving(format, share, tmp_path):
    model, data = model_of(), sequences()
    plan = plan_compression(model, format=format, params=share, calibration_data=data)
    assert plan.params <= share * plan.model_params
    assert any(choice.format for choice in plan if "recurrent" in choice.path)
    small = compress_model(model, plan=plan, calibration_data=data, recover=False)
    assert small.count_params() == plan.params
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again.predict(data, verbose=0), small.predict(data, verbose=0))


def test_both_kernels_are_calibrated_and_their_biases_take_the_mean():
    model, data = model_of(), sequences() + 1
    kernels = find_kernels(model)
    assert [target.path for target in kernels] == [*KERNELS, "head"]
    subjects = calibrated_subjects(model, kernels, data)
    assert all(subject.gram is not None and subject.mean is not None for subject in subjects)
    hidden = keras.Model(model.inputs, model.get_layer("first").output).predict(data, verbose=0)
    before = np.concatenate([np.zeros_like(hidden[:, :1]), hidden[:, :-1]], axis=1)
    np.testing.assert_allclose(subjects[1].mean[0], before.mean((0, 1)), atol=1e-5)
    plain = plan_compression(model, format="tt", share=0.5, exclude=())
    errors = []
    for arguments in ({}, {"calibration_data": data, "recover": False}):
        small = compress_model(model, plan=plain, **arguments)
        errors.append(
            np.linalg.norm(small.predict(data, verbose=0) - model.predict(data, verbose=0))
        )
    assert errors[1] < errors[0]
    bare = calibrated_subjects(
        (other := model_of(reset_after=False)), find_kernels(other), data
    )  # a gate multiplies the states before the kernel does: no bias takes their mean
    assert bare[2].mean is not None and bare[3].mean is None


def test_layers_are_named_as_one_and_kernels_alone():
    model = model_of()

    def compressed(**choice):
        return [c.path for c in plan_compression(model, rank=1, **choice) if c.format]

    assert compressed(include="first") == KERNELS[:2]
    assert compressed(exclude=["first", "head"]) == KERNELS[2:]
    assert compressed(exclude=[r".*/recurrent_kernel", "head"]) == ["first", "second"]
    assert compressed(exclude=(), overrides={"first": None}) == [*KERNELS[2:], "head"]
    plan = plan_compression(
        model, format="tt", share=0.9, overrides={"first": {"rank": 2, "recurrent_rank": 3}}
    )
    assert (plan["first"].rank, plan["first/recurrent_kernel"].rank) == ((2,), (3,))
    assert compress_model(model, plan=plan).count_params() == plan.params


def test_a_budget_that_cannot_be_met_names_what_stays_dense():
    with pytest.raises(ValueError, match=r"'first' 0\.\d+ \(excluded\).*exclude=\(\)"):
        plan_compression(model_of(), params=0.3, exclude=layers.LSTM)


def trained_like(rows, columns):
    left, _ = np.linalg.qr(RANDOM.standard_normal((rows, columns)))
    right, _ = np.linalg.qr(RANDOM.standard_normal((columns, columns)))
    return (left * np.exp(-0.1 * np.arange(columns))) @ right.T


@pytest.mark.parametrize("format", ["tt", "tucker"])
def test_trained_tables_and_recurrent_kernels_keep_whole_modes(format):
    inputs = layers.Input((5,), dtype="int32")
    x = layers.Embedding(48, 16, name="table")(inputs)
    x = layers.LSTM(16, name="lstm")(x)
    model = keras.Model(inputs, x)
    model.get_layer("table").embeddings.assign(trained_like(48, 16))
    model.get_layer("lstm").cell.kernel.assign(trained_like(64, 16).T)
    errors = {}
    for name, modes in {"whole": {}, "cut": {"in_modes": 2, "out_modes": 2}}.items():
        overrides = {path: {"share": 0.5, **modes} for path in ("table", "lstm")}
        plan = plan_compression(model, format=format, rank=1, exclude=(), overrides=overrides)
        errors[name] = [plan[path].error for path in ("table", "lstm")]
    whole, cut = np.array(errors["whole"]), np.array(errors["cut"])
    assert (whole <= cut + 1e-6).all() and whole[0] < 0.9 * cut[0], errors
