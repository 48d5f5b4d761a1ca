"""Turn a trained Keras model into a smaller one."""

from keras_tensornet.compression.calibration import Calibration, calibrate
from keras_tensornet.compression.compress import compress_model
from keras_tensornet.compression.conversion import to_dense_model, to_stock_model
from keras_tensornet.compression.finetuning import finetune, gradual_compression
from keras_tensornet.compression.normalisation import reestimate_batch_norm
from keras_tensornet.compression.planning import plan_compression
from keras_tensornet.compression.plans import CompressionPlan, LayerChoice
from keras_tensornet.compression.walker import rewrite_model, walk_layers

__all__ = [
    "Calibration",
    "CompressionPlan",
    "LayerChoice",
    "calibrate",
    "compress_model",
    "finetune",
    "gradual_compression",
    "plan_compression",
    "reestimate_batch_norm",
    "rewrite_model",
    "to_dense_model",
    "to_stock_model",
    "walk_layers",
]
