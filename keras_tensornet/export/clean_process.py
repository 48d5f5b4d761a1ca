"""Run an exported model in a process that cannot import keras_tensornet.

`verification` passes this file's text to a fresh interpreter, so nothing in it may import this
package, and the package is blocked before any other library is imported:

    python -c TEXT FORMAT FILE INPUTS OUTPUTS BATCH BLOCK MEASURING

    FORMAT   "tf_saved_model", "litert", "onnx", "openvino", "torch" or "keras"
    FILE     the exported file or folder
    INPUTS   .npz, a batch of each named input
    OUTPUTS  .npz that is written: each output, and "seconds_per_call", a median
    BATCH    number of examples in the calls whose time is taken
    BLOCK    1 to block the package, 0 not to
    MEASURING  path of `serving/measuring.py`, which needs the standard library only
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from typing import Any, TypeAlias

BLOCKED = "keras_tensornet"
REPEATS = 20

Arrays: TypeAlias = dict[str, Any]
Run: TypeAlias = Callable[[Arrays], Arrays]


class Blocker(MetaPathFinder):
    """An import hook that refuses the package, installed or not."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse the package and its submodules, and leave all others to the next finder."""
        if name.partition(".")[0] == BLOCKED:
            raise ImportError(f"{name} is blocked in this process")
        return None


def block() -> None:
    """Refuse the package from now on; exits if it can be imported all the same."""
    sys.meta_path.insert(0, Blocker())
    try:
        importlib.import_module(BLOCKED)
    except ImportError:
        return
    sys.exit(f"{BLOCKED} could be imported, so this run proves nothing")


def load_tf_saved_model(file: str) -> Run:
    """The `serving_default` signature."""
    import tensorflow as tf

    loaded = tf.saved_model.load(file)
    serve = loaded.signatures["serving_default"]

    def run(inputs: Arrays) -> Arrays:
        outputs = serve(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    run.keeps = loaded  # type: ignore[attr-defined]  # a signature does not keep its variables alive
    return run


def load_litert(file: str) -> Run:
    """The plain interpreter: no Flex operations."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    interpreter = Interpreter(model_path=file)
    runner = interpreter.get_signature_runner("serving_default")

    def run(inputs: Arrays) -> Arrays:
        return {name: value.copy() for name, value in runner(**inputs).items()}

    run.keeps = interpreter  # type: ignore[attr-defined]
    return run


def load_onnx(file: str) -> Run:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def load_openvino(file: str) -> Run:
    """OpenVINO on the CPU, in float32 also where the processor has shorter floats."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(file, "CPU", settings)
    names = [output.get_any_name() for output in compiled.outputs]

    def run(inputs: Arrays) -> Arrays:
        outputs = compiled(inputs)
        return {name: outputs[place].copy() for place, name in enumerate(names)}

    return run


def load_torch(file: str) -> Run:
    """A program of `torch.export`, which takes its inputs in order."""
    import torch

    module = torch.export.load(file).module()

    def run(inputs: Arrays) -> Arrays:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(value) for value in inputs.values()))
        return {name: value.numpy() for name, value in outputs.items()}

    return run


def load_keras(file: str) -> Run:
    """Keras' own file; outputs are numbered. The package's layers are known where it may be."""
    import keras

    if not any(isinstance(finder, Blocker) for finder in sys.meta_path):
        importlib.import_module(BLOCKED + ".layers")
    model = keras.models.load_model(file)

    def run(inputs: Arrays) -> Arrays:
        arrays = [inputs[tensor.name] for tensor in keras.tree.flatten(model.inputs)]
        outputs = model.predict_on_batch(arrays if len(arrays) > 1 else arrays[0])
        return {str(place): value for place, value in enumerate(keras.tree.flatten(outputs))}

    return run


def load_measuring(path: str) -> Any:
    """The measuring module by its path, under a name of its own."""
    spec = importlib.util.spec_from_file_location("measuring", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main(
    format: str,
    file: str,
    inputs_file: str,
    outputs_file: str,
    batch: str,
    blocked: str,
    measuring: str,
) -> None:
    """Load the model, run it, take the time, write its outputs."""
    if blocked == "1":
        block()
    import numpy as np

    run = globals()["load_" + format](file)
    with np.load(inputs_file) as stored:
        inputs = {name: stored[name] for name in stored.files}
    outputs = run(inputs)
    shapes = {name: (int(batch), *value.shape[1:]) for name, value in inputs.items()}
    given = {name: np.resize(value, shapes[name]) for name, value in inputs.items()}
    timing = load_measuring(measuring).measure({"call": lambda: run(given)}, repeats=REPEATS)
    # `.npz` has no bfloat16, which NumPy knows by no kind of its own.
    arrays = {
        f"output:{name}": value.astype("float32") if value.dtype.kind == "V" else value
        for name, value in outputs.items()
    }
    np.savez(outputs_file, seconds_per_call=timing.median["call"], **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
