"""The way back: models of dense or stock Keras layers."""

from keras_tensornet.back_to_keras.dense import to_dense_model, to_stock_model

__all__ = ["to_dense_model", "to_stock_model"]
