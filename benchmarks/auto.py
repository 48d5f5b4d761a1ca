"""What `implementation="auto"` takes over the fastest measured plan, on two grids of layers.

    python benchmarks/auto.py [--seed 1] [--budget SECONDS] [--only NAME]

The grids are the cases of `layers.py` and as many as are asked for drawn at random by seed. For
each case the plans that are predicted to be fastest and the dense one are measured in turns, frozen
and in a training step; the row says what the predicted choice took over the fastest. Rows are
written one by one, and cases that have a row are left out, so that a run may be stopped and goes on
later.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import common
import keras
from layers import Case, grid

from keras_tensornet import validation
from keras_tensornet.serving.autotuning import measured_plans

CANDIDATES = 4
PHASES = ("frozen", "training")
FORMATS = ("tr", "tt", "ttm", "cp", "tucker", "ht")


def drawn(seed: int, count: int) -> Iterator[Case]:
    """Cases at random: sizes that are no powers of two too, ranks 2 to 32."""
    rng = random.Random(seed)
    while count:
        count -= 1
        format, rank = rng.choice(FORMATS), rng.choice((2, 3, 5, 8, 12, 20, 32))
        batch = rng.choice((1, 8, 32, 128))
        if rng.random() < 0.5:
            inputs, units = (rng.choice((96, 250, 384, 784, 1500, 2048)) for _ in range(2))
            yield Case(format, "dense", units, (batch, inputs), rank)
            continue
        channels, filters = (rng.choice((12, 32, 48, 96, 160, 256)) for _ in range(2))
        extent, kernel = rng.choice((7, 14, 28)), rng.choice((3, 3, 5))
        shape = (batch, extent, extent, channels)
        yield Case(format, "conv", filters, shape, rank, kernel, rng.choice((1, 1, 2)))


def measure(case: Case) -> list[dict]:
    """A row for each phase."""
    with validation.quietly():  # ranks above what the modes allow are cut
        layer = case.build()
    rows = []
    for phase in PHASES:
        chosen = layer.plan_for(
            case.input_shape[0], training=phase == "training", merged=phase == "frozen"
        ).describe()
        seconds = measured_plans(layer, case.input_shape[0], CANDIDATES, phase)
        best = min(seconds, key=lambda chain: seconds[chain])
        rows.append(
            {
                "case": case.name,
                "phase": phase,
                "ms": 1e3 * seconds[chosen],
                "of_best": seconds[chosen] / seconds[best],
                "chosen": chosen,
                "best": best,
            }
        )
    return rows


def verdicts(rows: Sequence[dict]) -> dict:
    """Geometric mean and worst case of each grid and phase."""
    found = {}
    for name in sorted({(row["grid"], row["phase"]) for row in rows}):
        ratios = {r["case"]: r["of_best"] for r in rows if (r["grid"], r["phase"]) == name}
        worst = max(ratios, key=lambda case: ratios[case])
        mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
        found[" ".join(name)] = {
            "cases": len(ratios),
            "geometric_mean": mean,
            "worst": ratios[worst],
            "worst_case": worst,
        }
    return found


def main() -> None:
    """Measure what has no row yet, print it, and write all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two small cases, to see it run")
    parser.add_argument("--out", type=Path, default=common.RESULTS, help="folder of the results")
    parser.add_argument("--only", default="", help="run only cases whose name contains this")
    parser.add_argument("--seed", type=int, default=1, help="of the second grid")
    parser.add_argument("--count", type=int, default=40, help="cases of the second grid")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds; then stop")
    arguments = parser.parse_args()
    grids = {
        "committed": list(grid()),
        f"seed {arguments.seed}": list(drawn(arguments.seed, arguments.count)),
    }
    if arguments.smoke:
        grids = {"smoke": [Case("tr", "dense", 16, (4, 16), 2)]}
    path = arguments.out / "auto.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    known = {(row["grid"], row["case"]) for row in rows}
    # The grids in turns, so that a run that is stopped says something of both.
    cases = [(name, case) for name, found in grids.items() for case in found]
    cases.sort(key=lambda pair: grids[pair[0]].index(pair[1]) / len(grids[pair[0]]))
    stop = time.monotonic() + arguments.budget
    for name, case in cases:
        if (name, case.name) in known or arguments.only not in case.name:
            continue
        if time.monotonic() > stop:
            break
        found = [{"grid": name, **row} for row in measure(case)]
        rows += found
        known.add((name, case.name))
        keras.backend.clear_session()
        print(common.show(found, ("grid", "case", "phase", "ms", "of_best")).split("\n", 2)[2])
        common.save("auto", rows, arguments.out, verdicts=verdicts(rows))
    wanted = sum(len(found) for found in grids.values())
    print(f"{len(known)} of {wanted} cases measured")
    print(json.dumps(verdicts(rows), indent=1))


if __name__ == "__main__":
    main()
