"""Tensor-network compressed layers for Keras 3.

`keras_tensornet.layers` holds the layers (`TRDense`, `TRConv2D`, `TTDense`, `TTConv2D`, ...),
`keras_tensornet.initializers` the initializer of merged kernels, `merge` the compiled merge of
cores, `Network` a tensor network of your own.
"""

from keras_tensornet import decompositions, initializers, layers, models
from keras_tensornet.compiled import merge
from keras_tensornet.networks import Network

__version__ = "0.1.0"

__all__ = ["Network", "__version__", "decompositions", "initializers", "layers", "merge", "models"]
