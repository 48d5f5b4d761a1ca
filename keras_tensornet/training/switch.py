"""What ADMM puts into a model while `fit` runs: variables of each kernel, turned on and off.

What kernels are pulled towards changes between steps. It is held in variables, so nothing is traced
again. There are two ways to pull, a penalty (`penalty.py`) and a step of its own (`pull.py`); both
are switched here.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Any

import keras
import numpy as np


class Pulled:
    """One kernel, with where it is pulled to and how strongly.

    Args:
        kernel: the variable W.

    Attributes:
        target: variable of the kernel's shape, float32 for a half-precision kernel.
        strength: scalar variable: rho of a penalty, the share of a decoupled pull.
    """

    def __init__(self, kernel: keras.Variable) -> None:
        self.kernel = kernel
        dtype = keras.backend.result_type(kernel.dtype, "float32")
        self.target = _variable(kernel.shape, dtype, "admm_target")
        self.strength = _variable((), dtype, "admm_strength")

    def aim(self, target: np.ndarray, strength: float) -> None:
        """Hand a new target and strength to the training."""
        self.target.assign(target)
        self.strength.assign(strength)


class Switch(ABC):
    """Turns the pull on a model's kernels on and off, for whatever backend trains it.

    A model that has been trained before has a compiled train function without the pull, so turning
    it on or off discards the compiled functions. On the JAX backend a compiled function sees a
    variable's changes only if it belongs to the model's state; there the variables travel along as
    state that is no weight, as those of random seeds do, for as long as training lasts: they are in
    no checkpoint, no summary and no parameter count.

    Args:
        model: the model to be trained.
        kernels: the variables to be pulled.
    """

    def __init__(self, model: keras.Model, kernels: list[keras.Variable]) -> None:
        self.model = model
        with _variable_scope(model):
            self.pulled = [Pulled(kernel) for kernel in kernels]
        self.carried: list[_CarriedState] = []
        self.on = False

    @abstractmethod
    def attach(self) -> None:
        """Get into the training, or raise and change nothing."""

    @abstractmethod
    def detach(self) -> None:
        """Get out of the training again."""

    def turn_on(self) -> None:
        """Attach every pull, or none of them if one cannot be."""
        if self.on:
            return
        self.attach()
        if keras.backend.backend() == "jax":
            variables = [(one.target, one.strength) for one in self.pulled]
            self.carried = [_CarriedState(variable) for pair in variables for variable in pair]
            self.model._seed_generators.extend(self.carried)
        self.on = True
        # `fit` has made the train function before it calls `on_train_begin`, and makes the test
        # function when it first evaluates.
        self.model.test_function = None
        if self.model.train_function is not None:
            self.model.make_train_function(force=True)

    def turn_off(self) -> None:
        """Detach every pull; the model is then as it was before."""
        if not self.on:
            return
        self.detach()
        for state in self.carried:
            self.model._seed_generators.remove(state)
        self.carried = []
        self.on = False
        self.model.train_function = None
        self.model.test_function = None


class _CarriedState:
    """A variable in the place of a seed generator's: part of a model's state, but no weight."""

    def __init__(self, variable: keras.Variable) -> None:
        self.state = variable


def _variable_scope(model: keras.Model) -> Any:
    """The context in which variables of a model's training are created."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()


def _variable(shape: Any, dtype: str, name: str) -> keras.Variable:
    return keras.Variable(
        "zeros", shape=shape, dtype=dtype, trainable=False, autocast=False, name=name
    )
