"""Keras layers whose kernels are tensor networks."""

from keras_tensornet.layers.conv import FactorizedConv2D, TRConv2D, TTConv2D, TTMConv2D
from keras_tensornet.layers.dense import FactorizedDense, TRDense, TTDense
from keras_tensornet.layers.embedding import FactorizedEmbedding, TREmbedding, TTEmbedding
from keras_tensornet.layers.gated import (
    FactorizedGRUCell,
    FactorizedLSTMCell,
    TRGRUCell,
    TRLSTMCell,
    TTGRUCell,
    TTLSTMCell,
)
from keras_tensornet.layers.recurrent import (
    TRGRU,
    TRLSTM,
    TTGRU,
    TTLSTM,
    FactorizedGRU,
    FactorizedLSTM,
)
from keras_tensornet.layers.tbasis import TBasis, TBasisConv2D, TBasisCores, TBasisDense

__all__ = [
    "TRGRU",
    "TRLSTM",
    "TTGRU",
    "TTLSTM",
    "FactorizedConv2D",
    "FactorizedDense",
    "FactorizedEmbedding",
    "FactorizedGRU",
    "FactorizedGRUCell",
    "FactorizedLSTM",
    "FactorizedLSTMCell",
    "TBasis",
    "TBasisConv2D",
    "TBasisCores",
    "TBasisDense",
    "TRConv2D",
    "TRDense",
    "TREmbedding",
    "TRGRUCell",
    "TRLSTMCell",
    "TTConv2D",
    "TTDense",
    "TTEmbedding",
    "TTGRUCell",
    "TTLSTMCell",
    "TTMConv2D",
]
