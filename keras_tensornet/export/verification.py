"""Check of an exported file: its outputs and its time, in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_tensornet.export import clean_process
from keras_tensornet.files import scratch_folder
from keras_tensornet.serving import measuring


@dataclass(frozen=True)
class FreshRun:
    """What an exported file did in a process of its own.

    Attributes:
        outputs: by name, in the file's own order.
        latency: median milliseconds of one call at the batch size asked for, on the CPU.
    """

    outputs: dict[str, np.ndarray]
    latency: float


def run_fresh(
    format: str,
    path: Path,
    inputs: dict[str, np.ndarray],
    batch_size: int = 1,
    blocked: bool = True,
) -> FreshRun:
    """Run an exported file in a new Python process, on the CPU.

    Args:
        format: of the file.
        path: of the file or folder.
        inputs: a batch of each named input.
        batch_size: of the calls whose time is taken.
        blocked: whether that process is kept from importing keras_tensornet.

    Raises:
        RuntimeError: if the process fails; with the last line that it wrote.
    """
    program = Path(clean_process.__file__).read_text(encoding="utf-8")
    with scratch_folder() as exchange:
        temporary, received = exchange / "inputs.npz", exchange / "outputs.npz"
        np.savez(temporary, **inputs)  # type: ignore[arg-type]  # the stub sees `allow_pickle`
        arguments = [format, path.resolve(), temporary, received, batch_size, int(blocked)]
        arguments.append(Path(measuring.__file__))
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            cwd=exchange,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(
                f"The exported {path.name} does not run in a process of its own: {last_line}"
            )
        with np.load(received) as stored:
            outputs = {
                name.partition(":")[2]: stored[name]
                for name in stored.files
                if name.startswith("output:")
            }
            return FreshRun(outputs, 1e3 * float(stored["seconds_per_call"]))


def largest_difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest absolute difference over all outputs; infinite where shapes differ or NaN."""
    if [array.shape for array in found] != [array.shape for array in expected]:
        return float("inf")
    pairs = zip(found, expected, strict=True)
    gaps = [np.max(np.abs(a.astype("float64") - b), initial=0.0) for a, b in pairs]
    return float("inf") if any(np.isnan(gap) for gap in gaps) else float(max(gaps))
