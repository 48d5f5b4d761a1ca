"""Coefficients and rank adapters: from the basis to the cores of a set of kernels.

The parameters of all kernels of a network sit in one layer, so that all their cores come from one
matrix product with the basis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np
from keras import initializers, ops

from keras_tensornet import validation
from keras_tensornet.contraction import kernel_plan, to_keras_layout
from keras_tensornet.initializers import MergedVarianceScaling, merged_variance
from keras_tensornet.kernels import refused_quantize
from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.tbasis.basis import (
    _seed,
    basis_values,
    check_basis_shape,
    random_generator,
)
from keras_tensornet.layers.tbasis.envelopes import Envelope, envelope
from keras_tensornet.types import Config, Identifier, Shape, Tensor

ADAPTERS = ("exp", "linear", "none")


@serialisable
class TBasisCores(keras.layers.Layer):
    """The cores of a set of kernels, each a combination of the tensors of one basis.

        core_k = diag(rho_k) sum_b alpha_kb B_b                                 eq. (4), section 3.2

    Args:
        kernel_shapes: the dense kernels in Keras layout, (*kernel_size, in_channels, filters).
        adapters: rank adapters rho: "exp", positive by an exponential (best in the paper);
            "linear", any sign; "none", which saves `rank` parameters a core.
        kernel_initializer: of the merged kernels; He's normal by default, as in the paper. Any
            variance-scaling or zero-mean normal or uniform initializer; only its variance counts.
        seed: integer, for the coefficients.
        **kwargs: `name`, `dtype`.

    Input shape:
        (size, rank, mode, rank), from a `TBasis` layer.

    Output shape:
        One tensor (cores, rank, mode, rank) for each kernel.

    Raises:
        TypeError, ValueError: for arguments of the wrong kind or value.

    Source: initialisation in two steps, section 4.2: coefficients of variance sigma_l^(2/d), then
    scaled by the measured variance of each merged kernel. The second step needs the values of the
    basis; where the layer is built inside a compiled function these cannot be read, and
    `correct_variance` is to be called by hand.
    """

    def __init__(
        self,
        kernel_shapes: Sequence[tuple[int, ...]],
        adapters: str = "exp",
        kernel_initializer: Identifier = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.kernel_shapes = tuple(_kernel_shape(shape) for shape in kernel_shapes)
        if not self.kernel_shapes:
            raise ValueError(
                "`kernel_shapes` must name at least one kernel. Received: kernel_shapes=()."
            )
        self.adapters_kind = validation.one_of("adapters", adapters, ADAPTERS)
        if kernel_initializer is None:
            kernel_initializer = MergedVarianceScaling(2.0, "fan_in")
        self.kernel_initializer = initializers.get(kernel_initializer)
        for shape in self.kernel_shapes:
            merged_variance(self.kernel_initializer, shape)  # raises where it has none
        self.seed = None if seed is None else _seed(seed)
        self.adapters: keras.Variable | None = None
        self._visible_basis: np.ndarray | None = None

    def __call__(self, basis: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Note the values of the basis where they can be read: building needs them."""
        if self.built:
            self.check_basis(basis.shape, self.name)
        self._visible_basis = None if self.built else basis_values(basis)
        return super().__call__(basis, *args, **kwargs)

    def build(self, basis_shape: Shape) -> None:
        """Create coefficients (D, B) and adapters (D, R) for the D cores of all kernels."""
        size, rank, mode, _ = check_basis_shape(basis_shape, name=self.name)
        self.envelopes = tuple(envelope(shape, mode, rank) for shape in self.kernel_shapes)
        self.num_cores = sum(one.num_cores for one in self.envelopes)
        self.coefficients = self.add_weight(
            name="tbasis_coefficients",
            shape=(self.num_cores, size),
            initializer=self._draw,
            autocast=False,
        )
        if self.adapters_kind != "none":
            start = "zeros" if self.adapters_kind == "exp" else "ones"
            self.adapters = self.add_weight(
                name="tbasis_adapters",
                shape=(self.num_cores, rank),
                initializer=start,
                autocast=False,
            )
        self.basis_shape = (size, rank, mode, rank)
        if self._visible_basis is not None:
            self.correct_variance(self._visible_basis)
            self._visible_basis = None
        self.built = True

    def call(self, basis: Tensor) -> list[Tensor]:
        """All cores from one product with the basis: a list of (cores, rank, mode, rank)."""
        size, rank, mode, _ = self.basis_shape
        flat = ops.reshape(basis, (size, rank * mode * rank))
        cores = ops.matmul(self.coefficients.value, flat)  # (D, B) @ (B, R N R)
        cores = ops.reshape(cores, (self.num_cores, rank, mode * rank))
        if self.adapters is not None:
            rho = self.adapters.value
            rho = ops.exp(rho) if self.adapters_kind == "exp" else rho
            cores = ops.multiply(cores, ops.expand_dims(rho, -1))
        cores = ops.reshape(cores, (self.num_cores, rank, mode, rank))
        return ops.split(cores, self._boundaries(), axis=0) if len(self.envelopes) > 1 else [cores]

    def check_basis(self, shape: Shape, name: str) -> None:
        """Refuse a basis of another shape than the coefficients are for; `name` is the layer's."""
        _, rank, mode, _ = self.basis_shape
        size, *_ = check_basis_shape(shape, rank, mode, name)
        if size != self.basis_shape[0]:
            raise ValueError(
                f"Layer '{name}' was built for a basis of {self.basis_shape[0]} tensors. "
                f"Received: a basis of {size}. Give it the basis that it was built with."
            )

    def kernels(self, basis: Tensor) -> list[Tensor]:
        """The merged dense kernels in Keras layout, for a basis (B, R, N, R)."""
        cores = self.call(ops.convert_to_tensor(basis))
        return [
            merge_ring(one, one.cut(ops.unstack(ring, one.num_cores), ops))
            for one, ring in zip(self.envelopes, cores, strict=True)
        ]

    def correct_variance(self, basis: Tensor, variances: Sequence[float] | None = None) -> None:
        """Scale the coefficients so that each merged kernel has exactly its target variance.

        The second step of the paper's initialisation. Called when the layer is built, wherever the
        values of the basis can be read; call it again after giving the basis other values.

        Args:
            basis: values (B, R, N, R).
            variances: a target for each kernel, instead of the initializer's.
        """
        if variances is None:
            variances = [merged_variance(self.kernel_initializer, k) for k in self.kernel_shapes]
        basis = np.asarray(ops.convert_to_numpy(basis), dtype="float64")
        coefficients = ops.convert_to_numpy(self.coefficients).astype("float64")
        rho = np.ones(self.num_cores) if self.adapters is None else self._adapter_values()
        start = 0
        for one, target in zip(self.envelopes, variances, strict=True):
            rows = slice(start, start + one.num_cores)
            cores = np.tensordot(coefficients[rows], basis, 1)
            cores = cores * rho[rows].reshape(one.num_cores, -1, 1, 1)
            measured = float(np.var(merge_ring(one, one.cut(list(cores), np), np)))
            if measured > 0.0:
                # Each of the d cores is scaled alike: variance goes with the power 2 d.
                coefficients[rows] *= (target / measured) ** (0.5 / one.num_cores)
            start += one.num_cores
        dtype = self.coefficients.dtype
        self.coefficients.assign(ops.convert_to_tensor(coefficients, dtype=dtype))

    def _adapter_values(self) -> np.ndarray:
        rho = ops.convert_to_numpy(self.adapters).astype("float64")
        return np.exp(rho) if self.adapters_kind == "exp" else rho

    def _draw(self, shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        """Coefficients of variance sigma_l^(2/d), d the number of cores of the kernel, eq. (13)."""
        generator = random_generator(self.seed)
        rows = generator.normal(size=shape)
        start = 0
        for one, kernel_shape in zip(self.envelopes, self.kernel_shapes, strict=True):
            variance = merged_variance(self.kernel_initializer, kernel_shape)
            stop = start + one.num_cores
            rows[start:stop] *= math.sqrt(variance ** (1.0 / one.num_cores))
            start = stop
        return ops.convert_to_tensor(rows, dtype=dtype)

    def _boundaries(self) -> list[int]:
        counts = [one.num_cores for one in self.envelopes]
        return [int(stop) for stop in np.cumsum(counts)[:-1]]

    def compute_output_shape(self, basis_shape: Shape) -> list[Shape]:
        """A list of (cores, rank, mode, rank)."""
        _, rank, mode, _ = check_basis_shape(basis_shape, name=self.name)
        return [
            (envelope(shape, mode, rank).num_cores, rank, mode, rank)
            for shape in self.kernel_shapes
        ]

    def compute_output_spec(self, basis: Tensor, *args: Any, **kwargs: Any) -> Any:
        """In the variable dtype, unlike the outputs of other layers."""
        shapes = self.compute_output_shape(basis.shape)
        return [keras.KerasTensor(shape, dtype=self.variable_dtype) for shape in shapes]

    quantize = refused_quantize

    def get_config(self) -> Config:
        """All arguments as plain values."""
        return {
            **super().get_config(),
            "kernel_shapes": [list(shape) for shape in self.kernel_shapes],
            "adapters": self.adapters_kind,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
        }


def merge_ring(ring: Envelope, cores: Sequence[Tensor], xp: ModuleType = ops) -> Tensor:
    """The dense kernel of a ring from its cut cores, in Keras layout."""
    return to_keras_layout(kernel_plan(ring.network).run(cores, xp), ring.modes, xp)


def _kernel_shape(shape: Sequence[int]) -> tuple[int, ...]:
    resolved = validation.int_tuple("kernel_shapes", shape)
    if len(resolved) < 2:
        raise ValueError(
            "A kernel shape has at least input and output channels: (*kernel_size, in_channels, "
            f"filters). Received: {resolved}."
        )
    return resolved
