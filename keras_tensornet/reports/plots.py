"""The figures of a report as one image, with matplotlib."""

from __future__ import annotations

from typing import Any

DENSE, COMPRESSED = "#b9c0cc", "#2563a8"
MOST_SPECTRA = 8


def draw(report: Any, temporary: Any) -> None:
    """Bars per layer, singular values with the cut, and score against size.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`plot` needs matplotlib, which is not installed. Install it with: "
            'pip install "keras-tensornet[plot]", or use `to_html`, which needs nothing.'
        ) from error
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    bars, spectra, sizes = figure.subplots(1, 3)
    _bars(bars, report)
    _spectra(spectra, report)
    _sizes(sizes, report)
    figure.suptitle(f"{report.model}: {' '.join(report.changes()[0])}")
    figure.savefig(temporary, dpi=130)


def _bars(axes: Any, report: Any) -> None:
    places = range(len(report.layers))
    before = [layer.params[0] for layer in report.layers]
    after = [layer.params[1] for layer in report.layers]
    axes.barh(places, before, color=DENSE, label="dense")
    axes.barh(places, after, color=COMPRESSED, height=0.5, label="compressed")
    axes.set_yticks(places, [layer.path for layer in report.layers], fontsize=6)
    axes.invert_yaxis()
    axes.set(xlabel="parameters of the kernel", xscale="log" if before else "linear")
    axes.legend(fontsize=7)


def _spectra(axes: Any, report: Any) -> None:
    layers = [layer for layer in report.layers if layer.format]
    for layer in sorted(layers, key=lambda layer: -layer.params[0])[:MOST_SPECTRA]:
        cut = _hardest(layer.cuts)
        if cut is None:
            continue
        name = f"{layer.path}: {cut.name}"
        (line,) = axes.plot(cut.positions, cut.values, label=name, linewidth=1)
        if cut.kept is not None:
            axes.axvline(cut.kept - 0.5, color=line.get_color(), linewidth=0.7, linestyle=":")
    axes.set(xlabel="singular value (dotted: rank)", ylabel="relative to the largest", yscale="log")
    if layers:
        axes.legend(fontsize=6)


def _hardest(cuts: Any) -> Any:
    """The cut that leaves out the largest share of its values, else the components."""
    return max(
        cuts, key=lambda cut: -1.0 if cut.kept is None else -cut.kept / cut.total, default=None
    )


def _sizes(axes: Any, report: Any) -> None:
    metric = report.score_name
    if metric is None:
        axes.bar([m.name for m in report.models], [m.params for m in report.models], color=DENSE)
        axes.set(ylabel="parameters")
        return
    for model in report.models:
        axes.scatter(model.params, model.scores[metric], color=COMPRESSED)
        axes.annotate(model.name, (model.params, model.scores[metric]), fontsize=7)
    axes.set(xlabel="parameters", ylabel=metric, xscale="log")
