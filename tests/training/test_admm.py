"""Laws of the ADMM callback under plain `fit`; they hold on every Keras backend."""

import json
import os

import keras
import numpy as np
import pytest

from keras_tensornet.training import ADMM, project_kernel
from keras_tensornet.training.penalty import KernelPenalty
from tests.training.models import data, fit, plan_for, two_layers, weights


def admm(model, rank=2, **arguments):
    arguments = {"rho": 0.5, **arguments}
    return ADMM(plan_for(model, rank), **arguments)


def first_kernel(model):
    return keras.ops.convert_to_numpy(model.get_layer("first").kernel)


def test_loss_is_the_task_loss_and_the_penalty_stands_apart():
    # With a learning rate of zero the loss is that of the initial weights.
    model = two_layers(learning_rate=0.0)
    expected = fit(model, validation_data=data())
    # Two epochs: after the first one U is not zero any more.
    history = fit(model, [admm(model)], epochs=2, validation_data=data())
    assert history["loss"] == expected["loss"] * 2
    assert history["val_loss"] == expected["val_loss"] * 2
    assert min(history["admm_penalty"]) > 0.01


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_follows_the_gradient_of_the_penalty(jit_compile):
    plain = two_layers(jit_compile=jit_compile)
    pulled = two_layers(jit_compile=jit_compile)
    before = first_kernel(plain)
    fit(plain, batch_size=32)
    # Compiled and trained before: the callback must get into a train function that exists.
    callback = admm(pulled)
    start = weights(pulled)
    fit(pulled, batch_size=32)
    pulled.set_weights(start)
    fit(pulled, [callback], batch_size=32)
    target = callback._targets[0]
    z = project_kernel(before, target.network, target.modes)
    # W' = W - lr (gradient + rho (W - Z + U)), U = 0
    step = -0.1 * 0.5 * (before - z)
    np.testing.assert_allclose(first_kernel(pulled), first_kernel(plain) + step, atol=1e-6)
    for ours, theirs in zip(weights(pulled)[1:], weights(plain)[1:], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_what_is_left_is_a_normal_model():
    plain, used = two_layers(), two_layers()
    own = used.get_layer("first").kernel.regularizer
    start = weights(used)
    fit(used, [admm(used)], epochs=2)
    assert used.get_layer("first").kernel.regularizer is own
    assert not [state for state in used._seed_generators if hasattr(state, "state")]
    # The compiled train function has forgotten the penalty as well.
    used.set_weights(start)
    assert fit(used, epochs=2) == fit(plain, epochs=2)


def test_nothing_is_traced_again(monkeypatch):
    calls = []
    original = KernelPenalty.__call__
    monkeypatch.setattr(
        KernelPenalty, "__call__", lambda self, value: calls.append(1) or original(self, value)
    )
    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch runs eagerly: there is no trace")
    model = two_layers()
    counts = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: counts.append(len(calls)))
    fit(model, [admm(model, every=1), count], epochs=4)
    assert counts[0] == counts[-1] > 0


@pytest.mark.parametrize(("every", "per_epoch"), [("epoch", 1), (1, 2), (2, 1)])
def test_updates_come_every_so_many_steps(every, per_epoch):
    model = two_layers()
    callback = admm(model, every=every)
    history = fit(model, [callback], epochs=3)  # 2 steps an epoch
    for values in callback.history["first"].values():
        assert len(values) == 3 * per_epoch
    assert len(history["admm_primal"]) == 3
    assert history["admm_primal"][-1] == pytest.approx(callback.history["first"]["primal"][-1])


def test_steps_per_execution_counts_all_steps():
    if keras.backend.backend() == "torch":
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    model = two_layers(steps_per_execution=2)
    callback = admm(model, every=4)
    history = fit(model, [callback], epochs=4)  # 8 steps in 4 executions
    assert len(callback.seconds) == len(callback.history["first"]["primal"]) == 2
    # Logged in every epoch, also in the first, where nothing has been updated yet.
    assert len(history["admm_primal"]) == 4
    assert history["admm_dual"][0] == 0.0 < history["admm_dual"][1]


def test_a_linear_model_reaches_its_low_rank_solution():
    random = np.random.default_rng(0)
    x = random.standard_normal((256, 6)).astype("float32")
    solution = random.standard_normal((6, 2)) @ random.standard_normal((2, 7))
    # Noise in the targets that a free kernel would follow.
    noise = 0.3 * random.standard_normal((6, 7))
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(7, use_bias=False, name="first")]
    )
    # loss = |x (W - goal)|^2 / (256 * 7), about |W - goal|^2 / 7
    model.compile(keras.optimizers.SGD(0.5), "mse")
    callback = ADMM(plan_for(model, 2, "tt"), rho=1.0)
    y = (x @ (solution + noise)).astype("float32")
    history = model.fit(x, y, epochs=60, batch_size=256, verbose=0, callbacks=[callback]).history
    assert history["admm_primal"][-1] < 1e-3 < history["admm_primal"][0]
    assert history["admm_dual"][-1] < 1e-3
    kernel = first_kernel(model)
    assert np.linalg.svd(kernel)[1][2] < 1e-2
    free, *_ = np.linalg.lstsq(x, y, rcond=None)
    left, values, right = np.linalg.svd(free)
    best = (left[:, :2] * values[:2]) @ right[:2]
    # The inputs are nearly white, so the best fit of rank 2 is nearly the truncated free fit.
    assert np.linalg.norm(kernel - best) < 0.1 * np.linalg.norm(best)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_precision_policies(policy):
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        # Keras itself cannot add a float64 regularizer to a float32 loss.
        model = two_layers(decay=0.0 if policy == "float64" else 2**-7)
    finally:
        keras.config.set_dtype_policy(before)
    callback = admm(model, rho=5.0, adaptive_rho=True)
    history = fit(model, [callback], epochs=3)
    assert np.isfinite(history["loss"]).all()
    assert history["admm_primal"][0] > 0
    kept = "float64" if policy == "float64" else "float32"
    if keras.backend.backend() != "jax" or policy != "float64":  # JAX has float64 only if told so
        assert callback._splittings[0].z.dtype == kept


def test_early_stopping_and_checkpoints_watch_what_they_should(tmp_path):
    model = two_layers()
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.keras", "admm_primal", mode="min", save_best_only=True
    )
    stop = keras.callbacks.EarlyStopping("loss", min_delta=10.0, patience=0)
    history = fit(model, [admm(model), checkpoint, stop], epochs=5)
    assert len(history["loss"]) == 2  # not one epoch improves the task loss by 10
    # Saved while the penalty was on, it is the plain model, weight for weight.
    saved = keras.models.load_model(tmp_path / "1.keras")
    assert json.dumps(saved.get_config()) == json.dumps(model.get_config())
    assert [w.shape for w in saved.weights] == [w.shape for w in model.weights]
    assert isinstance(saved.get_layer("first").kernel.regularizer, keras.regularizers.L2)


def test_the_saved_form_is_that_of_a_model_without_admm(tmp_path):
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True)
    model, plain = two_layers(), two_layers()
    fit(model, [admm(model), saver])
    plain.load_weights(tmp_path / "1.weights.h5")
    np.testing.assert_array_equal(first_kernel(plain), first_kernel(model))
    assert model.count_params() == plain.count_params()
    assert len(model.weights) == len(plain.weights)


def test_tolerance_ends_training():
    model = two_layers()
    callback = admm(model, tolerance=0.95)
    history = fit(model, [callback], epochs=5)
    assert callback.converged
    assert len(history["loss"]) == 1
    assert history["admm_primal"][-1] <= 0.95


class Interrupt(keras.callbacks.Callback):
    """Stops a training as Ctrl-C does, at the beginning of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.at = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            raise KeyboardInterrupt


def test_an_interrupted_training_goes_on_where_it_was(tmp_path):
    whole = two_layers()
    whole_admm = admm(whole, adaptive_rho=True)
    fit(whole, [whole_admm], epochs=4)

    def parts():
        model = two_layers()
        callback = admm(model, adaptive_rho=True, backup=tmp_path / "admm.npz")
        restore = keras.callbacks.BackupAndRestore(tmp_path / "model")
        return model, callback, restore

    model, callback, restore = parts()
    with pytest.raises(KeyboardInterrupt):
        fit(model, [restore, callback, Interrupt(2)], epochs=4)
    assert os.listdir(tmp_path / "model")
    model, callback, restore = parts()
    fit(model, [restore, callback], epochs=4)
    np.testing.assert_array_equal(first_kernel(model), first_kernel(whole))
    np.testing.assert_array_equal(callback._splittings[0].u, whole_admm._splittings[0].u)
    assert sorted(os.listdir(tmp_path)) == []  # both remove their files at the end


def test_after_an_interruption_detach_leaves_a_normal_model():
    model = two_layers()
    own = model.get_layer("first").kernel.regularizer
    callback = admm(model)
    with pytest.raises(KeyboardInterrupt):
        fit(model, [callback, Interrupt(1)], epochs=2)
    with pytest.raises(ValueError, match=r"already has an ADMM penalty.*detach"):
        fit(model, [admm(model)])
    callback.detach()
    assert model.get_layer("first").kernel.regularizer is own
    fit(model, [admm(model)])


def test_the_same_callback_goes_on_in_a_second_fit():
    once, twice = two_layers(), two_layers()
    one, two = admm(once), admm(twice)
    fit(once, [one], epochs=4)
    fit(twice, [two], epochs=2)
    fit(twice, [two], epochs=2)
    np.testing.assert_allclose(first_kernel(twice), first_kernel(once), atol=1e-7)
    assert len(two.history["first"]["primal"]) == 4


def test_saved_state_is_loaded_and_checked(tmp_path):
    model = two_layers()
    callback = admm(model, rho=0.25)
    with pytest.raises(ValueError, match="no ADMM state to save before"):
        callback.save_state(tmp_path / "state")
    fit(model, [callback], epochs=2)
    callback.save_state(tmp_path / "state")
    other = admm(model)
    other.load_state(tmp_path / "state")
    fit(model, [other], epochs=1)
    assert other._splittings[0].rho == 0.25
    different = admm(model, rank=3)
    different.load_state(tmp_path / "state")
    with pytest.raises(ValueError, match=r"must be that of the same kernels.*network"):
        fit(model, [different])
    (tmp_path / "half").write_bytes((tmp_path / "state").read_bytes()[:200])
    damaged = admm(model)
    damaged.load_state(tmp_path / "half")
    with pytest.raises(ValueError, match="not a complete ADMM state"):
        fit(model, [damaged])
    with pytest.raises(FileNotFoundError, match="no ADMM state at"):
        admm(model).load_state(tmp_path / "nothing")
    assert sorted(os.listdir(tmp_path)) == ["half", "state"]


def test_per_layer_logs_and_table():
    model = two_layers()
    callback = admm(model, log_layers=True, rho={"first": 0.2})
    history = fit(model, [callback], epochs=2)
    assert history["admm_rho/first"] == [0.2, 0.2]
    assert history["admm_primal/first"] == callback.history["first"]["primal"]
    assert "first" in str(callback)
    assert callback.residuals["first"].rho == 0.2


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"rho": 0}, ValueError, "`rho` must be above 0"),
        ({"rho": "big"}, TypeError, "`rho` must be a number above 0"),
        ({"rho": {"first": -1}}, ValueError, "`rho` must be above 0"),
        ({"every": "batch"}, TypeError, "`every` must be an integer"),
        ({"every": 0}, ValueError, "`every` must be at least 1"),
        ({"tolerance": 2.0}, ValueError, "`tolerance` must lie in"),
        ({"workers": 0}, ValueError, "`workers` must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        ADMM(format="tt", rank=2, **arguments)


def test_a_kernel_without_rho_is_refused():
    model = two_layers()
    with pytest.raises(ValueError, match="No pattern matches the layer 'first'"):
        fit(model, [admm(model, rho={"conv": 0.1})])


def test_one_callback_one_model():
    model, other = two_layers(), two_layers()
    callback = admm(model)
    fit(model, [callback])
    with pytest.raises(ValueError, match="holds the state of one model"):
        fit(other, [callback])
