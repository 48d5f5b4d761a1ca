"""The figures of a report as one image, with matplotlib."""

from __future__ import annotations

DENSE, COMPRESSED = "#b9c0cc", "#2563a8"
MOST_SPECTRA = 8


def draw(report, path) -> None:
    """Bars per layer, singular values with the cut, and score against size.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "`plot` needs matplotlib, which is not installed. Install it with: "
            'pip install "keras-tensornet[demo]", or use `to_html`, which needs nothing.'
        ) from error
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    bars, spectra, sizes = figure.subplots(1, 3)
    _bars(bars, report)
    _spectra(spectra, report)
    _sizes(sizes, report)
    ratio = f"{report.compression:.2f}x fewer parameters"
    figure.suptitle(f"{report.model}: {ratio}")
    figure.savefig(path, dpi=130)


def _bars(axes, report) -> None:
    places = range(len(report.layers))
    before, after = zip(*(layer.params for layer in report.layers), strict=True)
    axes.barh(places, before, color=DENSE, label="dense")
    axes.barh(places, after, color=COMPRESSED, height=0.5, label="compressed")
    axes.set_yticks(places, [layer.path for layer in report.layers], fontsize=6)
    axes.invert_yaxis()
    axes.set(xlabel="parameters of the kernel", xscale="log")
    axes.legend(fontsize=7)


def _spectra(axes, report) -> None:
    layers = [layer for layer in report.layers if layer.format]
    for layer in sorted(layers, key=lambda layer: -layer.params[0])[:MOST_SPECTRA]:
        (line,) = axes.plot(layer.positions, layer.spectrum, label=layer.path, linewidth=1)
        axes.axvline(layer.cut - 0.5, color=line.get_color(), linewidth=0.7, linestyle=":")
    axes.set(xlabel="singular value (dotted: cut)", ylabel="relative to the largest", yscale="log")
    if layers:
        axes.legend(fontsize=6)


def _sizes(axes, report) -> None:
    metric = report.score_name
    if metric is None:
        axes.bar([m.name for m in report.models], [m.params for m in report.models], color=DENSE)
        axes.set(ylabel="parameters")
        return
    for model in report.models:
        axes.scatter(model.params, model.scores[metric], color=COMPRESSED)
        axes.annotate(model.name, (model.params, model.scores[metric]), fontsize=7)
    axes.set(xlabel="parameters", ylabel=metric, xscale="log")
