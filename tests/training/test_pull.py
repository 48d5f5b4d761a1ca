"""Laws of ADMM's pull beside the optimizer; they hold on every Keras backend."""

import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest

from keras_tensornet.compression import compress_model
from keras_tensornet.training import ADMM, project_kernel
from keras_tensornet.training.course import Course
from tests.training.models import data, fit, plan_for, two_layers, weights

BACKEND = keras.backend.backend()


def kernel_of(model, name="first"):
    return keras.ops.convert_to_numpy(model.get_layer(name).kernel)


def recompiled(optimizer, **arguments):
    model = two_layers()
    model.compile(optimizer(), "mse", **arguments)
    return model


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "accumulated": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
}


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_each_step_of_the_optimizer_is_followed_by_the_pull(optimizer, jit_compile):
    plain, pulled = (recompiled(OPTIMIZERS[optimizer], jit_compile=jit_compile) for _ in range(2))
    start = weights(pulled)
    batch = 16 if optimizer == "accumulated" else 32
    # Compiled and trained before: the callback must get into a train function that exists.
    fit(plain, batch_size=batch)
    fit(pulled, batch_size=batch)
    for model in (plain, pulled):
        model.set_weights(start)
        for variable in model.optimizer.variables:
            if variable is not model.optimizer._learning_rate:
                variable.assign(np.zeros(variable.shape))
    callback = ADMM(plan_for(pulled), pull=0.3)
    before = kernel_of(plain)
    fit(plain, batch_size=batch)
    fit(pulled, [callback], batch_size=batch)
    target = callback._targets[0]
    z = project_kernel(before, target.network, target.modes)
    if optimizer == "accumulated":
        # Two steps of training, one of the optimizer: 0.3 in all, whenever the gradient comes.
        first = before - (1 - np.sqrt(0.7)) * (before - z)
        assert np.linalg.norm(kernel_of(pulled) - z) < np.linalg.norm(kernel_of(plain) - z)
        rest = kernel_of(plain) - before  # gradients at a slightly other place
        expected = first + rest - (1 - np.sqrt(0.7)) * (first + rest - z)
        np.testing.assert_allclose(kernel_of(pulled), expected, atol=2e-2)
        return
    expected = kernel_of(plain) - 0.3 * (kernel_of(plain) - z)
    np.testing.assert_allclose(kernel_of(pulled), expected, atol=1e-6)
    for ours, theirs in zip(weights(pulled)[1:], weights(plain)[1:], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_many_steps_at_once_are_pulled_one_by_one():
    if BACKEND == "torch":
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    kernels = []
    for steps in (1, 2):
        model = two_layers(steps_per_execution=steps)
        fit(model, [ADMM(plan_for(model), pull=0.3)], epochs=2)
        kernels.append(kernel_of(model))
    np.testing.assert_allclose(kernels[0], kernels[1], atol=1e-6)


def test_what_is_left_is_a_normal_model(tmp_path):
    plain, used = two_layers(), two_layers()
    start = weights(used)
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    fit(used, [ADMM(plan_for(used)), saver], epochs=2)
    assert "train_step" not in used.__dict__
    assert not [state for state in used._seed_generators if hasattr(state, "state")]
    saved = keras.models.load_model(tmp_path / "2.keras")
    np.testing.assert_array_equal(kernel_of(saved), kernel_of(used))
    used.set_weights(start)
    assert fit(used, epochs=2) == fit(plain, epochs=2)


def test_a_train_step_of_the_users_own_is_called():
    calls = []

    class Own(keras.Model):
        def train_step(self, *arguments):
            calls.append(1)
            return super().train_step(*arguments)

    base = two_layers()
    model = Own(base.inputs, base.outputs)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    far = kernel_of(model)
    callback = ADMM(plan_for(model), pull=1.0)
    fit(model, [callback])
    target = callback._targets[0]
    z = project_kernel(far, target.network, target.modes)
    np.testing.assert_allclose(kernel_of(model), z, atol=1e-6)
    assert calls


def test_a_constraint_has_the_last_word():
    model = two_layers()
    kernel = model.get_layer("first").kernel
    kernel.constraint = keras.constraints.NonNeg()
    fit(model, [ADMM(plan_for(model), pull=0.5)], epochs=2)
    assert kernel_of(model).min() >= 0.0


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_precision_policies(policy):
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        model = two_layers(decay=0.0)
    finally:
        keras.config.set_dtype_policy(before)
    callback = ADMM(plan_for(model), pull=0.5)
    history = fit(model, [callback], epochs=3)
    assert np.isfinite(history["loss"]).all()
    assert history["admm_primal"][-1] < history["admm_primal"][0]


def test_the_logs_tell_of_every_layer():
    model = two_layers()
    plan = plan_for(model, include=".*", rank=1)
    callback = ADMM(plan, log_layers=True, pull=(0.1, 0.5), every="epoch")
    history = fit(model, [callback], epochs=3)
    worst = [
        max(pair)
        for pair in zip(*(history[f"admm_primal/{path}"] for path in callback.history), strict=True)
    ]
    assert history["admm_worst"] == pytest.approx(worst)
    assert "admm_penalty" not in history
    rows = callback.history["first"]
    assert len(rows["size"]) == 3
    assert 0.1 < rows["pull"][0] < rows["pull"][-1] <= 0.5
    assert "|U|/|W|" in str(callback)


def test_a_pull_grows_geometrically_up_to_the_hard_phase():
    course = Course.checked((0.01, 1.0), None, 0.5, 1.0)
    assert course.pull_at("any", 0.0) == pytest.approx(0.01)
    assert course.pull_at("any", 0.25) == pytest.approx(0.1)
    assert course.pull_at("any", 0.5) == 0.0  # hard: nothing is pulled any more
    assert Course.checked({"conv": 0.2, ".*": (0.1, 0.1)}, None, 0.0, 1.0).pull_at("fc", 0.7) == 0.1


@pytest.mark.parametrize("rho", [None, 0.1])
def test_in_the_hard_phase_kernels_are_projections(rho):
    model = two_layers()
    callback = ADMM(plan_for(model), rho=rho, hard=0.5, hard_every=1)
    seen = []
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(kernel_of(model)))
    fit(model, [callback, look], epochs=4)
    target = callback._targets[0]

    def distance(kernel):
        return np.linalg.norm(kernel - project_kernel(kernel, target.network, target.modes))

    assert distance(seen[0]) > 1e-3
    assert max(distance(kernel) for kernel in seen[2:]) < 1e-5
    # It trains on: not the same kernel for ever.
    assert np.linalg.norm(seen[3] - seen[2]) > 1e-3
    small = compress_model(model, plan=callback.plan)
    x, _ = data()
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-4)


def test_ranks_come_down_to_those_of_the_plan():
    model = two_layers()
    callback = ADMM(plan_for(model, 1, "tt"), ranks_from=3.0, pull=0.5, every=1)
    ranks = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: ranks.append(max(callback._splittings[0].current.rank))
    )
    fit(model, [callback, look], epochs=6)
    assert ranks[0] == 3
    assert ranks == sorted(ranks, reverse=True)
    assert callback._splittings[0].current == callback._targets[0].network


def two_ranks(model, seed=0):
    """Kernels of rank 6 and of rank 1, not where the model's were."""
    random = np.random.default_rng(seed)
    kernels = []
    for name, rank in (("first", 6), ("second", 1)):
        kernel = model.get_layer(name).kernel
        rows, columns = kernel.shape
        wanted = random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns))
        kernel.assign(wanted / np.linalg.norm(wanted))
        kernels.append(kernel)
    return kernels


def test_ranks_are_found_in_training(tmp_path):
    """A budget is spent anew on the kernels as they are: here the one that needs ranks changes."""

    def model():
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(8, use_bias=False, name=n) for n in ("first", "second")]
        model = keras.Sequential([keras.Input((8,)), *layers])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        two_ranks(model)
        return model

    class Swap(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                first, second = (self.model.get_layer(n).kernel for n in ("first", "second"))
                one, two = (keras.ops.convert_to_numpy(kernel) for kernel in (first, second))
                first.assign(two), second.assign(one)

    choices = {"format": "tt", "params": 0.6, "exclude": (), "pull": 1e-6, "every": "epoch"}
    choices["overrides"] = None
    x, _ = data()

    def ranks(plan):
        return {row.path: None if row.format is None else np.max(row.rank) for row in plan}

    trained = model()
    callback = ADMM(**choices, replan=2, backup=tmp_path / "state")
    before = []
    note = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: before.append(ranks(callback.plan))
    )
    y = np.zeros((len(x), 8), "float32")
    trained.fit(x, y, epochs=4, verbose=0, callbacks=[Swap(), callback, note])
    after = ranks(callback.plan)
    assert before[0]["second"] < (before[0]["first"] or 8)
    assert after["first"] < (after["second"] or 8)
    # What the last plan leaves dense is not pulled, and what it compresses is.
    assert {splitting.path for splitting in callback._splittings} == {
        path for path, rank in after.items() if rank is not None
    }
    with pytest.raises(ValueError, match="`replan` chooses ranks anew"):
        ADMM(callback.plan, replan=2)


def test_without_a_dual_kernels_are_pulled_to_z():
    model = two_layers()
    callback = ADMM(plan_for(model), dual=False)
    fit(model, [callback], epochs=3)
    np.testing.assert_array_equal(callback._splittings[0].u, 0.0)
    np.testing.assert_array_equal(callback._splittings[0].target, callback._splittings[0].z)


def test_calibration_chooses_the_projection_with_the_nearest_outputs():
    model = two_layers(learning_rate=0.0)
    x, _ = data()
    x = x * np.geomspace(10.0, 0.1, 8).astype("float32")  # some inputs matter far more
    kernel = kernel_of(model)
    errors = {}
    for calibration in (None, x):
        callback = ADMM(plan_for(model, 1, "tt"), calibration_data=calibration, pull=1e-6)
        fit(model, [callback])
        z = callback._splittings[0].z
        centred = x - x.mean(0)  # a bias takes the mean out
        errors[calibration is None] = np.linalg.norm(centred @ (kernel - z))
    assert errors[False] < 0.7 * errors[True]


def test_a_dual_at_its_limit_is_told_once():
    model = two_layers(learning_rate=10.0, decay=0.0)
    model.compile(keras.optimizers.Adam(3.0), "mse")
    callback = ADMM(plan_for(model, 1, "tt"), rho=1e-6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, [callback], epochs=12)
    told = [
        str(one.message) for one in caught if "Training does not follow ADMM" in str(one.message)
    ]
    assert len(told) == 1
    assert "U of first" in told[0] and "`pull` instead of `rho`" in told[0]


@pytest.mark.parametrize("replan", [0, 2])
def test_an_interrupted_training_goes_on_where_it_was(tmp_path, replan):
    arguments = {"pull": (0.05, 0.5), "every": 3, "ranks_from": 2.0, "replan": replan}
    if replan:
        arguments |= {"format": "ttm", "params": 0.7, "exclude": ()}

    def admm(model, **backup):
        return ADMM(None if replan else plan_for(model), **arguments, **backup)

    whole = two_layers()
    fit(whole, [admm(whole)], epochs=4)

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def parts():
        model = two_layers()
        callback = admm(model, backup=tmp_path / "admm.npz")
        return model, [keras.callbacks.BackupAndRestore(tmp_path / "model"), callback]

    model, callbacks = parts()
    with pytest.raises(KeyboardInterrupt):
        fit(model, [*callbacks, Interrupt()], epochs=4)
    with pytest.raises(ValueError, match=r"already has an ADMM pull.*detach"):
        fit(model, [ADMM(plan_for(model))])
    callbacks[1].detach()
    assert "train_step" not in model.__dict__
    model, callbacks = parts()
    fit(model, callbacks, epochs=4)
    np.testing.assert_array_equal(kernel_of(model), kernel_of(whole))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"pull": 0.0}, ValueError, "`pull` must lie in"),
        ({"pull": (0.1, 2.0)}, ValueError, "`pull` must lie in"),
        ({"pull": (0.1, 0.2, 0.3)}, ValueError, r"is \(first, last\)"),
        ({"pull": "strong"}, TypeError, "`pull` must be a number"),
        ({"pull": {"a": -1}}, ValueError, "`pull` must lie in"),
        ({"pull": 0.1, "rho": 0.1}, ValueError, "give one of them"),
        ({"adaptive_rho": True}, ValueError, "`adaptive_rho` needs a `rho`"),
        ({"hard": 1.0}, ValueError, "`hard` is the share"),
        ({"hard": "late"}, TypeError, "`hard` must be a share"),
        ({"replan": -1}, ValueError, "`replan` must be at least 1"),
        ({"hard_every": 0}, ValueError, "`hard_every` must be at least 1"),
        ({"ranks_from": 0.5}, ValueError, "`ranks_from` is how many times"),
        ({"ranks_from": None}, TypeError, "`ranks_from` must be a number"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        ADMM(format="tt", rank=2, **arguments)


def test_a_kernel_without_a_pull_is_refused_before_training():
    model = two_layers()
    before = kernel_of(model)
    with pytest.raises(ValueError, match=r"needs a pull\. No pattern matches the layer 'first'"):
        fit(model, [ADMM(plan_for(model), pull={"conv": 0.1})])
    np.testing.assert_array_equal(kernel_of(model), before)


@pytest.mark.slow
def test_replicas_are_pulled_alike():
    if BACKEND != "tensorflow":
        pytest.skip("a strategy of TensorFlow")
    script = """
import tensorflow as tf
device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
import numpy as np
from keras_tensornet.training import ADMM
from tests.training.models import fit, plan_for, two_layers
kernels = []
for devices in (["/cpu:0"], ["/cpu:0", "/cpu:1"]):
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        model = two_layers(decay=0.0)
    fit(model, [ADMM(plan_for(model), pull=0.3, hard=0.3, hard_every=1)], epochs=3)
    copies = getattr(model.get_layer("first").kernel.value, "values", [])
    for copy in copies:
        np.testing.assert_array_equal(copy.numpy(), copies[0].numpy())
    kernels.append(model.get_layer("first").kernel.numpy())
np.testing.assert_allclose(kernels[0], kernels[1], atol=1e-5)
print("ALIKE")
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"),
        check=False,
    )
    assert "ALIKE" in run.stdout, run.stderr[-3000:]
