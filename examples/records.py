"""Results files of the examples: read what is there, add a run, write it whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path


def read(path: Path) -> list[dict]:
    """The runs that a results file holds; none if it does not exist."""
    return json.loads(path.read_text())["runs"] if path.exists() else []


def find(path: Path, settings: dict) -> dict | None:
    """The run with exactly these settings, if it has been done."""
    return next((run for run in read(path) if run["settings"] == settings), None)


def add(path: Path, run: dict) -> None:
    """Append a run, with the machine it ran on; the file is replaced in one step."""
    runs = [*read(path), {**run, "machine": machine()}]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w") as file:
        json.dump({"runs": runs}, file, indent=1)
        file.write("\n")
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def machine() -> dict:
    """What a reader needs to judge seconds: cores, system, versions."""
    packages = ("keras", "tensorflow", "numpy", "keras-tensornet")
    return {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
