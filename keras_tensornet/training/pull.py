"""The W step of ADMM beside the optimizer: W <- W - a (W - Z + U) after each step.

A penalty in the loss goes through the optimizer. Adam divides by the size of the gradient, so there
the penalty parameter changes next to nothing, and with any optimizer the pull grows weak with the
learning rate. A pull of its own has neither trouble: what AdamW does for weight decay (Loshchilov
and Hutter 2019), towards Z - U instead of zero.

The model's `train_step` is called as it is, and the pull follows inside the same compiled step, on
every backend.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tensornet.training.switch import Pulled, Switch


class PullSwitch(Switch):
    """Turns the decoupled pull of a model's kernels on and off."""

    def attach(self) -> None:
        """Put the pull behind the model's training step."""
        if isinstance(self.model.__dict__.get("train_step"), _PulledStep):
            raise ValueError(
                f"The model '{self.model.name}' already has an ADMM pull, and its kernels can be "
                "pulled towards one target only. If an earlier `fit` was interrupted, call "
                "`detach()` on its ADMM callback first, or give `fit` that same callback again."
            )
        self.before = self.model.__dict__.get("train_step")
        self.model.__dict__["train_step"] = _PulledStep(self.model, self.pulled)

    def detach(self) -> None:
        """Give the model its own training step back."""
        if self.before is None:
            del self.model.__dict__["train_step"]
        else:
            self.model.__dict__["train_step"] = self.before


class _PulledStep:
    """A model's own training step, and the pull after it."""

    def __init__(self, model: keras.Model, pulled: list[Pulled]) -> None:
        self.model, self.pulled = model, pulled
        self.step = model.train_step
        self.__name__ = "train_step"

    def __call__(self, *arguments: Any) -> Any:
        if keras.backend.backend() == "jax":
            logs, state = self.step(*arguments)
            return logs, self._pull_state(state)
        logs = self.step(*arguments)
        if keras.backend.backend() == "tensorflow":
            self._pull_distributed()
        else:
            for one in self.pulled:
                value = ops.stop_gradient(one.kernel.value)
                one.kernel.assign(_after_pull(one, value, one.target.value, one.strength.value))
        return logs

    def _pull_state(self, state: Any) -> Any:
        """JAX: new values of the kernels in the state that a step returns."""
        trainable, rest, *others = state
        trainable = list(trainable)
        kernels = {id(one): place for place, one in enumerate(self.model.trainable_variables)}
        carried = {id(one): place for place, one in enumerate(self.model.non_trainable_variables)}
        for one in self.pulled:
            place = kernels[id(one.kernel)]
            target, strength = (rest[carried[id(part)]] for part in (one.target, one.strength))
            trainable[place] = _after_pull(one, trainable[place], target, strength)
        return (trainable, rest, *others)

    def _pull_distributed(self) -> None:
        """TensorFlow: each replica's copy is pulled alike, as its optimizers update variables."""
        import tensorflow as tf

        def pull_all(strategy: Any, pulled: Any) -> None:
            for one in pulled:

                def pull(variable: Any, target: Any, strength: Any, one: Any = one) -> None:
                    value = tf.convert_to_tensor(variable)
                    variable.assign(_after_pull(one, value, target, strength))

                arguments = (one.target.value, one.strength.value)
                strategy.extended.update(one.kernel.value, pull, args=arguments, group=False)

        tf.__internal__.distribute.interim.maybe_merge_call(
            pull_all, self.model.distribute_strategy, self.pulled
        )


def _after_pull(one: Pulled, value: Any, target: Any, strength: Any) -> Any:
    """W - a (W - target), and within the kernel's own constraint, which has the last word."""
    wide = ops.cast(value, one.target.dtype)
    pulled = wide - strength * (wide - target)
    if one.kernel.constraint is not None:
        pulled = one.kernel.constraint(pulled)
    return ops.cast(pulled, value.dtype)


def accumulated_steps(optimizer: Any, kernel: keras.Variable) -> int:
    """How many training steps make one step of the optimizer, for a kernel.

    The pull comes after every training step, so with accumulated gradients each is that much less.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # loss scaling
    if hasattr(optimizer, "route"):
        optimizer = optimizer.route(kernel)
    return getattr(optimizer, "gradient_accumulation_steps", None) or 1
