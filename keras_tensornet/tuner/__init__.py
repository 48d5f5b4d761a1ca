"""Searching formats, ranks, basis sizes and energy thresholds with KerasTuner.

    hypermodel = TensorNetHyperModel(model, objective=SizeObjective(params=0.1))
    tuner = keras_tuner.RandomSearch(hypermodel, hypermodel.objective, max_trials=12)
    tuner.search(x, y, validation_data=(x_val, y_val), epochs=3)
    print(pareto(tuner))

Any tuner of KerasTuner works, a user's own included. The package's `tuner` extra installs it.
"""

try:
    import keras_tuner as _keras_tuner  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"keras_tensornet.tuner needs KerasTuner, which could not be imported ({error}). Install "
        'it with: python -m pip install "keras-tensornet[tuner]"'
    ) from error

from keras_tensornet.tuner.front import ParetoFront, TrialResult, pareto
from keras_tensornet.tuner.hypermodel import TensorNetHyperModel
from keras_tensornet.tuner.objective import SizeObjective
from keras_tensornet.tuner.sizes import ModelSize
from keras_tensornet.tuner.space import stage_of

__all__ = [
    "ModelSize",
    "ParetoFront",
    "SizeObjective",
    "TensorNetHyperModel",
    "TrialResult",
    "pareto",
    "stage_of",
]
