"""`keras-tensornet plan`: which layer would get which format and ranks, as a table or JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from keras_tensornet.commands.choices import add_choices, chosen
from keras_tensornet.commands.errors import CommandError
from keras_tensornet.commands.export import load
from keras_tensornet.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `plan`."""
    parser.epilog = "An edited plan is carried out by `keras-tensornet compress --plan PLAN.json`."
    parser.add_argument("model", type=Path, metavar="MODEL.keras", help="the model to plan for")
    add_choices(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="PLAN.json", help="write the plan")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.add_argument("--force", action="store_true", help="replace what is at PLAN.json")


def run(arguments: argparse.Namespace) -> None:
    """Load, plan, print."""
    if arguments.output and arguments.output.exists() and not arguments.force:
        raise CommandError(f"{arguments.output} is there already. Choose another, or --force.")
    settings = chosen(arguments)
    model = load(arguments.model)
    from keras_tensornet.compression import plan_compression

    try:
        plan = plan_compression(model, **settings, progress=sys.stderr.isatty())
        if arguments.output:
            write_text(arguments.output, plan.to_json())
    except (TypeError, ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    print(plan.to_json() if arguments.json else plan)
