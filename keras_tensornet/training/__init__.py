"""Training: fine-tuning compressed models, and ADMM towards low tensor rank."""

from keras_tensornet.training.admm import ADMM
from keras_tensornet.training.finetuning import finetune, gradual_compression
from keras_tensornet.training.pipeline import AdmmResult, Phase, admm_compress
from keras_tensornet.training.projection import project_kernel

__all__ = [
    "ADMM",
    "AdmmResult",
    "Phase",
    "admm_compress",
    "finetune",
    "gradual_compression",
    "project_kernel",
]
