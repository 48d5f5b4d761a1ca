"""What all factorized layers have in common: arguments, the kernel, and ways in and out.

`FactorizedMethods` is mixed into the layers that hold a `FactorizedKernel`. It keeps no state of
its own; each layer names its dense twin and describes its kernel's modes, and gets from here
`.cores`, `.kernel`, `.plan`, `assign_kernel`, `from_layer`, `to_dense_layer` and the configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import keras
from keras import activations, constraints, initializers, ops, regularizers

from keras_tensornet import formats, validation
from keras_tensornet.contraction import Plan, Workload, make_plan
from keras_tensornet.execution import stage_kernels
from keras_tensornet.initializers import MergedVarianceScaling
from keras_tensornet.kernels import (
    FactorizedKernel,
    decompose_kernel,
    relative_error,
)
from keras_tensornet.layers.arguments import (
    check_fits,
    resolve_format,
    resolve_mode_argument,
    resolve_network,
    resolve_rank,
    spanned_modes,
)
from keras_tensornet.layers.conversion import Convertible
from keras_tensornet.layers.implementation import BEING_WRITTEN, choices
from keras_tensornet.layers.tuned import Tunable
from keras_tensornet.modes import KernelModes, fewest_modes, kernel_modes
from keras_tensornet.networks import Network, clip_ranks
from keras_tensornet.types import Config, Identifier, Implementation, Modes, Rank, Shape, Tensor

T = TypeVar("T", bound=type)


class Frozen(NamedTuple):
    """A plan and the merged kernels of its stages."""

    plan: Plan
    kernels: list[Tensor]


class FactorizedMethods(Convertible, Tunable):
    """Methods of every layer whose kernel is a tensor network."""

    format: str | None = None
    # The method `(input_shape, training, merged)` of each layer.
    workload: Callable[..., Workload]

    def __init__(
        self, *args: Any, bond_dropout: float = 0.0, seed: int | None = None, **kwargs: Any
    ) -> None:
        """Keep the arguments that every factorized layer takes by name.

        Args:
            bond_dropout: share in [0, 1) of the indices of each bond that is dropped in training;
                what is kept is scaled, so that the merged kernel is right on average.
            seed: int, of the dropout.
        """
        super().__init__(*args, **kwargs)
        self.bond_dropout = validation.rate("bond_dropout", bond_dropout)
        self.seed = validation.optional_int("seed", seed)

    def _set_arguments(
        self,
        rank: Rank,
        format: str | None,
        network: Network | None,
        in_modes: Modes,
        out_modes: Modes,
        implementation: Implementation,
        activation: Identifier,
        use_bias: bool,
        kernel_initializer: Identifier,
        bias_initializer: Identifier,
        kernel_regularizer: Identifier,
        bias_regularizer: Identifier,
        kernel_constraint: Identifier,
        bias_constraint: Identifier,
    ) -> None:
        """Check and keep the arguments that all factorized layers share."""
        self._format = resolve_format(type(self).format, format, network)
        self.network_argument = resolve_network(network)
        # None only with a network of the user's own.
        self.rank: Any = resolve_rank(rank, network)
        self.in_modes = resolve_mode_argument("in_modes", in_modes)
        self.out_modes = resolve_mode_argument("out_modes", out_modes)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        if kernel_initializer is None:
            kernel_initializer = MergedVarianceScaling()
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self._reparametrised = self.kernel_constraint is not None
        self.implementation = implementation
        self._frozen: Frozen | None = None

    def _checked_implementation(self, implementation: Implementation) -> str | dict[str, str]:
        resolved = super()._checked_implementation(implementation)
        if self._reparametrised and not set(choices(resolved)) <= {"auto", "reconstructed"}:
            raise ValueError(
                "A `kernel_constraint` acts on the merged kernel, so the layer has to merge it. "
                f"Received: implementation={implementation!r} with kernel_constraint="
                f"{self.kernel_constraint}. Use implementation='auto' or 'reconstructed'."
            )
        return resolved

    def _matrix_modes(self, in_size: int, out_size: int, out_name: str) -> KernelModes:
        """The modes of a kernel without spatial axes: as given, or the format's default."""
        in_modes: Modes = self.in_modes
        out_modes: Modes = self.out_modes
        if self.network_argument is not None:
            spanned = spanned_modes(self.network_argument, in_size, out_size)
            in_modes, out_modes = spanned.in_modes, spanned.out_modes
        else:
            most = formats.get(self._format).dense_modes
            in_modes = fewest_modes(in_size, most) if in_modes is None else in_modes
            out_modes = fewest_modes(out_size, most) if out_modes is None else out_modes
        return kernel_modes(in_size, out_size, in_modes, out_modes, out_name=out_name)

    def _build_kernel(self, modes: KernelModes, bias_shape: tuple[int, ...] | None = None) -> None:
        """Create the sublayer with the cores, and the bias: both, or neither if one fails."""
        kernel, rank = self._make_cores(modes)
        self.bias: keras.Variable | None = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=bias_shape or (modes.groups * modes.out_size,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self._kernel, self.rank = kernel, rank

    def _build_cores(self, modes: KernelModes) -> None:
        """Create the sublayer with the cores; ranks above what the modes allow are cut."""
        self._kernel, self.rank = self._make_cores(modes)

    def _make_cores(self, modes: KernelModes) -> tuple[FactorizedKernel, Rank]:
        """A built kernel that is not yet part of the layer, and the rank that it uses."""
        network, rank = self.network_argument, self.rank
        if network is None:
            network = formats.get(self._format).build(modes, self.rank)
            clipped = clip_ranks(network)
            if clipped is not network:
                # Built again, because a format may drop a core that the cut rank makes needless.
                cut = formats.get(self._format).rank_argument(clipped)
                rank, network = cut, formats.get(self._format).build(modes, cut)
        else:
            check_fits(network, modes)
        kernel = FactorizedKernel(
            network,
            modes,
            self.kernel_initializer,
            self.kernel_regularizer,
            self.kernel_constraint,
            self.bond_dropout,
            self.seed,
            name="kernel",
            dtype=self.dtype_policy,
        )
        kernel.build()
        return kernel, rank

    @property
    def network(self) -> Network:
        """The labels and sizes of the cores."""
        return self._built_kernel().network

    @property
    def modes(self) -> KernelModes:
        """The modes of the kernel; printing it shows any padding."""
        return self._built_kernel().modes

    @property
    def cores(self) -> list[keras.Variable]:
        """The trainable variables whose merge is the kernel, in the order of `network.cores`."""
        return list(self._built_kernel().cores)

    def rank_holders(self) -> dict[str, FactorizedKernel]:
        """The kernels that are networks, by the argument that takes their ranks."""
        # No property: Keras saves layers under the first attribute in which it finds them.
        return {"rank": self._built_kernel()}

    @property
    def kernel(self) -> Tensor:
        """The merged dense kernel as a tensor in Keras layout, by the compiled merge path."""
        return self._built_kernel().value()

    @property
    def plan(self) -> Plan:
        """How inference is computed; print it to see the choice and what it was chosen from."""
        self._built_kernel()
        return self._frozen.plan if self._frozen else self.plan_for()

    def plan_for(
        self,
        batch_size: int | None = None,
        training: bool = False,
        merged: bool = False,
        input_shape: Shape | None = None,
    ) -> Plan:
        """The plan for a batch size.

        Args:
            batch_size: 32 where it is unknown.
            training: whether gradients are computed as well.
            merged: whether kernels are merged beforehand, as in a frozen layer.
            input_shape: of the inputs, batch included; by default the one that the layer was
                built with. Unknown heights and widths count as 32.
        """
        shape = tuple(input_shape or self._usual_shape())
        workload = self.workload((batch_size or shape[0], *shape[1:]), training, merged)
        return self._make_plan(workload, self._chosen(workload.training, merged))

    def _make_plan(self, workload: Workload, implementation: str) -> Plan:
        return make_plan(self.network, workload, implementation)

    def _plan_and_kernels(
        self, input_shape: tuple[int | None, ...], training: bool
    ) -> tuple[Plan, list[Tensor]]:
        """The plan for inputs of that shape and the merged kernels of its stages."""
        if self._frozen:
            if training and not BEING_WRITTEN.get():
                raise RuntimeError(
                    f"Layer '{self.name}' is frozen: its cores are merged and cannot be trained. "
                    "Call keras_tensornet.unfreeze(model) first."
                )
            return self._frozen
        plan = self.plan_for(training=training, input_shape=input_shape)
        return plan, self._kernels_of(plan, training)

    def _kernels_of(self, plan: Plan, training: bool = False) -> list[Tensor]:
        if plan.implementation == "reconstructed":
            return [self._kernel.merged(training)]
        return stage_kernels(plan, self._kernel.values(training))

    @property
    def frozen(self) -> bool:
        """Whether the cores are merged beforehand, see `freeze`."""
        return self._frozen is not None

    def freeze(self, batch_size: int | None = None) -> None:
        """Merge once, for inference: calls use the merged kernels until `unfreeze`.

        The plan is chosen anew, merging counted as free, so that it is never slower than the dense
        layer. Training a frozen layer, or assigning its cores, raises an error, so the merged
        kernels are never stale.

        Args:
            batch_size: that the plan is chosen for.
        """
        holder = self._built_kernel()
        plan = self.plan_for(batch_size, merged=True)
        kernels = [ops.stop_gradient(kernel) for kernel in self._kernels_of(plan)]
        self._frozen = Frozen(plan, kernels)
        holder.lock()

    def unfreeze(self) -> None:
        """Undo `freeze`: merge in every call again, and allow training."""
        self._built_kernel().unlock()
        self._frozen = None

    def assign_kernel(self, kernel: Tensor) -> float:
        """Decompose a dense kernel into the cores, at the layer's ranks.

        Args:
            kernel: array in Keras layout, of the dense layer's kernel shape.

        Returns:
            The relative error |layer.kernel - kernel| / |kernel| in the Frobenius norm, a
            `kernel_constraint` applied.

        Raises:
            ValueError: if the kernel has another shape; the cores are then unchanged.
        """
        holder = self._built_kernel()
        kernel = ops.convert_to_numpy(kernel)
        holder.assign(decompose_kernel(kernel, holder.network, holder.modes))
        return relative_error(ops.convert_to_numpy(self.kernel), kernel)

    def assign_cores(self, cores: list[Tensor]) -> None:
        """Set the cores from arrays, in the order and of the shapes of `network.core_shapes`.

        Raises:
            ValueError: if their number or a shape differs; the cores are then unchanged.
        """
        holder = self._built_kernel()
        shapes = tuple(tuple(core.shape) for core in cores)
        if shapes != holder.network.core_shapes:
            raise ValueError(
                f"`cores` must have the shapes {list(holder.network.core_shapes)}. Received: "
                f"{list(shapes)}."
            )
        holder.assign(cores)

    def _common_config(self) -> Config:
        """The shared arguments as plain values."""
        config = {
            "rank": self.rank,
            "in_modes": self.in_modes,
            "out_modes": self.out_modes,
            "implementation": self.implementation,
            "bond_dropout": self.bond_dropout,
            "seed": self.seed,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": constraints.serialize(self.kernel_constraint),
            "bias_constraint": constraints.serialize(self.bias_constraint),
        }
        if type(self).format is None:
            config["format"] = self._format
            network = self.network_argument
            config["network"] = None if network is None else network.to_config()
        return config

    def _built_kernel(self) -> FactorizedKernel:
        if not self.built:
            raise AttributeError(
                f"Layer '{self.name}' has no cores yet. Call it on data or `build` it first."
            )
        return self._kernel


def serialisable(cls: T) -> T:
    """Register a layer class under the package's name, so that saved models load by import."""
    return keras.saving.register_keras_serializable(package="keras_tensornet")(cls)
