"""The W step of ADMM as the paper has it: a penalty on kernels, put into the loss and taken out.

Keras adds `variable.regularizer(variable)` of every trainable variable to the loss, so a
regularizer set on a built kernel reaches plain `fit`, custom training loops that add
`model.losses`, XLA and mixed precision alike, without touching layers, the model's configuration or
its saved form.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tensornet.training.switch import Pulled, Switch


class KernelPenalty(keras.regularizers.Regularizer):
    """The regularizer rho/2 |W - target|^2 of one kernel, with the value zero.

    The value is `penalty - stop_gradient(penalty)`: exactly zero, with the gradient
    rho (W - target) of the penalty. So training is pulled (Yin et al. 2021, equation 15), while
    `loss` and `val_loss` go on to show the loss that the model was compiled with, and everything
    that watches them works as without ADMM. A regularizer that the kernel had before stays part
    of the loss.

    Args:
        pulled: the kernel, its target, and rho as the strength.
    """

    def __init__(self, pulled: Pulled) -> None:
        self.kernel, self.target, self.rho = pulled.kernel, pulled.target, pulled.strength
        self.own = None

    def __call__(self, value: Any) -> Any:
        gap = ops.subtract(ops.cast(value, self.target.dtype), self.target.value)
        penalty = 0.5 * self.rho.value * ops.sum(ops.square(gap))
        pull = ops.subtract(penalty, ops.stop_gradient(penalty))
        if self.own is None:
            return ops.cast(pull, keras.config.floatx())  # the dtype of losses
        own = self.own(value)
        return ops.add(own, ops.cast(pull, own.dtype))

    def attach(self) -> None:
        """Become the kernel's regularizer; the one it has now is called within."""
        if isinstance(self.kernel.regularizer, KernelPenalty):
            raise ValueError(
                f"The kernel '{self.kernel.path}' already has an ADMM penalty. A kernel can be "
                "pulled towards one target only. If an earlier `fit` was interrupted, call "
                "`detach()` on its ADMM callback first, or give `fit` that same callback again."
            )
        self.own = self.kernel.regularizer
        self.kernel.regularizer = self

    def detach(self) -> None:
        """Give the kernel its own regularizer back."""
        if self.kernel.regularizer is self:
            self.kernel.regularizer = self.own
        self.own = None


class PenaltySwitch(Switch):
    """Turns the penalties of a model on and off."""

    def __init__(self, model: keras.Model, kernels: list[keras.Variable]) -> None:
        super().__init__(model, kernels)
        self.penalties = [KernelPenalty(one) for one in self.pulled]

    def attach(self) -> None:
        """Attach every penalty, or none of them if one cannot be."""
        try:
            for penalty in self.penalties:
                penalty.attach()
        except ValueError:
            self.detach()
            raise

    def detach(self) -> None:
        """Give every kernel its own regularizer back."""
        for penalty in self.penalties:
            penalty.detach()
