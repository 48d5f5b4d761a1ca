"""Which layers can be compressed: one table row per dense Keras layer, and the choice among them.

A row says where the layer keeps its kernel, which factorized layer stands for it, and how that is
made around given cores. A new kind of layer is one row here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import keras
from keras import ops

from keras_tensornet import formats, layers
from keras_tensornet.compression.ends import EMBEDDING, ends
from keras_tensornet.layers.common import DENSE_ONLY, FactorizedMethods, settings_of
from keras_tensornet.rewriting.walker import walk_layers
from keras_tensornet.shapes import built_shape


@dataclass(frozen=True)
class Row:
    """One kind of dense layer.

    Attributes:
        dense: the Keras class.
        factorized: the class that stands for it and takes any format by `format=`.
        kernel: `layer -> variable`, the kernel that is decomposed.
        holder: `factorized layer -> layer` that holds its cores.
        shell: `(factorized class, layer, arguments) -> factorized layer`, built, with the dense
            layer's settings and biases, its cores not yet set.
        family: of kernels, "dense" or "conv", by which formats say what suits trained ones
            (`Format.whole`); None for others.
        patches: whether calibration can record the layer's input patches.
    """

    dense: type
    factorized: type
    kernel: Callable
    holder: Callable
    shell: Callable
    family: str | None = None
    patches: bool = False

    def arguments(self, format: str) -> dict:
        """Arguments of the factorized layer that suit a trained kernel in a format."""
        return formats.get(format).trained_arguments(self.family)


@dataclass(frozen=True)
class Target:
    """A layer of a model that can be compressed.

    Attributes:
        path: as `walk_layers` gives it.
        layer: the dense layer.
        row: its kind.
    """

    path: str
    layer: keras.layers.Layer
    row: Row


def _kernel_shell(cls, layer, arguments: dict):
    config = settings_of(layer, DENSE_ONLY) | {"kernel_initializer": "zeros"} | arguments
    result = cls(**config)
    result.build(built_shape(layer))
    # The initializer is only of use while building; the layer keeps the dense layer's.
    result.kernel_initializer = layer.kernel_initializer
    if layer.bias is not None:
        # A copy: on JAX the two would share a buffer, which training one of them deletes.
        result.bias.assign(ops.copy(layer.bias))
    return result


def _embedding_shell(cls, layer, arguments: dict):
    config = {key: value for key, value in layer.get_config().items() if key not in DENSE_ONLY}
    result = cls.from_config(config | arguments)
    result.build()
    return result


def _recurrent_shell(cls, layer, arguments: dict):
    result = cls.from_config(layer.get_config() | arguments)
    result.build(built_shape(layer) or (None, None, layer.cell.kernel.shape[0]))
    result.assign_recurrence_of(layer)
    return result


def _itself(layer):
    return layer


def _row(name: str, kernel, shell, holder=_itself, family=None, patches=False) -> Row:
    return Row(
        getattr(keras.layers, name),
        getattr(layers, f"Factorized{name}"),
        kernel,
        holder,
        shell,
        family,
        patches,
    )


def _kernel_of(layer):
    return layer.kernel


def _cell_kernel_of(layer):
    return layer.cell.kernel


def _cell_of(layer):
    return layer.cell


ROWS: dict[type, Row] = {
    row.dense: row
    for row in (
        _row("Dense", _kernel_of, _kernel_shell, family="dense", patches=True),
        _row("Conv1D", _kernel_of, _kernel_shell, family="conv", patches=True),
        _row("Conv2D", _kernel_of, _kernel_shell, family="conv", patches=True),
        _row("Conv3D", _kernel_of, _kernel_shell, family="conv", patches=True),
        _row("Conv2DTranspose", _kernel_of, _kernel_shell, family="conv", patches=True),
        _row("EinsumDense", _kernel_of, _kernel_shell, family="dense", patches=True),
        _row("Embedding", lambda layer: layer.embeddings, _embedding_shell),
        _row("LSTM", _cell_kernel_of, _recurrent_shell, holder=_cell_of),
        _row("GRU", _cell_kernel_of, _recurrent_shell, holder=_cell_of),
    )
}


def find_targets(model: keras.Model) -> list[Target]:
    """The layers of a model that some row of the table stands for, in the model's order.

    Raises:
        ValueError: if one of them is not built.
    """
    targets = [
        Target(path, layer, ROWS[type(layer)])
        for path, layer in walk_layers(model)
        if type(layer) in ROWS and not getattr(layer, "quantization_mode", None)
    ]
    for target in targets:
        if not target.layer.built:
            raise ValueError(
                f"Layer '{target.path}' is not built, so it has no kernel yet, although the model "
                "that holds it is. Call the model on data once."
            )
    return targets


def left_out(
    model: keras.Model, targets: list[Target], include, exclude, named: Iterable[str]
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

    Raises:
        ValueError: if something given matches no layer.
        TypeError: if it is of another kind.
    """
    reasons: dict[str, str] = {}
    if include is not None:
        chosen = _matching("include", include, targets)
        reasons |= {t.path: "not included" for t in targets if t.path not in chosen}
    if exclude is None:
        spelled = {item for item in _as_tuple(include) if isinstance(item, str)} | set(named)
        asked = set() if include is None else chosen
        reasons |= {
            path: reason
            for path, reason in ends(model, [(t.path, t.layer) for t in targets]).items()
            if path not in spelled
            and path.rsplit("/", 1)[-1] not in spelled
            and not (reason == EMBEDDING and path in asked)
        }
    else:
        chosen = _matching("exclude", exclude, targets)
        reasons |= dict.fromkeys(chosen, "excluded")
    return {path: reason for path, reason in reasons.items() if path not in set(named)}


def matches(item, target: Target) -> bool:
    """Whether a name, path, regular expression, class or function describes a layer."""
    if isinstance(item, str):
        named = item in (target.path, target.layer.name)
        return named or re.fullmatch(item, target.path) is not None
    if isinstance(item, re.Pattern):
        return item.search(target.path) is not None
    if isinstance(item, type):
        return isinstance(target.layer, item)
    if callable(item):
        return bool(item(target.layer))
    raise TypeError(
        "A layer is chosen by its name, its path, a regular expression of its whole path, a layer "
        f"class or a function of the layer. Received: {item!r} of type {type(item).__name__}."
    )


def _matching(name: str, items, targets: list[Target]) -> set[str]:
    found: set[str] = set()
    for item in _as_tuple(items):
        paths = {target.path for target in targets if matches(item, target)}
        if not paths and isinstance(item, str):
            known = ", ".join(repr(target.path) for target in targets)
            raise ValueError(
                f"`{name}` must describe layers that can be compressed. Received: {item!r}, which "
                f"matches none of {known or 'no layers at all'}."
            )
        found |= paths
    return found


def _as_tuple(items) -> tuple:
    if items is None:
        return ()
    return tuple(items) if isinstance(items, (list, tuple, set)) else (items,)


def factorized_layer(target: Target, format: str, rank, cores, arguments: dict):
    """The factorized layer for a target, holding given cores.

    Returns:
        A built layer with the target's name and settings.
    """
    row = target.row
    result = row.shell(row.factorized, target.layer, {"format": format, "rank": rank, **arguments})
    holder: FactorizedMethods = row.holder(result)
    holder.assign_cores(cores)
    return result


def kernel_array(target: Target):
    """The kernel as a NumPy array in Keras layout."""
    return ops.convert_to_numpy(target.row.kernel(target.layer))
