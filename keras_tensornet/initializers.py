"""Initializers that draw cores so that the *merged* kernel has the variance asked for.

An entry of the merged kernel is a sum over all bonds of products of one entry per core. With
independent, zero-mean entries of variance v in each of d cores, its variance is

    Var(W) = prod(bond sizes) * v^d,   hence   v = (target / prod(bond sizes))^(1/d)

for every network. For a tensor ring of rank R this is Tensor Ring Nets' rule
sigma = (2/N)^(1/2d) / sqrt(R) (Wang et al. 2018, section 3.3; the exponent 1/d printed there gives
the merged kernel variance (2/N)^2 and does not train).
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import initializers

from keras_tensornet import validation
from keras_tensornet.networks import Network
from keras_tensornet.types import Config, Tensor

MODES = ("size", "fan_in", "fan_avg", "fan_out")
DISTRIBUTIONS = ("normal", "truncated_normal", "uniform")
# Standard deviation of a unit normal cut at two sigma, as keras.initializers.VarianceScaling.
TRUNCATED_STDDEV = 0.87962566103423978


@keras.saving.register_keras_serializable(package="keras_tensornet")
class MergedVarianceScaling(initializers.Initializer):
    """Draws cores so that the merged kernel has variance `scale / n`.

    Args:
        scale: positive number.
        mode: what n is: "size", the number of entries of the dense kernel (the tensor-ring
            paper's rule and the default; it suits shallow nets and nets with normalisation);
            "fan_in", "fan_out" or "fan_avg" as in `keras.initializers.VarianceScaling` (for deep
            nets without normalisation).
        distribution: "normal", "truncated_normal" or "uniform", of each core's entries.
        seed: integer or `keras.random.SeedGenerator`; each core draws from its own stream of it.

    Used as `kernel_initializer` of any layer of this package. Called on its own, as Keras calls an
    initializer, it treats the shape as that of a dense kernel and draws that kernel.

    Source: Wang et al. 2018, section 3.3.
    """

    def __init__(
        self,
        scale: float = 2.0,
        mode: str = "size",
        distribution: str = "normal",
        seed: int | None = None,
    ) -> None:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or scale <= 0:
            raise ValueError(f"`scale` must be a positive number. Received: scale={scale!r}.")
        self.scale = float(scale)
        self.mode = validation.one_of("mode", mode, MODES)
        self.distribution = validation.one_of("distribution", distribution, DISTRIBUTIONS)
        self.seed = keras.saving.deserialize_keras_object(seed) if isinstance(seed, dict) else seed

    def target_variance(self, kernel_shape: tuple[int, ...]) -> float:
        """The variance of the merged kernel of that shape, in Keras layout."""
        return self.scale / _fan(kernel_shape, self.mode)

    def core_stddev(self, network: Network, kernel_shape: tuple[int, ...]) -> float:
        """The standard deviation of every core's entries."""
        return core_stddev(network, self.target_variance(kernel_shape))

    def for_cores(self, network: Network, kernel_shape: tuple[int, ...]) -> list[keras.Initializer]:
        """One Keras initializer per core of the network."""
        stddev = self.core_stddev(network, kernel_shape)
        return _samplers(network, stddev, self.distribution, self.seed)

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        stddev = math.sqrt(self.target_variance(tuple(shape)))
        return _sampler(self.distribution, stddev, self.seed)(shape, dtype=dtype)

    def get_config(self) -> Config:
        """Plain values of the arguments."""
        seed = keras.saving.serialize_keras_object(self.seed)
        return {
            "scale": self.scale,
            "mode": self.mode,
            "distribution": self.distribution,
            "seed": seed,
        }


def core_stddev(network: Network, variance: float) -> float:
    """The standard deviation of cores whose merged kernel has that variance."""
    return (variance / network.count(network.bonds)) ** (0.5 / len(network.cores))


def merged_variance(initializer: keras.Initializer, kernel_shape: tuple[int, ...]) -> float:
    """The variance that an initializer gives to a kernel.

    Args:
        initializer: a variance-scaling, or zero-mean normal or uniform, Keras initializer.
        kernel_shape: the dense kernel's shape in Keras layout.

    Raises:
        ValueError: for any other initializer.
    """
    if isinstance(initializer, initializers.VarianceScaling):
        initializer = MergedVarianceScaling(initializer.scale, initializer.mode)
    if isinstance(initializer, MergedVarianceScaling):
        return initializer.target_variance(kernel_shape)
    variance = _zero_mean_variance(initializer)
    if variance is None:
        raise ValueError(
            "`kernel_initializer` must have a variance and mean zero: MergedVarianceScaling, a "
            "variance-scaling initializer such as 'he_normal', or a zero-mean normal or uniform "
            f"one. Received: {initializer}."
        )
    return variance


def _sampler(distribution: str, stddev: float, seed: int | None) -> keras.Initializer:
    if distribution == "normal":
        return initializers.RandomNormal(0.0, stddev, seed=seed)
    if distribution == "truncated_normal":
        return initializers.TruncatedNormal(0.0, stddev / TRUNCATED_STDDEV, seed=seed)
    limit = math.sqrt(3.0) * stddev
    return initializers.RandomUniform(-limit, limit, seed=seed)


def _fan(kernel_shape: tuple[int, ...], mode: str) -> float:
    field = math.prod(kernel_shape[:-2])
    fan_in, fan_out = kernel_shape[-2] * field, kernel_shape[-1] * field
    choices = {
        "size": math.prod(kernel_shape),
        "fan_in": fan_in,
        "fan_out": fan_out,
        "fan_avg": (fan_in + fan_out) / 2,
    }
    return max(1.0, choices[mode])


def core_initializers(
    initializer: keras.Initializer,
    network: Network,
    kernel_shape: tuple[int, ...],
) -> list[keras.Initializer] | None:
    """An initializer per core from any initializer of a kernel, whose meaning it keeps.

    Variance-scaling and zero-mean normal or uniform initializers give the merged kernel the
    variance that they would give a dense one; `Zeros` makes the merged kernel zero and still
    trainable, because only the last core is zero.

    Returns:
        initializers, or None where the kernel itself must be drawn and decomposed.
    """
    if isinstance(initializer, MergedVarianceScaling):
        return initializer.for_cores(network, kernel_shape)
    if isinstance(initializer, initializers.VarianceScaling):
        merged = MergedVarianceScaling(
            initializer.scale, initializer.mode, _drawn_as(initializer), initializer.seed
        )
        return merged.for_cores(network, kernel_shape)
    if isinstance(initializer, initializers.Zeros):
        return [*MergedVarianceScaling().for_cores(network, kernel_shape)[:-1], initializer]
    variance = _zero_mean_variance(initializer)
    if variance is None:
        return None
    return _samplers(network, core_stddev(network, variance), "normal", initializer.seed)


def _samplers(
    network: Network, stddev: float, distribution: str, seed: int | None
) -> list[keras.Initializer]:
    """Independent samplers, each core from its own stream of the seed."""
    seeds = [seed] * len(network.cores)
    if isinstance(seed, int):
        seeds = [seed + 7919 * position for position in range(len(network.cores))]
    return [_sampler(distribution, stddev, core_seed) for core_seed in seeds]


def _drawn_as(initializer: initializers.VarianceScaling) -> str:
    return {"untruncated_normal": "normal"}.get(initializer.distribution, initializer.distribution)


def _zero_mean_variance(initializer: keras.Initializer) -> float | None:
    if isinstance(initializer, initializers.TruncatedNormal) and initializer.mean == 0:
        return (initializer.stddev * TRUNCATED_STDDEV) ** 2
    if isinstance(initializer, initializers.RandomNormal) and initializer.mean == 0:
        return initializer.stddev**2
    uniform = isinstance(initializer, initializers.RandomUniform)
    if uniform and initializer.minval == -initializer.maxval:
        return initializer.maxval**2 / 3
    return None
