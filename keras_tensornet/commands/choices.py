"""Arguments that `plan` and `compress` share: which rule, which layers, which data."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import Any

from keras_tensornet.commands.errors import CommandError

RULES = ("rank", "energy", "eps", "share", "params", "flops", "latency", "vbmf")


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    from keras_tensornet import formats

    parser.add_argument(
        "--format",
        default="tt",
        help=f"{', '.join(formats.FORMATS)} or auto (default: %(default)s)",
    )
    rule = parser.add_argument_group("how ranks are chosen (exactly one)")
    rule.add_argument("--rank", type=_rank, metavar="R", help="of every layer: 8, or 4,6,4")
    rule.add_argument("--energy", type=float, metavar="E", help="share of squared singular values")
    rule.add_argument(
        "--energy-norm",
        choices=("frobenius", "nuclear"),
        default="frobenius",
        help="what --energy is a share of: squared singular values, or their sum, which keeps more "
        "(default: %(default)s)",
    )
    rule.add_argument("--eps", type=float, metavar="E", help="relative error of each layer")
    rule.add_argument("--share", type=float, metavar="S", help="share kept of each layer")
    rule.add_argument("--params", type=float, metavar="S", help="share of the model's parameters")
    rule.add_argument(
        "--allow-slower",
        action="store_true",
        help="with --params: do not measure which layers are slower as cores; by default the "
        "frozen or exported model merges those",
    )
    rule.add_argument("--flops", type=float, metavar="S", help="share of the layers' FLOPs")
    rule.add_argument("--latency", type=float, metavar="S", help="share of the latency, measured")
    rule.add_argument("--vbmf", action="store_true", help="variational Bayes")
    layers = parser.add_argument_group("which layers")
    layers.add_argument(
        "--include", action="append", metavar="NAME", help="name, path or regular expression"
    )
    layers.add_argument("--exclude", action="append", metavar="NAME", help="the same; repeatable")
    layers.add_argument(
        "--all", action="store_true", help="the first convolution and the classifier as well"
    )
    parser.add_argument("--multiple", type=int, default=1, metavar="N", help="round ranks to these")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE.npy",
        help="inputs of the model (an .npz, by name, where it has several): the error of outputs "
        "counts then, not that of weights",
    )


def chosen(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `plan_compression` that the command line gave."""
    if arguments.all and arguments.exclude:
        raise CommandError("Give either --all or --exclude, not both.")
    exclude = () if arguments.all else arguments.exclude
    rules = {name: getattr(arguments, name) for name in RULES}
    return {
        "format": arguments.format,
        **rules,
        "energy_norm": arguments.energy_norm,
        "allow_slower": arguments.allow_slower,
        "multiple": arguments.multiple,
        "include": arguments.include,
        "exclude": exclude,
        "calibration_data": array(arguments.calibration),
    }


def array(path: Path | None) -> Any:
    """The array in a `.npy` file, or those in an `.npz` file by name; None for no file."""
    if path is None:
        return None
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
        if not hasattr(found, "files"):
            return found
        with found as arrays:
            named = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CommandError(f"{path} cannot be read as an array: {error}") from error
    return next(iter(named.values())) if len(named) == 1 else named


def _rank(text: str) -> Any:
    try:
        ranks = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no rank; use 8 or 4,6,4") from None
    return ranks[0] if len(ranks) == 1 else tuple(ranks)
