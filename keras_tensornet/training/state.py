"""The state of ADMM in a file, whole or not at all: Z, U and rho of every kernel.

The file is a NumPy archive: `header` is JSON; `z0`, `u0`, `core0_0`, `core0_1`, ..., `z1`, ... are
the arrays of the kernels in the header's order. Nothing in it is executed on loading.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_tensornet.compression.plans import CompressionPlan
from keras_tensornet.files import write_whole
from keras_tensornet.training.splitting import Splitting

VERSION = 2


def save_state(
    path: str | os.PathLike[str], splittings: list[Splitting], counts: dict[str, Any]
) -> None:
    """Write the state to a file; an earlier file stays until the new one is complete.

    Args:
        path: of the file; its folder must exist.
        splittings: the state of every kernel.
        counts: plain values to keep beside them.
    """
    header = {
        "version": VERSION,
        "counts": counts,
        "kernels": [_describe(splitting) for splitting in splittings],
    }
    arrays = {"header": np.array(json.dumps(header))}
    for number, splitting in enumerate(splittings):
        z, u = splitting.z_and_u()
        arrays |= {f"z{number}": z, f"u{number}": u}
        for place, core in enumerate(splitting.cores or []):
            arrays[f"core{number}_{place}"] = core

    def write(temporary: Path) -> None:
        with temporary.open("wb") as opened:  # NumPy would append ".npz" to a name
            np.savez(opened, **arrays)  # type: ignore[arg-type]  # the stub sees `allow_pickle`

    write_whole(path, write)


def load_state(path: str | os.PathLike[str], splittings: list[Splitting]) -> dict[str, Any]:
    """Read a state into splittings of the same kernels and networks; returns the counts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no ADMM state, or that of other kernels, ranks or formats; the
            splittings are then unchanged.
    """
    header, arrays = _read(path)
    wanted = [_describe(splitting) for splitting in splittings]
    for saved, here in zip(header["kernels"], wanted, strict=False):
        for key in ("path", "shape", "network"):
            if saved[key] != here[key]:
                raise ValueError(
                    f"The ADMM state in '{path}' must be that of the same kernels. It has "
                    f"{key}={saved[key]!r} where this one has {here[key]!r} (layer "
                    f"'{here['path']}'). Use the plan of the run that wrote it, or another file."
                )
    if len(header["kernels"]) != len(wanted):
        raise ValueError(
            f"The ADMM state in '{path}' is that of {len(header['kernels'])} kernels, this one has "
            f"{len(wanted)}. Use the plan of the run that wrote it, or another file."
        )
    for number, (saved, splitting) in enumerate(zip(header["kernels"], splittings, strict=True)):
        splitting.z, splitting.u = arrays[f"z{number}"], arrays[f"u{number}"]
        splitting.rho, splitting.first_rho = saved["rho"], saved["first_rho"]
        splitting.resize(splitting.network.with_ranks(tuple(saved["rank"])))
        places = range(saved["num_cores"])
        splitting.cores = [arrays[f"core{number}_{place}"] for place in places] or None
    return header["counts"]


def read_counts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The plain values of a state; ValueError if it is not complete and of this version."""
    return _read(path)[0]["counts"]


def read_plan(
    path: str | os.PathLike[str], otherwise: CompressionPlan | None
) -> CompressionPlan | None:
    """The plan in use when ranks were last chosen anew, or the other one if they never were."""
    text = read_counts(path).get("plan")
    return CompressionPlan.from_json(text) if text else otherwise


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays["header"]))
        if header["version"] != VERSION:
            raise ValueError(f"version {header['version']}")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"'{path}' is not a complete ADMM state of version {VERSION} ({error}). Delete it to "
            "start from the model's kernels, or give another file."
        ) from error
    return header, arrays


def _describe(splitting: Splitting) -> dict[str, Any]:
    return {
        "path": splitting.path,
        "shape": list(splitting.modes.kernel_shape),
        "network": json.loads(json.dumps(splitting.network.to_config())),
        "rank": list(splitting.current.rank),
        "rho": splitting.rho,
        "first_rho": splitting.first_rho,
        "num_cores": len(splitting.cores or []),
    }
