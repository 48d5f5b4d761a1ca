"""The command line: `keras-tensornet COMMAND`, also `python -m keras_tensornet COMMAND`.

A command is one module with two functions, and one row in `COMMANDS`:

    add_arguments(parser)           declares its arguments on an argparse parser
    run(arguments) -> int | None    does the work; None is exit code 0

Only the module of the chosen command is imported, so that `--help` does not wait for Keras; a
module imports Keras inside `run`. A command that cannot go on raises `errors.CommandError`.

Exit codes: 0 done; 1 something else failed, or a check did not hold; 2 wrong arguments, or
something the user has to mend; 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keras_tensornet import __version__
from keras_tensornet.commands.errors import CommandError

USAGE_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        module: where its `add_arguments` and `run` are.
        summary: one line for the list of commands; begins with a verb.
    """

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "inspect": Command(
        "keras_tensornet.commands.inspect",
        "list the layers of a model and how far each can be compressed",
    ),
    "plan": Command(
        "keras_tensornet.commands.plan",
        "choose formats and ranks for a trained model, and print the table",
    ),
    "compress": Command(
        "keras_tensornet.commands.compress",
        "write a smaller model from a trained one, and a report",
    ),
    "tune": Command(
        "keras_tensornet.commands.tune",
        "measure this machine for a minute, so that layers choose faster plans",
    ),
    "demo": Command(
        "keras_tensornet.demo.command",
        "train a small CNN and its tensor-ring and tensor-train twins, compare, export",
    ),
    "export": Command(
        "keras_tensornet.commands.export",
        "write a model as SavedModel, LiteRT, ONNX, OpenVINO, PyTorch or Keras file, and check it",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: arguments without the program's name; those of the process by default.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # TensorFlow's C++ library reads this once, when it is loaded; a user's own setting wins.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        arguments = _parser(chosen=argv[0] if argv else None).parse_args(argv)
        with _plain_warnings():
            return arguments.run(arguments) or 0
    except CommandError as error:
        print(f"keras-tensornet: {_one_line(error)}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("keras-tensornet: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser of all commands, of which only the chosen one is imported and has arguments."""
    parser = argparse.ArgumentParser(
        prog="keras-tensornet",
        description="Tensor-network compressed layers for Keras 3.",
        epilog="`keras-tensornet COMMAND --help` explains one command.",
    )
    parser.add_argument("--version", action="version", version=f"keras-tensornet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        description = command.summary[0].upper() + command.summary[1:] + "."
        subparser = commands.add_parser(name, help=command.summary, description=description)
        if name == chosen:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Within it what we warn of is one line on standard error, as errors are, without a place."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if category is UserWarning:
            print(f"keras-tensornet: {_one_line(message)}", file=sys.stderr)
        else:
            shown(message, category, *place, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


def _one_line(error: Exception | Warning | str) -> str:
    return " ".join(str(error).split())
