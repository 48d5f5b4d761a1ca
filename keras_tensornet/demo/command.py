"""`keras-tensornet demo`: train, compare, export, and check the export in a clean process."""

from __future__ import annotations

import argparse
import contextlib
import logging
from pathlib import Path
from typing import Any

from keras_tensornet.commands.console import quiet_start, require_packages
from keras_tensornet.commands.errors import CommandError
from keras_tensornet.demo import outcomes, shipping
from keras_tensornet.files import check_writable, scratch_folder

DATASETS = ("digits", "mnist", "cifar10")
PACKAGES = {"rich": "rich", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}
LATENCY_NOTE = "Latency: compiled forward pass on this machine, cores merged beforehand."
# Inputs on which the exported model is compared with the one in memory.
CHECKED_INPUTS = 256
FAILED, INTERRUPTED = 1, 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `demo`."""
    parser.epilog = (
        "mnist and cifar10 are read from the folder that the environment variable TFDS_DATA_DIR "
        "names, or downloaded once. Ctrl-C ends with what is finished by then."
    )
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        default="digits",
        help="what to train on: digits ships with scikit-learn (small CNN, about a minute); mnist "
        "trains LeNet-5, cifar10 ResNet-20 (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=_positive, metavar="N", help="training epochs (default: by data set)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="keep the models (.keras), the SavedModel and a figure in this folder",
    )
    parser.add_argument(
        "--force", action="store_true", help="write into DIR even if it is not empty"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; returns its exit code."""
    require_packages("The demo", "demo", PACKAGES)
    from rich.console import Console

    out = None if arguments.out is None else _prepare_folder(arguments.out, arguments.force)
    console, progress_console = _console(), Console(stderr=True)
    with progress_console.status("Starting TensorFlow"):
        job, data = _load(arguments.dataset)
    epochs = arguments.epochs or job.epochs
    console.print(
        f"{job.heading}: {len(data.x_train):,} training and {len(data.x_test):,} test images, "
        f"{epochs} epoch{'s' if epochs > 1 else ''}, seed {arguments.seed}"
    )
    models: dict[str, Any] = {}
    results: list[outcomes.Result] = []
    try:
        _train_all(job, data, epochs, arguments.seed, out, models, results, progress_console)
    except KeyboardInterrupt:
        if not results:
            raise
        _show(console, job.heading, results, out)
        console.print(f"Interrupted after {len(results)} of {len(job.twins)} networks.")
        return INTERRUPTED
    _show(console, job.heading, results, out)
    return _ship(console, models, results, data, out)


def _train_all(
    job: Any,
    data: Any,
    epochs: int,
    seed: int,
    out: Path | None,
    models: dict[str, Any],
    results: list[outcomes.Result],
    console: Any,
) -> None:
    """Train every twin, keep it as soon as it is finished, and measure all latencies."""
    from keras_tensornet.demo import training

    total = epochs * training.steps_per_epoch(data, job.batch_size)
    with _progress_bar(console) as bar:
        for twin in job.twins:
            task = bar.add_task(twin.title, total=total, detail="tracing")

            def report(steps: int, accuracy: float | None, task: Any = task) -> None:
                detail = "" if accuracy is None else f"training accuracy {accuracy:.1%}"
                bar.update(task, completed=steps, detail=detail)

            model, result = training.train(twin, data, epochs, job.batch_size, seed, report)
            if out is not None:
                shipping.save_model(model, out / f"{twin.name}.keras")
            models[twin.name] = model
            results.append(result)
        task = bar.add_task("latencies", total=None, detail="batch 1 and 128, in turn")
        training.measure_latencies(models, results, data, job.repeats)
        bar.update(task, total=1, completed=1)


def _show(console: Any, heading: str, results: list[outcomes.Result], out: Path | None) -> None:
    """Print the table, and draw the figure where a folder is kept."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
        caption=LATENCY_NOTE if results[0].latency else None,
        caption_justify="left",
    )
    for position, title in enumerate(outcomes.HEADER):
        table.add_column(title, justify="right" if position else "left", no_wrap=True)
    for row in outcomes.rows(results):
        table.add_row(*row)
    console.print(table)
    if out is not None:
        from keras_tensornet.demo import figure

        figure.draw(results, heading, out / "accuracy_vs_parameters.png")


def _ship(
    console: Any,
    models: dict[str, Any],
    results: list[outcomes.Result],
    data: Any,
    out: Path | None,
) -> int:
    """Export the best twin and compare it with itself in a clean process."""
    chosen = outcomes.best(results[1:])
    console.print(
        f"Best twin: {chosen.title} (the smallest within {outcomes.ACCURACY_MARGIN:.0%} of the "
        "best twin's accuracy), exported as SavedModel.",
        soft_wrap=True,
    )
    with contextlib.ExitStack() as stack:
        folder = out or stack.enter_context(scratch_folder())
        saved_model = folder / "saved_model"
        shipping.export_saved_model(models[chosen.name], saved_model)
        inputs = data.x_test[:CHECKED_INPUTS]
        difference = shipping.difference_in_clean_process(models[chosen.name], saved_model, inputs)
    equal = difference <= shipping.TOLERANCE
    console.print(
        f"Loaded in a new process without keras_tensornet: {len(inputs)} predictions "
        f"{'equal' if equal else 'DIFFER'}, largest difference {difference:.1e} "
        f"(allowed {shipping.TOLERANCE:.0e}).",
        soft_wrap=True,
    )
    if out is not None:
        console.print(
            f"Kept in {out}: {', '.join(sorted(path.name for path in out.iterdir()))}",
            soft_wrap=True,
        )
    return 0 if equal else FAILED


def _load(dataset: str) -> Any:
    """The comparison and its data; everything that imports Keras is imported here."""
    for library in ("tensorflow", "absl"):  # their hints would stand between our lines
        logging.getLogger(library).setLevel(logging.ERROR)
    with quiet_start():
        import keras

        from keras_tensornet import datasets
        from keras_tensornet.demo import twins

        keras.ops.zeros(())  # finds the devices, which may be logged as well
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise CommandError(
            "The demo exports a SavedModel, which needs Keras' TensorFlow backend. Received: "
            f"{backend}. Set KERAS_BACKEND=tensorflow."
        )
    try:
        return twins.comparison(dataset), datasets.load(dataset)
    except (FileNotFoundError, ImportError) as error:
        raise CommandError(str(error)) from error


def _prepare_folder(out: Path, force: bool) -> Path:
    """Make the folder now, so that a path that cannot be written fails before the training."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        occupied = any(out.iterdir())
        check_writable(out)
    except OSError as error:
        raise CommandError(f"--out {out} is no folder that can be written: {error}") from error
    if occupied and not force:
        raise CommandError(
            f"--out {out} is not empty. Choose another folder, or --force to overwrite files of "
            "the same names in it."
        )
    return out


def _console() -> Any:
    """Standard output, in full width where it is no terminal but a file or a pipe."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=100)


def _progress_bar(console: Any) -> Any:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[detail]}"),
        console=console,
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, received {value}")
    return value
