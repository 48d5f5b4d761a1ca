"""From dense layers to factorized ones and back: thresholds, ranks and shared settings."""

from __future__ import annotations

import numpy as np
from keras import ops

from keras_tensornet import formats, validation
from keras_tensornet.decompositions.shares import energy_share
from keras_tensornet.kernels import decompose_kernel, network_of_cores

# Arguments that may be any function, and are handed from layer to layer as objects.
LIVE = (
    "activation",
    "kernel_initializer",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "kernel_constraint",
    "bias_constraint",
)
# Configuration of a dense layer that has no meaning for a factorized one.
DENSE_ONLY = ("lora_rank", "lora_alpha", "quantization_config")
# Configuration of a factorized layer that has no meaning for a dense one.
FACTORIZED_ONLY = (
    "rank",
    "format",
    "network",
    "in_modes",
    "out_modes",
    "implementation",
    "spatial",
    "bond_dropout",
    "seed",
)


def check_source(cls, layer) -> None:
    """Raise unless a layer is a built, unquantised layer of the dense kind."""
    kind = cls.dense_class()
    if type(layer) is not kind:
        raise TypeError(
            f"{cls.__name__}.from_layer takes a keras.layers.{kind.__name__}. Received: "
            f"{layer!r} of type {type(layer).__name__}."
        )
    if not layer.built:
        raise ValueError(f"Layer '{layer.name}' is not built, so it has no kernel to decompose.")
    if layer.quantization_mode is not None:
        raise ValueError(
            f"Layer '{layer.name}' is quantised to {layer.quantization_mode}; decompose the "
            "layer before it is quantised."
        )
    for variable in layer.weights:
        values = ops.convert_to_numpy(variable)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(
                f"The weights of layer '{layer.name}' must be finite. Received: NaN or infinite "
                f"values in '{variable.path}'. Load or train it anew."
            )


def one_threshold(rank, energy, eps, energy_norm="frobenius") -> dict:
    """`{"energy": ...}` or `{"eps": ...}`, `{}` for a rank; raises unless exactly one is given."""
    given = {"rank": rank, "energy": energy, "eps": eps}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"Give exactly one of `rank`, `energy` and `eps`. Received: {given or 'none of them'}."
        )
    if "energy" in given:
        validation.fraction("energy", energy)
    energy = energy_share(energy, energy_norm)
    if energy is not None:
        given["energy"] = energy
    given.pop("rank", None)
    return given


def settings_of(layer, without: tuple[str, ...], kind=None) -> dict:
    """A layer's arguments; functions as they are, since a lambda has no configuration.

    Args:
        layer: whose settings are wanted.
        without: arguments that are left out.
        kind: a class of the layer: its arguments, not those that a subclass has added.
    """
    config = (kind or type(layer)).get_config(layer)
    config = {key: value for key, value in config.items() if key not in without}
    config["dtype"] = layer.dtype_policy
    return config | {key: getattr(layer, key) for key in LIVE if key in config}


def ranks_for(cls, layer, config: dict, kernel: np.ndarray, threshold: dict):
    """The ranks that a threshold gives, in the form that the `rank` argument takes."""
    with validation.quietly():
        probe = cls(**(config | {"rank": 1, "kernel_initializer": "zeros"}))
        probe.build(probe._input_shape_for(kernel.shape, layer))
    cores = decompose_kernel(kernel, probe.network, probe.modes, **threshold)
    network = network_of_cores(probe.network, cores)
    return formats.get(probe._format).rank_argument(network)
