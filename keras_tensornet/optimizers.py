"""Several optimizers as one, and the two of T-Basis with their warm-up (Obukhov 2020, section 5).

"In all the experiments, we train incompressible parameters with the same optimizer settings as
prescribed by the baseline training protocol. For the rest of the learned parameters, we utilize
Adam." A `RoutedOptimizer` does that inside `fit`: each variable goes to one inner optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_tensornet import validation
from keras_tensornet.types import Config, Tensor

# Names of the variables that a T-Basis network adds, at the end of their paths.
TBASIS_VARIABLES = r"(^|/)tbasis(_coefficients|_adapters)?$"


@keras.saving.register_keras_serializable(package="keras_tensornet")
class RoutedOptimizer(keras.optimizers.Optimizer):
    """An optimizer that hands each variable to one of several optimizers, by its path.

    Works in `fit` on every backend, under jit, with loss scaling (the whole is scaled, not the
    parts), and is saved and restored with the model, inner state included.

    Args:
        routes: `{regular expression: optimizer}`. A variable goes to the first expression that is
            found in its path, such as "conv1/kernel".
        default: the optimizer of all other variables.
        name: name of the optimizer.

    Learning rates, schedules, weight decay, clipping, accumulation and averaging are the inner
    optimizers' own; a global norm is that of each optimizer's own variables. `learning_rate` reads
    and sets that of the default, so a callback that changes it changes that one only.

    Raises:
        TypeError: if something that is no Keras optimizer is given.
        ValueError: if there are no routes, or one optimizer is given twice.

    Examples:

    >>> RoutedOptimizer({"bias$": keras.optimizers.Adam(1e-3)}, keras.optimizers.SGD(0.1))
    """

    def __init__(self, routes: Mapping[str, Any], default: Any, name: str = "routed") -> None:
        # The rate of this base class is never used.
        super().__init__(learning_rate=0.0, name=name)
        self.default = _optimizer("default", default)
        self.routes = {
            str(re.compile(pattern).pattern): _optimizer(f"routes[{pattern!r}]", optimizer)
            for pattern, optimizer in _mapping(routes).items()
        }
        if len({id(one) for one in self.optimizers}) != len(self.optimizers):
            raise ValueError(
                "Each route needs an optimizer of its own, because an optimizer keeps state for "
                "the variables it was built with. Received one optimizer twice."
            )

    @property
    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """The inner optimizers: those of the routes in order, then the default."""
        return [*self.routes.values(), self.default]

    def route(self, variable: keras.Variable) -> keras.optimizers.Optimizer:
        """The optimizer that a variable goes to."""
        for pattern, optimizer in self.routes.items():
            if re.search(pattern, variable.path):
                return optimizer
        return self.default

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Build each inner optimizer on its variables."""
        if self.built:
            return
        # Which optimizer each variable goes to, in the order of `variables`.
        self._places = [self.optimizers.index(self.route(variable)) for variable in variables]
        for optimizer, own in zip(self.optimizers, self._parts(variables), strict=True):
            if own:
                optimizer.build(own)
        super().build(variables)

    @property
    def variables(self) -> list[keras.Variable]:
        """State of this optimizer and of the inner ones."""
        inner = [one.variables for one in getattr(self, "optimizers", [])]
        return [*self._variables, *(variable for part in inner for variable in part)]

    def apply(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        """Hand gradients and variables to the inner optimizers."""
        grads = list(grads)
        if not grads:
            return
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        trainable_variables = list(trainable_variables)
        if not self.built:
            self.build(trainable_variables)
        self._check_variables_are_known(trainable_variables)
        if self.loss_scale_factor is not None:
            grads = [None if grad is None else grad / self.loss_scale_factor for grad in grads]
        places = [self._places[self._get_variable_index(one)] for one in trainable_variables]
        for place, optimizer in enumerate(self.optimizers):
            own = [
                (grad, variable)
                for grad, variable, there in zip(grads, trainable_variables, places, strict=True)
                if there == place
            ]
            if any(grad is not None for grad, _ in own):
                optimizer.apply(*zip(*own, strict=True))
        self._iterations.assign_add(1)

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        """Refused: the inner optimizers update their own variables."""
        raise TypeError("A RoutedOptimizer has no update step of its own; call `apply`.")

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Let each inner optimizer finish its variables (moving averages)."""
        for optimizer, own in zip(self.optimizers, self._parts(var_list), strict=True):
            if own:
                optimizer.finalize_variable_values(own)

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the default optimizer."""
        return self.default.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.default.learning_rate = learning_rate

    def _parts(self, variables: Sequence[keras.Variable]) -> list[list[keras.Variable]]:
        return [
            [one for one in variables if self.route(one) is optimizer]
            for optimizer in self.optimizers
        ]

    def get_config(self) -> Config:
        """The inner optimizers, serialised."""
        serialize = keras.optimizers.serialize
        return {
            "routes": {pattern: serialize(one) for pattern, one in self.routes.items()},
            "default": serialize(self.default),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> RoutedOptimizer:
        """An optimizer of the same routes, with fresh state."""
        restore = keras.optimizers.deserialize
        routes = {
            pattern: restore(dict(one), custom_objects=custom_objects)
            for pattern, one in config["routes"].items()
        }
        default = restore(dict(config["default"]), custom_objects=custom_objects)
        return cls(routes, default, name=config["name"])


@keras.saving.register_keras_serializable(package="keras_tensornet")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to its value over the first steps.

    Args:
        learning_rate: a number, or a schedule; the warm-up multiplies it.
        warmup_steps: steps until the full rate. 2000 in the T-Basis paper.

    The schedule is not shifted: step 5000 has the same rate with and without warm-up.

    Raises:
        ValueError: if `warmup_steps` is below 1, or the rate not positive.

    Examples:
        >>> [round(float(LinearWarmup(1.0, 4)(step)), 2) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(self, learning_rate: float, warmup_steps: int) -> None:
        if isinstance(learning_rate, dict):
            learning_rate = keras.saving.deserialize_keras_object(learning_rate)
        schedule = isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
        if not schedule and not (isinstance(learning_rate, (int, float)) and learning_rate > 0):
            raise ValueError(
                "`learning_rate` must be a positive number or a LearningRateSchedule. Received: "
                f"learning_rate={learning_rate!r}."
            )
        self.rate = learning_rate
        self.warmup_steps = validation.positive_int("warmup_steps", warmup_steps)

    def __call__(self, step: Tensor) -> Tensor:
        """The rate at a step, counted from 0."""
        rate = self.rate(step) if callable(self.rate) else self.rate
        step = ops.cast(step, "float32")
        share = ops.minimum(ops.divide(ops.add(step, 1.0), float(self.warmup_steps)), 1.0)
        return ops.multiply(share, rate)

    def get_config(self) -> Config:
        """Plain values of the arguments."""
        rate = self.rate
        if callable(rate):
            rate = keras.saving.serialize_keras_object(rate)
        return {"learning_rate": rate, "warmup_steps": self.warmup_steps}


def tbasis_optimizer(
    default: keras.optimizers.Optimizer, learning_rate: float = 0.003, warmup_steps: int = 2000
) -> RoutedOptimizer:
    """The paper's optimizer: Adam for basis, coefficients and adapters, `default` for the rest.

    Args:
        default: the baseline's own optimizer, for norms, biases and the layers left dense. Give it
            `LinearWarmup` as well to warm up all parameters, as the paper does.
        learning_rate: of Adam, a number or a schedule; "0.003 is appropriate for most sizes",
            large bases need less.
        warmup_steps: of Adam.

    >>> sgd = keras.optimizers.SGD(LinearWarmup(0.1, 2000), momentum=0.9)
    >>> model.compile(tbasis_optimizer(sgd), "sparse_categorical_crossentropy")
    """
    # The moments' decay rates are those of the published runs.
    adam = keras.optimizers.Adam(
        LinearWarmup(learning_rate, warmup_steps), beta_1=0.95, beta_2=0.9995
    )
    return RoutedOptimizer({TBASIS_VARIABLES: adam}, default, name="tbasis_optimizer")


def _optimizer(name: str, value: Any) -> keras.optimizers.Optimizer:
    if not isinstance(value, keras.optimizers.Optimizer):
        raise TypeError(
            f"`{name}` must be a Keras optimizer. Received: {value!r} of type "
            f"{type(value).__name__}."
        )
    return value


def _mapping(routes: Any) -> Mapping[str, Any]:
    if not isinstance(routes, Mapping) or not routes:
        raise ValueError(
            "`routes` must be a dict of at least one regular expression and its optimizer. "
            f"Received: routes={routes!r}."
        )
    return routes
