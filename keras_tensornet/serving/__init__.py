"""Ready to serve: kernels merged once, plans chosen by measuring."""

from keras_tensornet.serving.autotuning import apply_tuning, autotune
from keras_tensornet.serving.freezing import freeze, unfreeze

__all__ = ["apply_tuning", "autotune", "freeze", "unfreeze"]
