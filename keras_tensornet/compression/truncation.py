"""Lower the ranks of trained layers: remove dead bond indices, or round to lower rank.

Cores are variables of fixed shape, so every function returns a new layer or model and leaves its
input as it was. Ranks that training has made useless (see
`keras_tensornet.regularizers.BondGroupLasso`) are removed by `truncate_ranks`; `round_layer` finds
the closest kernel of lower rank (Oseledets 2011, Algorithm 2, for trains).
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_tensornet import decompositions, formats, validation
from keras_tensornet.contraction import kernel_plan, to_keras_layout
from keras_tensornet.kernels import FactorizedKernel, decompose_kernel, network_of_cores
from keras_tensornet.layers.common import FactorizedMethods, one_threshold
from keras_tensornet.networks import Network, largest_useful_ranks
from keras_tensornet.rewriting.walker import rewrite_model

ROUNDING = {
    "tr": decompositions.tr_round,
    "tt": decompositions.tt_round,
    "ttm": decompositions.tt_round,
}


def truncate_ranks(layer_or_model, tol=0.0):
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
        TypeError: if a layer of another kind is given, or a subclassed model.
        ValueError: if the layer is not built, or `tol` is out of range.
    """
    tol = validation.rate("tol", tol)

    def truncate(holder: FactorizedKernel) -> tuple[Network, list]:
        return _without_dead_indices(holder.network, _arrays(holder), tol)

    if isinstance(layer_or_model, keras.Model):
        return rewrite_model(
            layer_or_model,
            lambda layer, path: _remade(layer, truncate) if _is_factorized(layer) else None,
        )
    return _remade(_checked(layer_or_model), truncate)


def round_layer(layer, rank=None, eps=None, energy=None):
    """Return a layer of lower rank whose kernel is near that of a trained one, which stays.

    Trains are rounded without merging them, by QR and SVD; a ring has no canonical form, so its
    merged kernel serves as reference (see `keras_tensornet.decompositions.tr_round`). The
    recurrent cores of a recurrent layer are rounded by the same rule.

    Args:
        layer: a built layer of format "tt", "ttm" or "tr".
        rank: upper bound of the ranks, as the layer's `rank`, or
        eps: relative error allowed for the whole kernel, in [0, 1), or
        energy: share in (0, 1] of squared singular values that each bond keeps. One of the three.

    Returns:
        A built layer of the same kind, name and settings.

    Raises:
        TypeError: if it is no layer of this package.
        ValueError: if it is not built, of another format, or not exactly one rule is given.
    """
    threshold = one_threshold(rank, energy, eps)
    rule = threshold or {"ranks": rank}

    def lower(holder: FactorizedKernel) -> tuple[Network, list]:
        network, cores = holder.network, _arrays(holder)
        if network.name not in ROUNDING:
            known = ", ".join(repr(name) for name in ROUNDING)
            raise ValueError(
                f"Rounding is for chains, formats {known}. Received: a {network.name} network. "
                "Decompose `layer.kernel` anew with `assign_kernel` of a layer of lower rank."
            )
        if len(network.cores) > 1:
            cores = ROUNDING[network.name](cores, **rule)
        return network_of_cores(network, cores), cores

    return _remade(_checked(layer), lower)


def _remade(layer, change):
    """The same layer with `(network, cores)` of each of its kernels replaced by `change(it)`."""
    config, new_cores = layer.get_config(), {}
    for argument, holder in _holders(layer).items():
        network, cores = _fitted(holder, *change(holder))
        new_cores[argument] = cores
        if config.get("network") is not None:
            config["network"] = network.to_config()
        else:
            config[argument] = formats.get(network.name).rank_argument(network)
    result = type(layer).from_config(config)
    result.build_from_config(layer.get_build_config())
    held = {id(core) for holder in _holders(layer).values() for core in holder.cores}
    for old, new in zip(layer.weights, result.weights, strict=True):
        if id(old) not in held:
            new.assign(old)
    for argument, holder in _holders(result).items():
        holder.assign(new_cores[argument])
    result.trainable = layer.trainable
    return result


def _without_dead_indices(network: Network, cores: list, tol: float) -> tuple[Network, list]:
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


def _fitted(holder: FactorizedKernel, network: Network, cores: list) -> tuple[Network, list]:
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


def _own(core: tuple[str, ...], holders: list) -> tuple[str, ...]:
    common = set(holders[0]).intersection(*holders[1:])
    return tuple(label for label in core if label not in common)


def _absorbed(network: Network, cores: list, bond: str) -> list:
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


def _holders(layer) -> dict[str, FactorizedKernel]:
    """The kernels of a layer by the argument that holds their rank."""
    cell = getattr(layer, "cell", layer)
    recurrent = getattr(cell, "_recurrent_cores", None)
    return {"rank": cell._kernel} | ({"recurrent_rank": recurrent} if recurrent else {})


def _is_factorized(layer) -> bool:
    return isinstance(getattr(layer, "cell", layer), FactorizedMethods)


def _checked(layer):
    if not _is_factorized(layer):
        raise TypeError(
            "Only layers of keras_tensornet have ranks. Received: "
            f"{layer!r} of type {type(layer).__name__}."
        )
    if not layer.built:
        raise ValueError(f"Layer '{layer.name}' is not built, so it has no cores.")
    return layer
