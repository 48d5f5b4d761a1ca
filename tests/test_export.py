"""Models with our layers are served without this package: SavedModel, LiteRT and ONNX.

All layers of a kind go into one model, one input for each case: conversion costs seconds a model.
"""

import subprocess
import sys

import keras
import numpy as np
import pytest

from tests import formats_table as table
from tests.layers.support import BACKEND, array
from tests.references import relative_error

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(BACKEND != "tensorflow", reason="exports need the TensorFlow backend"),
]
# Float32 in other kernels and another order of sums.
TOLERANCE = 1e-4
KINDS = [
    pytest.param(kind, id=kind) for kind in table.KINDS if any(r.kind == kind for r in table.ROWS)
]


# Cases that a converter cannot take: the dense layers of Keras fail on them as well.
NOT_CONVERTED = {
    "litert": {
        ("conv2d_transpose", "dilation"): "no builtin op for a dilated transposed convolution",
        ("einsum", "right ellipsis"): "the converter cannot move the bias through a transposition",
    },
    "onnx": {
        ("conv2d_transpose", "output padding"): "tf2onnx writes negative paddings",
        ("conv2d_transpose", "wide strides"): "tf2onnx writes negative paddings",
    },
}


def pairs_of(kind: str, converter: str = "saved_model") -> list:
    """`(row, case)` of a kind: every second case of one format, first and last of the others."""
    pairs, left_out = [], NOT_CONVERTED.get(converter, {})
    for row in table.ROWS:
        if row.kind == kind and not row.why_not("export"):
            cases = row.operation.cases
            cases = cases[::2] if row.format == table.CROSS_FORMAT else (cases[0], cases[-1])
            for case in row.operation.cases:
                wanted = case in cases and (kind, case.name) not in left_out
                if wanted and not row.why_not("export", case):
                    pairs.append((row, case))
    return pairs


def part_of(exported, converter: str) -> tuple:
    """Model, inputs and outputs for a converter, and the pairs that it is given."""
    kind, model, inputs, outputs, _ = exported
    pairs, kept = pairs_of(kind), pairs_of(kind, converter)
    places = [pairs.index(pair) for pair in kept]
    names = list(dict.fromkeys(case.name for _, case in pairs))
    used = [names.index(name) for name in names if any(case.name == name for _, case in kept)]
    part = keras.Model([model.inputs[k] for k in used], [model.outputs[k] for k in places])
    arrays = [inputs[k] for k in used]
    part(arrays)  # the ONNX exporter takes only models that have been called
    return part, arrays, [outputs[k] for k in places], kept


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """`(kind, model, inputs, outputs, folder)`; the model runs every pair of a kind."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    pairs = pairs_of(kind)
    if not pairs:
        pytest.skip(f"no row of {kind} is exported")
    tensors, arrays = {}, {}
    for row, case in pairs:
        if case.name not in tensors:
            arrays[case.name] = row.inputs(case, batch=3)
            tensors[case.name] = keras.Input(case.input_shape, dtype=arrays[case.name].dtype.name)
    outputs = [keras.layers.Flatten()(row.make(case)(tensors[case.name])) for row, case in pairs]
    model = keras.Model(list(tensors.values()), outputs)
    inputs = list(arrays.values())
    return kind, model, inputs, [array(each) for each in model(inputs)], folder


def assert_same(pairs, found, wanted):
    """Outputs in the order of the pairs are within the tolerance."""
    for (row, case), one, other in zip(pairs, found, wanted, strict=True):
        assert relative_error(one, other) < TOLERANCE, f"{row.name} {case.name}"


SERVE = """
import sys
sys.modules["keras_tensornet"] = None
import numpy as np, tensorflow as tf
for folder in map(str.strip, sys.stdin):
    inputs = np.load(folder + "/inputs.npz")
    loaded = tf.saved_model.load(folder + "/saved")
    outputs = loaded.serve([inputs[f"arr_{k}"] for k in range(len(inputs.files))])
    np.savez(folder + "/outputs.npz", *[np.asarray(each) for each in outputs])
    print("served", flush=True)
"""


@pytest.fixture(scope="module")
def server():
    """A process that cannot import this package and serves the folders written to it."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield process
    process.stdin.close()
    process.wait(timeout=60)


def test_saved_model_runs_where_the_package_cannot_be_imported(exported, server):
    kind, model, inputs, outputs, folder = exported
    model.export(folder / "saved", verbose=False)
    np.savez(folder / "inputs.npz", *inputs)
    print(folder, file=server.stdin, flush=True)
    assert server.stdout.readline() == "served\n"
    found = np.load(folder / "outputs.npz")
    assert_same(pairs_of(kind), [found[f"arr_{k}"] for k in range(len(outputs))], outputs)


def test_litert_runs_in_the_plain_interpreter(exported):
    import tensorflow as tf

    model, inputs, outputs, pairs = part_of(exported, "litert")
    path = exported[-1] / "model.tflite"
    model.export(path, format="litert", verbose=False)
    resolver = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(str(path), experimental_op_resolver_type=resolver)
    operations = {each["op_name"] for each in interpreter._get_ops_details()}
    assert not any(name.startswith(("Flex", "CUSTOM")) for name in operations), operations
    runner = interpreter.get_signature_runner()
    names = sorted(runner.get_input_details(), key=_position)
    found = runner(**dict(zip(names, inputs, strict=True)))
    assert_same(pairs, [found[name] for name in sorted(found, key=_position)], outputs)


def test_onnx_runs_in_onnxruntime(exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, inputs, outputs, pairs = part_of(exported, "onnx")
    path = exported[-1] / "model.onnx"
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    assert_same(pairs, session.run(None, dict(zip(names, inputs, strict=True))), outputs)


def _position(name: str) -> int:
    """The number at the end of an input's or output's name."""
    digits = "".join(c if c.isdigit() else " " for c in name).split()
    return int(digits[-1]) if digits else 0
