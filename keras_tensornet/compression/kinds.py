"""Which layers can be compressed: the kinds of dense Keras layers, and the choice among layers.

A `Kind` says where a layer keeps its kernels, which factorized layer stands for it, how that is
made around given cores, what it costs and what calibration sees of it. A new kind of layer is one
row here, or one call of `register` elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet import layers
from keras_tensornet.compression.ends import EMBEDDING, ends
from keras_tensornet.compression.kind import Kind
from keras_tensornet.compression.recurrent_kinds import RecurrentKind
from keras_tensornet.layers.conversion import DENSE_ONLY
from keras_tensornet.layers.equations import parse_equation
from keras_tensornet.rewriting.choice import as_tuple, chosen_paths
from keras_tensornet.rewriting.walker import walk_layers
from keras_tensornet.types import Rank, Tensor


class ConvKind(Kind):
    """Convolutions: the spatial modes of a 1x1 kernel are one."""

    def arguments(self, layer: keras.Layer, format: str) -> dict[str, Any]:
        """Arguments of the factorized layer that suit a trained kernel in a format."""
        pointwise = all(extent == 1 for extent in layer.kernel_size)
        return super().arguments(layer, format) | ({"spatial": "joint"} if pointwise else {})


class EinsumKind(Kind):
    """Products of any axes, unless each index of an axis has a product of its own."""

    def refusal(self, layer: keras.Layer) -> str:
        """Why its equation is no matrix product."""
        try:
            parse_equation(layer.equation)
        except ValueError:
            return f"{layer.equation!r} is no matrix product"
        return ""


class EmbeddingKind(Kind):
    """Tables, of which rows are looked up."""

    def kernels(self, layer: keras.Layer) -> dict[str, keras.Variable]:
        """The table."""
        return {"rank": layer.embeddings}

    def shell(self, layer: keras.Layer, arguments: dict[str, Any]) -> keras.Layer:
        """The factorized layer, built, its cores unset."""
        config = self.dense.get_config(layer)
        config = {key: value for key, value in config.items() if key not in DENSE_ONLY}
        result = self.factorized.from_config(config | arguments)
        result.build()
        if not getattr(layer, "tie_weights", True):
            result.reverse_embeddings.assign(ops.copy(layer.reverse_embeddings))
        return result

    def workload(self, layer: keras.Layer, holder: Any, batch_size: int) -> None:
        """None: looking up is no multiplication."""
        return None


def _of_keras(kind: type[Kind], name: str, *settings: Any, **more: Any) -> Kind:
    factorized = getattr(layers, f"Factorized{name}")
    return kind(getattr(keras.layers, name), factorized, *settings, **more)


# Keras has it from version 3.13 on.
REVERSIBLE = [
    _of_keras(EmbeddingKind, name, arranged=False)
    for name in ("ReversibleEmbedding",)
    if hasattr(keras.layers, name)
]
KINDS: dict[type[Any], Kind] = {
    kind.dense: kind
    for kind in (
        _of_keras(Kind, "Dense", "dense"),
        _of_keras(ConvKind, "Conv1D", "conv"),
        _of_keras(ConvKind, "Conv2D", "conv"),
        _of_keras(ConvKind, "Conv3D", "conv"),
        _of_keras(ConvKind, "Conv2DTranspose", "conv"),
        _of_keras(EinsumKind, "EinsumDense", "dense"),
        _of_keras(EmbeddingKind, "Embedding", "dense", arranged=False),
        *REVERSIBLE,
        _of_keras(RecurrentKind, "LSTM", "dense"),
        _of_keras(RecurrentKind, "GRU", "dense"),
    )
}


def register(kind: Kind) -> Kind:
    """Add a kind of layer of your own, which from then on is planned and compressed as any other.

    Args:
        kind: see `Kind`; its dense class must be new to the table.

    Returns:
        The kind.

    Raises:
        TypeError: if it is no `Kind`.
        ValueError: if its dense class has a kind already.
    """
    if not isinstance(kind, Kind):
        raise TypeError(
            "Only a `keras_tensornet.compression.kinds.Kind` can be registered. Received: "
            f"{kind!r} of type {type(kind).__name__}."
        )
    if kind.dense in KINDS:
        raise ValueError(
            f"Layers of class {kind.dense.__name__} have a kind already, "
            f"{type(KINDS[kind.dense]).__name__}. Subclass the layer and register that."
        )
    KINDS[kind.dense] = kind
    return kind


@dataclass(frozen=True)
class Target:
    """A layer of a model that can be compressed.

    Attributes:
        path: as `walk_layers` gives it.
        layer: the dense layer.
        kind: what it is.
        part: name of the kernel where it is not the layer's first, at the end of the path.
    """

    path: str
    layer: keras.layers.Layer
    kind: Kind
    part: str = ""

    @property
    def layer_path(self) -> str:
        """The path of the layer."""
        return self.path.removesuffix(f"/{self.part}") if self.part else self.path

    @property
    def kernel(self) -> keras.Variable:
        """The variable that is decomposed."""
        return self.kind.kernel(self.layer)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """The kernel's shape in Keras layout."""
        return tuple(self.kernel.shape)

    def shell(self, format: str, rank: Rank, arguments: Mapping[str, Any]) -> keras.Layer:
        """The factorized layer in a format, its cores unset, and the part that holds them."""
        result = self.kind.shell(self.layer, {"format": format, "rank": rank, **arguments})
        return result, self.kind.holder(result)


# The methods that say what a layer computes.
ALL_ZERO = "kernel is all zeros"
COMPUTES = ("__call__", "call", "build", "compute_mask", "add_weight")


def kind_of(layer: keras.Layer) -> Kind | None:
    """The kind of a layer, if there is one for it.

    A subclass counts as the layer in the table if it leaves alone what the layer computes.
    """
    for base in type(layer).__mro__:
        if base in KINDS:
            own = any(getattr(type(layer), name) is not getattr(base, name) for name in COMPUTES)
            return None if own else KINDS[base]
    return None


def find_targets(model: keras.Model) -> list[Target]:
    """The layers of a model that some kind of the table stands for, in the model's order.

    Raises:
        ValueError: if one of them is not built.
    """
    kinds = [(path, layer, kind_of(layer)) for path, layer in walk_layers(model)]
    assigned = assigned_kernels(model)
    targets = [
        Target(path, layer, kind)
        for path, layer, kind in kinds
        if kind is not None
        and not getattr(layer, "quantization_mode", None)
        and id(layer) not in assigned
        and not kind.refusal(layer)
    ]
    for target in targets:
        if not target.layer.built:
            raise ValueError(
                f"Layer '{target.path}' is not built, so it has no kernel yet, although the model "
                "that holds it is. Call the model on data once."
            )
    return targets


def assigned_kernels(model: keras.Model) -> set[int]:
    """`id(layer)` of layers whose kernel a `SpectralNormalization` assigns to while it trains."""
    wrapper = keras.layers.SpectralNormalization
    return {id(layer.layer) for _, layer in walk_layers(model) if isinstance(layer, wrapper)}


def find_kernels(model: keras.Model) -> list[Target]:
    """The layers of `find_targets`, each followed by further kernels of its own.

    The recurrent kernel of an LSTM "encoder" is the target "encoder/recurrent_kernel".
    """
    return [
        target
        for layer in find_targets(model)
        for target in (
            layer,
            *(
                Target(f"{layer.path}/{name}", layer.layer, kind, name)
                for name, kind in layer.kind.parts().items()
            ),
        )
    ]


def left_out(
    model: keras.Model,
    targets: list[Target],
    include: Any,
    exclude: Any,
    named: Iterable[str],
    others: Any = (),
) -> dict[str, str]:
    """`path -> reason` of the targets that stay dense by the user's choice or by default.

    Args:
        model: that holds them.
        targets: of the model.
        include: None for all, or a name, path, regular expression, layer class, `layer -> bool`, or
            a list of these: only what matches is compressed.
        exclude: the same, for what stays dense. None stands for the first convolution, the
            classifier and embeddings that `include` does not match, see `ends`; `()` excludes
            nothing.
        named: paths that the user has given settings of their own, which always takes them in.
        others: kernels that no kind stands for (`compression.unreached`), for the messages.

    Raises:
        ValueError: if something given matches no layer.
        TypeError: if it is of another kind.
    """
    reasons: dict[str, str] = {}
    if include is not None:
        chosen = _chosen("include", include, targets, others)
        reasons |= {t.path: "not included" for t in targets if t.path not in chosen}
    if exclude is None:
        spelled = {item for item in as_tuple(include) if isinstance(item, str)} | set(named)
        asked = set() if include is None else chosen
        names = {t.path: {t.path, t.layer_path, t.layer.name} for t in targets}
        reasons |= {
            path: reason
            for path, reason in ends(model, [(t.path, t.layer) for t in targets]).items()
            if not spelled & names[path] and not (reason == EMBEDDING and path in asked)
        }
    else:
        chosen = _chosen("exclude", exclude, targets, others)
        reasons |= dict.fromkeys(chosen, "excluded")
    return {path: reason for path, reason in reasons.items() if path not in set(named)}


def _chosen(argument: str, items: Any, targets: list[Target], others: Any) -> set[str]:
    layers = [(target.path, target.layer) for target in targets]
    apart = [(other.path, other.layer, other.note) for other in others]
    found = chosen_paths(argument, items, layers, "layers that can be compressed", apart)
    whole = [item for item in as_tuple(items) if isinstance(item, str)]
    return found | {target.path for target in targets if target.layer_path in whole}


def check_kernels(targets: Iterable[Target]) -> None:
    """Raise, with the layer's path, for a kernel that cannot be decomposed."""
    for target in targets:
        kernel = kernel_array(target)
        if not np.isfinite(kernel).all():
            count = int(kernel.size - np.isfinite(kernel).sum())
            raise ValueError(
                f"The kernel of layer '{target.path}' must be finite. Received: {count} NaN or "
                f"infinite entries of {kernel.size}, shape {kernel.shape}. Load or train the model "
                f"anew, or leave the layer dense with exclude='{target.path}'."
            )


def zero_kernels(targets: Iterable[Target]) -> dict[str, str]:
    """`path -> reason` of layers that stay dense because their kernels are zero throughout.

    Nothing tells a rank of them, and a product of cores that are all zero would never be trained.
    """
    return {target.path: ALL_ZERO for target in targets if not kernel_array(target).any()}


def factorized_layer(
    target: Target, format: str, rank: Rank, cores: list[Tensor], arguments: dict[str, Any]
) -> Any:
    """The factorized layer for a target, holding given cores.

    Returns:
        A built layer with the target's name and settings.
    """
    result, holder = target.shell(format, rank, arguments)
    holder.assign_cores(cores)
    return result


def kernel_array(target: Target) -> Any:
    """The kernel as a NumPy array in Keras layout."""
    return ops.convert_to_numpy(target.kernel)
