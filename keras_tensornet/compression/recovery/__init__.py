"""Recovery without labels: a compressed network learns from the dense one that it was made of."""

from keras_tensornet.compression.recovery.recovering import check_recovery, recover, recovered
from keras_tensornet.compression.recovery.run import Recovery
from keras_tensornet.compression.recovery.settings import RecoverySettings

__all__ = ["Recovery", "RecoverySettings", "check_recovery", "recover", "recovered"]
