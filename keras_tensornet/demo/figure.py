"""The figure of the demo: test accuracy against parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_tensornet.demo.outcomes import Result
from keras_tensornet.files import write_whole


def draw(results: Sequence[Result], heading: str, path: Path) -> None:
    """Write a PNG with one labelled point per network; the parameters are on a log axis.

    Args:
        results: at least one.
        heading: what was trained on what.
        path: of the PNG, replaced if it exists.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    for result in results:
        accuracy = 100 * result.accuracy
        axes.scatter(result.parameters, accuracy, s=60)
        label = f"{result.title}\n{result.parameters:,}"
        axes.annotate(
            label, (result.parameters, accuracy), xytext=(0, 9), textcoords="offset points",
            ha="center", fontsize=9,
        )  # fmt: skip
    axes.margins(x=0.2, y=0.35)
    axes.grid(alpha=0.3)
    axes.set_title(heading)
    axes.set_xlabel("parameters")
    axes.set_ylabel("test accuracy (%)")
    canvas: Any = FigureCanvasAgg(figure)
    write_whole(path, lambda temporary: canvas.print_png(str(temporary)))
