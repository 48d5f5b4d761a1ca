"""Training towards low tensor rank: ADMM as a Keras callback, and its three phases as one call."""

from keras_tensornet.training.admm import ADMM
from keras_tensornet.training.pipeline import AdmmResult, Phase, admm_compress
from keras_tensornet.training.projection import project_kernel

__all__ = ["ADMM", "AdmmResult", "Phase", "admm_compress", "project_kernel"]
