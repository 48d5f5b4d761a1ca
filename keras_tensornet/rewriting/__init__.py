"""Walk over models, and build them again with some layers replaced."""

from keras_tensornet.rewriting.walker import rewrite_model, walk_layers

__all__ = ["rewrite_model", "walk_layers"]
