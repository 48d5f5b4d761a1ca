"""Whole models compressed by a budget, exported, against their dense twins: is smaller faster?

    python benchmarks/whole_models.py --compress [--only NAME]
    python benchmarks/whole_models.py [--only NAME] [--budget SECONDS]

The first command compresses, `latency=0.5` and `params=0.5`, and keeps the small models in a
folder; it takes minutes a model. The second exports dense and small models as SavedModel and
LiteRT, for batches of 1 and 32, and measures them in turns; it writes row by row, leaves out what
has a row, and takes what the first has made so far. Weights are random: time does not depend on
them.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import keras
import numpy as np

import keras_tensornet  # noqa: F401 registers the layers of saved models
from keras_tensornet import models
from keras_tensornet.compression import compress_model
from keras_tensornet.export import export_model
from keras_tensornet.export.exporting import SUFFIXES
from keras_tensornet.export.writers import named_inputs
from keras_tensornet.serving import measure

RULES = {"latency=0.5": {"latency": 0.5}, "params=0.5": {"params": 0.5}}
FORMATS = ("tf_saved_model", "litert")
BATCHES = (1, 32)
COLUMNS = ("case", "params", "dense_ms", "ratio", "note")


def application(name: str) -> Callable[[], keras.Model]:
    """A network of keras.applications for images of 224 x 224."""
    return lambda: getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))


def bert() -> keras.Model:
    """Six transformer layers of width 384 on 128 tokens; needs the `hub` extra."""
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=30522,
        num_layers=6,
        num_heads=12,
        hidden_dim=384,
        intermediate_dim=1536,
        max_sequence_length=128,
    )
    names = ("token_ids", "segment_ids", "padding_mask")
    inputs = {name: keras.Input((128,), dtype="int32", name=name) for name in names}
    return keras.Model(inputs, backbone(inputs)["pooled_output"])


MODELS: dict[str, Callable[[], keras.Model]] = {
    "ResNet-20": lambda: models.resnet_cifar(20),
    "BERT 6x384": bert,
    "MobileNetV2": application("MobileNetV2"),
    "EfficientNetB0": application("EfficientNetB0"),
    "ResNet50": application("ResNet50"),
    "ConvNeXtTiny": application("ConvNeXtTiny"),
    "VGG16": application("VGG16"),
}
SMOKE = {"LeNet-5": models.lenet5}


def compress(name: str, build: Callable[[], keras.Model], rule: str, work: Path) -> None:
    """Compress a model and keep it, or the reason why it cannot be."""
    path = work / f"{name} {rule}.keras"
    if path.exists() or path.with_suffix(".txt").exists():
        return
    keras.utils.set_random_seed(0)
    start = time.monotonic()
    try:
        small = compress_model(build(), "tt", **RULES[rule])
    except ValueError as error:
        path.with_suffix(".txt").write_text(str(error))
        print(f"{name} {rule}: {error}", flush=True)
        return
    small.save(path)
    print(f"{name} {rule}: {time.monotonic() - start:.0f} s", flush=True)


def rows_of(
    name: str, build: Callable[[], keras.Model], format: str, batch: int, work: Path, seconds: float
) -> list[dict]:
    """The rows of one file format and batch size: a small model of each rule, in turns."""
    dense, small, rows = build(), {}, []
    for rule in RULES:
        path = work / f"{name} {rule}.keras"
        case = f"{name} {rule} {format} b{batch}"
        if path.exists():
            small[case] = keras.models.load_model(path)
        elif path.with_suffix(".txt").exists():
            rows.append({"case": case, "note": path.with_suffix(".txt").read_text()})
    if not small:
        return rows
    rng, calls = np.random.default_rng(0), {}
    given = {
        key: rng.normal(size=(batch, *tensor.shape[1:])).astype("float32")
        if keras.backend.is_float_dtype(tensor.dtype)
        else np.ones((batch, *tensor.shape[1:]), tensor.dtype)
        for key, tensor in named_inputs(dense).items()
    }
    with tempfile.TemporaryDirectory() as folder:
        for number, (case, model) in enumerate({"dense": dense, **small}.items()):
            path = Path(folder, str(number)).with_suffix(SUFFIXES.get(format, ""))
            export_model(model, path, format, batch_size=batch, verify=False)
            names = list(named_inputs(model))
            feeds = dict(zip(names, given.values(), strict=True))
            calls[case] = LOADED[format](path, feeds)
        timing = measure(calls, repeats=5, seconds=seconds)
    return rows + [
        {
            "case": case,
            "params": model.count_params() / dense.count_params(),
            "dense_ms": timing.milliseconds("dense"),
            "ratio": timing.ratio(case, to="dense"),
            "note": timing.conditions,
        }
        for case, model in small.items()
    ]


def _saved_model(path: Path, feeds: dict) -> Callable[[], object]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    feeds = {name: tf.constant(array) for name, array in feeds.items()}

    def run():
        return [output.numpy() for output in serve(**feeds).values()], loaded

    return run


def _litert(path: Path, feeds: dict) -> Callable[[], object]:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
    runner = interpreter.get_signature_runner("serving_default")
    return lambda: runner(**feeds)


LOADED = {"tf_saved_model": _saved_model, "litert": _litert}


def verdicts(rows: list[dict]) -> dict:
    """Of each rule: rows, geometric mean, the worst, and what could not be kept."""
    found = {}
    for rule in RULES:
        ratios = {row["case"]: row["ratio"] for row in rows if f" {rule} " in row["case"] and
                  "ratio" in row}  # fmt: skip
        if ratios:
            worst = max(ratios, key=lambda case: ratios[case])
            mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
            found[rule] = {"rows": len(ratios), "geometric_mean": mean}
            found[rule] |= {"worst": ratios[worst], "worst_case": worst}
    return found


def main() -> None:
    """Compress, or measure what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="LeNet-5 alone, to see it run")
    parser.add_argument("--compress", action="store_true", help="compress, and measure nothing")
    parser.add_argument("--out", type=Path, default=common.RESULTS, help="folder of the results")
    parser.add_argument("--work", type=Path, help="folder of the small models")
    parser.add_argument("--only", default="", help="run only models whose name contains this")
    parser.add_argument("--seconds", type=float, default=1.0, help="measured per file")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds; then stop")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.gettempdir(), "keras_tensornet_whole_models")
    work.mkdir(parents=True, exist_ok=True)
    chosen = SMOKE if arguments.smoke else MODELS
    chosen = {name: build for name, build in chosen.items() if arguments.only in name}
    if arguments.compress or arguments.smoke:
        for name, build in chosen.items():
            for rule in RULES:
                compress(name, build, rule, work)
        if arguments.compress:
            return
    path = arguments.out / "whole_models.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    stop = time.monotonic() + arguments.budget
    for name, build in chosen.items():
        for batch in BATCHES:
            for format in FORMATS:
                known = {row["case"] for row in rows}
                if {f"{name} {rule} {format} b{batch}" for rule in RULES} <= known:
                    continue
                if time.monotonic() > stop:
                    break
                try:
                    found = rows_of(name, build, format, batch, work, arguments.seconds)
                except ValueError as error:
                    note = f"cannot be exported: {str(error)[:80]} ..."
                    found = [
                        {"case": f"{name} {rule} {format} b{batch}", "note": note}
                        for rule in RULES
                        if (work / f"{name} {rule}.keras").exists()
                    ]
                rows += [row for row in found if row["case"] not in known]
                keras.backend.clear_session()
                common.save("whole_models", rows, arguments.out, verdicts=verdicts(rows))
    print(common.show(rows, COLUMNS))
    print(json.dumps(verdicts(rows), indent=1))


if __name__ == "__main__":
    main()
