"""Ready to serve: kernels merged once, plans chosen by measuring, and how time is measured."""

from keras_tensornet.serving.autotuning import apply_tuning, autotune
from keras_tensornet.serving.freezing import freeze, frozen, unfreeze
from keras_tensornet.serving.latency import measure_models
from keras_tensornet.serving.machine import MachineTuning, tune
from keras_tensornet.serving.measuring import Timing, measure

__all__ = [
    "MachineTuning",
    "Timing",
    "apply_tuning",
    "autotune",
    "freeze",
    "frozen",
    "measure",
    "measure_models",
    "tune",
    "unfreeze",
]
