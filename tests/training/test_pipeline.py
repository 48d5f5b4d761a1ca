"""Laws of ADMM with plans and compression: kinds of layers, the three phases, refusals."""

import keras
import numpy as np
import pytest

from keras_tensornet.compression import compress_model
from keras_tensornet.training import ADMM, admm_compress
from tests.training.models import data, fit, plan_for, two_layers, weights


def mixed_model(seed=0):
    """Conv2D, LSTM inside Bidirectional and a Dense layer that is used twice."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 4))
    x = keras.layers.Conv2D(8, 3, groups=2, padding="same", name="conv")(inputs)
    x = keras.layers.Reshape((6, 48))(x)
    lstm = keras.layers.LSTM(6, name="lstm")
    x = keras.layers.Bidirectional(lstm, name="both")(x)
    shared = keras.layers.Dense(12, name="shared")
    outputs = shared(keras.layers.ReLU()(shared(x)))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.05), "mse")
    random = np.random.default_rng(seed)
    x = random.standard_normal((16, 6, 6, 4)).astype("float32")
    return model, x, random.standard_normal((16, 12)).astype("float32")


@pytest.mark.parametrize("format", ["tt", "tr"])
def test_conv_recurrent_and_shared_kernels_together(format):
    model, x, y = mixed_model()
    admm = ADMM(format=format, rank=2, exclude=(), rho=20.0, log_layers=True)
    history = model.fit(x, y, epochs=8, batch_size=4, verbose=0, callbacks=[admm]).history
    paths = [choice.path for choice in admm.plan if choice.format]
    assert list(admm.residuals) == paths
    assert {"conv", "shared"} < set(paths) and sum("lstm" in path for path in paths) == 4
    for path in paths:
        # What decomposing costs now, against what it would have cost before.
        assert history[f"admm_primal/{path}"][-1] < 0.2 * admm.plan[path].error
    small = compress_model(model, plan=admm.plan)
    plain = compress_model(mixed_model()[0], plan=admm.plan)
    assert [w.shape for w in small.weights] == [w.shape for w in plain.weights]


def test_decomposing_after_admm_costs_less_than_before():
    x, _ = data()
    model = two_layers()
    fit(model, epochs=5)
    plan = plan_for(model)
    start = weights(model)

    def drop(trained):
        small = compress_model(trained, plan=plan)
        return np.linalg.norm(small.predict(x, verbose=0) - trained.predict(x, verbose=0))

    before = drop(model)
    model.set_weights(start)
    fit(model, [ADMM(plan, rho=2.0)], epochs=15)
    assert drop(model) < 0.3 * before


def test_three_phases_leave_the_model_as_it_was():
    model = two_layers()
    before, config = weights(model), model.get_config()
    result = admm_compress(
        model,
        data(),
        validation_data=data(seed=1),
        format="ttm",
        rank=2,
        include="first",
        epochs=2,
        finetune_epochs=1,
        admm={"rho": 1.0},
        finetune_optimizer=keras.optimizers.SGD(0.01),
        fit_arguments={"batch_size": 16},
    )
    for ours, theirs in zip(weights(model), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert model.get_config() == config
    first, second, third = result.phases
    assert (first.epochs, second.epochs, third.epochs) == (2, 0, 1)
    assert first.after == second.before and second.after == third.before
    assert third.params == result.model.count_params() < result.dense_params
    assert third.after["loss"] == pytest.approx(
        result.model.evaluate(*data(seed=1), batch_size=16, verbose=0)
    )
    assert len(third.history["val_loss"]) == 1 and "admm_primal" in first.history
    assert float(result.model.optimizer.learning_rate) == pytest.approx(0.01)
    assert "ADMM training" in str(result) and "compression ratio" in str(result)
    assert result.plan["first"].format == "ttm"


def test_datasets_and_no_fine_tuning():
    x, y = data()

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            half = slice(16 * index, 16 * index + 16)
            return x[half], y[half]

    model = two_layers()
    result = admm_compress(
        model, Batches(), plan=plan_for(model), epochs=1, finetune_epochs=0, admm={"rho": 1.0}
    )
    assert result.phases[2].epochs == 0
    assert result.phases[2].after == result.phases[1].after


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "Give exactly one of"),
        ({"rank": 2, "energy": 0.5}, ValueError, "Give exactly one of"),
        ({"rank": 2, "momentum": 0.1}, TypeError, "Received: momentum"),
        ({"plan": "tt"}, TypeError, "`plan` must be a CompressionPlan"),
        ({"rank": 0}, ValueError, "rank"),
    ],
)
def test_wrong_choices_are_refused_at_once(arguments, error, words):
    with pytest.raises(error, match=words):
        ADMM(**arguments)


def test_a_plan_and_choices_together_are_refused():
    with pytest.raises(ValueError, match="either a `plan` or what to plan"):
        ADMM(plan_for(two_layers()), rank=2)


def test_models_that_do_not_fit_are_refused():
    model = two_layers()
    plan = plan_for(model)
    with pytest.raises(ValueError, match="leaves all of them dense"):
        fit(model, [ADMM(plan.without_layer("first"))])
    model.get_layer("first").trainable = False
    with pytest.raises(ValueError, match="layer 'first' is frozen"):
        fit(model, [ADMM(plan)])
    other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, name="other")])
    other.compile("sgd", "mse")
    with pytest.raises(ValueError, match="compresses 'first', which is not among"):
        fit(other, [ADMM(plan)])
    wider = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, name="first")])
    wider.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"has shape \(8, 3\), the plan's \(8, 12\)"):
        fit(wider, [ADMM(plan)])


def test_calls_that_cannot_work_are_refused():
    model = two_layers()
    with pytest.raises(ValueError, match="as batches, entry 0: it has no targets"):
        admm_compress(model, (data()[0],), rank=2, format="ttm")
    with pytest.raises(ValueError, match="`epochs` must be at least 1"):
        admm_compress(model, data(), rank=2, epochs=0)
    bare = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="must be compiled"):
        admm_compress(bare, data(), rank=2)
