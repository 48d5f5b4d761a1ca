"""From a dense model to one that shares a T-Basis, and back (Obukhov et al. 2020, section 4.1)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tensornet import validation
from keras_tensornet.layers.tbasis import TBasis, TBasisConv2D, TBasisCores, TBasisDense
from keras_tensornet.tbasis.graphs import flat_name, leaf_layers, replay
from keras_tensornet.tbasis.planning import Exclude, TBasisPlan, plan_tbasis
from keras_tensornet.types import Identifier, Tensor

# Weight of the squared norm of the decompressed kernels in the loss (section 5).
NORM_PENALTY = 3e-4
# Arguments that a stock layer and its T-Basis twin share.
COMMON = (
    "units",
    "filters",
    "kernel_size",
    "strides",
    "padding",
    "data_format",
    "dilation_rate",
    "groups",
    "activation",
    "use_bias",
    "bias_initializer",
    "bias_regularizer",
    "activity_regularizer",
    "bias_constraint",
)
TWINS = {keras.layers.Dense: TBasisDense, keras.layers.Conv2D: TBasisConv2D}


def tbasis_model(
    model: keras.Model,
    size: int | None = None,
    rank: int | None = None,
    mode: int = 9,
    exclude: Exclude = None,
    *,
    basis: TBasis | None = None,
    trainable_basis: bool = True,
    adapters: str = "exp",
    norm_penalty: float = NORM_PENALTY,
    kernel_initializer: Identifier = None,
    seed: int | None = None,
) -> keras.Model:
    """Return a new model whose kernels all come from one basis; the given model stays as it was.

    Every Dense and Conv2D layer is replaced but the first convolution (`plan_tbasis` prints which
    and why); its kernel starts anew from the paper's initialisation. Biases, norms and all other
    layers keep their weights. To start from the trained kernels as well, see `fit_tbasis`.

    Args:
        model: a built Sequential or Functional model. Models nested in it are played out, so the
            result is one flat Functional model.
        size: B, the number of tensors of the basis.
        rank: R, the bond size of all rings. A higher rank does more than a larger basis (paper).
        mode: N, a square not smaller than any kernel's positions.
        exclude: layers that stay dense: names, paths or regular expressions of them, or a function
            `(layer, path) -> bool`.
        basis: a basis to reuse, for example from `load_basis`, instead of size, rank and mode; its
            values are copied, and it stays frozen if it is.
        trainable_basis: False for a pseudo-random basis that is never trained.
        adapters: rank adapters, "exp", "linear" or "none".
        norm_penalty: weight of the squared norm of the merged kernels in the loss, against their
            growth. It takes the place of the kernels' own regularizers.
        kernel_initializer: of the merged kernels; He's by default.
        seed: integer, for basis and coefficients.

    Returns:
        A model of the same name, inputs and outputs, compiled like the given one if that was. Its
        layers `tbasis` and `tbasis_cores` hold the basis, and all coefficients and adapters.

    Raises:
        TypeError: if the model, or one inside it, is subclassed.
        ValueError: if a kernel does not fit into the mode, nothing can share a basis, or both a
            basis and its sizes are given.

    Warns:
        UserWarning: if basis and coefficients are no fewer than the kernels had.

    Examples:

    >>> small = tbasis_model(keras_tensornet.models.resnet_cifar(32), size=16, rank=16)
    >>> sum(variable.shape.num_elements() for variable in small.trainable_variables)
    44186
    """
    layer = _basis_layer(size, rank, mode, basis, trainable_basis, seed)
    plan = plan_tbasis(model, layer.size, layer.rank, layer.mode, exclude, adapters)
    if plan.core_params + plan.basis_params >= plan.dense_params:
        validation.warn_user(
            "Nothing becomes smaller on this basis: give a smaller `size` or `rank`, or exclude "
            f"fewer layers.\n{plan}"
        )
    if norm_penalty < 0.0:
        raise ValueError(
            f"`norm_penalty` must not be negative. Received: norm_penalty={norm_penalty}. Use 0.0 "
            "for none."
        )
    names = {one.name for _, one in leaf_layers(model)}
    layer.name = flat_name("tbasis", names)
    cores = TBasisCores(
        [row.kernel_shape for row in plan.shared],
        adapters,
        kernel_initializer,
        # Not the basis' own stream: equal draws would correlate basis and coefficients.
        None if seed is None else seed + 1,
        name=flat_name("tbasis_cores", names),
    )
    sharing = _Sharing(plan, layer, cores, adapters, norm_penalty)
    result = replay(model, sharing.apply, sharing.begin)
    sharing.copy_biases()
    if basis is not None:
        layer.basis.assign(ops.copy(basis.basis))
        cores.correct_variance(layer.basis)
    return result


def to_dense_model(model: keras.Model) -> keras.Model:
    """Return a plain Keras model with the merged kernels; the given model stays as it was.

    "At inference, decompression is required only once" (section 5): every T-Basis layer becomes
    its stock twin of the same name, the basis and the coefficients disappear, outputs are equal.

    Args:
        model: a model with T-Basis layers, from `tbasis_model` or built by hand.

    Raises:
        ValueError: if there is no T-Basis layer in the model.
    """
    if not any(isinstance(layer, TBasis) for _, layer in leaf_layers(model)):
        raise ValueError(
            f"Model '{model.name}' has no TBasis layer, so there is nothing to make dense."
        )
    twins: dict[int, keras.layers.Layer] = {}

    def apply(layer: keras.Layer, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(layer, TBasis):
            return layer.basis.value  # values instead of symbols: merged at once
        if isinstance(layer, TBasisCores):
            return layer.call(*args)
        if isinstance(layer, (TBasisDense, TBasisConv2D)):
            if id(layer) not in twins:
                twins[id(layer)] = layer.dense_layer(kwargs.get("basis"), kwargs.get("cores"))
                twins[id(layer)].name = path.replace("/", "_")
            return twins[id(layer)](args[0])
        return NotImplemented

    return replay(model, apply)


class _Sharing:
    """One run of `tbasis_model`: the layers made so far and the cores they get."""

    def __init__(
        self,
        plan: TBasisPlan,
        basis: TBasis,
        cores: TBasisCores,
        adapters: str,
        norm_penalty: float,
    ) -> None:
        self.rows = {row.path: position for position, row in enumerate(plan.shared)}
        self.basis, self.cores, self.adapters = basis, cores, adapters
        self.penalty = keras.regularizers.L2(norm_penalty) if norm_penalty else None
        self.rings: list[Tensor] = []
        self.layers: dict[str, tuple[Any, ...]] = {}
        self.names: set[str] = set()

    def begin(self, inputs: Any) -> None:
        """Tie basis and cores to the graph: one product for all layers."""
        self.rings = self.cores(self.basis(keras.tree.flatten(inputs)[0]))

    def apply(
        self, layer: keras.Layer, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if path not in self.rows:
            return NotImplemented
        if path not in self.layers:
            self.layers[path] = (layer, self._twin(layer, path))
        twin = self.layers[path][1]
        return twin(args[0], cores=self.rings[self.rows[path]], **kwargs)

    def copy_biases(self) -> None:
        for layer, twin in self.layers.values():
            if layer.use_bias:
                twin.bias.assign(ops.copy(layer.bias))  # JAX would share the buffer
            if twin.trainable != layer.trainable:
                twin.trainable = layer.trainable

    def _twin(self, layer: keras.Layer, path: str) -> Any:
        config = layer.get_config()
        shared = {key: config[key] for key in COMMON if key in config}
        return TWINS[type(layer)](
            **shared,
            kernel_regularizer=self.penalty,
            adapters=self.adapters,
            name=flat_name(path, self.names),
            dtype=layer.dtype_policy,
        )


def _basis_layer(
    size: int | None,
    rank: int | None,
    mode: int,
    basis: TBasis | None,
    trainable: bool,
    seed: int | None,
) -> TBasis:
    if basis is None:
        if size is None or rank is None:
            raise ValueError(
                "Give `size` and `rank` of the basis, or a `basis` to reuse. Received: "
                f"size={size}, rank={rank}, basis=None."
            )
        return TBasis(size, rank, mode, trainable=trainable, seed=seed)
    if not isinstance(basis, TBasis) or not basis.built:
        raise ValueError(
            "`basis` must be a built TBasis layer, from `load_basis` or another model's "
            f"`get_layer`. Received: {basis!r}."
        )
    if size is not None or rank is not None:
        raise ValueError(
            "A `basis` to reuse has its sizes already; leave `size` and `rank` out. Received: "
            f"size={size}, rank={rank}."
        )
    config = {**basis.get_config(), "trainable": basis.trainable and trainable}
    return TBasis.from_config(config)
