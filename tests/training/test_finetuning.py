"""Laws of fine-tuning: a copy is trained by the schedule, and towards a teacher if asked."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_tensornet.compression import compress_model
from keras_tensornet.training import finetune, gradual_compression
from tests.rewriting.test_walker import weights_of

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((96, 20)).astype("float32")
Y = (X @ RANDOM.standard_normal((20, 3))).argmax(1)


def classifier(activation=None, compiled=True):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            layers.Input((20,)),
            layers.Dense(24, "relu", name="hidden"),
            layers.Dense(3, activation, name="head"),
        ]
    )
    if compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)
        model.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def trained():
    model = classifier()
    model.fit(X, Y, epochs=30, verbose=0)
    return model


def test_finetuning_repairs_a_copy_and_leaves_the_model(trained):
    small = compress_model(trained, rank=3)
    before = weights_of(small)
    result = finetune(small, (X, Y), epochs=8, learning_rate=0.05, batch_size=32)
    for (_, old), (_, now) in zip(before, weights_of(small), strict=True):
        np.testing.assert_array_equal(old, now)
    accuracy = [m.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"] for m in (small, result)]
    assert accuracy[1] > accuracy[0]
    assert len(result.history.history["loss"]) == 8
    assert type(result.get_layer("hidden")) is type(small.get_layer("hidden"))


def test_the_schedule_warms_up_and_ends_at_zero(trained):
    result = finetune(trained, (X, Y), epochs=2, learning_rate=0.3, batch_size=4)
    schedule = result.optimizer._learning_rate
    rates = [float(schedule(step)) for step in range(49)]
    assert max(rates) == pytest.approx(0.3, rel=0.01) and rates.index(max(rates)) <= 3
    assert rates[0] < 0.1 and rates[-1] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_distillation_follows_the_teacher_where_targets_are_useless(activation):
    teacher = classifier(activation)
    teacher.fit(X, Y, epochs=30, verbose=0)
    small = compress_model(teacher, rank=3)
    noise = RANDOM.integers(0, 3, len(Y))
    labels = teacher.predict(X, verbose=0).argmax(1)
    before = weights_of(teacher)

    def agreement(weight):
        result = finetune(small, (X, noise), epochs=10, learning_rate=0.05, batch_size=32,
                          teacher=teacher, distillation=weight)  # fmt: skip
        return np.mean(result.predict(X, verbose=0).argmax(1) == labels)

    assert agreement(1.0) > agreement(0.0) + 0.1
    for (_, old), (_, now) in zip(before, weights_of(teacher), strict=True):
        np.testing.assert_array_equal(old, now)
    assert teacher.trainable


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_the_loss_of_distillation_is_that_of_hinton(activation, temperature):
    """T^2 KL(teacher || student) of softened outputs: its gradient is of one size for every T."""
    teacher, student = classifier(activation), classifier(activation)
    student.layers[0].kernel.assign(0.3 * RANDOM.standard_normal((20, 24)))
    settings = {"distillation": 0.75, "temperature": temperature, "learning_rate": 1e-9}
    trained = finetune(student, (X, Y), epochs=1, batch_size=96, teacher=teacher, **settings)
    found = trained.history.history["loss"][0]

    def logits(model):
        outputs = model.predict(X, verbose=0).astype("float64")
        return outputs if activation is None else np.log(outputs)

    def softened(model, by):
        powers = np.exp(logits(model) / by)
        return powers / powers.sum(1, keepdims=True)

    wanted, have = softened(teacher, temperature), softened(student, temperature)
    distance = temperature**2 * np.mean(np.sum(wanted * np.log(wanted / have), axis=1))
    own = -np.mean(np.log(softened(student, 1.0)[np.arange(96), Y]))
    assert distance > 0.1
    assert found == pytest.approx(0.25 * own + 0.75 * distance, rel=1e-4)


def test_gradual_compression_goes_through_all_rounds(trained):
    sizes = []
    result = gradual_compression(
        trained,
        (X, Y),
        stages=[{"params": 0.8}, {"params": 0.5}],
        on_stage=lambda number, model: sizes.append((number, model.count_params())),
        epochs=2,
        batch_size=32,
        calibration_data=X,
    )
    dense = trained.count_params()
    assert [number for number, _ in sizes] == [0, 1]
    assert 0.8 * dense >= sizes[0][1] > sizes[1][1] and sizes[1][1] <= 0.5 * dense
    assert result.count_params() == sizes[1][1] and result.compiled


def test_wrong_arguments_are_named():
    bare = classifier(compiled=False)
    with pytest.raises(ValueError, match="needs a loss"):
        finetune(bare, (X, Y))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    result = finetune(bare, (X, Y), epochs=1, loss=loss, metrics=["accuracy"])
    assert "accuracy" in result.history.history
    with pytest.raises(ValueError, match="`data` has no end"):
        finetune(classifier(), tf.data.Dataset.from_tensors((X, Y)).repeat())
    with pytest.raises(ValueError, match="`stages` must hold"):
        gradual_compression(classifier(), (X, Y), stages=[])
    with pytest.raises(ValueError, match="`distillation` must lie"):
        finetune(classifier(), (X, Y), teacher=classifier(), distillation=2.0)


def test_a_teacher_is_followed_in_every_output_that_is_a_float():
    keras.utils.set_random_seed(0)
    inputs = layers.Input((20,))
    hidden = layers.Dense(24, "relu", name="hidden")(inputs)
    outputs = {
        "classes": layers.Dense(3, "softmax", name="classes")(hidden),
        "tags": layers.Dense(2, "sigmoid", name="tags")(hidden),
        "place": keras.ops.argmax(hidden, axis=-1),
    }
    teacher = keras.Model(inputs, outputs)
    small = compress_model(teacher, rank=2, exclude=())
    targets = {"classes": Y, "tags": np.zeros((len(Y), 2)), "place": np.zeros(len(Y), "int32")}
    losses = {"classes": "sparse_categorical_crossentropy", "tags": "mse", "place": None}
    result = finetune(small, (X, targets), epochs=40, learning_rate=0.1, batch_size=32,
                      teacher=teacher, distillation=1.0, loss=losses)  # fmt: skip
    wanted = teacher.predict(X, verbose=0)
    for name in ("classes", "tags"):
        before, after = (
            np.square(model.predict(X, verbose=0)[name] - wanted[name]).mean()
            for model in (small, result)
        )
        assert after < 0.7 * before


@pytest.mark.parametrize("steps", [None, 3])
def test_a_teacher_takes_nothing_from_an_iterator(trained, steps):
    seen = []

    def batches():
        for start in range(0, 96, 32):
            seen.append(start)
            yield X[start : start + 32], Y[start : start + 32]

    settings = {
        "epochs": 1,
        "batch_size": 32,
        "teacher": trained,
        "loss": trained.loss,
        "steps_per_epoch": steps,
    }
    once = finetune(compress_model(trained, rank=3), batches(), **settings)
    again = finetune(compress_model(trained, rank=3), list(batches()), **settings)
    assert sorted(seen) == sorted(2 * [0, 32, 64])
    for (_, first), (_, second) in zip(weights_of(once), weights_of(again), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)
