"""Laws of the direction of a metric: known for all that Keras has, asked for where it is not."""

import inspect

import keras
import numpy as np
import pytest

pytest.importorskip("keras_tuner")

from keras_tensornet import tuner as tuning
from keras_tensornet.tuner.directions import direction_of

UNDIRECTED = {"Mean", "MeanMetricWrapper", "Metric", "Sum"}
ARGUMENTS = (
    {},
    {"num_classes": 2},
    {"num_classes": 2, "target_class_ids": [0]},
    {"target_class_ids": [0]},
    *({name: 0.9} for name in ("sensitivity", "specificity", "precision", "recall")),
    {"fn": lambda one, two: one},
)
GOOD = np.array([[0.99, 0.01], [0.02, 0.98], [0.97, 0.03], [0.01, 0.99]], "float32")
BAD, WORST = np.flip(GOOD, -1), np.roll(GOOD, 1, axis=0)
TRUE = np.eye(2, dtype="float32")[[0, 1, 0, 1]]


def made(kind):
    for arguments in ARGUMENTS:
        try:
            return kind(**arguments)
        except (TypeError, ValueError):
            continue
    raise AssertionError(f"no arguments for {kind.__name__}")


METRICS = {
    name: kind
    for name, kind in vars(keras.metrics).items()
    if inspect.isclass(kind) and issubclass(kind, keras.metrics.Metric)
}


@pytest.mark.parametrize("name", sorted(set(METRICS) - UNDIRECTED))
def test_every_metric_of_keras_has_the_direction_in_which_good_predictions_move_it(name):
    sparse = name.startswith("Sparse") or name in ("Accuracy", "IoU", "MeanIoU", "BinaryIoU")
    values = []
    for predicted in (GOOD, BAD):
        metric = made(METRICS[name])
        truth = TRUE.argmax(-1)[:, None] if sparse else TRUE
        if name in ("Accuracy", "IoU", "MeanIoU"):
            predicted = predicted.argmax(-1)[:, None]
        elif name == "BinaryIoU":
            predicted = predicted[:, 1:]
        elif "TopK" in name:
            metric = METRICS[name](k=1)
        metric.update_state(truth, predicted)
        values.append(float(np.mean(metric.result())))
    assert values[0] != values[1]
    expected = "max" if values[0] > values[1] else "min"
    for prefix, suffix in (("", ""), ("val_", ""), ("val_head_", "_1")):
        assert direction_of(f"{prefix}{metric.name}{suffix}") == expected


@pytest.mark.parametrize("name", ["val_mae", "MAE", "mse", "val_out_mape", "loss", "val_left_loss"])
def test_short_names(name):
    assert direction_of(name) == "min"


@pytest.mark.parametrize(
    "name", ["val_mean", "sum", "my_metric", "metric", "lossless", "positives"]
)
def test_what_is_not_known_is_asked_for(name):
    with pytest.raises(ValueError, match=f"Received: '{name}'.*direction='max'"):
        direction_of(name)
    assert direction_of(name, "min") == "min"
    with pytest.raises(ValueError, match="direction"):
        tuning.SizeObjective(metric=name)
    assert tuning.SizeObjective(metric=name, direction="max").direction == "max"


def test_an_objective_minimises_what_is_an_error():
    assert tuning.SizeObjective().direction == "max"
    assert tuning.SizeObjective(metric="val_mae").keras_objective.direction == "min"
