"""The modes that Tensor Ring Nets (Wang et al. 2018, Tables 1, 3 and 5) chose for its networks.

A ring of uniform rank r has r^2 parameters for every unit of mode size, so these tables fix the
published counts: 91 r^2 for LeNet-300-100, 130 r^2 for LeNet-5 and 908 r^2 for ResNet-32.
"""

from __future__ import annotations

from keras_tensornet import validation

Modes = dict[str, tuple[int, ...]]

NETWORKS = ("lenet300", "lenet5", "resnet_cifar32")
CHANNELS = {3: (3,), 16: (4, 2, 2), 32: (4, 4, 2), 64: (4, 4, 4)}  # Table 5


def tensor_ring_modes(network: str) -> dict[str, Modes]:
    """Return `{layer name: {"in_modes": ..., "out_modes": ...}}` for one of the paper's networks.

    A factory looks its layer up by name:

        modes = tensor_ring_modes("lenet300")
        lenet300(dense=lambda units, **options: TRDense(
            units, rank=15, **modes[options["name"]], **options))

    The kernel's spatial modes belong to the network as a whole: LeNet-5 has one core for each of
    the two (5 and 5), ResNet-32 a joint core of 9. A single input channel has no core:
    `in_modes=()`.

    Args:
        network: `"lenet300"`, `"lenet5"` or `"resnet_cifar32"`, the names of the models.

    Raises:
        ValueError: if the paper has no table for the network.
    """
    validation.one_of("network", network, NETWORKS)
    return {"lenet300": _lenet300, "lenet5": _lenet5, "resnet_cifar32": _resnet_cifar32}[network]()


def _lenet300() -> dict[str, Modes]:
    return {
        "fc1": _modes((4, 7, 4, 7), (3, 4, 5, 5)),
        "fc2": _modes((3, 4, 5, 5), (4, 5, 5)),
        "fc3": _modes((4, 5, 5), (2, 5)),
    }


def _lenet5() -> dict[str, Modes]:
    return {
        "conv1": _modes((), (4, 5)),
        "conv2": _modes((4, 5), (5, 10)),
        "fc1": _modes((5, 5, 5, 10), (5, 8, 8)),
        "fc2": _modes((5, 8, 8), (10,)),
    }


def _resnet_cifar32() -> dict[str, Modes]:
    table = {"conv1": _modes(CHANNELS[3], CHANNELS[16])}
    channels = 16
    for stage, filters in enumerate((16, 32, 64), start=1):
        for block in range(1, 6):
            for conv in (1, 2):
                name = f"stage{stage}_block{block}_conv{conv}"
                table[name] = _modes(CHANNELS[channels], CHANNELS[filters])
                channels = filters
    table["fc"] = _modes(CHANNELS[64], (10,))
    return table


def _modes(in_modes: tuple[int, ...], out_modes: tuple[int, ...]) -> Modes:
    return {"in_modes": in_modes, "out_modes": out_modes}
