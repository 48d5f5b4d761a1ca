"""From a dense model to one that shares a T-Basis, and back (Obukhov et al. 2020, section 4.1)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tensornet import validation
from keras_tensornet.layers.tbasis import TBasis, TBasisConv2D, TBasisCores, TBasisDense
from keras_tensornet.layers.tbasis.common import TBasisMethods
from keras_tensornet.rewriting.walker import rewrite_model, walk_layers
from keras_tensornet.shapes import built_shape
from keras_tensornet.tbasis.graphs import called_layers, flat_name, replay
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
        model: a built model of any kind. Where its graph calls all layers that share the basis
            the result is one flat Functional model, nested models played out, and one product
            makes all cores. Layers inside of composite layers, wrappers and subclassed models are
            replaced in place, the model keeps its class, and each layer holds the basis
            (`shared_basis`): Keras' `clone_model` takes the former only.
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
        A model of the same name, inputs and outputs, compiled like the given one if that was. Of a
        flat one the layers `tbasis` and `tbasis_cores` hold the basis, and all coefficients and
        adapters; `find_basis` finds it in any.

    Raises:
        TypeError: for a model that cannot be built again from its configuration.
        ValueError: if a kernel does not fit into the mode, nothing can share a basis, or both a
            basis and its sizes are given.

    Warns:
        UserWarning: if basis and coefficients are no fewer than the kernels had.

    Examples:

    >>> small = tbasis_model(keras_tensornet.models.resnet_cifar(32), size=16, rank=16)
    >>> sum(variable.shape.num_elements() for variable in small.trainable_variables)
    44186
    """
    made = made_on_basis(
        model,
        size,
        rank,
        mode,
        exclude,
        basis=basis,
        trainable_basis=trainable_basis,
        adapters=adapters,
        norm_penalty=norm_penalty,
        kernel_initializer=kernel_initializer,
        seed=seed,
    )
    return made.model


def made_on_basis(
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
) -> Sharing:
    """What `tbasis_model` makes, with the layer that has the coefficients of all kernels."""
    made = _shared(
        model,
        _basis_layer(size, rank, mode, basis, trainable_basis, seed),
        exclude=exclude,
        adapters=adapters,
        norm_penalty=norm_penalty,
        kernel_initializer=kernel_initializer,
        # Not the basis' own stream: equal draws would correlate basis and coefficients.
        seed=None if seed is None else seed + 1,
    )
    if basis is not None:
        made.basis.basis.assign(ops.copy(basis.basis))
        made.cores.correct_variance(made.basis.basis)
        made.hand_out()
    return made


def _shared(
    model: keras.Model,
    basis: TBasis,
    *,
    exclude: Exclude,
    adapters: str,
    norm_penalty: float,
    kernel_initializer: Identifier,
    seed: int | None,
) -> Sharing:
    """The same for a new TBasis layer; `seed` is that of the coefficients."""
    plan = plan_tbasis(model, basis.size, basis.rank, basis.mode, exclude, adapters)
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
    names = {one.name for _, one in walk_layers(model)}
    basis.name = flat_name("tbasis", names)
    cores = TBasisCores(
        [row.kernel_shape for row in plan.shared],
        adapters,
        kernel_initializer,
        seed,
        name=flat_name("tbasis_cores", names),
    )
    called = {id(layer) for layer in called_layers(model)}
    shared = {row.path for row in plan.shared}
    flat = all(id(layer) in called for path, layer in walk_layers(model) if path in shared)
    kind = Flat if flat else InPlace
    return kind(model, plan, basis, cores, adapters, norm_penalty)


def to_dense_model(model: keras.Model) -> keras.Model:
    """Return a plain Keras model with the merged kernels; the given model stays as it was.

    "At inference, decompression is required only once" (section 5): every T-Basis layer becomes
    its stock twin of the same name, the basis and the coefficients disappear, outputs are equal.

    Args:
        model: a model with T-Basis layers, from `tbasis_model` or built by hand.

    Raises:
        ValueError: if there is no T-Basis layer in the model.
    """
    layers = [layer for _, layer in walk_layers(model)]
    if any(_holds_basis(layer) for layer in layers):
        return rewrite_model(
            model, lambda layer, _: layer.dense_layer() if _holds_basis(layer) else None
        )
    if not any(isinstance(layer, TBasis) for layer in layers):
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


def _holds_basis(layer: keras.Layer) -> bool:
    return isinstance(layer, TBasisMethods) and layer.shared_basis is not None


class Sharing:
    """One run of `tbasis_model`.

    Attributes:
        model: the result.
        basis, cores: the basis, and the coefficients and adapters of all kernels.
    """

    model: keras.Model

    def __init__(
        self,
        model: keras.Model,
        plan: TBasisPlan,
        basis: TBasis,
        cores: TBasisCores,
        adapters: str,
        norm_penalty: float,
    ) -> None:
        self.rows = {row.path: position for position, row in enumerate(plan.shared)}
        self.basis, self.cores, self.adapters = basis, cores, adapters
        self.penalty = keras.regularizers.L2(norm_penalty) if norm_penalty else None
        self.layers: dict[str, tuple[Any, ...]] = {}
        self.model = self.made(model)
        for layer, twin in self.layers.values():
            if layer.use_bias:
                twin.bias.assign(ops.copy(layer.bias))  # JAX would share the buffer
            if twin.trainable != layer.trainable:
                twin.trainable = layer.trainable

    def made(self, model: keras.Model) -> keras.Model:
        """The new model."""
        raise NotImplementedError  # abstract

    def hand_out(self) -> None:
        """Give layers that have coefficients of their own what `cores` has for them."""

    def twin(self, layer: keras.Layer, **more: Any) -> Any:
        """The layer on a basis that stands for a stock layer."""
        config = layer.get_config()
        shared = {key: config[key] for key in COMMON if key in config}
        return TWINS[type(layer)](
            **shared,
            kernel_regularizer=self.penalty,
            adapters=self.adapters,
            dtype=layer.dtype_policy,
            **more,
        )


class Flat(Sharing):
    """Layers that a graph calls get their cores from it: one product for all."""

    def made(self, model: keras.Model) -> keras.Model:
        """The graph, played again as one flat model."""
        self.rings: list[Tensor] = []
        self.names: set[str] = set()
        return replay(model, self.apply, self.begin)

    def begin(self, inputs: Any) -> None:
        """Tie basis and cores to the graph."""
        self.rings = self.cores(self.basis(keras.tree.flatten(inputs)[0]))

    def apply(
        self, layer: keras.Layer, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The call of a layer that shares the basis."""
        if path not in self.rows:
            return NotImplemented
        if path not in self.layers:
            self.layers[path] = (layer, self.twin(layer, name=flat_name(path, self.names)))
        twin = self.layers[path][1]
        return twin(args[0], cores=self.rings[self.rows[path]], **kwargs)


class InPlace(Sharing):
    """Layers that Python code calls hold the basis, and coefficients of their own."""

    def made(self, model: keras.Model) -> keras.Model:
        """The model rewritten."""
        self.basis.build()
        self.cores.build(self.basis.shape)
        self.cores.correct_variance(self.basis.basis)
        result = rewrite_model(model, self.replacement)
        self.hand_out()
        return result

    def replacement(self, layer: keras.Layer, path: str) -> Any:
        """The twin of a layer that shares the basis."""
        if path not in self.rows:
            return None
        twin = self.twin(layer, name=layer.name, shared_basis=self.basis)
        twin.build(built_shape(layer))
        self.layers[path] = (layer, twin)
        return twin

    def hand_out(self) -> None:
        """Each layer its rows of the coefficients and adapters."""
        starts = [0]
        for one in self.cores.envelopes:
            starts.append(starts[-1] + one.num_cores)
        for path, (_, twin) in self.layers.items():
            place = self.rows[path]
            twin.take_coefficients(self.cores, slice(starts[place], starts[place + 1]))


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
