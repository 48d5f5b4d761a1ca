"""Progress of long work over layers: a callback, or a bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable

WIDTH = 24
Progress = bool | Callable[[int, int, str], None] | None


def reporter(progress: Progress, total: int) -> Callable[[str], None]:
    """A function to be called with the path of each layer that is done.

    Args:
        progress: None or False for silence, True for a bar on standard error, or
            `(done, total, path) -> None`.
        total: number of layers.
    """
    if progress is None or progress is False:
        return lambda path: None
    show = _bar if progress is True else progress
    if not callable(show):
        raise TypeError(
            "`progress` must be True, False, None or a function (done, total, path). Received: "
            f"{progress!r}."
        )
    done = 0

    def report(path: str) -> None:
        nonlocal done
        done += 1
        show(done, total, path)

    return report


def _bar(done: int, total: int, path: str) -> None:
    filled = WIDTH * done // max(total, 1)
    line = f"\r[{'#' * filled}{'.' * (WIDTH - filled)}] {done}/{total} {path[:40]:<40}"
    sys.stderr.write(line + ("\n" if done >= total else ""))
    sys.stderr.flush()
