"""Fitting the rates that plans are predicted with to the machine at hand, in about a minute.

Predicted time is linear in the cost of a call, of a FLOP and of a byte (see `contraction.cost`), so
a few dozen measured plans of small and large layers give them by least squares on relative errors,
with what calling a compiled function costs beside them.
The fit is kept only if plans that are chosen with it are clearly faster on those layers than plans
chosen with the shipped rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_tensornet import validation
from keras_tensornet.contraction import Machine, Workload, make_plan
from keras_tensornet.contraction.constants import FITTED, VARIABLE, constants_file, keep
from keras_tensornet.contraction.plans import SURE
from keras_tensornet.layers import FactorizedConv2D, FactorizedDense
from keras_tensornet.networks import Network
from keras_tensornet.serving.autotuning import measured_plans
from keras_tensornet.serving.measuring import library_threads, usable_cores

# format, filters or units, rank, and the shape of the inputs: small and large, wide and narrow.
LAYERS: tuple[tuple[str, int, int, tuple[int, ...]], ...] = (
    ("tr", 16, 4, (32, 16, 16, 16)),
    ("tt", 32, 8, (32, 16, 16, 32)),
    ("cp", 64, 16, (32, 16, 16, 64)),
    ("tr", 64, 4, (32, 32, 32, 64)),
    ("tucker", 64, 16, (8, 32, 32, 64)),
    ("ttm", 128, 8, (8, 16, 16, 128)),
    ("tr", 256, 6, (8, 8, 8, 256)),
    ("tt", 128, 8, (32, 128)),
    ("tr", 512, 6, (32, 512)),
    ("cp", 1024, 32, (32, 1024)),
    ("tt", 1024, 16, (128, 1024)),
    ("tr", 2048, 5, (128, 2048)),
)
CANDIDATES = 3
# By so much the geometric mean must be better, or the difference is noise.
LEAST_GAIN = 0.01
ROUNDS = 10


@dataclass(frozen=True)
class Sample:
    """A layer's plans and what they take, kernels merged beforehand.

    Attributes:
        name: of the layer, for progress.
        network, workload: that the plans are of.
        seconds: chain -> measured seconds of one call.
    """

    name: str
    network: Network
    workload: Workload
    seconds: dict[str, float]

    def predicted(self, rates: Machine) -> dict[str, float]:
        """Chain -> predicted seconds."""
        return {
            chain: make_plan(self.network, self.workload, chain, rates).seconds
            for chain in self.seconds
        }

    def regret(self, rates: Machine) -> float:
        """What `implementation="auto"` takes with these rates, over the fastest measured plan."""
        predicted = self.predicted(rates)
        dense = next(chain for chain in predicted if chain.endswith(":dense"))
        best = min(predicted, key=lambda chain: predicted[chain])
        chosen = best if predicted[best] < SURE * predicted[dense] else dense
        return self.seconds[chosen] / min(self.seconds.values())


@dataclass(frozen=True)
class MachineTuning:
    """What `tune` measured; prints itself.

    Attributes:
        machine: the rates that were fitted.
        path: where they are kept; None where the shipped ones are kept instead.
        tuned, shipped: time of the plans that are chosen with the fitted and with the shipped rates
            over that of the fastest: geometric mean and worst case of the layers measured.
        layers, plans: how many were measured.
        conditions: how, in words.
    """

    machine: Machine
    path: Path | None
    tuned: tuple[float, float]
    shipped: tuple[float, float]
    layers: int
    plans: int
    conditions: str

    def __str__(self) -> str:
        rates = self.machine
        kept = "not kept: the shipped rates choose as well" if self.path is None else str(self.path)
        return "\n".join(
            [
                f"{self.plans} plans of {self.layers} layers measured; {self.conditions}",
                f"  products {rates.matmul_flops / 1e9:,.0f} GFLOP/s, convolutions "
                f"{rates.conv_flops / 1e9:,.0f} GFLOP/s, {rates.bandwidth / 1e9:,.1f} GB/s, "
                f"{rates.call * 1e6:,.1f} us a call",
                "  implementation='auto' over the fastest plan, geometric mean and worst:",
                f"    shipped rates {self.shipped[0]:.3f} and {self.shipped[1]:.2f}, "
                f"tuned {self.tuned[0]:.3f} and {self.tuned[1]:.2f}",
                f"  {kept}",
            ]
        )


def tune(progress: Callable[[int, int, str], None] | None = None) -> MachineTuning:
    """Measure this machine for about a minute, and predict plans with what was found from now on.

    The rates go to a small file in the user's cache folder (`KERAS_TENSORNET_CACHE` names another),
    one for each backend of Keras, and are used by `implementation="auto"`, frozen and exported
    models, and budgets of latency. Layers that are built already ask anew at their next trace.

    Args:
        progress: called as `progress(done, total, layer)`.

    Returns:
        What was measured, and whether it was kept.

    Raises:
        ValueError: if there is nowhere to keep it.
        OSError: if the file cannot be written.
    """
    path = constants_file()
    if path is None:
        raise ValueError(
            f"There is no folder to keep rates in: {VARIABLE} is set and empty, or you have no "
            "home. Set it to a folder."
        )
    samples = []
    for done, (format, units, rank, shape) in enumerate(LAYERS):
        samples.append(sample(format, units, rank, shape))
        if progress is not None:
            progress(done + 1, len(LAYERS), samples[-1].name)
    fitted, shipped = fit(samples), Machine()
    tuned = regrets(samples, fitted)
    before = regrets(samples, shipped)
    threads = library_threads()
    conditions = f"{usable_cores()} cores" + ("" if threads is None else f", {threads} threads")
    better = tuned[0] < before[0] - LEAST_GAIN and tuned[1] <= before[1]
    if better:
        keep(fitted, path, conditions)
    plans = sum(len(one.seconds) for one in samples)
    kept = path if better else None
    return MachineTuning(fitted, kept, tuned, before, len(samples), plans, conditions)


def sample(format: str, units: int, rank: int, shape: tuple[int, ...]) -> Sample:
    """Measure the plans of one layer that are predicted to be fastest, and the dense one."""
    convolution = len(shape) == 4
    layer = (
        FactorizedConv2D(units, 3, rank=rank, format=format, padding="same")
        if convolution
        else FactorizedDense(units, rank=rank, format=format)
    )
    with validation.quietly():  # ranks above what the modes allow are cut
        layer.build(shape)
    seconds = measured_plans(layer, shape[0], CANDIDATES)
    kind = "conv" if convolution else "dense"
    workload = layer.plan_for(shape[0], merged=True).workload
    return Sample(f"{format} {kind} {units}", layer.network, workload, seconds)


def fit(samples: Sequence[Sample]) -> Machine:
    """The rates that predict what was measured with the least relative errors.

    Rates that no sample tells anything of stay as shipped.
    """
    shipped = Machine()
    nothing: dict[str, Any] = dict.fromkeys(FITTED[:3], math.inf) | {"call": 0.0}
    units = [replace(shipped, **(nothing | {name: 1.0})) for name in FITTED]
    rows = []
    for one in samples:
        by_unit = [one.predicted(unit) for unit in units]
        for chain, taken in one.seconds.items():
            # The last column is what calling a compiled function costs, whatever is in it.
            rows.append([*(predicted[chain] / taken for predicted in by_unit), 1.0 / taken])
    table = np.array(rows)
    scale = np.abs(table).max(axis=0)
    costs = _least_absolute(table / np.where(scale > 0, scale, 1.0)) / np.where(scale > 0, scale, 1)
    found: dict[str, Any] = {}
    for name, cost in zip(FITTED, costs[:-1], strict=True):
        if cost > 0:
            found[name] = float(cost if name == "call" else 1.0 / cost)
    return replace(shipped, **found)


def regrets(samples: Sequence[Sample], rates: Machine) -> tuple[float, float]:
    """Geometric mean and worst case over the samples of `Sample.regret`."""
    found = [one.regret(rates) for one in samples]
    return math.exp(sum(map(math.log, found)) / len(found)), max(found)


def _least_absolute(table: np.ndarray) -> np.ndarray:
    """x >= 0 of the least sum of |table x - 1|, by weighted least squares that are repeated.

    A plan that was measured in a busy moment counts less that way.
    """
    weights = np.ones(len(table))
    costs = np.zeros(table.shape[1])
    for _ in range(ROUNDS):
        costs = _non_negative(table * weights[:, None], weights)
        weights = 1.0 / np.sqrt(np.maximum(np.abs(table @ costs - 1.0), 0.02))
    return costs


def _non_negative(table: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares over the columns, those whose coefficients come out negative left out."""
    active = np.any(table != 0, axis=0)
    while True:
        costs = np.zeros(table.shape[1])
        if not active.any():
            return costs
        costs[active] = np.linalg.lstsq(table[:, active], target, rcond=None)[0]
        if (costs >= 0).all():
            return costs
        active &= costs > 0
