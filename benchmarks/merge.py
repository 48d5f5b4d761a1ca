"""Merging cores into the dense kernel: three orders, by hand and inside a function.

    python benchmarks/merge.py

Times are ratios to the planned order in the compiled path; the last column is what a merge by hand
would cost if each step were a Python call.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import common
import numpy as np
from keras import ops

import keras_tensornet
from keras_tensornet import formats
from keras_tensornet.contraction import ORDERS, kernel_plan
from keras_tensornet.modes import kernel_modes

COLUMNS = ("case", "planned_ms", "hierarchical", "sequential", "uncompiled", "peak_of_kernel")
SIZES = {
    "dense 784->300": ((784, 300), ()),
    "dense 1250->320": ((1250, 320), ()),
    "dense 4096->4096": ((4096, 4096), ()),
    "conv 3x3 64->64": ((64, 64), ((3, 3),)),
    "conv 3x3 640->640": ((640, 640), ((3, 3),)),
}


def measure(format: str, rank: int, name: str, seconds: float) -> dict:
    """One row: the three orders and the uncompiled planned merge, in turns."""
    (inputs, outputs), spatial = SIZES[name]
    modes = kernel_modes(inputs, outputs, spatial=spatial)
    network = formats.get(format).build(modes, rank)
    rng = np.random.default_rng(0)
    cores = [
        ops.convert_to_tensor(rng.normal(size=shape).astype("float32"))
        for shape in network.core_shapes
    ]
    plan = kernel_plan(network)
    functions = [
        lambda order=order: keras_tensornet.merge(cores, order=order, network=network)
        for order in ORDERS
    ]
    times = common.medians([*functions, lambda: plan.run(cores, ops)], seconds)
    elements = network.count(network.kernel_labels)
    return {
        "case": f"{format} {name} r{rank}",
        "planned_ms": times[0],
        **{order: time / times[0] for order, time in zip(ORDERS, times, strict=False)},
        "uncompiled": times[-1] / times[0],
        "peak_of_kernel": plan.peak_elements / elements,
        "flops": plan.flops,
    }


def main() -> None:
    """Measure, print and write the results."""
    arguments = common.parse(__doc__)
    names = list(SIZES)[:1] if arguments.smoke else list(SIZES)
    rows = []
    for name in names:
        for format, ranks in (("tr", (4, 15)), ("ttm", (4, 16))):
            for rank in ranks:
                rows.append(measure(format, rank, name, arguments.seconds))
                print(common.show(rows[-1:], COLUMNS).splitlines()[-1])
    print(f"written to {common.save('merge', rows, arguments.out, seconds=arguments.seconds)}")


if __name__ == "__main__":
    main()
