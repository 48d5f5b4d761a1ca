"""`keras-tensornet inspect`: what is in a model, and how far each layer can be compressed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_tensornet.commands.errors import CommandError
from keras_tensornet.commands.export import load

if TYPE_CHECKING:
    import keras

    from keras_tensornet.compression.unreached import Unreached


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `inspect`."""
    parser.epilog = (
        "rank90 is the number of singular values that hold 90 %% of the energy of the kernel as a "
        "matrix of patch entries and outputs: well below the full rank, a layer compresses well."
    )
    parser.add_argument("model", type=Path, metavar="MODEL.keras", help="the model to look at")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Load and list."""
    model = load(arguments.model)
    try:
        rows = describe(model)
    except (TypeError, ValueError) as error:
        raise CommandError(str(error)) from error
    total = model.count_params()
    if arguments.json:
        print(json.dumps({"model": model.name, "params": total, "layers": rows}))
        return
    able = sum(not row["note"] for row in rows)
    print(f"model '{model.name}': {total:,} parameters, {able} layers that can be compressed")
    width = max([len(row["layer"]) for row in rows], default=5)
    print(f"{'layer':<{width}}  {'kind':<16} {'kernel':<16} {'params':>12}  rank90 / full")
    for row in rows:
        kernel = "x".join(map(str, row["kernel"]))
        said = row["note"] or f"{row['rank90']} / {row['full_rank']}"
        print(
            f"{row['layer']:<{width}}  {row['kind']:<16} {kernel:<16} {row['params']:>12,}  {said}"
        )


def describe(model: keras.Model) -> list[dict[str, Any]]:
    """One row for each layer that can be compressed, is factorized already, or is not supported."""
    import keras
    import numpy as np

    from keras_tensornet.compression.kinds import find_targets, kernel_array
    from keras_tensornet.compression.unreached import FACTORIZED, unreached
    from keras_tensornet.decompositions import rank_for_energy
    from keras_tensornet.rewriting.walker import walk_layers

    targets = {target.path: target for target in find_targets(model)}
    apart: dict[str, list[dict[str, Any]]] = {}
    for other in unreached(model, targets.values()):
        if other.reason != FACTORIZED:
            apart.setdefault(other.layer_path, []).append(_not_supported(other))
    rows = []
    for path, layer in walk_layers(model):
        rows += apart.pop(path, [])
        if path in targets:
            kernel = kernel_array(targets[path])
        elif hasattr(layer, "network") and hasattr(layer, "kernel"):
            kernel = keras.ops.convert_to_numpy(layer.kernel)
        else:
            continue
        matrix = kernel.reshape(-1, kernel.shape[-1])
        values = np.linalg.svd(matrix.astype("float64"), compute_uv=False)
        rows.append(
            {
                "layer": path,
                "kind": type(layer).__name__,
                "kernel": list(kernel.shape),
                "params": layer.count_params(),
                "rank90": rank_for_energy(values, 0.9),
                "full_rank": len(values),
                "note": "",
            }
        )
    return rows + apart.pop("", [])


def _not_supported(other: Unreached) -> dict[str, Any]:
    return {
        "layer": other.path,
        "kind": type(other.layer).__name__,
        "kernel": list(other.kernel_shape),
        "params": other.params,
        "rank90": None,
        "full_rank": None,
        "note": other.note,
    }
