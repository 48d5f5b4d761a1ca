"""From dense layers to factorized ones and back: thresholds, ranks and shared settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet import formats, validation
from keras_tensornet.decompositions.shares import energy_share
from keras_tensornet.kernels import (
    FactorizedKernel,
    decompose_kernel,
    network_of_cores,
    refused_quantize,
)
from keras_tensornet.types import Config, Rank, Shape, Tensor

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


def check_source(cls: Any, layer: keras.Layer) -> None:
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


def one_threshold(
    rank: object, energy: float | None, eps: float | None, energy_norm: str = "frobenius"
) -> dict[str, Any]:
    """`{"energy": ...}` or `{"eps": ...}`, `{}` for a rank; raises unless exactly one is given."""
    given: dict[str, Any] = {"rank": rank, "energy": energy, "eps": eps}
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


def settings_of(layer: keras.Layer, without: tuple[str, ...], kind: Any = None) -> Config:
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


def ranks_for(
    cls: Any, layer: keras.Layer, config: Config, kernel: np.ndarray, threshold: dict[str, Any]
) -> int | Sequence[int]:
    """The ranks that a threshold gives, in the form that the `rank` argument takes."""
    with validation.quietly():
        probe = cls(**(config | {"rank": 1, "kernel_initializer": "zeros"}))
        probe.build(probe._input_shape_for(kernel.shape, layer))
    cores = decompose_kernel(kernel, probe.network, probe.modes, **threshold)
    network = network_of_cores(probe.network, cores)
    return formats.get(probe._format).rank_argument(network)


class Convertible:
    """From a dense layer and back: methods of every layer whose kernel is a tensor network."""

    # What the layer is, and has once it is built.
    built: bool
    kernel: Tensor
    bias: keras.Variable | None
    build: Callable[[Shape], None]
    dense_class: Callable[[], type[keras.layers.Layer]]
    assign_kernel: Callable[[Tensor], float]
    _built_kernel: Callable[[], FactorizedKernel]

    @classmethod
    def from_layer(
        cls,
        layer: keras.Layer,
        rank: Rank = None,
        energy: float | None = None,
        eps: float | None = None,
        energy_norm: str = "frobenius",
        **kwargs: Any,
    ) -> keras.Layer:
        """A factorized layer that stands for a trained dense one.

        Args:
            layer: a built layer of the dense kind, see `dense_class`.
            rank: rank of the cores, or
            energy: share in (0, 1] of squared singular values that each unfolding keeps, or
            eps: relative error allowed for the whole kernel. Exactly one of the three.
            energy_norm: "nuclear" takes the share of their sum instead of their squares.
            **kwargs: further arguments of this class, such as `in_modes` or `implementation`.

        Returns:
            A built layer of this class with the same name, bias, activation and other settings,
            whose merged kernel is near the given layer's.

        Raises:
            TypeError: if the layer is of another kind.
            ValueError: if it is not built, or not exactly one of rank, energy, eps is given.
        """
        check_source(cls, layer)
        threshold = one_threshold(rank, energy, eps, energy_norm)
        config = settings_of(layer, DENSE_ONLY) | kwargs
        kernel = ops.convert_to_numpy(layer.kernel)
        if threshold:
            rank = ranks_for(cls, layer, config, kernel, threshold)
        result: Any = cls(**(config | {"rank": rank}))
        result.build(result._input_shape_for(kernel.shape, layer))
        result.assign_kernel(kernel)
        if layer.bias is not None:
            # A copy: on JAX the two would share a buffer, which training one of them deletes.
            result.bias.assign(ops.copy(layer.bias))
        return result

    def to_dense_layer(self) -> keras.layers.Layer:
        """The dense Keras layer with the merged kernel, the same bias and the same settings."""
        holder = self._built_kernel()
        config = settings_of(self, FACTORIZED_ONLY) | {"kernel_initializer": "zeros"}
        dense = self.dense_class()(**config)
        dense.build(self._input_shape_for(holder.modes.kernel_shape, self))
        weights = [self.kernel] + ([] if self.bias is None else [self.bias.value])
        dense.set_weights([ops.convert_to_numpy(weight) for weight in weights])
        return dense

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Refused: the kernel has low rank already."""
        raise NotImplementedError(
            f"{type(self).__name__} has no dense kernel to add a low-rank update to. Train its "
            "cores, or convert it with `to_dense_layer()` and call `enable_lora` on the result."
        )

    quantize = refused_quantize

    def _input_shape_for(self, kernel_shape: tuple[int, ...], like: keras.layers.Layer) -> Shape:
        """An input shape from which the layer, like another one, builds to that kernel."""
        return (None, kernel_shape[-2])
