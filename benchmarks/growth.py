"""How forward time grows with rank, channels and batch, with the plan's prediction beside it.

    python benchmarks/growth.py

One convolution, 3x3 on 32x32 images: rank from 2 to 32 at 64 channels and batch 32, channels
from 16 to 256 at rank 8, batch from 1 to 128 at rank 8. Measured and predicted times of what
`auto` runs, and of the dense twin, on log axes.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from pathlib import Path

import common
import keras
import numpy as np
from keras import ops

from keras_tensornet import layers
from keras_tensornet.compiled import forward_function

COLUMNS = ("sweep", "value", "measured_ms", "predicted_ms", "dense_ms", "plan")
SWEEPS = {
    "rank": [(rank, 64, 32) for rank in (2, 4, 8, 16, 32)],
    "channels": [(8, channels, 32) for channels in (16, 32, 64, 128, 256)],
    "batch": [(8, 64, batch) for batch in (1, 4, 16, 64, 128)],
}


def measure(rank: int, channels: int, batch: int, seconds: float) -> dict:
    """One point: our layer and its dense twin, in turns."""
    shape = (batch, 32, 32, channels)
    inputs = ops.convert_to_tensor(np.random.default_rng(0).normal(size=shape).astype("float32"))
    ring = layers.TRConv2D(channels, 3, rank=rank, padding="same")
    dense = keras.layers.Conv2D(channels, 3, padding="same")
    for layer in (ring, dense):
        layer.build(shape)
    times = common.medians([forward_function(layer, inputs) for layer in (ring, dense)], seconds)
    plan = ring.plan_for()
    return {
        "measured_ms": times[0],
        "predicted_ms": 1e3 * plan.seconds,
        "dense_ms": times[1],
        "plan": plan.describe(),
    }


def draw(rows: list[dict], path: Path) -> None:
    """The three sweeps side by side, on log axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(SWEEPS), figsize=(12, 4), sharey=True)
    for axis, sweep in zip(axes, SWEEPS, strict=True):
        points = [row for row in rows if row["sweep"] == sweep]
        values = [row["value"] for row in points]
        for key, style in (("measured_ms", "o-"), ("predicted_ms", "--"), ("dense_ms", "s:")):
            axis.loglog(values, [row[key] for row in points], style, label=key.removesuffix("_ms"))
        axis.set_xlabel(sweep)
        axis.grid(True, which="both", alpha=0.3)
    axes[0].set_ylabel("forward pass, ms")
    axes[0].legend()
    figure.suptitle("TRConv2D 3x3 on 32x32: measured, predicted, and the dense twin")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure the sweeps, print them, and write the results and the figure."""
    arguments = common.parse(__doc__)
    rows = []
    for sweep, points in SWEEPS.items():
        for point in points[:2] if arguments.smoke else points:
            value = dict(zip(("rank", "channels", "batch"), point, strict=True))[sweep]
            rows.append({"sweep": sweep, "value": value, **measure(*point, arguments.seconds)})
            print(common.show(rows[-1:], COLUMNS).splitlines()[-1])
    path = common.save("growth", rows, arguments.out, seconds=arguments.seconds)
    draw(rows, path.with_suffix(".png"))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
