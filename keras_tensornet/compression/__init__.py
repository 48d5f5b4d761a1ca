"""Turn a trained Keras model into a smaller one."""

from keras_tensornet.compression.walker import rewrite_model, walk_layers

__all__ = ["rewrite_model", "walk_layers"]
