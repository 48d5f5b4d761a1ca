"""Laws of the search for the smallest model: it keeps what it must, in ten trials, and says how."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_tensornet.compression import compress_model
from keras_tensornet.compression.choosing.budgets import BudgetTooSmall
from keras_tensornet.compression.smallest import drop_of, find_smallest

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((120, 12)).astype("float32")


class Sized:
    """Stands for a model of so many parameters."""

    def __init__(self, params, trained=False):
        self.params, self.trained = params, trained

    def count_params(self):
        return self.params


def search(needed, least=0.0, improve=None, max_drop=0.01):
    """Search where a share below `needed` loses too much, and one below `least` is not possible."""

    def compress(share):
        if share < least:
            raise BudgetTooSmall("too small")
        return Sized(int(1000 * share))

    def drop(model):
        return 0.0 if model.params >= 1000 * needed * (0.5 if model.trained else 1.0) else 0.5

    return find_smallest(Sized(1000), compress, improve, drop, "accuracy", max_drop)


@pytest.mark.parametrize("needed", [0.03, 0.2, 0.25, 0.6, 0.93])
@pytest.mark.parametrize("least", [0.0, 0.1])
def test_the_smallest_is_found_within_ten_trials(needed, least):
    found = search(needed, least)
    tried = found.search.trials
    assert len(tried) <= 10
    wanted = max(needed, least)
    assert 1000 * needed - 1 <= found.params <= 1000 * wanted * 1.08 + 1
    assert found.search.best.params == found.params
    text = str(found.search)
    assert "<- smallest" in text and ("no ranks are that small" in text) == (least > needed)


def test_training_is_only_done_where_it_is_needed_and_makes_it_smaller():
    trained = []

    def improve(model):
        trained.append(model.params)
        return Sized(model.params, trained=True)

    plain, better = search(0.4), search(0.4, improve=improve)
    assert better.params < 0.6 * plain.params and better.trained
    assert all(params < 400 for params in trained)
    assert {trial.recovered for trial in better.search.trials} == {True, False} or trained


def test_where_nothing_is_kept_the_table_is_in_the_error():
    with pytest.raises(ValueError, match=r"(?s)None of the 7 sizes .*Allow more.*too much"):
        search(1.5)


def classifier():
    keras.utils.set_random_seed(0)
    inputs = layers.Input((12,))
    x = layers.Dense(32, "relu", name="one")(inputs)
    x = layers.Dense(32, "relu", name="two")(x)
    return keras.Model(inputs, layers.Dense(3, "softmax", name="head")(x))


def test_labels_agreement_errors_and_functions_are_measured():
    model = classifier()
    other = classifier()
    other.set_weights([w + 0.05 * RANDOM.standard_normal(w.shape) for w in model.get_weights()])
    classes = model.predict(X, verbose=0).argmax(-1)
    share = float(np.mean(other.predict(X, verbose=0).argmax(-1) != classes))
    assert 0 < share < 1
    for labels in (classes, classes[:, None], np.eye(3)[classes]):
        drop, measure = drop_of(model, (X, labels))
        assert measure == "accuracy" and drop(model) == 0 and drop(other) == pytest.approx(share)
    drop, measure = drop_of(model, X)
    assert "agreement" in measure and drop(other) == pytest.approx(share)
    features = keras.Model(model.inputs, model.get_layer("two").output)
    others = keras.Model(other.inputs, other.get_layer("two").output)
    drop, measure = drop_of(features, X)
    assert "relative error" in measure and drop(features) == 0 and 0 < drop(others) < 1
    drop, measure = drop_of(model, lambda m: 3.0 if m is model else 1.0)
    assert (drop(other), measure) == (2.0, "the score")
    with pytest.raises(ValueError, match="takes class numbers or one-hot"):
        drop_of(model, (X, RANDOM.standard_normal((120, 2))))
    with pytest.raises(TypeError, match="must return a number"):
        drop_of(model, lambda m: "good")


def test_compress_model_takes_what_may_be_lost():
    model = classifier()
    small = compress_model(model, "tt", max_drop=0.1, calibration_data=X, recover=False)
    assert small.search.best.params == small.count_params() < model.count_params()
    assert small.search.best.drop <= 0.1
    with pytest.raises(ValueError, match=r"`max_drop` chooses the size.*max_drop and rank"):
        compress_model(model, "tt", rank=2, max_drop=0.1, calibration_data=X)
    with pytest.raises(ValueError, match="needs something to measure on"):
        compress_model(model, "tt", max_drop=0.1)
    with pytest.raises(ValueError, match="`validation_data` is for `max_drop`"):
        compress_model(model, "tt", rank=2, validation_data=X)
    with pytest.raises(ValueError, match="`max_drop` must be at least 0"):
        compress_model(model, "tt", max_drop=-1, calibration_data=X)
