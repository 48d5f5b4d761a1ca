"""Whole models against their dense twins: training, memory, building, import, exported files.

    python benchmarks/models.py

Training is one step on random images of the model's shape, in turns with the dense twin. Memory is
the peak resident size of a fresh process that builds one model and trains it, less that of one
that only imports Keras and this package.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import common
import keras
import numpy as np

from keras_tensornet import layers, models
from keras_tensornet.export import export_model
from keras_tensornet.export.exporting import SUFFIXES
from keras_tensornet.tbasis import tbasis_model

COLUMNS = ("case", "params", "dense_ms", "ratio")


def lenet5(rank: int | None = None) -> keras.Model:
    """LeNet-5 of the tensor-ring paper, dense or with all layers as rings of one rank."""
    return _model(models.lenet5, "lenet5", rank, spatial="separate")


def resnet32(rank: int | None = None) -> keras.Model:
    """ResNet-32 for CIFAR, dense or with all layers as rings of one rank."""
    return _model(functools.partial(models.resnet_cifar, 32), "resnet_cifar32", rank)


def _model(build: Callable, name: str, rank: int | None, **options) -> keras.Model:
    if rank is None:
        return build()
    modes = models.tensor_ring_modes(name)

    def conv(filters, kernel_size, *, name, **kwargs):
        return layers.TRConv2D(
            filters, kernel_size, rank=rank, name=name, **modes[name], **options, **kwargs
        )

    def dense(units, *, name, **kwargs):
        return layers.TRDense(units, rank=rank, name=name, **modes[name], **kwargs)

    factories = {"conv": conv, "dense": dense}
    if "resnet" in name:
        factories["stem"] = conv
    return build(**factories)


def resnet32_tbasis() -> keras.Model:
    """ResNet-32 with one shared basis of 16 tensors of rank 16."""
    return tbasis_model(resnet32(), size=16, rank=16, seed=0)


def lstm(shape: tuple[int, int], units: int, rank: int | None = None) -> keras.Model:
    """A classifier of sequences: an LSTM, dense or with its input kernel as a tensor train."""
    recurrent = keras.layers.LSTM(units) if rank is None else layers.TTLSTM(units, rank=rank)
    return keras.Sequential([keras.Input(shape), recurrent, keras.layers.Dense(10)])


MODELS = {
    "lenet5 dense": lenet5,
    "lenet5 r5": functools.partial(lenet5, 5),
    "lenet5 r10": functools.partial(lenet5, 10),
    "lenet5 r20": functools.partial(lenet5, 20),
    "resnet32 dense": resnet32,
    "resnet32 r2": functools.partial(resnet32, 2),
    "resnet32 r6": functools.partial(resnet32, 6),
    "resnet32 r10": functools.partial(resnet32, 10),
    "resnet32 T-Basis 16,16": resnet32_tbasis,
    "row lstm dense": functools.partial(lstm, (28, 28), 128),
    "row lstm tt r4": functools.partial(lstm, (28, 28), 128, 4),
    "video lstm dense": functools.partial(lstm, (6, 57600), 256),
    "video lstm tt r4": functools.partial(lstm, (6, 57600), 256, 4),
}
# What is trained in turns; the first of each group is the dense twin.
TRAINED = (
    ("lenet5 dense", "lenet5 r5", "lenet5 r10", "lenet5 r20"),
    ("resnet32 dense", "resnet32 r2", "resnet32 r6", "resnet32 r10"),
    ("resnet32 dense", "resnet32 T-Basis 16,16"),
    ("row lstm dense", "row lstm tt r4"),
    ("video lstm dense", "video lstm tt r4"),
)
EXPORTED = TRAINED[:2]
BATCH_SIZES = {"video lstm dense": 16, "video lstm tt r4": 16}


def trainer(model: keras.Model, batch_size: int = 128) -> Callable[[], object]:
    """A function that trains a model on one batch.

    Not `fit`, which now and then waits for seconds between epochs and hides what is measured.
    """
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, *model.input_shape[1:])).astype("float32")
    labels = rng.integers(0, 10, batch_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    return lambda: model.train_on_batch(images, labels)


def training_rows(names: Sequence[str], seconds: float) -> list[dict]:
    """Milliseconds of a training step, and its ratio to the dense twin's."""
    built = [MODELS[name]() for name in names]
    sizes = [BATCH_SIZES.get(name, 128) for name in names]
    times = common.medians([trainer(*pair) for pair in zip(built, sizes, strict=True)], seconds)
    return [
        {
            "case": f"{name} training step",
            "params": model.count_params(),
            "dense_ms": times[0],
            "ratio": elapsed / times[0],
        }
        for name, model, elapsed in zip(names[1:], built[1:], times[1:], strict=True)
    ]


def export_rows(names: Sequence[str], seconds: float) -> list[dict]:
    """Latency of the exported files, in turns with the dense twin's."""
    rows = []
    for batch in (1, 128):
        for format, loaded in (("tf_saved_model", _saved_model), ("litert", _litert)):
            with tempfile.TemporaryDirectory() as folder:
                functions = []
                for number, name in enumerate(names):
                    model = MODELS[name]()
                    path = Path(folder, str(number)).with_suffix(SUFFIXES.get(format, ""))
                    export_model(model, path, format, batch_size=batch, verify=False)
                    shape = (batch, *model.input_shape[1:])
                    images = np.random.default_rng(0).normal(size=shape).astype("float32")
                    functions.append(loaded(path, images))
                times = common.medians(functions, seconds)
            rows += [
                {"case": f"{name} {format} b{batch}", "dense_ms": times[0], "ratio": t / times[0]}
                for name, t in zip(names[1:], times[1:], strict=True)
            ]
    return rows


def _saved_model(path: Path, images: np.ndarray) -> Callable[[], object]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    serve, images = loaded.signatures["serving_default"], tf.constant(images)
    (name,) = serve.structured_input_signature[1]

    def run():
        result = serve(**{name: images})
        tf.test.experimental.sync_devices()
        return result, loaded  # the signature does not keep its model alive

    return run


def _litert(path: Path, images: np.ndarray) -> Callable[[], object]:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()

    def run():
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()

    return run


def building_rows(repeats: int) -> list[dict]:
    """Seconds to build and to trace ResNet-32, as ratios to dense; each in a fresh process."""
    found = {}
    for name in ("resnet32 dense", "resnet32 r10"):
        runs = [_in_process("building", name) for _ in range(repeats)]
        found[name] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    dense, ring = found["resnet32 dense"], found["resnet32 r10"]
    return [
        {
            "case": f"resnet32 r10 {key}",
            "dense_ms": 1e3 * dense[key],
            "ratio": ring[key] / dense[key],
        }
        for key in ("build", "first_step")
    ]


def memory_rows() -> list[dict]:
    """Peak memory of training, above that of the imports, as ratios to dense."""
    idle = _in_process("memory", "")["peak_mb"]
    rows = []
    for names in TRAINED[:2]:
        peaks = [_in_process("memory", name)["peak_mb"] - idle for name in names]
        rows += [
            {"case": f"{name} peak memory", "dense_mb": peaks[0], "ratio": peak / peaks[0]}
            for name, peak in zip(names[1:], peaks[1:], strict=True)
        ]
    return rows


def import_row(repeats: int) -> dict:
    """Milliseconds that importing this package adds to importing Keras."""
    script = Path(__file__).parent / "importing.py"
    runs = [_json_of([sys.executable, str(script)])["import_ms"] for _ in range(repeats)]
    return {"case": "import keras_tensornet after keras", "added_ms": statistics.median(runs)}


def _in_process(task: str, name: str) -> dict:
    return _json_of([sys.executable, __file__, f"--{task}", name])


def _json_of(command: list[str]) -> dict:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _child(task: str, name: str) -> dict:
    """What a fresh process measures."""
    if task == "building":
        start = time.perf_counter()
        model = MODELS[name]()
        built = time.perf_counter()
        trainer(model)()
        return {"build": built - start, "first_step": time.perf_counter() - built}
    if name:
        train = trainer(MODELS[name]())
        train()
        train()
    return {"peak_mb": common.peak_memory_mb()}


def main() -> None:
    """Measure, print and write the results."""
    arguments = common.parse(__doc__)
    groups, repeats = TRAINED, 5
    if arguments.smoke:
        groups, repeats = [TRAINED[0][:2]], 1
    rows = []
    for group in groups:
        if arguments.only not in " ".join(group):
            continue
        rows += training_rows(group, 4 * arguments.seconds)
        if arguments.smoke or group in EXPORTED:
            rows += export_rows(group, arguments.seconds)
        print(common.show(rows, COLUMNS), flush=True)
    rows.append(import_row(repeats))
    if not arguments.smoke:
        rows += building_rows(repeats) + memory_rows()
    print(common.show(rows, (*COLUMNS, "dense_mb", "added_ms")))
    print(f"written to {common.save('models', rows, arguments.out, seconds=arguments.seconds)}")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("--building", "--memory"):
        print(json.dumps(_child(sys.argv[1][2:], sys.argv[2])))
    else:
        main()
