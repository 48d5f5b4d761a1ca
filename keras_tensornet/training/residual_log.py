"""What ADMM tells of its residuals: entries of the logs, a table, a warning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from keras_tensornet import validation
from keras_tensornet.training.course import Course
from keras_tensornet.training.splits import PulledKernel
from keras_tensornet.training.splitting import Residuals

# After so many updates in a row with |U| at its limit the user is told.
PATIENCE = 3
AT_LIMIT = 0.999


def log_entries(
    residuals: Mapping[str, Residuals], course: Course, layers: bool
) -> dict[str, float]:
    """Residuals over all kernels, and of each where asked for."""
    rows = list(residuals.values())
    total = math.sqrt(sum(row.kernel_norm**2 for row in rows)) or 1.0
    entries = {}
    for name in ("primal", "dual"):
        squares = [(getattr(row, name) * row.kernel_norm) ** 2 for row in rows]
        entries[f"admm_{name}"] = math.sqrt(sum(squares)) / total
    entries["admm_worst"] = max(row.primal for row in rows)
    if course.pull is None:
        entries["admm_penalty"] = sum(row.penalty for row in rows)
    if layers:
        names = ("primal", "dual", "size", *(("rho",) if course.pull is None else ()))
        for path, row in residuals.items():
            entries |= {f"admm_{name}/{path}": getattr(row, name) for name in names}
    return entries


def table(
    targets: Sequence[PulledKernel], residuals: Sequence[Residuals], course: Course, progress: float
) -> str:
    """The kernels and their latest residuals; only the heading before the first update."""
    width = max([len(target.path) for target in targets], default=5)
    strength = "rho" if course.pull is None else "pull"
    lines = [
        f"{'layer':{width}}  format  {'|W-Z|/|W|':>10}  {'|dZ|/|W|':>10}  {'|U|/|W|':>8}  "
        f"{strength:>8}"
    ]
    for target, row in zip(targets, residuals, strict=False):
        value = row.rho if course.pull is None else course.pull_at(target.path, progress)
        lines.append(
            f"{target.path:{width}}  {target.network.name:6}  {row.primal:10.3e}  "
            f"{row.dual:10.3e}  {row.size:8.3f}  {value:8.2e}"
        )
    return "\n".join(lines)


class Limits:
    """Counts for how long U of each kernel has been at its limit, and says so once.

    Args:
        course: of the training, for advice that fits it.
    """

    def __init__(self, course: Course) -> None:
        self.course = course
        self.counts: dict[str, int] = {}

    def note(self, residuals: Mapping[str, Residuals]) -> None:
        """Count an update."""
        stuck = []
        for path, row in residuals.items():
            at_limit = row.size > AT_LIMIT
            self.counts[path] = self.counts.get(path, 0) + 1 if at_limit else 0
            if self.counts[path] == PATIENCE:
                stuck.append(path)
        if not stuck:
            return
        way = "raise `pull`" if self.course.pull is not None else "take `pull` instead of `rho`"
        validation.warn_user(
            f"Training does not follow ADMM: U of {', '.join(stuck)} has been as large as the "
            f"kernel for {PATIENCE} updates, and is cut to that. Decomposing may lose accuracy. "
            f"Update less often (`every`), {way}, leave U away with `dual=False`, or choose larger "
            "ranks."
        )
