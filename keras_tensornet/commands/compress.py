"""`keras-tensornet compress`: a smaller model file from a trained one."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_tensornet.commands.choices import RULES, add_choices, array, chosen
from keras_tensornet.commands.errors import CommandError
from keras_tensornet.commands.export import load
from keras_tensornet.files import write_text, write_whole
from keras_tensornet.wording import parameters

if TYPE_CHECKING:
    import keras

REPORTS = (".html", ".md", ".json", ".png", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `compress`."""
    parser.add_argument("model", type=Path, metavar="MODEL.keras", help="the trained model")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="SMALL.keras", help="file to write"
    )
    add_choices(parser)
    parser.add_argument(
        "--plan", type=Path, metavar="PLAN.json", help="carry this plan out instead of making one"
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="D",
        help="instead of a rule: the smallest model that loses no more accuracy than this on "
        "--data, or that decides otherwise on no larger share of --calibration",
    )
    parser.add_argument(
        "--no-recover",
        action="store_true",
        help="with --calibration: do not train on it towards the dense model's outputs",
    )
    parser.add_argument(
        "--report", type=Path, metavar="PATH", help=f"write a report: {', '.join(REPORTS)}"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE.npz",
        help="to score both models on: arrays x (or of "
        "each input by name), y and perhaps sample_weight",
    )
    parser.add_argument(
        "--keep-optimizer",
        action="store_true",
        help="write the optimizer's variables too, to go on training with them; by default the "
        "file keeps how the model was compiled, and the optimizer begins anew",
    )
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.add_argument("--force", action="store_true", help="replace what is there")


def run(arguments: argparse.Namespace) -> None:
    """Load, compress, write, report."""
    _check_outputs(arguments)
    settings = _settings(arguments)
    data = _data(arguments.data)
    if arguments.max_drop is not None:
        settings |= {"max_drop": arguments.max_drop, "validation_data": data}
    model = load(arguments.model)
    from keras_tensornet.compression import compress_model
    from keras_tensornet.reports import measures
    from keras_tensornet.saving import save_for_inference

    try:
        small = compress_model(
            model, **settings, recover=not arguments.no_recover, progress=sys.stderr.isatty()
        )
        if arguments.report:
            _write_report(arguments.report, model, small, data)
        save = small.save if arguments.keep_optimizer else partial(save_for_inference, small)
        write_whole(arguments.output, save)
    except (TypeError, ValueError, OSError, ImportError) as error:
        raise CommandError(str(error).partition("\n")[0]) from error
    plain = measures.file_bytes(model)  # without an optimizer, as the small file
    done = {
        "output": str(arguments.output),
        "params": small.count_params(),
        "dense_params": model.count_params(),
        "bytes": arguments.output.stat().st_size,
        "dense_bytes": arguments.model.stat().st_size if arguments.keep_optimizer else plain,
        "optimizer": bool(arguments.keep_optimizer and small.compiled),
    }
    if arguments.json:
        print(json.dumps(done))
        return
    if hasattr(small, "search"):
        print(small.search)
    print(
        f"{done['output']}: {done['dense_params']:,} -> {done['params']:,} parameters "
        f"({parameters(done['dense_params'], done['params'])}), "
        f"{done['dense_bytes'] / 1024:,.0f} -> {done['bytes'] / 1024:,.0f} KiB"
    )
    if model.compiled and not done["optimizer"]:
        print("The optimizer's variables are left out; --keep-optimizer writes them.")


def _check_outputs(arguments: argparse.Namespace) -> None:
    if arguments.output.suffix != ".keras":
        raise CommandError(f"The output must end in .keras. Received: {arguments.output}.")
    if arguments.report and arguments.report.suffix not in REPORTS:
        raise CommandError(
            f"A report must end in one of {', '.join(REPORTS)}. Received: {arguments.report}."
        )
    for path in (arguments.output, arguments.report):
        if path and path.exists() and not arguments.force:
            raise CommandError(f"{path} is there already. Choose another, or --force.")
        if path and not path.resolve().parent.is_dir():
            raise CommandError(f"There is no folder {path.resolve().parent} to write into.")


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.plan:
        return chosen(arguments)
    extra = [f"--{name}" for name in RULES if getattr(arguments, name)]
    extra += [f"--{name}" for name in ("include", "exclude", "all") if getattr(arguments, name)]
    extra += ["--allow-slower"] if arguments.allow_slower else []
    if extra:
        raise CommandError(f"A --plan says everything already; leave {', '.join(extra)} out.")
    from keras_tensornet.compression.plans import CompressionPlan

    try:
        plan = CompressionPlan.from_json(arguments.plan.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{arguments.plan} cannot be used: {error}") from error
    return {"plan": plan, "calibration_data": array(arguments.calibration)}


def _data(path: Path | None) -> Any:
    """(x, y) or (x, y, sample_weight) from an `.npz`; inputs that are not x go by their names."""
    arrays = array(path)
    if arrays is None:
        return None
    if not isinstance(arrays, dict) or "y" not in arrays:
        raise CommandError(f"{path} must hold arrays x and y.")
    rest = [arrays.pop(name) for name in ("y", "sample_weight") if name in arrays]
    return (arrays["x"] if set(arrays) == {"x"} else arrays, *rest)


def _write_report(path: Path, model: keras.Model, small: keras.Model, data: Any) -> None:
    from keras_tensornet.reports import compression_report

    report = compression_report(model, small, data)
    if path.suffix == ".html":
        report.to_html(path)
    elif path.suffix in (".png", ".svg"):
        report.plot(path)
    else:
        text = report.to_json() if path.suffix == ".json" else report.to_markdown()
        write_text(path, text)
