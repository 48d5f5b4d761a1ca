"""The way back: models of dense or stock Keras layers."""

from keras_tensornet.back_to_keras.dense import to_dense_model, to_stock_model
from keras_tensornet.back_to_keras.folding import fold_batch_norm

__all__ = ["fold_batch_norm", "to_dense_model", "to_stock_model"]
