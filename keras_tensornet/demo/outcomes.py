"""What the demo measures, and the table that shows it. Nothing here trains, measures or prints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

BATCH_SIZES = (1, 128)
# Short lines, so that the table fits into a terminal of 80 columns.
HEADER = (
    "model",
    "parameters",
    "compression\nratio",
    "test\naccuracy",
    "training\ns/epoch",
    *(f"batch {size}\nms, x dense" for size in BATCH_SIZES),
)
# How far below the best accuracy a smaller model may be and still count as the best.
ACCURACY_MARGIN = 0.01


@dataclass
class Result:
    """One trained network.

    Attributes:
        name: short name, also the name of its file.
        title: name in words, for the table.
        parameters: all weights, as `model.count_params()` counts them.
        accuracy: share of the test images that are classified correctly, in [0, 1].
        seconds_per_epoch: median over all epochs but the first, which also traces.
        latency: median milliseconds of one batch, frozen, by batch size; empty if not measured.
    """

    name: str
    title: str
    parameters: int
    accuracy: float
    seconds_per_epoch: float
    latency: dict[int, float] = field(default_factory=dict)


def epoch_seconds(durations: Sequence[float]) -> float:
    """The median of all epochs but the first, in which the training step is also traced."""
    return statistics.median(durations[1:] or durations)


def best(results: Sequence[Result]) -> Result:
    """The smallest network whose accuracy is within `ACCURACY_MARGIN` of the best."""
    bound = max(result.accuracy for result in results) - ACCURACY_MARGIN
    good = [result for result in results if result.accuracy >= bound]
    return min(good, key=lambda result: result.parameters)


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The cells of the table under `HEADER`; ratios are taken against the first result."""
    return [_row(result, results[0]) for result in results]


def _row(result: Result, dense: Result) -> tuple[str, ...]:
    return (
        result.title,
        f"{result.parameters:,}",
        f"{dense.parameters / result.parameters:.1f}x",
        f"{result.accuracy:.2%}",
        f"{result.seconds_per_epoch:.2f}",
        *(_latency_cell(result, dense, size) for size in BATCH_SIZES),
    )


def _latency_cell(result: Result, dense: Result, size: int) -> str:
    if size not in result.latency:
        return "-"
    milliseconds = result.latency[size]
    return f"{milliseconds:.2f} {milliseconds / dense.latency[size]:.2f}x"
