"""What the T-Basis layers have in common: the ring, the basis argument, evaluation by plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import activations, constraints, initializers, ops, regularizers

from keras_tensornet import validation
from keras_tensornet.contraction import IMPLEMENTATIONS, Plan, Workload, make_plan
from keras_tensornet.contraction.norms import norm_plan
from keras_tensornet.initializers import MergedVarianceScaling, merged_variance
from keras_tensornet.kernels import refused_quantize
from keras_tensornet.layers.implementation import BEING_WRITTEN, HasImplementation
from keras_tensornet.layers.tbasis.basis import TBasis, _seed, basis_values, check_basis_shape
from keras_tensornet.layers.tbasis.cores import ADAPTERS, TBasisCores, merge_ring
from keras_tensornet.layers.tbasis.envelopes import Envelope, envelope
from keras_tensornet.types import Config, Identifier, Implementation, Shape, Tensor


class TBasisMethods(HasImplementation):
    """Methods of `TBasisDense` and `TBasisConv2D`.

    A layer is called with the basis, and then owns its coefficients, or with its cores, and then a
    `TBasisCores` layer owns the coefficients of many layers: `tbasis_model` builds the latter where
    a graph calls its layers. Where Python code calls them with their inputs alone, inside of a
    composite layer, they hold the basis themselves: `shared_basis`.
    """

    quantize = refused_quantize

    # What each layer has: a plan for a batch size, forward or training.
    plan_for: Callable[..., Plan]
    trainable: bool
    _stock_layer: Callable[..., keras.layers.Layer]
    _stock_input_shape: Callable[[], Shape]

    def _set_arguments(
        self,
        activation: Identifier,
        use_bias: bool,
        kernel_initializer: Identifier,
        bias_initializer: Identifier,
        kernel_regularizer: Identifier,
        bias_regularizer: Identifier,
        bias_constraint: Identifier,
        adapters: str,
        implementation: Implementation,
        seed: int | None,
        shared_basis: TBasis | None,
    ) -> None:
        """Check and keep the arguments that both layers share."""
        if shared_basis is not None and not isinstance(shared_basis, TBasis):
            raise TypeError(
                "`shared_basis` must be a TBasis layer, or None to call the layer with a basis. "
                f"Received: {shared_basis!r}."
            )
        if shared_basis is not None and not shared_basis.built:
            shared_basis.build()
        self.shared_basis = shared_basis
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        if kernel_initializer is None:
            kernel_initializer = MergedVarianceScaling(2.0, "fan_in")
        self.kernel_initializer = initializers.get(kernel_initializer)
        merged_variance(self.kernel_initializer, (1, 1))  # raises where it has none
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.bias_constraint = constraints.get(bias_constraint)
        self.adapters = validation.one_of("adapters", adapters, ADAPTERS)
        self.implementation = implementation
        self.seed = None if seed is None else _seed(seed)
        self.bias: keras.Variable | None = None
        self._own_cores: TBasisCores | None = None
        self._visible_basis: np.ndarray | None = None
        self._frozen: Tensor | None = None

    def _checked_implementation(self, implementation: Implementation) -> str:
        return validation.one_of("implementation", implementation, IMPLEMENTATIONS)

    def __call__(
        self,
        inputs: Tensor,
        basis: Tensor | None = None,
        cores: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Check that exactly one of basis and cores is given, and note the basis' values."""
        if self.shared_basis is not None:
            if basis is not None or cores is not None:
                raise ValueError(
                    f"{type(self).__name__} '{self.name}' holds its basis, `shared_basis`, and is "
                    "called with its inputs alone. Received: a basis or cores as well."
                )
            return super().__call__(inputs, **kwargs)
        if (basis is None) == (cores is None):
            given = "neither" if basis is None else "both"
            raise ValueError(
                f"{type(self).__name__} '{self.name}' must be called with the shared basis, "
                f"`layer(x, basis=basis)` with `basis = TBasis(size, rank)(x)`, or with its cores "
                f"from a TBasisCores layer, `layer(x, cores=cores)`. Received: {given} of the two."
            )
        if self.built:
            self._check_given(basis, cores)
        self._visible_basis = None
        if basis is not None:
            if not self.built:
                self._visible_basis = basis_values(basis)
            return super().__call__(inputs, basis=basis, **kwargs)
        return super().__call__(inputs, cores=cores, **kwargs)

    def _build_ring(
        self, kernel_shape: tuple[int, ...], basis_shape: Shape | None, cores_shape: Shape | None
    ) -> None:
        """Find the ring of the kernel; with a basis, create the coefficients; create the bias."""
        if self.shared_basis is not None:
            basis_shape, cores_shape = self.shared_basis.shape, None
            self._visible_basis = basis_values(self.shared_basis.basis.value)
        if basis_shape is not None:
            _, rank, mode, _ = check_basis_shape(basis_shape, name=self.name)
        elif cores_shape is not None:
            _, rank, mode, _ = check_basis_shape(cores_shape, name=self.name)
        else:
            raise ValueError(
                f"Layer '{self.name}' needs the shape of the basis to be built: "
                "build(inputs_shape, basis_shape=(size, rank, mode, rank))."
            )
        self.kernel_shape = tuple(kernel_shape)
        self._ring = envelope(self.kernel_shape, mode, rank)
        self.basis_rank, self.basis_mode = rank, mode
        if basis_shape is not None:
            self._own_cores = TBasisCores(
                [kernel_shape],
                self.adapters,
                self.kernel_initializer,
                self.seed,
                name="cores",
                dtype=self.dtype_policy,
            )
            self._own_cores.build(basis_shape)
            if self._visible_basis is not None:
                self._own_cores.correct_variance(self._visible_basis)
                self._visible_basis = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.kernel_shape[-1],),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    @property
    def ring(self) -> Envelope:
        """The modes and labels of the kernel's cores."""
        if not self.built:
            raise AttributeError(f"Layer '{self.name}' is not built; call it on data first.")
        return self._ring

    def correct_variance(self, basis: Tensor) -> None:
        """Scale the coefficients so that the merged kernel has its target variance (section 4.2).

        Done when the layer is built, wherever the values of the basis can be read.
        """
        if self._own_cores is None:
            raise ValueError(
                f"Layer '{self.name}' owns no coefficients: it is called with `cores`. Correct the "
                "TBasisCores layer that makes them."
            )
        self._own_cores.correct_variance(basis)

    def take_coefficients(self, cores: TBasisCores, rows: slice) -> None:
        """Take over some rows of what a layer has for many kernels: coefficients and adapters."""
        own: Any = self._own_cores
        own.coefficients.assign(ops.copy(cores.coefficients[rows]))
        if own.adapters is not None and cores.adapters is not None:
            own.adapters.assign(ops.copy(cores.adapters[rows]))

    def merge_kernel(self, basis: Tensor | None = None, cores: Tensor | None = None) -> Tensor:
        """The dense kernel in Keras layout, in the dtype of the cores: for a basis, or for cores.

        Args:
            basis: (size, rank, mode, rank), for a layer that owns its coefficients.
            cores: (cores, rank, mode, rank), for one that does not.
        """
        return merge_ring(self.ring, self._cut_cores(basis, cores))

    def dense_layer(
        self, basis: Tensor | None = None, cores: Tensor | None = None
    ) -> keras.layers.Layer:
        """The stock Keras layer with the merged kernel, the same bias and settings.

        Args:
            basis, cores: values, as the layer is called with.
        """
        dense = self._stock_layer(kernel_initializer="zeros")
        dense.build(self._stock_input_shape())
        weights = [self.merge_kernel(basis, cores)] + (
            [] if self.bias is None else [self.bias.value]
        )
        dense.set_weights([ops.convert_to_numpy(weight) for weight in weights])
        dense.trainable = self.trainable
        return dense

    def _cut_cores(self, basis: Tensor | None, cores: Tensor | None) -> list[Tensor]:
        """The cores of the ring's network: the layer's own from the basis, or those given."""
        if self.shared_basis is not None and basis is None and cores is None:
            basis = ops.convert_to_tensor(self.shared_basis.basis.value)
        self._check_given(basis, cores)
        if cores is None and self._own_cores is not None:  # it has them, as checked
            cores = self._own_cores(basis)[0]
        return self.ring.cut(ops.unstack(cores, self.ring.num_cores), ops)

    def _check_given(self, basis: Tensor | None, cores: Any) -> None:
        """Refuse a basis or cores of another kind than the layer was built for."""
        if basis is not None:
            if self._own_cores is None:
                raise ValueError(
                    f"Layer '{self.name}' was built with `cores` and owns no coefficients. "
                    "Received: a basis."
                )
            self._own_cores.check_basis(basis.shape, self.name)
            return
        num_cores, *_ = check_basis_shape(cores.shape, self.basis_rank, self.basis_mode, self.name)
        if num_cores != self.ring.num_cores:
            raise ValueError(
                f"Layer '{self.name}' has {self.ring.num_cores} cores, for a kernel of shape "
                f"{self.kernel_shape}. Received: {num_cores} cores."
            )

    @property
    def frozen(self) -> bool:
        """Whether the kernel is merged beforehand, see `freeze`."""
        return self._frozen is not None

    def freeze(self, basis: Tensor | None = None, cores: Tensor | None = None) -> None:
        """Merge once, for inference: calls use the merged kernel until `unfreeze`.

        A layer that holds its basis needs neither argument.

        `keras_tensornet.freeze(model)` does it for a whole model, and keeps basis and coefficients
        from being changed meanwhile.

        Args:
            basis, cores: values, as the layer is called with.
        """
        self._frozen = ops.stop_gradient(self.merge_kernel(basis, cores))

    def unfreeze(self) -> None:
        """Undo `freeze`: compute from the basis in every call again, and allow training."""
        self._frozen = None

    def _evaluation(
        self, basis: Tensor | None, cores: Any, training: bool | None, **shapes: Any
    ) -> tuple[Any, list[Tensor], Tensor | None]:
        """The plan, the cores, and the merged kernel where the plan wants one or it is frozen."""
        if self._frozen is None:
            cores = self._cut_cores(basis, cores)
            plan = self.plan_for(training=bool(training), **shapes)
            return plan, cores, self._merged_if(plan, cores)
        if training and not BEING_WRITTEN.get():
            raise RuntimeError(
                f"Layer '{self.name}' is frozen: its kernel is merged and cannot be trained. Call "
                "keras_tensornet.unfreeze(model) first."
            )
        if self.kernel_regularizer is not None:
            self.add_loss(self.kernel_regularizer(self._frozen))
        return None, [], self._frozen

    def _plan(self, workload: Workload) -> Plan:
        return make_plan(self.ring.network, workload, self._forced or str(self.implementation))

    _forced: str | None = None

    def _merged_if(self, plan: Plan, cores: list[Tensor]) -> Tensor | None:
        """The merged kernel where the plan wants one, after adding the kernel's penalty."""
        kernel = merge_ring(self._ring, cores) if plan.implementation == "reconstructed" else None
        if self.kernel_regularizer is not None:
            self.add_loss(self._penalty(cores, kernel))
        return kernel

    def _penalty(self, cores: list[Tensor], kernel: Tensor | None) -> Tensor:
        """The regularizer on the merged kernel; L2 needs the cores only."""
        regularizer: Any = self.kernel_regularizer
        exact = self._ring.modes.padding == (0, 0)  # else cores hold entries that are cropped
        if kernel is None and exact and isinstance(regularizer, keras.regularizers.L2):
            return regularizer.l2 * norm_plan(self._ring.network).run(cores, ops)
        return regularizer(merge_ring(self._ring, cores) if kernel is None else kernel)

    def _stock_config(self) -> Config:
        """The configuration that the layer shares with its stock twin."""
        return {
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": regularizers.serialize(self.activity_regularizer),
            "bias_constraint": constraints.serialize(self.bias_constraint),
        }

    def _own_config(self) -> Config:
        return {
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "adapters": self.adapters,
            "implementation": self.implementation,
            "seed": self.seed,
            **({} if self.shared_basis is None else {"shared_basis": _shared(self.shared_basis)}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The layer; one that holds its basis gets the one that was made for the others.

        Raises:
            ValueError: if it holds a basis and is made alone, as `clone_model` does.
        """
        given = config.get("shared_basis")
        if isinstance(given, dict):
            if "shared_object_id" not in given:
                raise ValueError(
                    f"'{config.get('name')}' shares its basis with other layers, and a copy from "
                    "its configuration alone would have another one. Copy the whole model: "
                    "`keras_tensornet.rewrite_model(model, lambda layer, path: None)`, or save and "
                    "load it."
                )
            basis = keras.saving.deserialize_keras_object(given)
            config = {**config, "shared_basis": basis}
        return cls(**config)


def _shared(basis: TBasis) -> dict[str, Any]:
    """A basis in a configuration; while a model is saved Keras marks what is there twice."""
    serialized = [keras.saving.serialize_keras_object(basis) for _ in range(2)]
    return serialized[1]
