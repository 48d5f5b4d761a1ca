"""Small charts as inline SVG text; colours come from the page's style sheet."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from keras_tensornet.types import Tensor

ROW = 22
LABEL = 190
CHART = 520
SPECTRUM_WIDTH, SPECTRUM_HEIGHT = 220, 120
SCATTER_WIDTH, SCATTER_HEIGHT = 620, 300


def bars(rows: list[tuple[str, float, float, str]]) -> str:
    """Horizontal bars, one row for each layer: the whole before, the part after inside it.

    Args:
        rows: `(label, before, after, note)`.
    """
    largest = max((before for _, before, _, _ in rows), default=1.0) or 1.0
    height = ROW * len(rows) + 4
    parts = [_open(LABEL + CHART + 150, height, "Bars of each layer before and after")]
    for number, (label, before, after, note) in enumerate(rows):
        y = ROW * number + 4
        text = escape(label if len(label) < 28 else "..." + label[-25:])
        parts.append(f'<text x="{LABEL - 8}" y="{y + 12}" class="label end">{text}</text>')
        for value, style, inset in ((before, "dense", 0), (after, "small", 4)):
            width = max(1.0, CHART * value / largest)
            parts.append(
                f'<rect x="{LABEL}" y="{y + inset}" width="{width:.1f}" '
                f'height="{ROW - 7 - 2 * inset}" rx="2" class="{style}">'
                f"<title>{escape(label)}: {before:,.0f} to {after:,.0f}</title></rect>"
            )
        x = LABEL + max(1.0, CHART * max(before, after) / largest) + 6
        parts.append(f'<text x="{x:.1f}" y="{y + 12}" class="note">{escape(note)}</text>')
    return "".join([*parts, "</svg>"])


def spectrum(label: str, positions: Any, values: list[Tensor], kept: int | None, total: int) -> str:
    """Falling values on a logarithmic axis, with a line where the rank ends."""
    width, height, edge = SPECTRUM_WIDTH, SPECTRUM_HEIGHT, 18
    floor = 1e-4
    last = max(positions[-1], 1)

    def x(position: float) -> float:
        return edge + (width - 2 * edge) * position / last

    def y(value: float) -> float:
        share = math.log10(max(value, floor)) / math.log10(floor)
        return edge + (height - 2 * edge) * share

    points = " ".join(f"{x(p):.1f},{y(v):.1f}" for p, v in zip(positions, values, strict=True))
    parts = [_open(width, height, f"Singular values of {label}")]
    if kept is not None:
        line = x(min(kept, last))
        parts.append(
            f'<rect x="{edge}" y="{edge}" width="{line - edge:.1f}" height="{height - 2 * edge}" '
            f'class="kept"/><line x1="{line:.1f}" x2="{line:.1f}" y1="{edge}" '
            f'y2="{height - edge}" class="cut"/>'
        )
    parts.append(f'<polyline points="{points}" class="curve"/>')
    parts.append(f'<text x="{edge}" y="12" class="label">{escape(label[-30:])}</text>')
    note = f"{total} values" if kept is None else f"{kept} of {total}"
    parts.append(f'<text x="{width - edge}" y="{height - 4}" class="note end">{note}</text>')
    return "".join([*parts, "</svg>"])


def scatter(points: list[tuple[str, float, float]], x_name: str, y_name: str) -> str:
    """Score against size, size on a logarithmic axis.

    Args:
        points: `(label, size, score)`.
    """
    width, height, edge = SCATTER_WIDTH, SCATTER_HEIGHT, 56
    sizes = [math.log10(max(size, 1.0)) for _, size, _ in points]
    scores = [score for _, _, score in points]
    low, high = min(sizes) - 0.1, max(sizes) + 0.1
    bottom, top = min(scores), max(scores)
    margin = max((top - bottom) * 0.2, 1e-3)
    bottom, top = bottom - margin, top + margin
    parts = [_open(width, height, f"{y_name} against {x_name}")]
    for step in range(5):
        value = bottom + (top - bottom) * step / 4
        y = height - edge - (height - 2 * edge) * step / 4
        parts.append(
            f'<line x1="{edge}" x2="{width - 20}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        )
        parts.append(f'<text x="{edge - 6}" y="{y + 4:.1f}" class="note end">{value:.3f}</text>')
    for (label, size, score), log_size in zip(points, sizes, strict=True):
        x = edge + (width - edge - 60) * (log_size - low) / (high - low)
        y = height - edge - (height - 2 * edge) * (score - bottom) / (top - bottom)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" class="point"><title>{escape(label)}: '
            f"{size:,.0f}, {score:.4f}</title></circle>"
            f'<text x="{x + 10:.1f}" y="{y - 8:.1f}" class="label">{escape(label)}</text>'
        )
    parts.append(
        f'<text x="{width / 2}" y="{height - 12}" class="note">{escape(x_name)} (log)</text>'
        f'<text x="8" y="20" class="note">{escape(y_name)}</text>'
    )
    return "".join([*parts, "</svg>"])


def _open(width: float, height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
    )
