"""What all benchmarks share: interleaved timing, the machine, and results as JSON and Markdown.

Every figure is a ratio of medians taken in one run, in turns, so that a slow minute of the machine
hits both sides alike. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from keras_tensornet.files import write_whole

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("keras", "tensorflow", "numpy", "torch", "tednet", "tensorly", "tensorly-torch", "t3f")


def parse(description: str) -> argparse.Namespace:
    """The arguments of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--smoke", action="store_true", help="a few small cases, to see it run")
    parser.add_argument("--seconds", type=float, default=0.6, help="measured per function and case")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--only", default="", help="run only cases whose name contains this")
    return parser.parse_args()


def medians(
    functions: Sequence[Callable[[], object]], seconds: float, lead: int = 0
) -> list[float]:
    """Median milliseconds of each function, measured in turns after two calls to warm up.

    Args:
        functions: to compare.
        seconds: that are spent on each, and at least seven calls.
        lead: calls before each measured one. Two libraries in one process disturb each other:
            threads of the one still wait busily when the other begins.
    """
    for function in functions:
        function()
        function()
    times: list[list[float]] = [[] for _ in functions]
    deadline = time.perf_counter() + seconds * len(functions)
    while time.perf_counter() < deadline or len(times[0]) < 7:
        for function, taken in zip(functions, times, strict=True):
            for _ in range(lead):
                function()
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [1e3 * statistics.median(taken) for taken in times]


def machine() -> dict:
    """The processor, its cores and the versions that a result was taken with."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
    }


def save(name: str, rows: Sequence[Mapping], folder: Path, **settings) -> Path:
    """Write rows with the machine and settings to `folder/name.json`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {"machine": machine(), "settings": settings, "rows": list(rows)}
    write_whole(path, lambda draft: draft.write_text(json.dumps(content, indent=1)))
    return path


def show(rows: Sequence[Mapping], columns: Sequence[str]) -> str:
    """Rows as a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        texts = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def peak_memory_mb() -> float:
    """The largest resident size of this process so far.

    Not `ru_maxrss`, which a process takes over from the one that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) / 1024


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
