"""Every factorized layer against its dense twin: frozen, forward and training step.

    python benchmarks/layers.py

For each case: the dense twin, the frozen layer, the unfrozen forward pass, the training step
(forward, and the gradient by inputs and weights) of both, and all candidate plans, in turns. `q` is
the FLOPs of the cheapest plan, merging included, over those of the dense twin.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import geometric_mean

import common
import keras
import numpy as np
from keras import ops

from keras_tensornet import layers
from keras_tensornet.compiled import forward_function, gradient_function
from keras_tensornet.contraction import candidate_plans

COLUMNS = (
    "case",
    "q",
    "dense_ms",
    "frozen",
    "forward",
    "dense_step_ms",
    "step",
    "auto_of_best",
    "chosen",
)


@dataclass(frozen=True)
class Case:
    """One layer of one format, and the shape of its inputs.

    Attributes:
        format: "tr", "tt", "ttm", ...
        kind: "dense" or "conv".
        size: output features or filters.
        input_shape: with the batch.
        rank: bond size, as the format spells it.
        kernel: kernel size of a convolution.
        strides: of a convolution.
    """

    format: str
    kind: str
    size: int
    input_shape: tuple[int, ...]
    rank: int | tuple[int, ...]
    kernel: int = 3
    strides: int = 1

    @property
    def name(self) -> str:
        """For example `tr conv 3x3 64->64 32x32 /1 r4 b128`."""
        batch, *extents, channels = self.input_shape
        rank = "x".join(map(str, self.rank)) if isinstance(self.rank, tuple) else self.rank
        if self.kind == "dense":
            return f"{self.format} dense {channels}->{self.size} r{rank} b{batch}"
        return (
            f"{self.format} conv {self.kernel}x{self.kernel} {channels}->{self.size} "
            f"{extents[0]}x{extents[1]} /{self.strides} r{rank} b{batch}"
        )

    def build(self, **options):
        """The factorized layer, built."""
        options = {"format": self.format, "rank": self.rank, **options}
        if self.kind == "dense":
            layer = layers.FactorizedDense(self.size, **options)
        else:
            layer = layers.FactorizedConv2D(
                self.size, self.kernel, strides=self.strides, padding="same", **options
            )
        layer.build(self.input_shape)
        return layer

    def dense(self):
        """The dense twin, built."""
        if self.kind == "dense":
            layer = keras.layers.Dense(self.size)
        else:
            layer = keras.layers.Conv2D(
                self.size, self.kernel, strides=self.strides, padding="same"
            )
        layer.build(self.input_shape)
        return layer


def grid() -> Iterator[Case]:
    """The cases: dense and convolution sizes, ranks 2 to 64, batch 1, 32 and 128."""
    for inputs, units, ranks in (
        (784, 300, (5, 15)),
        (1250, 320, (5, 20)),
        (1024, 4096, (4, 16)),
        (4096, 4096, (5, 15)),
    ):
        for rank in ranks:
            for batch in (1, 32, 128):
                yield Case("tr", "dense", units, (batch, inputs), rank)
        for batch in (1, 128):
            yield Case("ttm", "dense", units, (batch, inputs), ranks[0])
    for channels, extent, ranks in ((16, 32, (2, 4)), (64, 32, (4, 10)), (256, 16, (8, 16))):
        for rank in ranks:
            for batch in (1, 32, 128):
                yield Case("tr", "conv", channels, (batch, extent, extent, channels), rank)
    for rank in (4, 16):
        for batch in (1, 32):
            yield Case("tr", "conv", 640, (batch, 8, 8, 640), rank)
    for format, rank in (("tt", 16), ("tt", 64), ("ttm", 4), ("ttm", 16)):
        for batch in (1, 32, 128):
            yield Case(format, "conv", 64, (batch, 32, 32, 64), rank)
    for format, rank in (("tr", 4), ("tt", 16), ("ttm", 8)):
        for batch in (1, 128):
            yield Case(format, "conv", 128, (batch, 32, 32, 64), rank, strides=2)
    for rank in (5, 20):
        for batch in (1, 128):
            yield Case("tr", "conv", 50, (batch, 14, 14, 20), rank, kernel=5)
    for format, rank in (("cp", 16), ("cp", 64), ("tucker", 16), ("bt", (2, 8)), ("ht", 8)):
        for batch in (1, 32, 128):
            yield Case(format, "conv", 64, (batch, 32, 32, 64), rank)
    for format, rank in (("cp", 32), ("tucker", 8), ("bt", (2, 4)), ("ht", 4)):
        for batch in (1, 128):
            yield Case(format, "dense", 4096, (batch, 1024), rank)


def dense_flops(case: Case) -> int:
    """Multiply-adds times two of the dense twin's forward pass."""
    batch, *extents, channels = case.input_shape
    if case.kind == "dense":
        return 2 * batch * channels * case.size
    positions = math.prod(math.ceil(extent / case.strides) for extent in extents)
    return 2 * batch * positions * case.kernel**2 * channels * case.size


def measure(case: Case, seconds: float) -> dict:
    """One row: times of the dense twin, and ratios to them."""
    rng = np.random.default_rng(0)
    inputs = ops.convert_to_tensor(rng.normal(size=case.input_shape).astype("float32"))
    dense, live, frozen = case.dense(), case.build(), case.build()
    frozen.freeze(case.input_shape[0])
    forward = [forward_function(layer, inputs) for layer in (dense, frozen, live)]
    dense_ms, frozen_ms, live_ms = common.medians(forward, seconds)
    plans = candidate_plans(live.network, live.plan_for(training=True).workload)
    known = {plan.describe(): plan.seconds for plan in plans}
    chains = [plan.describe() for plan in plans[:4]]
    chains += [plan.describe() for plan in plans if plan.implementation == "reconstructed"]
    steps = [dense, *(case.build(implementation=chain) for chain in dict.fromkeys(chains))]
    times = common.medians([gradient_function(layer, inputs) for layer in steps], seconds)
    step_ms, candidates = times[0], times[1:]
    q = min(plan.flops for plan in plans) / dense_flops(case)
    return {
        "case": case.name,
        "q": q,
        "dense_ms": dense_ms,
        "frozen": frozen_ms / dense_ms,
        "frozen_over_ms": frozen_ms - dense_ms,
        "forward": live_ms / dense_ms,
        "forward_over_ms": live_ms - dense_ms,
        "dense_step_ms": step_ms,
        "step": candidates[0] / step_ms,
        "step_over_ms": candidates[0] - step_ms,
        "auto_of_best": candidates[0] / min(candidates),
        "chosen": live.plan_for(training=True).describe(),
        "fastest": list(dict.fromkeys(chains))[candidates.index(min(candidates))],
        "frozen_plan": frozen.plan.describe(),
        "forward_plan": live.plan.describe(),
        "predicted_ms": live.plan.seconds * 1e3,
        "candidates": [
            {"chain": chain, "predicted_ms": 1e3 * known[chain], "step_ms": time}
            for chain, time in zip(dict.fromkeys(chains), candidates, strict=True)
        ],
        "params": live.network.num_params,
    }


def verdicts(rows: list[dict]) -> dict:
    """How many cases meet the rule "never slower when it is used", and which do not."""

    def fits(row, ratio, over, twin, most, slack_ms, least_ms):
        return row[ratio] <= most or (row[twin] < least_ms and row[over] <= slack_ms)

    missed = {"frozen": [], "forward": [], "step": []}
    for row in rows:
        if not fits(row, "frozen", "frozen_over_ms", "dense_ms", 1.05, 0.05, 1.0):
            missed["frozen"].append(row["case"])
        most = 1.1 * max(1.0, row["q"])
        if not fits(row, "forward", "forward_over_ms", "dense_ms", most, 0.1, 2.0):
            missed["forward"].append(row["case"])
        trained = not row["case"].endswith(" b1")  # nobody trains with one example
        if trained and not fits(row, "step", "step_over_ms", "dense_step_ms", most, 0.1, 2.0):
            missed["step"].append(row["case"])
    return {
        "cases": len(rows),
        "missed": missed,
        "auto_of_best_geometric_mean": geometric_mean([row["auto_of_best"] for row in rows]),
        "auto_of_best_worst": max(row["auto_of_best"] for row in rows),
    }


def main() -> None:
    """Measure the grid, print it, and write the results."""
    arguments = common.parse(__doc__)
    cases = [case for case in grid() if arguments.only in case.name]
    if arguments.smoke:
        cases = [Case("tr", "dense", 16, (4, 16), 2), Case("tt", "conv", 8, (2, 6, 6, 8), 2)]
    rows = []
    for number, case in enumerate(cases):
        rows.append(measure(case, arguments.seconds))
        keras.backend.clear_session()
        print(f"[{number + 1}/{len(cases)}] " + common.show(rows[-1:], COLUMNS).splitlines()[-1])
    found = verdicts(rows)
    path = common.save("layers", rows, arguments.out, seconds=arguments.seconds, verdicts=found)
    print(found)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
