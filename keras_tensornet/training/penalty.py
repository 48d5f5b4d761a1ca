"""The W step of ADMM: a pull on kernels, put into the training of a compiled model and taken out.

Keras adds `variable.regularizer(variable)` of every trainable variable to the loss, so a
regularizer set on a built kernel reaches plain `fit`, custom training loops that add
`model.losses`, XLA and mixed precision alike, without touching layers, the model's configuration or
its saved form.

What it pulls towards changes between epochs. It is held in variables, so nothing is traced again.
"""

from __future__ import annotations

import contextlib

import keras
from keras import ops


class KernelPenalty(keras.regularizers.Regularizer):
    """The regularizer rho/2 |W - target|^2 of one kernel, with the value zero.

    The value is `penalty - stop_gradient(penalty)`: exactly zero, with the gradient
    rho (W - target) of the penalty. So training is pulled (Yin et al. 2021, equation 15), while
    `loss` and `val_loss` go on to show the loss that the model was compiled with, and everything
    that watches them works as without ADMM. A regularizer that the kernel had before stays part
    of the loss.

    Args:
        kernel: the variable W.
    """

    def __init__(self, kernel: keras.Variable):
        self.kernel = kernel
        self.own = None
        # Of a half-precision kernel the target is kept in float32.
        dtype = keras.backend.result_type(kernel.dtype, "float32")
        self.target = _variable(kernel.shape, dtype, "admm_target")
        self.rho = _variable((), dtype, "admm_rho")

    def __call__(self, value):
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


class PenaltySwitch:
    """Turns the penalties of a model on and off, for whatever backend trains it.

    A model that has been trained before has a compiled train function without the penalties, so
    turning them on or off discards the compiled functions. On the JAX backend a compiled function
    sees a variable's changes only if it belongs to the model's state; there the variables travel
    along as state that is no weight, as those of random seeds do, for as long as training lasts:
    they are in no checkpoint, no summary and no parameter count.

    Args:
        model: the model to be trained.
        kernels: the variables to be pulled.
    """

    def __init__(self, model: keras.Model, kernels: list[keras.Variable]):
        self.model = model
        with _variable_scope(model):
            self.penalties = [KernelPenalty(kernel) for kernel in kernels]
        self.carried: list[_CarriedState] = []
        self.on = False

    def turn_on(self) -> None:
        """Attach every penalty, or none of them if one cannot be."""
        if self.on:
            return
        try:
            for penalty in self.penalties:
                penalty.attach()
        except ValueError:
            self._detach_all()
            raise
        if keras.backend.backend() == "jax":
            variables = [(penalty.target, penalty.rho) for penalty in self.penalties]
            self.carried = [_CarriedState(variable) for pair in variables for variable in pair]
            self.model._seed_generators.extend(self.carried)
        self.on = True
        self._discard_compiled()

    def turn_off(self) -> None:
        """Detach every penalty; the model is then as it was before."""
        if not self.on:
            return
        self._detach_all()
        for state in self.carried:
            self.model._seed_generators.remove(state)
        self.carried = []
        self.on = False
        self.model.train_function = None
        self.model.test_function = None

    def _detach_all(self) -> None:
        for penalty in self.penalties:
            penalty.detach()

    def _discard_compiled(self) -> None:
        # `fit` has made the train function before it calls `on_train_begin`, and makes the test
        # function when it first evaluates.
        self.model.test_function = None
        if self.model.train_function is not None:
            self.model.make_train_function(force=True)


class _CarriedState:
    """A variable in the place of a seed generator's: part of a model's state, but no weight."""

    def __init__(self, variable: keras.Variable):
        self.state = variable


def _variable_scope(model: keras.Model):
    """The context in which variables of a model's training are created."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()


def _variable(shape, dtype: str, name: str) -> keras.Variable:
    return keras.Variable(
        "zeros", shape=shape, dtype=dtype, trainable=False, autocast=False, name=name
    )
