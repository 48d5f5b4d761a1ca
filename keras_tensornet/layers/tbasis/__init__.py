"""T-Basis layers: one basis shared by the kernels of a whole network (Obukhov et al. 2020)."""

from keras_tensornet.layers.tbasis.basis import TBasis
from keras_tensornet.layers.tbasis.conv import TBasisConv2D
from keras_tensornet.layers.tbasis.cores import TBasisCores
from keras_tensornet.layers.tbasis.dense import TBasisDense

__all__ = ["TBasis", "TBasisConv2D", "TBasisCores", "TBasisDense"]
