"""Basis and coefficients from trained kernels, which the paper leaves open.

All kernels of a network are fitted at once, by Adam on the mean of the relative errors

    1/L  sum_l  |K_l(basis, coefficients_l, adapters_l) - W_l|^2 / |W_l|^2.

Alternating least squares, the usual way to fit a ring, does not carry over: the basis stands in
every core of every ring, so the error is a polynomial of degree 2 d in it and no block of the basis
has a linear subproblem; and exponential adapters have none either. The gradient of the objective is
one merge of each kernel, which the layers have anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet import validation
from keras_tensornet.layers.tbasis import TBasis, TBasisCores
from keras_tensornet.layers.tbasis.cores import merge_ring
from keras_tensornet.rewriting.walker import walk_layers
from keras_tensornet.tbasis.model import made_on_basis
from keras_tensornet.tbasis.planning import TBasisPlan, plan_tbasis
from keras_tensornet.types import Tensor


@dataclass(frozen=True)
class TBasisFit:
    """How well a basis reproduces a set of kernels.

    Attributes:
        names: of the kernels.
        errors: relative error |K - W| / |W| of each, in the Frobenius norm.
        start: the same before fitting.
    """

    names: tuple[str, ...]
    errors: tuple[float, ...]
    start: tuple[float, ...]

    def __str__(self) -> str:
        mean = [float(np.mean(np.square(part))) for part in (self.start, self.errors)]
        lines = [f"mean squared relative error {mean[0]:.4f} -> {mean[1]:.4f}"]
        width = max(len(name) for name in self.names)
        rows = zip(self.names, self.start, self.errors, strict=True)
        lines += [f"  {name:{width}}  {start:.4f} -> {end:.4f}" for name, start, end in rows]
        return "\n".join(lines)


def fit_kernels(
    basis: TBasis,
    cores: TBasisCores,
    kernels: Mapping[str, np.ndarray] | Sequence[np.ndarray],
    steps: int = 2000,
    learning_rate: float = 0.01,
) -> TBasisFit:
    """Fit a basis and the coefficients of a `TBasisCores` layer to kernels, in place.

    Args:
        basis: built; stays as it is if it is frozen (`trainable=False`).
        cores: built, its `kernel_shapes` those of the kernels.
        kernels: dense kernels in Keras layout, in the order of `cores.kernel_shapes`.
        steps: of Adam.
        learning_rate: of Adam at the start; it falls to zero along a cosine.

    Returns:
        The relative error of each kernel.

    Raises:
        ValueError: if the kernels have other shapes than the cores are for.
    """
    validation.positive_int("steps", steps)
    named = dict(kernels) if isinstance(kernels, Mapping) else dict(enumerate(kernels))
    arrays = [np.asarray(ops.convert_to_numpy(kernel), "float32") for kernel in named.values()]
    shapes = tuple(array.shape for array in arrays)
    if shapes != cores.kernel_shapes:
        raise ValueError(
            "The kernels must have the shapes that the cores are for. Received kernels of shapes "
            f"{shapes} for {cores.kernel_shapes}."
        )
    # Rings start at the norm of their kernels: the mean square, as the kernels' mean is near zero.
    cores.correct_variance(basis.basis, [float(np.mean(np.square(array))) for array in arrays])
    trainer = _trainer(basis, cores, arrays, steps, learning_rate)
    tie = np.zeros((1, 1), "float32")
    start = _errors(trainer, tie)
    trainer.fit(
        np.zeros((steps, 1), "float32"),
        np.zeros((steps, len(arrays)), "float32"),
        batch_size=1,
        shuffle=False,
        verbose=0,
    )
    return TBasisFit(tuple(str(name) for name in named), _errors(trainer, tie), start)


def fit_tbasis(
    model: keras.Model,
    size: int | None = None,
    rank: int | None = None,
    mode: int = 9,
    exclude: Any = None,
    *,
    steps: int = 2000,
    learning_rate: float = 0.01,
    **options: Any,
) -> tuple[keras.Model, TBasisFit]:
    """Return a model on a shared basis that is near a trained one, which stays as it was.

    Args:
        model: trained and built, of any kind.
        size, rank, mode, exclude, **options: as in `tbasis_model`. With a frozen `basis=` only the
            coefficients and adapters are fitted.
        steps, learning_rate: of the fit, see `fit_kernels`.

    Returns:
        The new model and the relative errors of its kernels. Fine-tune it; at high compression the
        errors are large, and batch-norm statistics should be estimated anew before judging it.

    Raises:
        TypeError, ValueError: as `tbasis_model`.
    """
    made = made_on_basis(model, size, rank, mode, exclude, **options)
    basis, adapters = made.basis, made.adapters
    plan = plan_tbasis(model, basis.size, basis.rank, basis.mode, exclude, adapters)
    report = fit_kernels(basis, made.cores, _kernels(model, plan), steps, learning_rate)
    made.hand_out()
    return made.model, report


def _kernels(model: keras.Model, plan: TBasisPlan) -> dict[str, np.ndarray]:
    layers = dict(walk_layers(model))
    return {row.path: ops.convert_to_numpy(layers[row.path].kernel) for row in plan.shared}


def _trainer(
    basis: TBasis, cores: TBasisCores, arrays: list[np.ndarray], steps: int, learning_rate: float
) -> keras.Model:
    """A model whose outputs are the squared relative errors, over the given layers' variables."""
    inputs = keras.Input((1,), batch_size=1)
    errors = _RelativeErrors(cores, arrays)(cores(basis(inputs)))
    trainer = keras.Model(inputs, errors)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    trainer.compile(keras.optimizers.Adam(schedule), loss="mean_absolute_error")
    return trainer


def _errors(trainer: keras.Model, tie: np.ndarray) -> tuple[float, ...]:
    squares = ops.convert_to_numpy(trainer(tie))[0]
    return tuple(float(error) for error in np.sqrt(squares))


class _RelativeErrors(keras.layers.Layer):
    """|K - W|^2 / |W|^2 of each kernel, from the rings' cores: (1, kernels)."""

    def __init__(self, cores: TBasisCores, arrays: list[Any]) -> None:
        super().__init__(autocast=False, dtype="float32")
        self.envelopes = cores.envelopes
        self.norms = [max(float(np.sum(np.square(array))), 1e-30) for array in arrays]
        self.targets = [
            self.add_weight(shape=array.shape, initializer="zeros", trainable=False)
            for array in arrays
        ]
        for target, array in zip(self.targets, arrays, strict=True):
            target.assign(array)

    def call(self, rings: Any) -> Tensor:
        errors = []
        for place, (envelope, ring) in enumerate(zip(self.envelopes, rings, strict=True)):
            cores = envelope.cut(ops.unstack(ring, envelope.num_cores), ops)
            gap = ops.subtract(merge_ring(envelope, cores), self.targets[place])
            errors.append(ops.divide(ops.sum(ops.square(gap)), self.norms[place]))
        return ops.expand_dims(ops.stack(errors), 0)
