"""Turn a trained Keras model into a smaller one."""

from keras_tensornet.compression.calibration import Calibration, calibrate
from keras_tensornet.compression.compress import compress_model
from keras_tensornet.compression.normalisation import reestimate_batch_norm
from keras_tensornet.compression.planning import plan_compression
from keras_tensornet.compression.plans import CompressionPlan, LayerChoice

__all__ = [
    "Calibration",
    "CompressionPlan",
    "LayerChoice",
    "calibrate",
    "compress_model",
    "plan_compression",
    "reestimate_batch_norm",
]
