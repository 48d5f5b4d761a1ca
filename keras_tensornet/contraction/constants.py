"""The rates that plans are predicted with: those shipped, or those tuned for this machine.

`keras-tensornet tune` measures and keeps them in a small file in the user's cache folder, one for
each backend of Keras. Without such a file the shipped ones are used, and nothing is written.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from dataclasses import asdict, fields
from pathlib import Path

from keras_tensornet.contraction.cost import Machine
from keras_tensornet.files import remove_file, write_text

VERSION = 1
# The folder; set but empty, no file is read or written.
VARIABLE = "KERAS_TENSORNET_CACHE"
FITTED = ("matmul_flops", "conv_flops", "bandwidth", "call")

_known: dict[Path | None, Machine] = {None: Machine()}


def machine() -> Machine:
    """The rates in use in this process; a file is read once."""
    path = constants_file()
    if path is not None and path not in _known:
        _known[path] = _read(path)
    return _known[path]


def constants_file() -> Path | None:
    """Where tuned rates are kept for the backend in use; None where none are to be."""
    folder = cache_folder()
    keras = sys.modules.get("keras")
    backend = getattr(getattr(keras, "backend", None), "backend", None)
    name = backend() if callable(backend) else "tensorflow"
    return None if folder is None else folder / f"machine-{name}.json"


def cache_folder() -> Path | None:
    """The user's cache folder for this package, as the platform has it, or `KERAS_TENSORNET_CACHE`.

    None where that variable is set and empty, or the user has no home.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        return Path(given).expanduser() if given else None
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "keras_tensornet"


def keep(rates: Machine, path: Path, conditions: str) -> None:
    """Write rates to a file, whole or not at all, and use them from now on in this process.

    Args:
        rates: that were fitted.
        path: of the file; its folder is made.
        conditions: how they were measured, for the reader.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": VERSION, "rates": asdict(rates), "conditions": conditions}
    write_text(path, json.dumps(content, indent=1) + "\n")
    _known[path] = rates


def forget(path: Path) -> None:
    """Remove a file of rates, and use the shipped ones from now on."""
    remove_file(path)
    _known[path] = Machine()


def _read(path: Path) -> Machine:
    """The rates in a file; the shipped ones, with a warning, if it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Machine()
    except (OSError, ValueError) as error:
        return _unusable(path, str(error))
    if not isinstance(content, dict) or content.get("version") != VERSION:
        version = content.get("version") if isinstance(content, dict) else None
        return _unusable(path, f"it is of version {version}, not {VERSION}")
    rates, names = content.get("rates"), {field.name for field in fields(Machine)}
    if not isinstance(rates, dict) or set(rates) != names:
        return _unusable(path, f"its rates are not {', '.join(sorted(names))}")
    good = all(
        isinstance(value, (int, float)) and math.isfinite(value) and value > 0
        for value in rates.values()
    )
    if not good or not isinstance(rates["lanes"], int):
        return _unusable(path, "a rate in it is no positive number")
    return Machine(**rates)


def _unusable(path: Path, reason: str) -> Machine:
    warnings.warn(
        f"'{path}' cannot be used, so that plans are predicted with the shipped rates: {reason}. "
        "Run `keras-tensornet tune` again, or remove the file.",
        stacklevel=2,
    )
    return Machine()
