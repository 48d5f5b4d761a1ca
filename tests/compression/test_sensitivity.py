"""Laws of how much a layer's noise counts in a budget."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_tensornet.compression import calibrate, compress_model, plan_compression
from keras_tensornet.compression.choosing import sensitivity
from keras_tensornet.compression.kinds import find_targets
from keras_tensornet.compression.planning import calibrated_subjects
from keras_tensornet.modes import kernel_modes

RANDOM = np.random.default_rng(0)


def two_branches(share: float) -> keras.Model:
    """Two layers alike, whose outputs are added, the second one's with a share."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((24,))
    heard = layers.Dense(24, name="heard")(inputs)
    hushed = layers.Dense(24, name="hushed")(inputs)
    return keras.Model(inputs, layers.Add()([heard, layers.Rescaling(share)(hushed)]))


def normalised() -> keras.Model:
    """A layer whose mean error a batch normalisation takes out, and one with a bias."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dense(16, name="dense")(layers.Flatten()(x))
    model = keras.Model(inputs, x)
    model.get_layer("norm").moving_mean.assign(RANDOM.normal(size=12))
    model.get_layer("dense").bias.assign(RANDOM.normal(size=16))
    return model


def measured(model, data) -> dict:
    """Sensitivities of all layers of a model."""
    subjects = calibrated_subjects(model, find_targets(model), calibrate(model, data))
    return sensitivity.sensitivities(model, subjects, data)


def test_a_layer_counts_by_what_it_does_to_the_outputs():
    data = RANDOM.normal(size=(64, 24)).astype("float32")
    found = measured(two_branches(0.1), data)
    # The kernels are alike, so the squared error goes with the square of the share.
    assert found["hushed"] / found["heard"] == pytest.approx(0.01, rel=0.3)


def test_a_budget_gives_more_to_the_layer_that_counts_more():
    data = RANDOM.normal(size=(64, 24)).astype("float32")
    settings = {"format": "tt", "params": 0.6, "exclude": (), "calibration_data": data}
    model = two_branches(0.05)
    weighted, alike = (plan_compression(model, sensitivity=flag, **settings) for flag in (1, 0))
    assert weighted["heard"].params > 1.5 * weighted["hushed"].params
    assert alike["heard"].params == pytest.approx(alike["hushed"].params, rel=0.2)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_share_that_a_cut_loses_is_that_of_the_output(groups, scaled):
    kernel = RANDOM.normal(size=(3, 1, 4, 6))
    modes = kernel_modes(4, 6 // groups, 1, 1, spatial=((3, 1),), groups=groups)
    patches = RANDOM.normal(size=(groups, 500, 12)) @ RANDOM.normal(size=(groups, 12, 12))
    scale = RANDOM.uniform(0.5, 2.0, 6) if scaled else None
    gram = patches.transpose(0, 2, 1) @ patches / 500
    metric = sensitivity.Metric.regularised(gram, scale, ridge=0.0)
    cut, lost = sensitivity.cut_kernel(kernel, modes, metric, share=0.3)
    weights = np.ones(6) if scale is None else scale

    def energy(array) -> float:
        parts = array.reshape(12, groups, -1).transpose(1, 0, 2)
        return float(np.sum((patches @ parts * weights.reshape(groups, 1, -1)) ** 2))

    assert 0 < lost <= 0.3
    assert lost == pytest.approx(energy(kernel - cut) / energy(kernel), rel=1e-6)


def test_a_mean_that_is_taken_out_does_not_count():
    model = normalised()
    data = (RANDOM.normal(size=(64, 8, 8, 3)) + 3.0).astype("float32")
    around = measured(model, data)["conv"]
    calibration = calibrate(model, data)
    (subject, _) = calibrated_subjects(model, find_targets(model), calibration)
    kernel, lost = sensitivity.cut_kernel(subject.kernel, subject.modes, subject.metric)
    reference = ops.convert_to_numpy(model(data[:64]))
    model.get_layer("conv").kernel.assign(kernel)
    moved = sensitivity.output_distance([reference], [ops.convert_to_numpy(model(data[:64]))])
    assert around < 0.5 * moved * (1 - lost) / lost


def test_the_model_is_left_as_it_was_also_after_an_error(monkeypatch):
    model = normalised()
    before = [ops.convert_to_numpy(variable).copy() for variable in model.variables]
    data = RANDOM.normal(size=(32, 8, 8, 3)).astype("float32")
    subjects = calibrated_subjects(model, find_targets(model), calibrate(model, data))
    sensitivity.sensitivities(model, subjects, data)
    monkeypatch.setattr(sensitivity, "output_distance", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sensitivity.sensitivities(model, subjects, data)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


def test_probabilities_are_compared_by_their_divergence():
    first, second = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.25, 0.75], [0.9, 0.1]])
    expected = 0.5 * (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75))
    assert sensitivity.output_distance([first], [second]) == pytest.approx(expected, rel=1e-6)
    scores, moved = np.array([[1.0, 0.0], [-1.0, 2.0]]), np.array([[1.0, 1.0], [-1.0, 2.0]])
    assert sensitivity.output_distance([scores], [moved]) == pytest.approx(1.0 / 4.0)


def test_sensitivities_are_measured_once_for_a_calibration(monkeypatch):
    model = two_branches(0.5)
    calibration = calibrate(model, RANDOM.normal(size=(32, 24)).astype("float32"))
    measured_now, exact = [], sensitivity.sensitivities

    def counted(model, subjects, *rest):
        measured_now.append([subject.path for subject in subjects])
        return exact(model, subjects, *rest)

    monkeypatch.setattr(sensitivity, "sensitivities", counted)
    for params in (0.6, 0.7):
        plan_compression(model, params=params, exclude=(), calibration_data=calibration)
        assert set(calibration.sensitivities) == {"heard", "hushed"}
    assert [sorted(paths) for paths in measured_now] == [["heard", "hushed"], []]


def outlying(width: int = 48) -> keras.Model:
    """Blocks with a residual sum and a normalisation, in which two features are far larger than all
    others, as in transformers: they hold nearly all energy of the outputs and say little.
    """
    keras.utils.set_random_seed(0)
    inputs = keras.Input((width,))
    x = inputs
    for number in range(3):
        up = layers.Dense(2 * width, activation="gelu", name=f"up{number}")(x)
        down = layers.Dense(width, name=f"down{number}")(up)
        x = layers.LayerNormalization(name=f"norm{number}")(layers.Add()([x, down]))
    model = keras.Model(inputs, x)
    for number in range(3):
        for name in ("up", "down"):
            kernel = model.get_layer(f"{name}{number}").kernel
            left, _, right = np.linalg.svd(RANDOM.normal(size=kernel.shape), full_matrices=False)
            value = (left / np.sqrt(np.arange(1, width + 1))) @ right * 2
            if name == "down":
                value[:, :2] = 40 * np.abs(value[:, :1])
            kernel.assign(value)
        norm = model.get_layer(f"norm{number}")
        norm.gamma.assign(np.r_[0.05, 0.05, np.ones(width - 2)])
    return model


@pytest.mark.parametrize("params", [0.6, 0.4])
def test_a_budget_moves_outputs_no_more_than_one_share_for_all_layers(params):
    model, data = outlying(), RANDOM.normal(size=(256, 48)).astype("float32")
    fresh = RANDOM.normal(size=(256, 48)).astype("float32")
    settings = {"calibration_data": data, "exclude": ()}
    alike = {"recover": False, "sequential": False, **settings}
    budget = compress_model(model, params=params, **alike)
    share = compress_model(model, share=params, **alike)
    assert budget.count_params() <= 1.02 * share.count_params()
    wanted = ops.convert_to_numpy(model(fresh))
    moved = [
        sensitivity.output_distance([wanted], [ops.convert_to_numpy(small(fresh))])
        for small in (budget, share)
    ]
    assert moved[0] < 0.9 * moved[1]


def test_the_plan_says_how_its_budget_was_shared_out():
    data = RANDOM.normal(size=(64, 48)).astype("float32")
    plan = plan_compression(outlying(), params=0.5, exclude=(), calibration_data=data)
    assert plan.settings["allocation"].startswith("sensitivity **")
