"""`export_model`: choose what to ship, write it, run it in a fresh process, and report."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tensornet import keras_internals, validation
from keras_tensornet.export import forms, runtimes, verification, writers
from keras_tensornet.files import (
    check_replaceable,
    check_together,
    foreign_to_openvino,
    foreign_to_saved_model,
    write_folder,
    write_together,
    write_whole,
)
from keras_tensornet.reading import read_inputs
from keras_tensornet.shapes import with_batch

FORMATS = ("tf_saved_model", "litert", "onnx", "openvino", "torch", "keras")
SUFFIXES = {
    "litert": ".tflite",
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch": ".pt2",
    "keras": ".keras",
}
QUANTIZED = {"litert": ("int8", "float16"), "openvino": ("float16",), "keras": ("int8",)}
# Keras' backends that can write a format, where not all can, and the packages beside them: their
# modules, and the extra that installs them.
BACKENDS = {
    "tf_saved_model": ("tensorflow",),
    "litert": ("tensorflow",),
    "onnx": ("tensorflow",),
    "openvino": ("tensorflow", "torch"),
    "torch": ("torch",),
}
BACKEND_NAMES = {"tensorflow": "TensorFlow", "torch": "PyTorch"}
PACKAGES = {"onnx": (("tf2onnx", "onnxruntime"), "export"), "openvino": (("openvino",), "openvino")}
# What stands beside the file.
COMPANIONS = {"openvino": (".bin",)}
# Largest difference allowed, relative to the largest output: float32 sums in another order;
# weights of 11 bits; weights, and activations where they are calibrated, of 8 bits.
TOLERANCE = {None: 1e-4, "float16": 1e-2, "int8": 0.25}
# The same where a layer computes in 11 or 8 bits, and its sums run in another order.
PRECISION = {"float16": 1e-2, "bfloat16": 5e-2}
SAMPLES = 8


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and what it did in a process of its own.

    Attributes:
        path: of the file or folder.
        format: of the file.
        form: "factorized", "dense" or "stock".
        quantize: None, "int8" or "float16".
        size: bytes on disk.
        latency: median milliseconds of one call at `batch_size`, in the fresh process, on the CPU;
            None where it was not verified.
        difference: largest absolute difference from the model's outputs on the samples; None
            where it was not verified.
        scale: the largest absolute output, for comparison.
        batch_size: that plans and latency are for.
        alone: whether the file runs without this package, as the check did.
        inputs, outputs: names in the signature, in order.
    """

    path: str
    format: str
    form: str
    quantize: str | None
    size: int
    latency: float | None
    difference: float | None
    scale: float
    batch_size: int
    alone: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        how = self.form + (f", {self.quantize}" if self.quantize else "")
        lines = [
            f"{self.path}: {self.format}, {how}, {self.size:,} bytes",
            f"  {', '.join(self.inputs)} -> {', '.join(self.outputs)}",
        ]
        if self.difference is None:
            lines.append("  not verified")
        else:
            where = "without keras_tensornet" if self.alone else "with keras_tensornet"
            lines.append(
                f"  run in a new process {where}: largest difference {self.difference:.1e} "
                f"(outputs up to {self.scale:.1e}), {self.latency:.3f} ms a call at batch "
                f"{self.batch_size}"
            )
        return "\n".join(lines)


def export_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str = "tf_saved_model",
    as_: str = forms.AUTO,
    quantize: str | None = None,
    *,
    batch_size: int = 1,
    endpoints: Mapping[str, writers.Endpoint] | None = None,
    samples: Any = None,
    calibration_data: Any = None,
    tolerance: float | None = None,
    verify: bool = True,
    overwrite: bool = False,
) -> ExportReport:
    """Write a model to a file that needs neither this package nor, but for `.keras`, Keras.

    The file is written beside its place, run in a fresh process that cannot import keras_tensornet,
    compared with the model, and only then put in place. The given model stays as it was.

    Args:
        model: a built model of any kind, factorized layers in it or not. One without a graph takes
            inputs of the shapes and types of `samples`, without them of those it was built with.
        path: of the file or, for a SavedModel, the folder. LiteRT files end in ".tflite", the
            others in ".onnx", ".xml" (OpenVINO; the weights are beside it, in ".bin"), ".pt2"
            (PyTorch) and ".keras".
        format: "tf_saved_model", "litert", "onnx", "openvino", "torch" or "keras". "torch" needs
            Keras' PyTorch backend, "openvino" that or TensorFlow's, the first three TensorFlow's.
        as_: "factorized" ships each layer frozen in its fastest plan for `batch_size`, which may be
            the dense one (a `.keras` file keeps the cores); "dense" ships merged kernels in plain
            layers; "stock" ships each layer as its chain of stock layers; "auto" chooses between
            the first two, see `choose_form`.
        quantize: for LiteRT "float16" (weights) or "int8" (weights, and activations if there is
            `calibration_data`); for OpenVINO "float16"; for Keras "int8" (`model.quantize`; not
            factorized).
        batch_size: that will be served: plans are made and latency is measured for it. The exported
            batch dimension stays open.
        endpoints: further signatures of a SavedModel: name to the name of a layer whose output is
            served, or to a function of the model's outputs.
        samples: inputs to compare on, in any form that `predict` takes or by name; by default 8
            normal ones (zeros for integer inputs).
        calibration_data: inputs that give the ranges of int8 activations, in the same forms; 100 or
            more.
        tolerance: largest difference allowed, relative to the largest output; by default 1e-4,
            1e-2 for float16, 5e-2 for bfloat16 (of weights, or of a layer's computations) and 0.25
            for int8.
        verify: False writes without a check.
        overwrite: True replaces the file at `path`, once the new one has passed its check. A folder
            is replaced only if it is a SavedModel and holds nothing else, `.xml` with `.bin` only
            if they are an OpenVINO model.

    Returns:
        What was written and measured; prints as three lines.

    Raises:
        FileExistsError: if there is something at `path` and `overwrite` is False, or something that
            is never replaced; before anything is written.
        ValueError, TypeError: for arguments that do not go together; before anything is written.
        ImportError: if a package is missing; before anything is written.
        RuntimeError: if the backend cannot write the format, or the exported file does not run or
            differs; nothing is left behind.
    """
    _check_arguments(model, path, format, as_, quantize, endpoints, overwrite)
    path = Path(path)
    validation.positive_int("batch_size", batch_size)
    model = forms.as_graph(model, samples)
    form = forms.choose_form(model, format) if as_ == forms.AUTO else as_
    if quantize and format == "keras" and form == "factorized":
        raise ValueError(
            "Keras cannot quantize cores. Received: format='keras', as_='factorized', "
            f"quantize={quantize!r}. Use as_='dense' or format='litert'."
        )
    exported = forms.in_form(model, form, batch_size, format)
    if format in forms.UNROLLED:
        exported = forms.unrolled(exported, model)
    inputs = _inputs("samples", model, samples)
    expected = [
        keras.ops.convert_to_numpy(output).astype("float64")
        for output in keras.tree.flatten(writers.call_model(model, tuple(inputs.values())))
    ]
    scale = max(float(np.max(np.abs(output), initial=0.0)) for output in expected)
    calibration = None
    if calibration_data is not None:
        calibration = _inputs("calibration_data", model, calibration_data)
    # A rewritten Sequential model's input has another name than the given one's.
    names = tuple(writers.named_inputs(exported))
    inputs = dict(zip(names, inputs.values(), strict=True))
    if calibration is not None:
        calibration = dict(zip(names, calibration.values(), strict=True))
    allowed = _tolerance(model, quantize) if tolerance is None else float(tolerance)
    record: dict[str, Any] = {"latency": None, "difference": None}

    def write(temporary: Path) -> None:
        _write(exported, temporary, format, quantize, endpoints or {}, calibration)
        if verify:
            record.update(_verify(temporary, format, exported, inputs, expected, batch_size))
            _check_difference(record["difference"], allowed * max(scale, 1e-6), path)

    if format == "tf_saved_model":
        write_folder(path, write, foreign_to_saved_model if overwrite else None)
    elif format in COMPANIONS:
        write_together(path, write, COMPANIONS[format], foreign_to_openvino)
    else:
        write_whole(path, write)
    return ExportReport(
        str(path),
        format,
        form,
        quantize,
        sum(_bytes(place) for place in _places(path, format)),
        scale=scale,
        batch_size=batch_size,
        alone=format != "keras" or not forms.needs_package(exported),
        inputs=names,
        outputs=tuple(writers.output_names(exported)),
        **record,
    )


def _check_arguments(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str,
    as_: str,
    quantize: str | None,
    endpoints: Mapping[str, writers.Endpoint] | None,
    overwrite: bool,
) -> None:
    validation.one_of("format", format, FORMATS)
    validation.one_of("as_", as_, (forms.AUTO, *forms.FORMS))
    allowed = QUANTIZED.get(format, ())
    if quantize is not None and quantize not in allowed:
        can = ", ".join(f"{name}: {' or '.join(how)}" for name, how in QUANTIZED.items())
        raise ValueError(
            f"`quantize` must suit the format ({can}). Received: format={format!r}, "
            f"quantize={quantize!r}."
        )
    if endpoints and format != "tf_saved_model":
        raise ValueError(
            "Only a SavedModel has several endpoints. Received: "
            f"format={format!r}, endpoints={sorted(endpoints)}."
        )
    if endpoints and writers.SERVING in endpoints:
        raise ValueError(
            f"The endpoint {writers.SERVING!r} is the model itself; name it otherwise."
        )
    if not isinstance(model, keras.Model) or not model.built:
        raise TypeError(
            f"`model` must be a built Keras model. Received: {model!r}. Begin it with a "
            "keras.Input, or call it on data once."
        )
    if format == "keras" and not forms.has_graph(model):
        raise ValueError(
            "A `.keras` file of a subclassed model can be loaded only where its class is. "
            f"Received: '{model.name}' of type {type(model).__name__}. Save it with "
            "`model.save(path)`, or choose another format."
        )
    suffix = SUFFIXES.get(format, "")
    if Path(path).suffix != suffix and suffix:
        raise ValueError(f"A {format} file ends in {suffix!r}. Received: {os.fspath(path)!r}.")
    there = [place for place in _places(Path(path), format) if place.exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"There is something at {os.fspath(there[0])!r} already, and nothing is overwritten. "
            "Choose another path, remove it, or give overwrite=True."
        )
    if format == "tf_saved_model":
        check_replaceable(path, foreign_to_saved_model)
    elif Path(path).is_dir():
        raise IsADirectoryError(
            f"A {format} export is a file, and there is a folder at {os.fspath(path)!r}, which is "
            "not replaced. Choose another path."
        )
    if not Path(path).resolve().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {Path(path).resolve().parent} to write into.")
    if format in COMPANIONS:
        check_together(path, COMPANIONS[format], foreign_to_openvino)
    _require(format)


def _require(format: str) -> None:
    """Raise if the backend or a package is not what a format needs."""
    backend = keras.backend.backend()
    able = BACKENDS.get(format, (backend,))
    if backend not in able:
        names = " or ".join(BACKEND_NAMES[name] for name in able)
        raise RuntimeError(
            f"Writing {format} needs Keras' {names} backend. Received: {backend}. Save the "
            f"model as `.keras`, and export it in a process with KERAS_BACKEND={able[0]}."
        )
    modules, extra = PACKAGES.get(format, ((), ""))
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"Writing and checking {format} needs {' and '.join(modules)} ({error}). Install "
            f'with: python -m pip install "keras-tensornet[{extra}]"'
        ) from error


def _write(
    model: keras.Model,
    path: Path,
    format: str,
    quantize: str | None,
    endpoints: Mapping[str, writers.Endpoint],
    calibration: Mapping[str, np.ndarray] | None,
) -> None:
    if format == "tf_saved_model":
        writers.write_saved_model(model, path, endpoints)
    elif format == "litert":
        writers.write_litert(model, path, quantize, calibration)
    elif format == "onnx":
        writers.write_onnx(model, path)
    elif format == "openvino":
        runtimes.write_openvino(model, path, quantize)
    elif format == "torch":
        runtimes.write_torch(model, path)
    else:
        writers.write_keras(writers.quantized_keras(model) if quantize else model, path)


def _verify(
    path: Path,
    format: str,
    model: keras.Model,
    inputs: dict[str, np.ndarray],
    expected: list[np.ndarray],
    batch_size: int,
) -> dict[str, Any]:
    """Outputs on the samples, and time at the serving batch, in a fresh process."""
    blocked = format != "keras" or not forms.needs_package(model)
    found = verification.run_fresh(format, path, inputs, batch_size, blocked)
    in_order = list(found.outputs.values())
    if format in ("tf_saved_model", "litert", "torch"):
        # These may sort outputs by name; a dict's order is lost.
        names = writers.output_names(model)
        in_order = [found.outputs[name] for name in names if name in found.outputs]
    return {
        "latency": found.latency,
        "difference": verification.largest_difference(in_order, expected),
    }


def _tolerance(model: keras.Model, quantize: str | None) -> float:
    layers = keras_internals.flatten_layers(model)
    computed = [PRECISION.get(layer.compute_dtype, 0.0) for layer in layers]
    return max(TOLERANCE[quantize], *computed)


def _check_difference(difference: float, allowed: float, path: Path) -> None:
    if not difference <= allowed:
        raise RuntimeError(
            f"The exported {path.name} differs from the model by {difference:.2e}, more than the "
            f"{allowed:.2e} allowed. Give `tolerance` if that is wanted, `calibration_data` for "
            "int8, or other `samples`."
        )


def _inputs(name: str, model: keras.Model, given: Any) -> dict[str, np.ndarray]:
    """A batch of each input by name."""
    tensors = writers.named_inputs(model)
    if given is None:
        rng = np.random.default_rng(0)
        return {key: _default(tensor, rng) for key, tensor in tensors.items()}
    found = keras.tree.flatten(read_inputs(model, given, name=name).arrays().x)
    return dict(zip(tensors, found, strict=True))


def _default(tensor: Any, rng: np.random.Generator) -> np.ndarray:
    shape = with_batch(tensor.shape, SAMPLES)
    if not keras.backend.is_float_dtype(tensor.dtype):
        return np.zeros(shape, tensor.dtype)
    return rng.normal(size=shape).astype(tensor.dtype)


def _places(path: Path, format: str) -> list[Path]:
    """The file or folder, and what stands beside it."""
    return [path, *(path.with_suffix(suffix) for suffix in COMPANIONS.get(format, ()))]


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
