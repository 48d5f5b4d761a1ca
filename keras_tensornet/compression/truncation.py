"""Lower the ranks of trained layers: remove dead bond indices, or round to lower rank.

Cores are variables of fixed shape, so every function returns a new layer or model and leaves its
input as it was. Ranks that training has made useless (see
`keras_tensornet.regularizers.BondGroupLasso`) are removed by `truncate_ranks`; `round_layer` finds
the closest kernel of lower rank (Oseledets 2011, Algorithm 2, for trains).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet import formats, validation
from keras_tensornet.contraction import kernel_plan, to_keras_layout
from keras_tensornet.formats import Rank
from keras_tensornet.kernels import FactorizedKernel, decompose_kernel, network_of_cores
from keras_tensornet.layers.conversion import one_threshold
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network, largest_useful_ranks
from keras_tensornet.rewriting.walker import rewrite_model
from keras_tensornet.types import Tensor


def truncate_ranks(layer_or_model: Any, tol: float = 0.0) -> Any:
    """Return a copy without the bond indices that contribute nothing; the input stays as it was.

    The weight of an index is the product of the norms of its slices in all cores that carry the
    bond. Indices whose weight is at most `tol` times the largest of their bond are removed; with
    the default only those that are exactly zero, which leaves the kernel the same.

    Args:
        layer_or_model: a built layer of this package, or a built Sequential or Functional model.
        tol: in [0, 1).

    Returns:
        A layer or model of the same kind. Each bond keeps at least one index.

    Raises:
        TypeError: if a layer of another kind is given, or a model that cannot be
            built again from its configuration.
        ValueError: if the layer is not built, or `tol` is out of range.
    """
    tol = validation.rate("tol", tol)

    def truncate(holder: FactorizedKernel) -> tuple[Network, list[np.ndarray]]:
        return _without_dead_indices(holder.network, _arrays(holder), tol)

    if isinstance(layer_or_model, keras.Model):
        return rewrite_model(
            layer_or_model,
            lambda layer, path: _remade(layer, truncate) if _is_factorized(layer) else None,
        )
    return _remade(_checked(layer_or_model), truncate)


def round_layer(
    layer: keras.Layer,
    rank: int | Sequence[int] | None = None,
    eps: float | None = None,
    energy: float | None = None,
    energy_norm: str = "frobenius",
) -> Any:
    """Return a layer of lower rank whose kernel is near that of a trained one, which stays.

    Trains are rounded without merging them, by QR and SVD; a ring has no canonical form, so its
    merged kernel serves as reference (see `keras_tensornet.decompositions.tr_round`). In other
    formats the merged kernel is decomposed anew. The recurrent cores of a recurrent layer are
    rounded by the same rule.

    Args:
        layer: a built layer of a named format.
        rank: upper bound of the ranks, as the layer's `rank`, or
        eps: relative error allowed for the whole kernel, in [0, 1), or
        energy: share in (0, 1] of squared singular values that each bond keeps. One of the three.
        energy_norm: "nuclear" takes the share of their sum instead of their squares.

    Returns:
        A built layer of the same kind, name and settings.

    Raises:
        TypeError: if it is no layer of this package.
        ValueError: if it is not built, has a network of your own, which no format says how to
            round, or not exactly one rule is given.
    """
    threshold = one_threshold(rank, energy, eps, energy_norm)

    def lower(holder: FactorizedKernel) -> tuple[Network, list[np.ndarray]]:
        network, cores = holder.network, _arrays(holder)
        if network.name not in formats.FORMATS:
            raise ValueError(
                "Rounding is for layers of a named format, which says how its ranks are lowered. "
                f"Received: a {network.name} network. Remove its dead indices with "
                "`truncate_ranks`."
            )
        rounding = formats.get(network.name).round
        if len(network.cores) == 1:
            return network, cores
        if rounding is None:
            return _decomposed_anew(network, holder.modes, cores, rank, threshold)
        cores = rounding(cores, **(threshold or {"ranks": rank}))
        return network_of_cores(network, cores), cores

    return _remade(_checked(layer), lower)


def _decomposed_anew(
    network: Network, modes: KernelModes, cores: list[Tensor], rank: Any, threshold: dict[str, Any]
) -> tuple[Network, list[np.ndarray]]:
    """Cores of lower rank for the merge of some cores; those themselves where none are smaller."""
    format = formats.get(network.name)
    kernel = to_keras_layout(kernel_plan(network).run(cores, np), modes, np)
    if threshold:
        _, start = format.fit(modes, 1)
        _, lower = format.fit(
            modes,
            format.rank_argument(
                network_of_cores(start, decompose_kernel(kernel, start, modes, **threshold))
            ),
        )
    else:
        _, lower = format.fit(modes, _at_most(format.rank_argument(network), rank))
    if lower.num_params >= network.num_params:
        return network, cores
    return lower, decompose_kernel(kernel, lower, modes)


def _at_most(ranks: Rank, bounds: Rank) -> Rank:
    """Ranks, each cut to its bound; a bound that is one int is that of all.

    Raises:
        ValueError: if there are not as many bounds as ranks.
    """
    if isinstance(ranks, int):
        (rank,) = _bounded((ranks,), bounds)
        return rank
    return _bounded(tuple(ranks), bounds)


def _bounded(ranks: tuple[int, ...], bounds: Rank) -> tuple[int, ...]:
    if not isinstance(bounds, (tuple, list)):
        bounds = (validation.positive_int("rank", bounds),) * len(ranks)
    bounds = validation.int_tuple("rank", bounds)
    if len(bounds) != len(ranks):
        raise ValueError(
            f"`rank` must be an int or one bound for each of the layer's ranks, {tuple(ranks)}. "
            f"Received: rank={bounds}."
        )
    return tuple(min(pair) for pair in zip(ranks, bounds, strict=True))


def _remade(
    layer: keras.Layer, change: Callable[[FactorizedKernel], tuple[Network, list[np.ndarray]]]
) -> Any:
    """The same layer with `(network, cores)` of each of its kernels replaced by `change(it)`."""
    config, new_cores = layer.get_config(), {}
    for argument, holder in layer.rank_holders().items():
        network, cores = _fitted(holder, *change(holder))
        new_cores[argument] = cores
        if config.get("network") is not None:
            config["network"] = network.to_config()
        else:
            config[argument] = formats.get(network.name).rank_argument(network)
    result = type(layer).from_config(config)
    result.build_from_config(layer.get_build_config())
    for old, new in zip(_other_weights(layer), _other_weights(result), strict=True):
        new.assign(old)
    for argument, holder in result.rank_holders().items():
        holder.assign(new_cores[argument])
    result.trainable = layer.trainable
    return result


def _other_weights(layer: keras.Layer) -> list[Any]:
    """All weights but the cores, whose number may change with the ranks."""
    held = {id(core) for holder in layer.rank_holders().values() for core in holder.cores}
    return [weight for weight in layer.weights if id(weight) not in held]


def _without_dead_indices(
    network: Network, cores: list[Tensor], tol: float
) -> tuple[Network, list[np.ndarray]]:
    for bond in network.bonds:
        norms = [
            _slice_norms(core, labels.index(bond))
            for labels, core in zip(network.cores, cores, strict=True)
            if bond in labels
        ]
        weight = np.prod(norms, axis=0)
        alive = np.flatnonzero(weight > tol * weight.max())
        alive = alive if len(alive) else np.array([int(np.argmax(weight))])
        cores = [
            np.take(core, alive, axis=labels.index(bond)) if bond in labels else core
            for labels, core in zip(network.cores, cores, strict=True)
        ]
    return network_of_cores(network, cores), cores


def _slice_norms(core: np.ndarray, axis: int) -> np.ndarray:
    slices = np.moveaxis(core, axis, 0)
    return np.linalg.norm(slices.reshape(len(slices), -1), axis=1)


def _fitted(
    holder: FactorizedKernel, network: Network, cores: list[Tensor]
) -> tuple[Network, list[np.ndarray]]:
    """The same kernel with no bond above what its modes allow, which a layer would cut."""
    bond = _too_large(network)
    while bond is not None:
        cores = _absorbed(network, cores, bond)
        network = network_of_cores(network, cores)
        bond = _too_large(network)
    useful = largest_useful_ranks(network)
    if useful != network.rank:
        # A ring that spans every kernel: its merge has an exact ring of the useful ranks.
        modes = holder.modes
        kernel = to_keras_layout(kernel_plan(network).run(cores, np), modes, np)
        network = network.with_ranks(useful)
        cores = decompose_kernel(kernel, network, modes)
    return network, cores


def _too_large(network: Network) -> str | None:
    """A bond of two cores that is larger than what one of them can use."""
    for bond in network.bonds:
        holders = [core for core in network.cores if bond in core]
        if len(holders) == 2 and network.size[bond] > min(
            network.count(_own(core, holders)) for core in holders
        ):
            return bond
    return None


def _own(core: tuple[str, ...], holders: list[Any]) -> tuple[str, ...]:
    common = set(holders[0]).intersection(*holders[1:])
    return tuple(label for label in core if label not in common)


def _absorbed(network: Network, cores: list[Tensor], bond: str) -> list[Any]:
    """Multiply the smaller core of a bond into the other, leaving an identity in its place.

    A: (c, p, r), B: (c, r, q) with p < r become I: (c, p, p) and A B: (c, p, q).
    """
    places = [place for place, core in enumerate(network.cores) if bond in core]
    holders = [network.cores[place] for place in places]
    small, large = sorted(places, key=lambda k: network.count(_own(network.cores[k], holders)))
    own, other = (_own(network.cores[place], holders) for place in (small, large))
    common = tuple(label for label in holders[0] if label in holders[1] and label != bond)
    left = _arranged(cores[small], network.cores[small], (*common, *own, bond))
    right = _arranged(cores[large], network.cores[large], (*common, bond, *other))
    blocks, size = network.count(common), network.count(own)
    left = left.reshape(blocks, size, -1)
    product = left @ right.reshape(blocks, left.shape[-1], -1)
    identity = np.broadcast_to(np.eye(size), (blocks, size, size))
    cores = list(cores)
    sizes = network.sizes_of
    cores[small] = _arranged(
        identity.reshape(*sizes(common), *sizes(own), size),
        (*common, *own, bond),
        network.cores[small],
    )
    cores[large] = _arranged(
        product.reshape(*sizes(common), size, *sizes(other)),
        (*common, bond, *other),
        network.cores[large],
    )
    return cores


def _arranged(core: np.ndarray, labels: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray:
    return core.transpose([labels.index(label) for label in wanted])


def _arrays(holder: FactorizedKernel) -> list[np.ndarray]:
    return [ops.convert_to_numpy(core).astype("float64") for core in holder.cores]


def _is_factorized(layer: keras.Layer) -> bool:
    return hasattr(type(layer), "rank_holders")


def _checked(layer: keras.Layer) -> Any:
    if not _is_factorized(layer):
        raise TypeError(
            "Only layers of keras_tensornet have ranks. Received: "
            f"{layer!r} of type {type(layer).__name__}."
        )
    if not layer.built:
        raise ValueError(f"Layer '{layer.name}' is not built, so it has no cores.")
    return layer
