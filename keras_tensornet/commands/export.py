"""`keras-tensornet export`: a `.keras` model as a file for another runtime, or plain Keras."""

from __future__ import annotations

import argparse
import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

from keras_tensornet.commands.choices import array
from keras_tensornet.commands.console import quiet_start
from keras_tensornet.commands.errors import CommandError

# By the suffix of the output, where `--format` is not given; a folder is a SavedModel.
BY_SUFFIX = {
    ".tflite": "litert",
    ".onnx": "onnx",
    ".xml": "openvino",
    ".pt2": "torch",
    ".keras": "keras",
    "": "tf_saved_model",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `export`."""
    parser.epilog = (
        "The exported file is run in a new process that cannot import keras_tensornet, and kept "
        "only if its outputs agree."
    )
    parser.add_argument("model", type=Path, metavar="MODEL.keras", help="the model to export")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PATH", help="file or folder to write"
    )
    parser.add_argument(
        "--format",
        choices=sorted(BY_SUFFIX.values()),
        help="by default from the suffix of PATH: .tflite, .onnx, .xml (OpenVINO), .pt2 (PyTorch; "
        "set KERAS_BACKEND=torch), .keras, none for a SavedModel",
    )
    parser.add_argument(
        "--as",
        dest="form",
        choices=("auto", "factorized", "dense", "stock"),
        default="auto",
        help="cores, merged kernels, or stock layers; auto takes the cores where they cost no time "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--quantize",
        choices=("int8", "float16"),
        help="of weights, and for int8 of activations where there is --calibration",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="batch size that will be served (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE.npy",
        help="inputs that give the ranges of int8 activations",
    )
    parser.add_argument("--samples", type=Path, metavar="FILE.npy", help="inputs to compare on")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--force", action="store_true", help="replace what is at PATH")


def run(arguments: argparse.Namespace) -> None:
    """Load, export, report."""
    if arguments.output.exists() and not arguments.force:
        raise CommandError(f"{arguments.output} is there already. Choose another, or --force.")
    format = arguments.format or BY_SUFFIX.get(arguments.output.suffix)
    if format is None:
        raise CommandError(
            f"{arguments.output} has a suffix of no format. Use .tflite, .onnx, .xml, .pt2, .keras "
            "or none, or give --format."
        )
    model = load(arguments.model)
    from keras_tensornet.export import export_model

    try:
        report = export_model(
            model,
            arguments.output,
            format,
            arguments.form,
            arguments.quantize,
            batch_size=arguments.batch,
            samples=array(arguments.samples),
            calibration_data=array(arguments.calibration),
            overwrite=arguments.force,
        )
    except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
        raise CommandError(str(error)) from error
    print(json.dumps(dataclasses.asdict(report)) if arguments.json else report)


def load(path: Path) -> Any:
    """A model from a `.keras` file that may be truncated, foreign or unsafe."""
    if not path.is_file():
        raise CommandError(f"There is no file {path}.")
    if not zipfile.is_zipfile(path):
        raise CommandError(f"{path} is no `.keras` file, or it is damaged.")
    with quiet_start():
        import keras

        import keras_tensornet.layers  # noqa: F401 registers the layers
    try:
        return keras.models.load_model(path)
    except Exception as error:
        raise CommandError(f"{path} cannot be loaded: {error}") from error
