"""Tensor-train layers as t3f trains, and back.

t3f (Novikov et al. 2020, "Tensor Train Decomposition on TensorFlow") computes with trains: it
rounds, multiplies and projects them, and optimises on the manifold of fixed ranks. A layer whose
cores are an open chain becomes one of its trains without any arithmetic:

| format | cores of the layer | t3f |
|---|---|---|
| "tt" | `(r, n, r')` | tensor train, one axis per mode: inputs, spatial modes, outputs |
| "ttm" | `(r, i, o, r')` | TT-matrix, `(input size, output size)` |
| "ttm", convolution | spatial `(1, D*D, r)` first | TT-matrix, `(D*D * channels, filters)` |

A TT-matrix core that has only an input mode, such as a spatial one, gets an output mode of 1, and
the other way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from keras_tensornet.decompositions import tt_round
from keras_tensornet.layers import TTDense
from keras_tensornet.networks import Network
from keras_tensornet.shapes import built_shape

if TYPE_CHECKING:
    import keras


def to_t3f(layer: keras.Layer) -> Any:
    """The cores of a built tensor-train layer as a `t3f.TensorTrain`, a copy of their values.

    Args:
        layer: a layer whose cores are an open chain: of format "tt" or "ttm", such as `TTDense`,
            `TTConv2D` or `TTMConv2D`, or of any other format with such labels.

    Returns:
        A `t3f.TensorTrain` in the dtype of the cores; which axes it has is in the table above.
        Padded modes keep their padding.

    Raises:
        ImportError: if t3f is not installed.
        ValueError: if the layer is no open chain, such as a tensor ring.

    Source: Novikov et al. 2015 for the TT-matrix.

    >>> layer = TTDense(6, rank=2, in_modes=(2, 2), out_modes=(2, 3))
    >>> layer.build((None, 4))
    >>> to_t3f(layer).get_tt_ranks().as_list()
    [1, 2, 1]
    """
    t3f = _import_t3f()
    network = _chain_of(layer)
    shapes = _train_shapes(network)
    cores = [ops.convert_to_numpy(core.value) for core in layer.cores]
    return t3f.TensorTrain([core.reshape(shape) for core, shape in zip(cores, shapes, strict=True)])


def from_t3f(tt: Any, like: keras.layers.Layer | None = None, **options: Any) -> Any:
    """A new, built layer with the cores of a t3f train.

    Args:
        tt: a `t3f.TensorTrain`, eager.
        like: a built layer, its cores an open chain, whose modes the train has; the new layer is of
            its class, with its settings and its bias, and the ranks of the train. `like` is left
            as it was. Without it `tt` must be a TT-matrix and becomes a `TTDense`.
        **options: arguments of the new layer, such as `activation`, `name` or `implementation`.

    Returns:
        The layer. Ranks above what the modes allow are brought down without loss, with a warning.

    Raises:
        ImportError: if t3f is not installed.
        TypeError: if `tt` is no t3f train, or a batch of them.
        ValueError: if its modes are not those of `like`, or if it is a plain train and there is no
            `like` to say which of its axes are inputs.

    Example, rounding a trained layer to rank 4:

        small = from_t3f(t3f.round(to_t3f(layer), max_tt_rank=4), like=layer)
    """
    _check_train(tt)
    cores = [np.asarray(core) for core in tt.tt_cores]
    ranks = tuple(core.shape[-1] for core in cores[:-1])
    layer = (
        _dense_for(tt, ranks, options) if like is None else _twin_of(like, cores, ranks, options)
    )
    if [core.shape[-1] for core in cores[:-1]] != list(_inner_ranks(layer.network)):
        cores = tt_round(cores, ranks=_inner_ranks(layer.network))
    for variable, core in zip(layer.cores, cores, strict=True):
        variable.assign(core.reshape(variable.shape))
    if like is not None and layer.use_bias and like.use_bias:
        layer.bias.assign(like.bias)
    return layer


def _import_t3f() -> Any:
    try:
        import t3f
    except ImportError as error:
        raise ImportError(
            f"Conversion to and from t3f needs t3f, which could not be imported ({error}). "
            'Install it with: pip install "keras-tensornet[t3f]"'
        ) from error
    return t3f


def _chain_of(layer: keras.Layer) -> Network:
    """The network of a layer that is an open chain."""
    network = layer.network
    if not _is_open_chain(network):
        raise ValueError(
            "A t3f train is an open chain of cores, format 'tt' or 'ttm'. Received: layer "
            f"'{layer.name}' with the network {network}. Decompose its kernel into a layer of "
            "that format with `assign_kernel` first."
        )
    return network


def _is_open_chain(network: Network) -> bool:
    """Whether each core is (bond, modes, bond), sharing the bonds with its neighbours alone."""
    modes, cores = set(network.mode_labels), network.cores
    ends = [cores[0][0], *(core[-1] for core in cores)]
    return (
        all(len(core) > 2 and modes.issuperset(core[1:-1]) for core in cores)
        and [core[0] for core in cores] == ends[:-1]
        and len(set(ends)) == len(ends)
        and not modes.intersection(ends)
        and network.size[ends[0]] == network.size[ends[-1]] == 1
    )


def _train_shapes(network: Network) -> list[tuple[int, ...]]:
    """The shape of each core in t3f: (r, n, r'), or (r, i, o, r') in a TT-matrix."""
    if all(len(core) == 3 for core in network.cores):
        return list(network.core_shapes)
    outputs = set(network.out_labels)
    shapes: list[tuple[int, ...]] = []
    for labels in network.cores:
        rows = [network.size[label] for label in labels[1:-1] if label not in outputs]
        columns = [network.size[label] for label in labels[1:-1] if label in outputs]
        ends = network.size[labels[0]], network.size[labels[-1]]
        shapes.append((ends[0], int(np.prod(rows)), int(np.prod(columns)), ends[1]))
    return shapes


def _inner_ranks(network: Network) -> tuple[int, ...]:
    return tuple(shape[-1] for shape in network.core_shapes[:-1])


def _check_train(tt: Any) -> None:
    t3f = _import_t3f()
    if not isinstance(tt, t3f.TensorTrain):
        raise TypeError(
            "`tt` must be one t3f.TensorTrain. Received: "
            f"{type(tt).__name__}. Take one element of a batch, or make a train with `t3f."
            "to_tt_matrix`."
        )


def _dense_for(tt: Any, ranks: tuple[int, ...], options: dict[str, Any]) -> Any:
    if not tt.is_tt_matrix():
        raise ValueError(
            "A train that is no TT-matrix does not say which of its axes are inputs. Received: "
            f"modes {tuple(tt.get_raw_shape()[0])}. Pass a layer with these modes as `like`."
        )
    in_modes, out_modes = (tuple(modes.as_list()) for modes in tt.get_raw_shape())
    layer = TTDense(
        int(np.prod(out_modes)),
        # a train of one core has no inner rank, and any int stands for none
        rank=ranks or 1,
        in_modes=in_modes,
        out_modes=out_modes,
        **options,
    )
    layer.build((None, int(np.prod(in_modes))))
    return layer


def _twin_of(
    like: keras.layers.Layer,
    cores: list[np.ndarray],
    ranks: tuple[int, ...],
    options: dict[str, Any],
) -> Any:
    """A built layer as `like`, with other ranks."""
    wanted = [shape[1:-1] for shape in _train_shapes(_chain_of(like))]
    modes = [core.shape[1:-1] for core in cores]
    if modes != wanted:
        raise ValueError(
            f"The modes of `tt` must be those of `like`, {wanted}, core by core. Received: {modes}."
        )
    config = like.get_config()
    if config.get("network") is not None:
        ends = [core[-1] for core in like.network.cores[:-1]]
        sizes = dict(like.network.sizes) | dict(zip(ends, ranks, strict=True))
        bonds = tuple(sizes[bond] for bond in like.network.bonds)
        config["network"] = like.network.with_ranks(bonds).to_config()
    else:
        config["rank"] = ranks or 1
    layer = type(like).from_config(config | options)
    layer.build(built_shape(like))
    return layer
