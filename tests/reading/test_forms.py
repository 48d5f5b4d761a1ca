"""Laws of the reader: every form of the same examples gives the same batches and statistics."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_tensornet.compression.covariance import patch_moments
from keras_tensornet.compression.normalisation import reestimate_batch_norm
from keras_tensornet.reading import Batch, read_examples, read_inputs, sources
from keras_tensornet.training import finetune

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(7, 4)).astype("float32") * np.geomspace(1, 30, 7, dtype="float32")[:, None]
Y = RANDOM.integers(0, 3, 7)
W = np.linspace(0.5, 2.0, 7, dtype="float32")
CUTS = [slice(0, 2), slice(2, 3), slice(3, 7)]


class Dataset(keras.utils.PyDataset):
    """Batches of unequal size."""

    def __init__(self, parts):
        super().__init__()
        self.entries = parts

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, index):
        return self.entries[index]


class Loader:
    """Batches as lists, as PyTorch's DataLoader gives them; without a length."""

    def __init__(self, parts):
        self.entries = parts

    def __iter__(self):
        return ([*entry] for entry in self.entries)


class Frame:
    """What is read of a table of pandas."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def to_numpy(self):
        return self.values


def parts(*arrays):
    return [tuple(array[cut] for array in arrays) for cut in CUTS]


def tf_data(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0])


# Inputs alone, and inputs of which targets and weights are left out.
INPUTS = {
    "array": lambda: X,
    "float64": lambda: X.astype("float64"),
    "tensor": lambda: tf.constant(X),
    "variable": lambda: tf.Variable(X),
    "table": lambda: Frame(X),
    "by name": lambda: {"x": X, "something else": Y},
    "in a list": lambda: [X],
    "list of arrays": lambda: [X[cut] for cut in CUTS],
    "list of examples": lambda: list(X),
    "tuple of arrays": lambda: tuple(X[cut] for cut in CUTS),
    "list of tuples": lambda: [(X[:2], 0), (X[2:], 0)],
    "list of dicts": lambda: [{"x": X[cut]} for cut in CUTS],
    "tf.data": lambda: tf_data(X).batch(3),
    "tf.data of dicts": lambda: tf.data.Dataset.from_tensor_slices({"x": X, "y": Y}).batch(2),
    "tf.data, not batched": lambda: tf_data(X),
    "tf.data without a length": lambda: tf_data(X).batch(2).filter(lambda x: True),
    "generator": lambda: (X[cut] for cut in CUTS),
    "generator of examples": lambda: (row for row in X),
    "PyDataset": lambda: Dataset([X[cut] for cut in CUTS]),
    "loader": lambda: Loader([(X[cut],) for cut in CUTS]),
}
EXAMPLES = {
    "(x, y)": lambda: (X, Y),
    "[x, y]": lambda: [X, Y],
    "(x, y, w)": lambda: (X, Y, W),
    "[x, y, w]": lambda: [X, Y, W],
    "tables": lambda: (Frame(X), Frame(Y)),
    "list of (x, y)": lambda: parts(X, Y),
    "list of [x, y]": lambda: [list(part) for part in parts(X, Y)],
    "list of (x, y, w)": lambda: parts(X, Y, W),
    "tf.data of (x, y)": lambda: tf_data(X, Y).batch(4),
    "tf.data of (x, y, w)": lambda: tf_data(X, Y, W).batch(3),
    "tf.data of (x, y), not batched": lambda: tf_data(X, Y),
    "generator of (x, y)": lambda: iter(parts(X, Y)),
    "generator of (x, y, w)": lambda: (part for part in parts(X, Y, W)),
    "PyDataset of (x, y)": lambda: Dataset(parts(X, Y)),
    "PyDataset of (x, y, w)": lambda: Dataset(parts(X, Y, W)),
    "loader of [x, y]": lambda: Loader(parts(X, Y)),
}


def classifier(batch=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(batch_shape=(batch, 4), name="x")
    x = layers.Dense(5, name="hidden")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)  # nothing is traced for two steps
    return model


@pytest.fixture(scope="module")
def model():
    return classifier()


def two_inputs(structure=dict):
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    outputs = layers.Dense(3)(layers.Concatenate(name="join")([a, b]))
    return keras.Model({"a": a, "b": b} if structure is dict else [a, b], outputs)


@pytest.fixture(scope="module")
def normalised(model):
    return reestimate_batch_norm(model, X, batch_size=5).get_layer("norm")


@pytest.mark.parametrize("form", [*INPUTS, *EXAMPLES])
def test_every_form_gives_the_same_statistics(form, model, normalised):
    data = {**INPUTS, **EXAMPLES}[form]
    gram, mean = patch_moments(model, ["hidden"], data(), batch_size=3)["hidden"]
    np.testing.assert_allclose(gram[0], X.T.astype("float64") @ X / 7, rtol=1e-5)
    np.testing.assert_allclose(mean[0], X.mean(0), rtol=1e-5)
    found = reestimate_batch_norm(model, data(), batch_size=5).get_layer("norm")
    np.testing.assert_array_equal(found.moving_variance, normalised.moving_variance)
    np.testing.assert_array_equal(found.moving_mean, normalised.moving_mean)


@pytest.mark.parametrize("form", EXAMPLES)
def test_every_form_gives_the_same_examples_as_often_as_they_are_read(form, model):
    batches = read_examples(model, EXAMPLES[form](), 3)
    for _ in range(2):
        found = list(batches)
        assert [len(batch.x) for batch in found] == [3, 3, 1] and len(batches) == 3
        np.testing.assert_array_equal(np.concatenate([batch.x for batch in found]), X)
        np.testing.assert_array_equal(np.concatenate([batch.y for batch in found]), Y)
        if "w)" in form or "w]" in form:
            np.testing.assert_array_equal(np.concatenate([b.sample_weight for b in found]), W)
        else:
            assert all(batch.sample_weight is None for batch in found)
    assert len(batches.first(2).x) == 2 and batches.count == 7


@pytest.mark.parametrize("form", EXAMPLES)
def test_finetuning_takes_every_form_that_fit_takes(form, model):
    """One step an epoch over all examples, so that their order does not count."""
    data, settings = EXAMPLES[form], {"batch_size": 7, "epochs": 2}
    weights = (W,) if "w)" in form or "w]" in form else ()
    whole = finetune(model, (X, Y, *weights), **settings)
    found = finetune(model, data(), validation_data=data(), **settings)
    assert len(found.history.history["val_loss"]) == 2
    as_given = form.startswith(("tf.data", "PyDataset", "loader")) and "not batched" not in form
    if as_given:  # `fit` takes these in the batches that they have
        return
    for mine, its in zip(found.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("structure", [dict, list])
def test_models_of_several_inputs(structure):
    model = two_inputs(structure)
    b = X[:, 2:]
    forms = {
        "dict": {"a": X, "b": b},
        "list": [X, b],
        "tuple": (X, b),
        "(x, y)": ([X, b], Y),
        "({}, y, w)": ({"b": b, "a": X}, Y, W),
        "list of batches": [[X[cut], b[cut]] for cut in CUTS],
        "list of two batches": [[X[:3], b[:3]], [X[3:], b[3:]]],
        "list of (x, y)": [((X[cut], b[cut]), Y[cut]) for cut in CUTS],
        "list of dicts": [{"a": X[cut], "b": b[cut]} for cut in CUTS],
        "tf.data": tf.data.Dataset.from_tensor_slices(({"a": X, "b": b}, Y)).batch(2),
        "tf.data of tuples": tf.data.Dataset.from_tensor_slices((X, b)).batch(2),
        "generator of examples": ({"a": X[row], "b": b[row]} for row in range(7)),
    }
    for name, data in forms.items():
        batches = read_inputs(model, data, 4)
        found = [keras.tree.flatten(x) for x in batches.inputs()]
        np.testing.assert_array_equal(np.concatenate([a for a, _ in found]), X, err_msg=name)
        np.testing.assert_array_equal(np.concatenate([b for _, b in found]), b, err_msg=name)
        assert model(next(batches.inputs())).shape == (4, 3)


def test_nested_targets_keep_their_structure():
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, {"one": layers.Dense(1)(inputs), "two": layers.Dense(2)(inputs)})
    targets = {"one": Y[:, None], "two": X[:, :2]}
    for data in ((X, targets), [(X[:3], {k: v[:3] for k, v in targets.items()}),
                                (X[3:], {k: v[3:] for k, v in targets.items()})]):  # fmt: skip
        batch = read_examples(model, data, 2).arrays()
        assert isinstance(batch, Batch) and set(batch.y) == {"one", "two"}
        np.testing.assert_array_equal(batch.y["two"], X[:, :2])


def test_models_of_fixed_batch_size_get_batches_of_it():
    model = classifier(batch=3)
    for form in ("array", "list of arrays", "generator", "tf.data", "list of examples"):
        with pytest.warns(UserWarning, match=r"batches of 3; the last 1 examples of `data` are"):
            sizes = [len(x) for x in read_inputs(model, INPUTS[form](), 64).inputs()]
        assert sizes == [3, 3]
        with pytest.warns(UserWarning, match="left out"):
            gram, _ = patch_moments(model, ["hidden"], INPUTS[form]())["hidden"]
        np.testing.assert_allclose(gram[0], X[:6].T @ X[:6] / 6, rtol=1e-4)
    for form in ("(x, y)", "tf.data of (x, y)", "generator of (x, y, w)"):
        with pytest.warns(UserWarning, match="left out"):
            tuned = finetune(model, EXAMPLES[form](), epochs=2, validation_data=(X[:3], Y[:3]))
        assert len(tuned.history.history["loss"]) == 2
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="at least 3 examples, the batch size"),
    ):
        list(read_inputs(model, X[:2]))


def test_two_batches_of_equal_length_in_a_list_are_batches_and_no_targets(model):
    (found,) = read_inputs(model, [X[:3], X[3:6]], 64).inputs()
    np.testing.assert_array_equal(found, X[:6])


def test_shapes_and_types_are_those_that_keras_makes_of_them():
    images = RANDOM.integers(0, 255, (5, 6, 6)).astype("uint8")
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(2)])
    for data in (images, images[..., None], list(images), tf_data(images).batch(2)):
        (found,) = read_inputs(model, data, 8).inputs()
        assert found.shape == (5, 6, 6, 1) and found.dtype == "float32"
    tokens = keras.Sequential([keras.Input((None,), dtype="int32"), layers.Embedding(9, 2)])
    lengths = [x.shape for x in read_inputs(tokens, [np.ones((2, 3)), np.ones((3, 5))]).inputs()]
    assert lengths == [(2, 3), (3, 5)]
    with pytest.raises(ValueError, match="whole numbers"):
        list(read_inputs(tokens, np.full((2, 3), 0.5)))
    words = keras.Input((), dtype="string", name="text")
    lookup = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
    text = keras.Model(words, layers.Dense(2, name="dense")(lookup(words)))
    for data in (np.array(["a", "b", "c"]), tf.constant(["a", "b", "c"]), ["a", "b", "c"]):
        gram, _ = patch_moments(text, ["dense"], data)["dense"]
        np.testing.assert_allclose(np.diag(gram[0]), [1 / 3, 1 / 3, 1 / 3], rtol=1e-5)
    with pytest.raises(ValueError, match="takes float32, not text"):
        list(read_inputs(classifier(), np.full((2, 4), "a")))


@pytest.mark.parametrize(
    "data, words",
    [
        (lambda: X[:, :3], r"input 'x' takes \(batch, 4\), not \(7, 3\)"),
        (lambda: X[0], r"one example needs a batch axis, x\[None\]"),
        (lambda: {"y": X}, "it has no 'x'"),
        (lambda: [], "it is empty"),
        (lambda: iter([]), "can be read once only: make a new one"),
        (lambda: tf_data(X).take(0), "it gives no batch"),
        (lambda: np.zeros((0, 4)), "at least one batch. Received: none"),
        (lambda: tf_data(X).batch(2).repeat(), "has no end"),
        (lambda: (X, 2 * X), "it can be read as .* and as batches. Give the inputs alone"),
        (lambda: [[X, 2 * X], [X, X]], "a list of inputs within a list"),
        (lambda: [X, X[0]], "some entries are batches and some single examples"),
        (lambda: (X, Y, W, W), "entry 1: input 'x' takes"),
        (lambda: [X, np.zeros((2, 5))], r"entry 1: input 'x' takes \(batch, 4\), not \(2, 5\)"),
        (lambda: iter([X, X[:, :2]]), r"element 1: input 'x' takes \(batch, 4\), not \(7, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(data, words, model):
    with pytest.raises(ValueError, match=words):
        list(read_inputs(model, data()))


@pytest.mark.parametrize("data", [None, "images", 3, lambda: iter([X]), object()])
def test_what_is_no_data_is_refused_in_words(data, model):
    with pytest.raises(TypeError, match="`calibration_data` must be arrays, batches in a list"):
        read_inputs(model, data, name="calibration_data")


def test_targets_are_asked_for(model):
    for data in (X, {"x": X}, [X, X[:2]], tf_data(X).batch(2), iter([X]), (X, None)):
        with pytest.raises(ValueError, match="targets"):
            read_examples(model, data)
    with pytest.raises(ValueError, match="need 7 rows"):
        read_examples(model, (X, Y[:3]))
    with pytest.raises(ValueError, match="no targets: it was read by `read_inputs`"):
        read_examples(model, read_inputs(model, X))


def test_an_ambiguous_axis_is_refused():
    model = keras.Sequential([keras.Input((None, 1)), layers.Conv1D(2, 1)])
    with pytest.raises(ValueError, match="a batch without its last axis or one example"):
        read_inputs(model, iter([np.zeros((5, 1))]))
    assert next(read_inputs(model, np.zeros((5, 1))).inputs()).shape == (5, 1, 1)


def test_iterators_are_kept_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(sources, "MOST_KEPT", 300)
    endless = (X for _ in range(sys.maxsize))
    with pytest.raises(ValueError, match=r"never ends\). Give arrays, .* itertools.islice"):
        list(read_inputs(classifier(), endless))
    steps = finetune(classifier(), ((X, Y) for _ in range(sys.maxsize)), 2, steps_per_epoch=3)
    assert int(steps.optimizer.iterations) == 6


def test_shuffles_and_splits_follow_the_seed_and_lose_nothing():
    for data in (EXAMPLES["(x, y, w)"](), EXAMPLES["generator of (x, y, w)"]()):
        batches = read_examples(classifier(), data, 3)
        mixed = [batches.shuffled(seed).arrays() for seed in (0, 0, 1)]
        np.testing.assert_array_equal(mixed[0].x, mixed[1].x)
        assert not np.array_equal(mixed[0].x, mixed[2].x)
        rest, held = batches.split(0.3, seed=4)
        assert (rest.count, held.count) == (5, 2)
        for part in (mixed[0], rest.arrays(), held.shuffled(2).arrays()):
            rows = [int(np.flatnonzero((row == X).all(1))[0]) for row in part.x]
            np.testing.assert_array_equal(part.y, Y[rows])
            np.testing.assert_array_equal(part.sample_weight, W[rows])
        np.testing.assert_array_equal(
            np.sort(held.shuffled(2).arrays().x, 0), np.sort(held.arrays().x, 0)
        )
        together = np.concatenate([rest.arrays().x, held.arrays().x])
        np.testing.assert_array_equal(np.sort(together, 0), np.sort(X, 0))


def test_a_check_sees_all_inputs():
    seen = []
    batches = read_inputs(
        classifier(), X, 4, check=lambda name, array: seen.append((name, len(array)))
    )
    list(batches)
    assert seen == [("x", 4), ("x", 3)]
