"""Turn a trained Keras model into a smaller one."""

from keras_tensornet.compression.calibration import Calibration, calibrate
from keras_tensornet.compression.compress import compress_model
from keras_tensornet.compression.normalisation import reestimate_batch_norm
from keras_tensornet.compression.planning import plan_compression
from keras_tensornet.compression.plans import CompressionPlan, LayerChoice
from keras_tensornet.compression.recovery import Recovery, RecoverySettings, recover

__all__ = [
    "Calibration",
    "CompressionPlan",
    "LayerChoice",
    "Recovery",
    "RecoverySettings",
    "calibrate",
    "compress_model",
    "plan_compression",
    "recover",
    "reestimate_batch_norm",
]
