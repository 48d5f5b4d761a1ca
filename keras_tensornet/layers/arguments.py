"""Arguments of factorized layers, checked and resolved before anything is built."""

from __future__ import annotations

import math

from keras_tensornet import formats, validation
from keras_tensornet.contraction import check_implementation
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network
from keras_tensornet.types import Config, Implementation, Modes, Rank


def resolve_format(fixed: str | None, format: str | None, network: Network | None) -> str | None:
    """The name of the format, "tr" by default; None with a network of the user's own."""
    if fixed is not None and format not in (None, fixed):
        raise ValueError(
            f"This layer's format is {fixed!r}. Received: format={format!r}. Use the layer of that "
            "format, or a Factorized layer, which takes any."
        )
    if network is not None:
        if format is not None or fixed is not None:
            raise ValueError(
                "Give either `format` or a `network` of your own, not both. Received: "
                f"format={format or fixed!r} and network={network}."
            )
        return None
    return formats.get(fixed or format or "tr").name


def resolve_network(network: Network | Config | None) -> Network | None:
    """The network, also from its configuration."""
    if isinstance(network, dict):
        return Network.from_config(network)
    if network is not None and not isinstance(network, Network):
        raise TypeError(
            "`network` must be a keras_tensornet.Network. Received: "
            f"{network!r} of type {type(network).__name__}. Build one with `Network.parse`."
        )
    return network


def resolve_rank(rank: Rank, network: Network | None) -> int | tuple[int, ...] | None:
    """The rank as an int or a tuple of ints; None with a network of the user's own."""
    if network is not None:
        if rank is not None:
            raise ValueError(
                "A `network` of your own has its sizes already; leave `rank` out. "
                f"Received: rank={rank!r}."
            )
        return None
    if isinstance(rank, (list, tuple)):
        return validation.int_tuple("rank", rank)
    return validation.positive_int("rank", rank)


def resolve_implementation(implementation: Implementation) -> str | dict[str, str]:
    """An implementation for all calls, or one for inference, one for training, one if frozen."""
    if not isinstance(implementation, dict):
        return check_implementation(implementation)
    if set(implementation) - {"frozen"} != {"inference", "training"}:
        raise ValueError(
            "An `implementation` given as a dict must have the keys 'inference' and 'training', "
            f"and may have 'frozen'. Received: {implementation!r}."
        )
    return {phase: check_implementation(chain) for phase, chain in implementation.items()}


def resolve_mode_argument(name: str, modes: Modes) -> int | tuple[int, ...] | None:
    """Modes as None, a number of modes, or a tuple of ints."""
    if modes is None:
        return None
    if isinstance(modes, (list, tuple)):
        return validation.int_tuple(name, modes)
    return validation.positive_int(name, modes)


def spanned_modes(network: Network, in_size: int, out_size: int) -> KernelModes:
    """The modes of a network of the user's own, which must multiply to the sizes of a kernel."""
    modes = network.kernel_modes()
    if (modes.in_size, modes.out_size) != (in_size, out_size):
        raise ValueError(
            f"The input modes of the network must multiply to {in_size} and its output modes to "
            f"{out_size}. Received modes that multiply to {modes.in_size} and {modes.out_size}, of "
            f"a {network}."
        )
    return modes


def check_fits(network: Network, modes: KernelModes) -> None:
    """Raise unless the network spans the kernel, padding included."""
    spans = network.kernel_modes().kernel_shape
    rows, columns = math.prod(modes.in_modes), modes.groups * math.prod(modes.out_modes)
    needed = (*modes.kernel_size, rows, columns)
    if spans != needed:
        raise ValueError(
            "The network's modes must multiply to the shape of the layer's kernel in Keras layout, "
            f"{needed}. Received a network that spans {spans}: {network}."
        )
