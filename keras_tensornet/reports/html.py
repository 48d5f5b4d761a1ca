"""The report as one page: inline style, inline SVG, no script, no network."""

from __future__ import annotations

from html import escape
from typing import Any

from keras_tensornet.reports import svg

STYLE = """
:root { color-scheme: light dark; --ink: #16202e; --soft: #5b6777; --paper: #ffffff;
  --card: #f5f7fa; --dense: #c3cad5; --small: #2563a8; --cut: #c2410c; --kept: #2563a81c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ecf3; --soft: #9aa7b8; --paper: #11161d;
  --card: #1a212b; --dense: #465264; --small: #62a0ea; --cut: #ff9d5c; --kept: #62a0ea24; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.9rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem; }
p { color: var(--soft); margin: .2rem 0 1rem; max-width: 46rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .8rem;
  margin: 1.6rem 0; }
.tile { background: var(--card); border-radius: .7rem; padding: 1rem 1.1rem; }
.tile b { display: block; font-size: 1.9rem; line-height: 1.15; color: var(--small);
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .86rem; }
.grid-of-charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr));
  gap: .4rem; }
svg { max-width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; } .label { fill: var(--ink); }
.note { fill: var(--soft); } .end { text-anchor: end; }
.dense { fill: var(--dense); } .small { fill: var(--small); }
.kept { fill: var(--kept); } .cut { stroke: var(--cut); stroke-width: 1.5; }
.curve { fill: none; stroke: var(--small); stroke-width: 1.6; }
.grid { stroke: var(--dense); stroke-width: .5; } .point { fill: var(--small); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--dense); }
th { color: var(--soft); font-weight: 600; } .left { text-align: left; }
"""


def page(report: Any) -> str:
    """The whole page as text."""
    sections = [
        f"<h1>{escape(report.model)}, compressed</h1>",
        f"<p>{escape(_summary(report))}</p>",
        f'<div class="tiles">{"".join(_tiles(report))}</div>',
        "<h2>Parameters of each layer</h2>",
        "<p>Grey is the dense kernel, blue what is left of it. Layers without blue inside the grey "
        "stayed dense.</p>",
        f'<div class="wide">{svg.bars(_bar_rows(report))}</div>',
        *_accuracy(report),
        *_spectra(report),
        "<h2>All numbers</h2>",
        f'<div class="wide">{_table(report)}</div>',
        f"<p>{escape(_footer(report))}</p>",
    ]
    title = escape(f"{report.model}: compression report")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(sections)
        + "</body></html>\n"
    )


def _summary(report: Any) -> str:
    count = sum(layer.format is not None for layer in report.layers)
    return (
        f"{count} of {len(report.layers)} layers are now tensor networks. "
        f"{report.dense.params:,} parameters became {report.compressed.params:,}."
    )


def _tiles(report: Any) -> list[str]:
    dense, small = report.dense, report.compressed
    tiles = [_tile(*pair) for pair in report.changes()]
    name = report.score_name
    if name:
        change = small.scores[name] - dense.scores[name]
        tiles.append(_tile(f"{small.scores[name]:.4f}", f"{name}, {change:+.4f} against dense"))
    return tiles


def _tile(value: str, text: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(text)}</span></div>'


def _bar_rows(report: Any) -> list[tuple[str, float, float, str]]:
    rows = []
    for layer in report.layers:
        before, after = layer.params
        note = "dense" if layer.format is None else f"{layer.format}, {before / after:.1f}x"
        rows.append((layer.path, before, after if layer.format else 0, note))
    return rows


def _accuracy(report: Any) -> list[str]:
    name = report.score_name
    if not name:
        return []
    points = [(model.name, model.params, model.scores[name]) for model in report.models]
    return [f"<h2>{escape(name)} against size</h2>", svg.scatter(points, "parameters", name)]


def _spectra(report: Any) -> list[str]:
    charts = [
        svg.spectrum(f"{layer.path}: {cut.name}", cut.positions, cut.values, cut.kept, cut.total)
        for layer in report.layers
        if layer.format
        for cut in layer.cuts
        if cut.total > 1
    ]
    if not charts:
        return []
    return [
        "<h2>What the ranks cut</h2>",
        "<p>For each bond, the dense kernel as the matrix that the bond parts: its singular values "
        "on a logarithmic axis from 1 to 0.0001, and a line where the rank ends; in a ring two "
        "bonds part it, and their ranks multiply. Where an index adds up components (CP, block "
        "terms), the norms of the components: what a smaller rank would leave out.</p>",
        f'<div class="grid-of-charts">{"".join(charts)}</div>',
    ]


def _table(report: Any) -> str:
    head = ("layer", "kernel", "format", "rank", "parameters", "after", "FLOPs", "after", "error")
    cells = "".join(f"<th{_left(n)}>{name}</th>" for n, name in enumerate(head))
    lines = [f"<table><thead><tr>{cells}</tr></thead><tbody>"]
    for layer in report.layers:
        values = (
            layer.path,
            " x ".join(map(str, layer.kernel_shape)),
            layer.format or "dense",
            "" if layer.rank is None else str(layer.rank),
            *(f"{count:,}" for count in (*layer.params, *layer.flops)),
            f"{layer.error:.4f}",
        )
        cells = "".join(f"<td{_left(n)}>{escape(text)}</td>" for n, text in enumerate(values))
        lines.append(f"<tr>{cells}</tr>")
    return "".join([*lines, "</tbody></table>"])


def _left(number: int) -> str:
    return ' class="left"' if number < 4 else ""


def _footer(report: Any) -> str:
    conditions = f" ({report.conditions})" if report.conditions else ""
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    return (
        "FLOPs are those of one example, of the plan that runs once the model is frozen. The error "
        "is |V - W| / |W| of the kernel in the Frobenius norm. Latency is that of the frozen "
        f"model, as it is exported{conditions}; {versions}."
    )
