"""The factorized kernel: a sublayer that owns the cores of a network.

Layers ask it for the merged kernel, for the plan that computes them, and for the norm of the
kernel from its cores. Cores are kept and merged in the variable dtype (float32 under mixed
precision) and cast once, after merging.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

import keras
import numpy as np
from keras import ops

from keras_tensornet import compiled, formats
from keras_tensornet.contraction import kernel_plan, to_keras_layout
from keras_tensornet.contraction.norms import norm_plan
from keras_tensornet.formats import Format
from keras_tensornet.initializers import core_initializers
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.regularizers import BondGroupLasso, drop_bonds
from keras_tensornet.types import Shape, Tensor


class FactorizedKernel(keras.layers.Layer):
    """Cores of one network as variables, standing for a dense kernel in Keras layout.

    Args:
        network: the cores.
        modes: what the modes of the network stand for in the dense kernel.
        initializer: a Keras initializer of the merged kernel.
        regularizer: a Keras regularizer of the merged kernel.
        constraint: a Keras constraint; the kernel used is `constraint(merged)`, so that it holds
            in every step, as it does for a dense kernel after its projection.
        bond_dropout: share of the indices of each bond that is dropped in training.
        seed: of the bond dropout.
    """

    def __init__(
        self,
        network: Network,
        modes: KernelModes,
        initializer: keras.Initializer,
        regularizer: keras.Regularizer | None = None,
        constraint: Callable[[Tensor], Tensor] | None = None,
        bond_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bond_dropout = bond_dropout
        self.seed_generator = keras.random.SeedGenerator(seed) if bond_dropout else None
        self.network = network
        self.modes = modes
        self.initializer = initializer
        self.kernel_regularizer = regularizer
        self.kernel_constraint = constraint
        self.cores: list[keras.Variable] = []

    def build(self, input_shape: Shape | None = None) -> None:
        """Create one variable per core."""
        drawn = core_initializers(self.initializer, self.network, self.modes.fan_shape)
        if drawn is None:
            drawn = self._decomposed_initializers(self.modes.kernel_shape)
        for position, core_shape in enumerate(self.network.core_shapes):
            core = self.add_weight(
                name=f"core_{position}",
                shape=core_shape,
                initializer=drawn[position],
                autocast=False,
            )
            self.cores.append(core)
        if self.kernel_regularizer is not None:
            # One penalty for the whole kernel, counted once like that of a dense kernel.
            self.cores[0].regularizer = _WholeKernel(self)
        self.built = True

    def values(self, training: bool = False) -> list[Tensor]:
        """The cores as tensors; in training with some bond indices dropped."""
        cores = [core.value for core in self.cores]
        if training and self.bond_dropout:
            return drop_bonds(self.network, cores, self.bond_dropout, self.seed_generator)
        return cores

    def merged(self, training: bool = False) -> Tensor:
        """The dense kernel in Keras layout, in the dtype of the cores."""
        kernel = kernel_plan(self.network).run(self.values(training), ops)
        kernel = to_keras_layout(kernel, self.modes, ops)
        return self.kernel_constraint(kernel) if self.kernel_constraint else kernel

    def value(self) -> Tensor:
        """The merged kernel by the compiled merge path: what `layer.kernel` returns."""
        cores = [core.value for core in self.cores]
        kernel = compiled.merge_network(self.network, self.modes, cores)
        return self.kernel_constraint(kernel) if self.kernel_constraint else kernel

    def penalty(self) -> Tensor:
        """The regularizer's value on the merged kernel; L2 is computed from the cores alone."""
        regularizer: Any = self.kernel_regularizer
        if isinstance(regularizer, BondGroupLasso):
            return regularizer.of_cores(self.network, self.values())
        l2_only = isinstance(regularizer, keras.regularizers.L2) or (
            isinstance(regularizer, keras.regularizers.L1L2) and not float(regularizer.l1)
        )
        if l2_only and self.kernel_constraint is None and self.modes.padding == (0, 0):
            return regularizer.l2 * self.squared_norm()
        return regularizer(self.merged())

    def squared_norm(self) -> Tensor:
        """Sum of squares of the merged kernel, by contracting the cores with themselves."""
        return norm_plan(self.network).run([core.value for core in self.cores], ops)

    def lock(self) -> None:
        """Refuse new values for the cores, whoever assigns them, because merged copies exist."""
        lock(self.cores)

    def unlock(self) -> None:
        """Allow new values for the cores again."""
        unlock(self.cores)

    def assign(self, arrays: list[np.ndarray]) -> None:
        """Set the cores from arrays of their shapes."""
        for core, array in zip(self.cores, arrays, strict=True):
            core.assign(ops.convert_to_tensor(array, dtype=core.dtype))

    def _decomposed_initializers(self, shape: tuple[int, ...]) -> list[Callable[..., Any]]:
        """Initializers that draw the dense kernel, decompose it, and hand out its cores."""
        drawn: dict[str, list[Any]] = {}

        def core(position: int, core_shape: tuple[int, ...], dtype: Any = None) -> Tensor:
            if not drawn:
                kernel = ops.convert_to_numpy(self.initializer(shape, dtype="float32"))
                drawn["cores"] = decompose_kernel(kernel, self.network, self.modes)
            return ops.convert_to_tensor(drawn["cores"][position], dtype=dtype)

        return [partial(core, position) for position in range(len(self.network.cores))]

    def quantize(self, mode: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Refused, in words for `model.quantize`, which visits this sublayer and not its layer."""
        refused_quantize(self, mode)

    def compute_output_shape(self, input_shape: Shape | None = None) -> Shape:
        """The shape of the dense kernel."""
        return self.modes.kernel_shape


def refused_quantize(
    layer: keras.Layer, mode: str | None = None, *args: Any, **kwargs: Any
) -> NoReturn:
    """The `quantize` of every layer whose weights are cores: it raises, and says what to do.

    It is a ValueError: of a NotImplementedError `model.quantize` makes a warning, and the layer
    would stay in float unnoticed.

    Args:
        layer: that was to be quantised.
        mode: that was asked for.
        *args, **kwargs: what else Keras gives.
    """
    raise ValueError(
        f"{type(layer).__name__} '{layer.path}' is a tensor network and cannot be quantised in "
        f"place. Received: mode={mode!r}. "
        "Quantise `to_dense_model(model)` (or `layer.to_dense_layer()`) instead, or export with "
        "export_model(model, path, 'litert', quantize='int8'), which keeps the cores. Of a model, "
        "layers before this one may be quantised already: `to_dense_model` first, or leave layers "
        "out by `filters`."
    )


class _WholeKernel(keras.regularizers.Regularizer):
    """The penalty of a kernel, hung on one of its cores; Keras 3.12 takes no plain function."""

    def __init__(self, kernel: FactorizedKernel) -> None:
        self.kernel = kernel

    def __call__(self, core: keras.Variable) -> Tensor:
        return self.kernel.penalty()


def tensorize_kernel(kernel: np.ndarray, network: Network, modes: KernelModes) -> np.ndarray:
    """A dense kernel in Keras layout as a tensor whose axes are `network.mode_labels`.

    Args:
        kernel: of shape `modes.kernel_shape`.
        network: whose modes are wanted.
        modes: the same modes with the unpadded sizes.

    Raises:
        ValueError: if the kernel has another shape.
    """
    kernel = np.asarray(kernel, dtype="float64")
    if kernel.shape != modes.kernel_shape:
        raise ValueError(
            f"A kernel must have the shape of the dense kernel in Keras layout, "
            f"{modes.kernel_shape}. Received: shape {kernel.shape}."
        )
    if modes.order:
        kernel = kernel.transpose(np.argsort(modes.order))
    extra_in, extra_out = modes.padding
    kernel = kernel.reshape(*modes.kernel_size, modes.in_size, modes.groups, modes.out_size)
    if extra_in or extra_out:  # `np.pad` copies in any case
        lead = [(0, 0)] * len(modes.kernel_size)
        kernel = np.pad(kernel, [*lead, (0, extra_in), (0, 0), (0, extra_out)])
    labels = network.kernel_labels
    kernel = kernel.reshape(network.sizes_of(labels))
    return kernel.transpose([labels.index(label) for label in network.mode_labels])


def decompose_kernel(
    kernel: np.ndarray, network: Network, modes: KernelModes, quick: bool = False, **threshold: Any
) -> list[np.ndarray]:
    """Cores whose merge is near a dense kernel: at the network's ranks, or by a threshold.

    Args:
        kernel: dense kernel in Keras layout.
        network: the cores wanted; its format is found by its name.
        modes: the modes of the kernel.
        quick: few sweeps, where the decomposition has any: enough to see how large the error is.
        **threshold: `energy=` or `eps=` to choose ranks, nothing to use those of the network.

    Raises:
        ValueError: for a network of the user's own, which has no decomposition, or a kernel of
            the wrong shape.
    """
    tensor = tensorize_kernel(kernel, network, modes)
    return equalised(decompose_tensor(tensor, network, quick, **threshold))


def decompose_tensor(
    tensor: np.ndarray, network: Network, quick: bool = False, **threshold: Any
) -> list[np.ndarray]:
    """Cores of a tensor whose axes are the network's modes, as its format's decomposition has them.

    Args:
        tensor: as `tensorize_kernel` returns it.
        network, quick, **threshold: as in `decompose_kernel`.
    """
    format = format_of(network)
    how = threshold or {"ranks": True}
    if quick and format.trial_sweeps is not None:
        how = {**how, "num_iter": format.trial_sweeps}
    return [np.asarray(core) for core in format.decompose(tensor, network, **how)]


def equalised(cores: list[Tensor]) -> list[np.ndarray]:
    """The same merged kernel from cores whose entries have one root mean square.

    Decompositions leave orthonormal cores beside one that holds all of the norm, and a learning
    rate then means something else to each. Cores drawn by an initializer are alike; so are these.
    """
    cores = [np.asarray(core) for core in cores]
    sizes = [float(np.sqrt(np.mean(np.square(core, dtype="float64")))) for core in cores]
    if not all(sizes):
        return cores
    common = math.exp(sum(map(math.log, sizes)) / len(sizes))
    return [
        (core * (common / size)).astype(core.dtype) for core, size in zip(cores, sizes, strict=True)
    ]


def format_of(network: Network) -> Format:
    """The named format that a network belongs to."""
    if network.name not in formats.FORMATS:
        known = ", ".join(repr(name) for name in formats.FORMATS)
        raise ValueError(
            f"Only networks of a named format ({known}) can be decomposed into. Received: a "
            f"{network.name} network. Assign its cores one by one through `layer.cores`."
        )
    return formats.get(network.name)


def network_of_cores(network: Network, cores: list[np.ndarray]) -> Network:
    """The network with the bond sizes that some cores have."""
    size = dict(network.sizes)
    for labels, core in zip(network.cores, cores, strict=True):
        size.update(zip(labels, core.shape, strict=True))
    return network.with_ranks(tuple(size[bond] for bond in network.bonds))


def rank_for_threshold(
    format_name: str, modes: KernelModes, kernel: np.ndarray, **threshold: Any
) -> int | Sequence[int]:
    """The `rank` argument that a threshold gives for a dense kernel.

    Args:
        format_name: of the network.
        modes: the modes of the kernel.
        kernel: dense kernel in Keras layout.
        **threshold: `energy=` or `eps=`.
    """
    format = formats.get(format_name)
    network = format.build(modes, 1)
    cores = decompose_kernel(kernel, network, modes, **threshold)
    return format.rank_argument(network_of_cores(network, cores))


def relative_error(found: np.ndarray, kernel: np.ndarray) -> float:
    """Frobenius norm of (found - kernel) over that of the kernel; 0 for a zero kernel met."""
    error, size = norm(np.subtract(found, kernel, dtype="float64")), norm(kernel)
    return error / size if size else error


def norm(array: np.ndarray) -> float:
    """Frobenius norm, summed in float64."""
    return float(np.linalg.norm(np.ravel(array).astype("float64", copy=False)))


def lock(variables: Iterable[keras.Variable]) -> None:
    """Refuse new values for variables, whoever assigns them, until `unlock`."""
    for variable in variables:
        variable.assign = partial(_assign_unchanged, variable, ops.convert_to_numpy(variable.value))


def unlock(variables: Iterable[keras.Variable]) -> None:
    """Allow new values again."""
    for variable in variables:
        vars(variable).pop("assign", None)


def _assign_unchanged(core: Any, merged: np.ndarray, value: Any) -> Any:
    """Stand in for `core.assign` while merged copies exist: the same values pass, others do not.

    The JAX trainer writes all variables back after `predict`, changed or not.
    """
    if not np.array_equal(ops.convert_to_numpy(value), merged):
        raise RuntimeError(
            "The cores of a frozen layer are merged already and cannot be given new values. Call "
            "keras_tensornet.unfreeze(model) first."
        )
    return type(core).assign(core, value)
