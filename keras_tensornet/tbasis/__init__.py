"""T-Basis: one basis for the kernels of a whole network (Obukhov et al. 2020).

    small = tbasis_model(model, size=16, rank=16)       # rewrite a model
    small, fit = fit_tbasis(model, size=16, rank=16)    # the same, starting from its kernels
    small.compile(tbasis_optimizer(sgd), ...)           # the paper's two optimizers
    save_basis(small, "basis.npz")                      # and reuse it in another network
    to_dense_model(small)                               # plain Keras layers, merged once

The layers are `keras_tensornet.layers.TBasis`, `TBasisDense`, `TBasisConv2D` and `TBasisCores`.
"""

from keras_tensornet.optimizers import LinearWarmup, RoutedOptimizer, tbasis_optimizer
from keras_tensornet.tbasis.fitting import TBasisFit, fit_kernels, fit_tbasis
from keras_tensornet.tbasis.model import tbasis_model, to_dense_model
from keras_tensornet.tbasis.planning import TBasisPlan, TBasisRow, plan_tbasis
from keras_tensornet.tbasis.sharing import SharedBasis, share_basis
from keras_tensornet.tbasis.transfer import find_basis, load_basis, save_basis

__all__ = [
    "LinearWarmup",
    "RoutedOptimizer",
    "SharedBasis",
    "TBasisFit",
    "TBasisPlan",
    "TBasisRow",
    "find_basis",
    "fit_kernels",
    "fit_tbasis",
    "load_basis",
    "plan_tbasis",
    "save_basis",
    "share_basis",
    "tbasis_model",
    "tbasis_optimizer",
    "to_dense_model",
]
