"""The hypermodel: a dense model, and a space of formats and sizes to bring it into."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import keras_tuner

from keras_tensornet import validation
from keras_tensornet.compression.kinds import Target, find_targets, left_out
from keras_tensornet.rewriting.walker import rewrite_model, walk_layers
from keras_tensornet.tbasis import fit_tbasis, tbasis_model
from keras_tensornet.tuner.decompositions import Decompositions
from keras_tensornet.tuner.objective import SizeObjective, TrialMetrics
from keras_tensornet.tuner.sizes import ModelSize
from keras_tensornet.tuner.space import TBASIS, Choice, Space, check_per_layer, group_names

# The paper's mode; kernels with more positions take the next square.
SMALLEST_MODE = 9
# Models fitted to a trained one that are kept; the oldest goes first.
KEPT_FITS = 4


class TensorNetHyperModel(keras_tuner.HyperModel):
    """A KerasTuner hypermodel over tensor-network versions of a dense model.

    The space is conditional on the format: a rank for tr, tt, cp, tucker and the others, a basis
    size and a rank for "tbasis", and for a trained model energy thresholds in place of the ranks of
    tr, tt, ttm, tucker and ht. A trained model's weights are decomposed, once for all trials where
    the format allows it, so that a trial is fine-tuned only. Layers that would grow stay dense.

    Trials that cannot be meant, those with no fewer parameters than the dense model or beyond the
    limits of `objective`, are rejected before training (`FailedTrialError`; their status is
    FAILED). KerasTuner stops after three such trials in a row; raise its
    `max_consecutive_failed_trials` where limits are tight.

    Args:
        model_or_build_fn: a built Sequential or Functional model, which stays as it was; or a
            function `build()` or `build(hp)` that returns one, for hyperparameters of your own.
        formats: names of formats, "tbasis" among them or not.
        rank: of cores and of the basis: a tuple (low, high), a list of values to choose from, or
            one number.
        energy: likewise, in (0, 1]; None searches ranks for trained models too.
        basis_size: likewise, the number of tensors of the basis.
        energy_norm: what an energy is a share of, "frobenius" for squared singular values,
            "nuclear" for their sum.
        per_layer: False for one value for all layers, True for one a layer, "stage" for one a stage
            (see `stage_of`), or a function from a layer's path to its group. T-Basis is always
            one for the whole model.
        include, exclude: which layers are replaced: names, paths or regular expressions of paths,
            layer classes, functions of the layer, or a list of these. By default all but the first
            convolution and the classifier; `exclude=()` takes these too.
        arguments: `(path, format) -> dict`, further arguments of a factorized layer such as
            `in_modes`.
        objective: limits and weights of size; by default the validation accuracy alone.
        trained: whether the model's weights are decomposed; by default for a model, not for a
            build function.
        compile_model: `(model, hp) -> None` that compiles a trial's model. By default it is
            compiled as the dense model was; tuners can override that.
        fit_steps: Adam steps that fit a T-Basis to a trained model.
        seed: of every trial's initial weights.
        name: of the hypermodel.

    Raises:
        TypeError, ValueError: for an argument of the wrong kind, or an empty space.

    Examples:

    >>> hypermodel = TensorNetHyperModel(lenet5, formats=("tr", "tt"), rank=(2, 20))
    >>> tuner = keras_tuner.RandomSearch(hypermodel, hypermodel.objective, max_trials=12)
    """

    def __init__(
        self,
        model_or_build_fn: keras.Model | Callable[..., Any],
        formats: Sequence[str] = ("tr", "tt", "tucker", "cp", "tbasis"),
        rank: tuple[int, int] = (2, 32),
        energy: tuple[float, float] | None = (0.3, 0.95),
        basis_size: tuple[int, int] = (2, 64),
        per_layer: bool = False,
        *,
        energy_norm: str = "frobenius",
        include: Any = None,
        exclude: Any = None,
        arguments: Callable[[str, str], Mapping[str, Any]] | None = None,
        objective: SizeObjective | None = None,
        trained: bool | None = None,
        compile_model: Callable[..., Any] | None = None,
        fit_steps: int = 500,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.space = Space.of(formats, rank, energy, basis_size, energy_norm)
        self.per_layer = check_per_layer(per_layer)
        self.source = _check_source(model_or_build_fn)
        self.include, self.exclude, self.arguments = include, exclude, arguments
        self.size_objective = SizeObjective() if objective is None else _check_goal(objective)
        is_model = isinstance(model_or_build_fn, keras.Model)
        self.trained = is_model if trained is None else bool(trained)
        self.compile_model = compile_model
        self.fit_steps = validation.positive_int("fit_steps", fit_steps)
        self.seed = validation.optional_int("seed", seed)
        self.decompositions = Decompositions()
        self.fitted: dict[tuple[Any, ...], keras.Model] = {}
        self.dense_size: ModelSize | None = None
        self._dense_sizes: weakref.WeakKeyDictionary[keras.Model, ModelSize] = (
            weakref.WeakKeyDictionary()
        )
        if is_model:
            self._targets(model_or_build_fn)  # errors now rather than in the first trial

    @property
    def objective(self) -> keras_tuner.Objective:
        """The objective to give to a tuner: the score of `SizeObjective`."""
        return self.size_objective.keras_objective

    def build(self, hp: Any) -> keras.Model:
        """The model of one trial, compiled."""
        if self.seed is not None:
            keras.utils.set_random_seed(self.seed)
        dense = self._dense(hp)
        targets = self._targets(dense)
        groups = group_names(self.per_layer, (target.path for target in targets))
        choice = self.space.choose(hp, groups.values(), self.trained)
        with validation.quietly():  # a rank above what one layer allows
            if choice.format == TBASIS:
                model = self._shared_basis(dense, choice)
            else:
                model = self._factorized(dense, targets, groups, choice)
        if self.compile_model is not None:
            self.compile_model(model, hp)
        self._dense_sizes[model] = self._size_of_dense(dense)
        return model

    def fit(self, hp: Any, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """Train a trial, or reject it: called by the tuner."""
        dense = self._dense_sizes.get(model)
        if dense is None:
            raise keras_tuner.errors.FatalValueError(
                "`fit` takes a model that `build` of the same hypermodel made."
            )
        size = ModelSize.of(model, self.size_objective.latency_batch)
        reason = self.size_objective.why_impossible(size, dense)
        if reason is not None:
            raise keras_tuner.errors.FailedTrialError(f"Rejected before training: {reason}.")
        callbacks = list(kwargs.pop("callbacks", None) or [])
        metrics = TrialMetrics(self.size_objective, size, dense, _objective_of(callbacks))
        return model.fit(*args, callbacks=[metrics, *callbacks], **kwargs)

    def _dense(self, hp: Any) -> keras.Model:
        if isinstance(self.source, keras.Model):
            return self.source
        model = self.source(hp) if _takes_argument(self.source) else self.source()
        if not isinstance(model, keras.Model):
            raise keras_tuner.errors.FatalTypeError(
                f"The build function must return a Keras model. Received: {model!r}."
            )
        return model

    def _size_of_dense(self, dense: keras.Model) -> ModelSize:
        if dense is not self.source:
            return ModelSize.of(dense, self.size_objective.latency_batch)
        if self.dense_size is None:
            self.dense_size = ModelSize.of(dense, self.size_objective.latency_batch)
        return self.dense_size

    def _targets(self, model: keras.Model) -> list[Target]:
        targets = find_targets(model)
        reasons = left_out(model, targets, self.include, self.exclude, ())
        chosen = [target for target in targets if target.path not in reasons]
        if not chosen:
            kept = ", ".join(f"{path}: {reason}" for path, reason in reasons.items())
            raise ValueError(
                "The search space is empty: no layer is left to be replaced. Received: model "
                f"'{model.name}' ({kept or 'no Dense, convolution, embedding or LSTM in it'}). "
                "Use `include`, or `exclude=()` to take the first convolution and the classifier."
            )
        return chosen

    def _factorized(
        self, dense: Any, targets: list[Target], groups: Any, choice: Choice
    ) -> keras.Model:
        layers = {}
        for target in targets:
            value = choice.values[groups[target.path]]
            arguments = self._arguments(target, choice.format)
            if self.trained and dense is self.source:
                layer = self.decompositions.layer(
                    target, choice.format, choice.by, value, arguments
                )
            elif self.trained:
                layer = Decompositions().layer(target, choice.format, choice.by, value, arguments)
            else:
                layer = _untrained(target, choice.format, value, arguments)
            if layer is not None:
                layers[target.path] = layer
        return rewrite_model(dense, lambda layer, path: layers.get(path))

    def _arguments(self, target: Target, format: str) -> dict[str, Any]:
        defaults = target.kind.arguments(target.layer, format) if self.trained else {}
        chosen = {} if self.arguments is None else dict(self.arguments(target.path, format) or {})
        return {**defaults, **chosen}

    def _shared_basis(self, dense: Any, choice: Choice) -> keras.Model:
        excluded = self._excluded_from_basis(dense)
        how: dict[str, Any] = {
            "mode": _basis_mode(dense, excluded),
            "exclude": excluded,
            "seed": self.seed,
        }
        if not self.trained:
            return tbasis_model(dense, choice.size, choice.rank, **how)
        if dense is not self.source:
            return fit_tbasis(dense, choice.size, choice.rank, steps=self.fit_steps, **how)[0]
        key = (choice.size, choice.rank)
        if key not in self.fitted:
            fitted, _ = fit_tbasis(dense, *key, steps=self.fit_steps, **how)
            self.fitted[key] = fitted
            while len(self.fitted) > KEPT_FITS:
                del self.fitted[next(iter(self.fitted))]
        return rewrite_model(self.fitted[key], lambda layer, path: None)

    def _excluded_from_basis(self, dense: Any) -> Callable[..., Any] | None:
        if self.include is None and self.exclude is None:
            return None
        chosen = {target.path for target in self._targets(dense)}
        if chosen == {path for path, _ in walk_layers(dense)}:
            return None
        return lambda layer, path: path not in chosen


def _untrained(target: Target, format: str, rank: Any, arguments: dict[str, Any]) -> Any:
    """A new factorized layer for a dense one, as its initializer makes it; None if it is larger."""
    layer = target.kind.fresh(target.layer, {"format": format, "rank": rank} | arguments)
    holder = target.kind.holder(layer)
    if holder.network.num_params >= math.prod(target.kernel_shape):
        return None
    return layer


def _basis_mode(model: keras.Model, excluded: Callable[..., Any] | None) -> int:
    """The smallest square, at least 9, that holds the positions of every kernel."""
    positions = [
        math.prod(target.layer.kernel_size)
        for target in find_targets(model)
        if hasattr(target.layer, "kernel_size")
        and not (excluded is not None and excluded(target.layer, target.path))
    ]
    root = math.isqrt(max([SMALLEST_MODE, *positions]) - 1) + 1
    return root * root


def _objective_of(callbacks: Sequence[keras.callbacks.Callback]) -> str | None:
    """The name of the objective of the tuner that runs the trial, from the tuner's callback."""
    for callback in callbacks:
        oracle = getattr(getattr(callback, "tuner", None), "oracle", None)
        name = getattr(getattr(oracle, "objective", None), "name", None)
        if name not in (None, "default_objective", "multi_objective"):
            return name
    return None


def _takes_argument(function: Callable[..., Any]) -> bool:
    try:
        return bool(inspect.signature(function).parameters)
    except ValueError:  # a builtin without a signature
        return False


def _check_source(source: Any) -> Any:
    if isinstance(source, keras.Model) or callable(source):
        return source
    raise TypeError(
        "`model_or_build_fn` must be a Keras model or a function that returns one. Received: "
        f"{source!r} of type {type(source).__name__}."
    )


def _check_goal(objective: Any) -> SizeObjective:
    if isinstance(objective, SizeObjective):
        return objective
    raise TypeError(
        "`objective` of the hypermodel must be a SizeObjective, for example "
        f"SizeObjective(params=0.1). Received: {objective!r}. A metric's name, such as "
        "'val_accuracy', is SizeObjective(metric='val_accuracy')."
    )
