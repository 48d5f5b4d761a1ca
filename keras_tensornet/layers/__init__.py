"""Keras layers whose kernels are tensor networks."""

from keras_tensornet.layers.conv import FactorizedConv2D, TRConv2D, TTConv2D, TTMConv2D
from keras_tensornet.layers.dense import FactorizedDense, TRDense, TTDense
from keras_tensornet.layers.tbasis import TBasis, TBasisConv2D, TBasisCores, TBasisDense

__all__ = [
    "FactorizedConv2D",
    "FactorizedDense",
    "TBasis",
    "TBasisConv2D",
    "TBasisCores",
    "TBasisDense",
    "TRConv2D",
    "TRDense",
    "TTConv2D",
    "TTDense",
    "TTMConv2D",
]
