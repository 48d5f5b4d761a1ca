"""Conversions to and from other libraries; each is imported where it is used, not before."""

from keras_tensornet.interop.t3f import from_t3f, to_t3f

__all__ = ["from_t3f", "to_t3f"]
