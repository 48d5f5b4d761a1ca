"""`keras-tensornet tune`: fit the rates that plans are predicted with to this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from keras_tensornet.commands.console import quiet_start
from keras_tensornet.commands.errors import CommandError
from keras_tensornet.contraction.constants import VARIABLE, constants_file, forget


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tune`."""
    parser.epilog = (
        f"What is found is kept in the user's cache folder; {VARIABLE} names another one. Leave "
        "the machine alone meanwhile."
    )
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")
    parser.add_argument(
        "--forget", action="store_true", help="remove what was kept, and use the shipped rates"
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure and report, or forget."""
    with quiet_start():
        from keras_tensornet.serving.machine import tune
    if arguments.forget:
        path = constants_file()
        if path is None or not path.is_file():
            raise CommandError("There are no tuned rates of this backend to forget.")
        forget(path)
        print(f"{path} is removed; plans are predicted with the shipped rates.")
        return
    try:
        found = tune(_progress if sys.stderr.isatty() else None)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    print(json.dumps(dataclasses.asdict(found), default=str) if arguments.json else found)


def _progress(done: int, total: int, layer: str) -> None:
    print(f"\r{done}/{total} {layer:<24}", end="" if done < total else "\n", file=sys.stderr)
