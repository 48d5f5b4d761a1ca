"""Compressing trained models: does full rank keep the outputs, and how long does it take?

    python benchmarks/compression.py

Three tables. "full rank": networks of keras.applications (random weights, without their tops, on
64 x 64 images), every layer brought into a format at full rank; the largest difference of outputs
relative to their largest entry, also of the dense and the stock model made from the result.
"speed": seconds and peak memory of `compress_model` with an energy threshold, each in a fresh
process. "cp": a 512 x 512 x 3 x 3 kernel of rank 128 under noise, at rank 128, and the same by
tensorly's `parafac`.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import json
import subprocess
import sys
import time
import warnings

import common
import keras
import numpy as np

from keras_tensornet import (
    CompressionPlan,
    compress_model,
    layers,
    models,
    plan_compression,
    to_dense_model,
    to_stock_model,
)
from keras_tensornet.compression.kinds import find_targets
from keras_tensornet.decompositions import cp_als
from keras_tensornet.serving.freezing import factorized_layers

NETWORKS = ("VGG16", "ResNet50", "MobileNetV2", "EfficientNetB0", "DenseNet121", "ConvNeXtTiny")
FORMATS = ("tt", "tr", "tucker")
EPS = 5e-7
FULL = 10**6  # is cut to the largest rank that is of use
ENERGY = 0.6
SWEEPS = 30


def full_rank_row(network: str, format: str) -> dict:
    """Compress one network at full rank and compare the outputs."""
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, network)
    model = build(weights=None, include_top=False, input_shape=(64, 64, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plan = full_rank_plan(model, format)
        start = time.perf_counter()
        small = compress_model(model, plan=plan)
    seconds = time.perf_counter() - start
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    wanted = model.predict(images, verbose=0)
    row = {"case": f"{network} {format} full rank", "seconds": seconds}
    row["layers"] = len(factorized_layers(small))
    assert row["layers"] == sum(choice.supported for choice in plan)
    for name, other in (
        ("difference", small),
        ("dense_difference", to_dense_model(small)),
        ("stock_difference", to_stock_model(small)),
    ):
        found = other.predict(images, verbose=0)
        row[name] = float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)))
    row["names_kept"] = [layer.name for layer in small.layers] == [
        layer.name for layer in model.layers
    ]
    return row


def full_rank_plan(model, format: str) -> CompressionPlan:
    """Every layer in the format, by hand: a rule would leave dense what grows at full rank.

    Rings keep channels whole, and have the ranks that an error of `EPS` takes: their largest useful
    ranks would be those of any ring of that shape.
    """
    plan = plan_compression(model, format=format, rank=1, exclude=())
    trained = {target.path: target.layer for target in find_targets(model)}
    for choice in plan:
        if not choice.supported:
            continue
        rank, arguments = FULL, {}
        if format == "tr":
            arguments = {"in_modes": 1, "out_modes": 1}
            arguments |= {} if choice.layer == "Dense" else {"spatial": "joint"}
            factorized = getattr(layers, f"Factorized{choice.layer}")
            rank = factorized.from_layer(
                trained[choice.path], format=format, eps=EPS, **arguments
            ).rank
        plan = plan.with_layer(choice.path, rank, format, **arguments)
    return plan


def speed_row(name: str) -> dict:
    """Compress one network by energy: seconds, and the memory that it takes above the model."""
    keras.utils.set_random_seed(0)
    if name == "VGG-19, CIFAR head":
        model = models.vgg19()
    else:
        model = keras.applications.ResNet50(weights=None, classes=1000)
    size = 4 * model.count_params() / 2**20
    before = common.peak_memory_mb()
    start = time.perf_counter()
    small = compress_model(model, format="tt", energy=ENERGY)
    return {
        "case": f"{name}, tt, energy {ENERGY}",
        "seconds": time.perf_counter() - start,
        "model_mb": size,
        "peak_mb": common.peak_memory_mb() - before,
        "params": model.count_params(),
        "compressed": small.count_params(),
    }


def cp_row(shape: tuple[int, ...], rank: int) -> dict:
    """CP of one kernel, and tensorly's with at most so many sweeps."""
    rng = np.random.default_rng(0)
    terms = [rng.normal(size=(extent, rank)) for extent in shape]
    kernel = np.einsum("ir,jr,kr,lr->ijkl", *terms, optimize=True)
    kernel += 0.6 * np.std(kernel) * rng.normal(size=shape)
    start = time.perf_counter()
    factors = cp_als(kernel, rank, seed=0)
    seconds = time.perf_counter() - start
    row = {
        "case": f"cp {'x'.join(map(str, shape))} rank {rank}",
        "seconds": seconds,
        "error": _cp_error(kernel, factors),
    }
    try:
        from tensorly.decomposition import parafac
    except ImportError:
        return row
    start = time.perf_counter()
    weights, theirs = parafac(
        kernel, rank, n_iter_max=SWEEPS, init="random", random_state=0, tol=1e-8
    )
    row["tensorly_seconds"] = time.perf_counter() - start
    row["tensorly_error"] = _cp_error(kernel, [theirs[0] * weights, *theirs[1:]])
    row["ratio"] = row["tensorly_seconds"] / seconds
    return row


def _cp_error(kernel: np.ndarray, factors) -> float:
    merged = np.einsum("ir,jr,kr,lr->ijkl", *factors, optimize=True)
    return float(np.linalg.norm(merged - kernel) / np.linalg.norm(kernel))


def _in_process(task: str, name: str) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, f"--{task}", name], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print and write the results."""
    arguments = common.parse(__doc__)
    rows = []
    if arguments.smoke:
        rows = [full_rank_row("MobileNetV2", "tt"), cp_row((8, 6, 3, 3), 4)]
    else:
        rows += [cp_row((512, 512, 3, 3), 128)] if arguments.only in "cp" else []
        for name in ("VGG-19, CIFAR head", "ResNet50"):
            if arguments.only in f"speed {name}":
                rows.append(_in_process("speed", name))
                print(rows[-1], flush=True)
        for network in NETWORKS:
            for format in FORMATS:
                if arguments.only in f"{network} {format}":
                    rows.append(full_rank_row(network, format))
                    keras.backend.clear_session()
                    print(rows[-1], flush=True)
    columns = dict.fromkeys(key for row in rows for key in row)
    print(common.show(rows, list(columns)))
    print(f"written to {common.save('compression', rows, arguments.out)}")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--speed":
        print(json.dumps(speed_row(sys.argv[2])))
    else:
        main()
