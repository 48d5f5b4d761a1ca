"""Which way a metric is better, by the name that `fit` logs it under."""

from __future__ import annotations

import re

from keras_tensornet import validation

DIRECTIONS = ("max", "min")
# Names that Keras gives its metrics and losses, and short forms that `compile` takes. Several that
# share an ending are one entry: "accuracy" stands for "binary_accuracy" and so on.
KNOWN = {
    "max": (
        *("accuracy", "acc", "auc", "precision", "recall", "true_positives", "true_negatives"),
        *("precision_at_recall", "recall_at_precision", "sensitivity_at_specificity"),
        *("specificity_at_sensitivity", "f1_score", "fbeta_score", "r2_score", "io_u", "iou"),
        *("cosine_similarity", "pearson_correlation", "concordance_correlation"),
        *("score", "compression_ratio"),
    ),
    "min": (
        *(
            "loss",
            "error",
            "mse",
            "mae",
            "mape",
            "msle",
            "rmse",
            "crossentropy",
            "hinge",
            "poisson",
        ),
        *("kl_divergence", "kullback_leibler_divergence", "kld", "log_cosh", "logcosh"),
        *("false_positives", "false_negatives", "bce", "perplexity", "mean_squared_error"),
        *("params", "flops", "latency"),
        *("mean_absolute_percentage_error", "mean_squared_logarithmic_error"),
    ),
}


def direction_of(metric: str, direction: str | None = None) -> str:
    """ "max" or "min" for a metric: as given, or as its name says.

    Args:
        metric: such as "val_accuracy", "val_head_mae" or "auc_1": "val_", the name of an output
            and a number are what Keras adds.
        direction: None to go by the name.

    Raises:
        ValueError: if nothing is given and the name says nothing.
    """
    if direction is not None:
        return validation.one_of("direction", direction, DIRECTIONS)
    name = re.sub(r"(_\d+)+$", "", metric.lower().removeprefix("val_"))
    ends = {
        known: way
        for way, names in KNOWN.items()
        for known in names
        if name == known or name.endswith(f"_{known}")
    }
    if not ends:
        raise ValueError(
            f"Whether more or less of a metric is better must be known. Received: {metric!r}, "
            "whose name does not say. Give direction='max' or direction='min'."
        )
    return ends[max(ends, key=len)]
