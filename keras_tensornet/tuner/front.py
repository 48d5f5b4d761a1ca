"""The Pareto front of a search: the trials that no other trial beats in both size and metric."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_tensornet import validation
from keras_tensornet.files import write_text, write_whole
from keras_tensornet.tuner.directions import DIRECTIONS, direction_of

SIZES = ("params", "flops", "latency")
HEADER = ("trial", "metric", "params", "flops", "compression", "format", "values", "front")


@dataclass(frozen=True)
class TrialResult:
    """One finished trial.

    Attributes:
        trial_id: KerasTuner's id.
        metric: value of the metric at the trial's best epoch.
        params, flops: of its model.
        compression_ratio: dense parameters over its own.
        latency: milliseconds, or None.
        values: its hyperparameters, those that are active.
        on_front: whether no other trial is both smaller and better.
    """

    trial_id: str
    metric: float
    params: int
    flops: int
    compression_ratio: float
    latency: float | None
    values: Mapping[str, Any]
    on_front: bool = False


@dataclass(frozen=True)
class ParetoFront:
    """All finished trials of a search, smallest first, the front marked; prints as a table.

    Attributes:
        metric: its name.
        direction: "max" or "min".
        size: "params", "flops" or "latency".
        trials: finished ones.
        unfinished: number of trials that were rejected or failed.
    """

    metric: str
    direction: str
    size: str
    trials: tuple[TrialResult, ...]
    unfinished: int = 0

    @property
    def front(self) -> tuple[TrialResult, ...]:
        """The trials on the front, smallest first."""
        return tuple(trial for trial in self.trials if trial.on_front)

    def __iter__(self) -> Iterator[TrialResult]:
        return iter(self.front)

    def with_trials(self, trials: Any, metric: str, direction: str) -> ParetoFront:
        """The front over other values of these trials, such as their errors on test data.

        Args:
            trials: results, `dataclasses.replace(trial, metric=...)` of those of this front.
            metric: what the new values are.
            direction: "max" or "min".
        """
        validation.one_of("direction", direction, DIRECTIONS)
        marked = _mark(list(trials), self.size, direction)
        return ParetoFront(metric, direction, self.size, marked, self.unfinished)

    def __len__(self) -> int:
        return len(self.front)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [(*HEADER[:1], self.metric, *HEADER[2:])]
        rows += [_row(trial) for trial in self.trials]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(r, widths, strict=True)) for r in rows]
        if self.unfinished:
            lines.append(f"{self.unfinished} more trials were rejected or failed.")
        return "\n".join(line.rstrip() for line in lines)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row a trial; a file that is there is replaced."""
        names = sorted({name for trial in self.trials for name in trial.values})
        fields = [name for name in asdict(self.trials[0]) if name != "values"]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow([*fields, *names])
        for trial in self.trials:
            values = [trial.values.get(name, "") for name in names]
            writer.writerow([*(getattr(trial, field) for field in fields), *values])
        write_text(path, text.getvalue())

    def to_json(self, path: str | os.PathLike[str], about: Mapping[str, Any] | None = None) -> None:
        """Write everything; a file that is there is replaced.

        Args:
            path: of the file.
            about: plain values that are kept beside the trials, such as settings and versions.
        """
        data = {**asdict(self), "trials": [asdict(trial) for trial in self.trials]}
        if about is not None:
            data = {"about": dict(about), **data}
        write_text(path, json.dumps(data, indent=1) + "\n")

    def plot(
        self, path: str | os.PathLike[str], beside: Mapping[str, list[Any]] | None = None
    ) -> None:
        """Write a figure: the metric against size, the front as a line, a colour a format.

        Args:
            path: of the PNG file; one that is there is replaced.
            beside: further points to compare with, `{label: [(size, metric), ...]}`.

        Raises:
            ImportError: without matplotlib.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "A figure needs matplotlib. Install it with: python -m pip install "
                '"keras-tensornet[plot]"'
            ) from error
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot(xscale="log", xlabel=self.size, ylabel=self.metric)
        for name in sorted({str(trial.values.get("format")) for trial in self.trials}):
            own = [trial for trial in self.trials if str(trial.values.get("format")) == name]
            sizes = [getattr(trial, self.size) for trial in own]
            axes.scatter(sizes, [trial.metric for trial in own], label=name, s=28, zorder=3)
        sizes = [getattr(trial, self.size) for trial in self.front]
        best = [trial.metric for trial in self.front]
        axes.step(sizes, best, where="post", color="0.4", linewidth=1, label="front", zorder=2)
        for label, points in (beside or {}).items():
            axes.plot(*zip(*points, strict=True), "kx--", linewidth=0.7, label=label)
        axes.grid(alpha=0.3)
        axes.legend()
        FigureCanvasAgg(figure)
        write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


def pareto(
    tuner: Any,
    metric: str | None = None,
    direction: str | None = None,
    size: str = "params",
) -> ParetoFront:
    """The Pareto front of a search over `TensorNetHyperModel`, finished or still running.

    Args:
        tuner: a KerasTuner tuner, or the project folder of one (`directory/project_name`), which
            is how a search that runs in other processes is read.
        metric: its name; by default the metric of the hypermodel's objective.
        direction: "max" or "min"; by default the objective's, or what the metric's name says, if it
            is that of a metric or loss of Keras.
        size: "params", "flops" or "latency".

    Raises:
        FileNotFoundError: if the folder holds no trials.
        ValueError: if no trial is finished, or the metric was not recorded, or its direction is
            neither given nor known.
    """
    validation.one_of("size", size, SIZES)
    trials = _trials(tuner)
    goal = getattr(getattr(tuner, "hypermodel", None), "size_objective", None)
    if not metric:
        metric = str(getattr(goal, "metric", "val_accuracy"))
    if direction is None:
        direction = goal.direction if goal and goal.metric == metric else None
    direction = direction_of(metric, direction)
    finished = [trial for trial in trials if trial.status == "COMPLETED"]
    if not finished:
        raise ValueError(
            f"No trial is finished, so there is no front. Received: {len(trials)} trials, with "
            f"status {sorted({str(trial.status) for trial in trials})}. {_first_message(trials)}"
        )
    results = sorted(
        (_result(trial, metric) for trial in finished),
        key=lambda trial: (getattr(trial, size) or 0, trial.trial_id),
    )
    if size == "latency" and any(trial.latency is None for trial in results):
        raise ValueError(
            "`size='latency'` needs trials whose latency was measured: give the hypermodel "
            "objective=SizeObjective(latency=...)."
        )
    marked = _mark(results, size, direction)
    return ParetoFront(metric, direction, size, marked, len(trials) - len(finished))


def _trials(tuner: Any) -> list[Any]:
    if not isinstance(tuner, (str, os.PathLike)):
        return list(tuner.oracle.trials.values())
    from keras_tuner.engine import trial as trial_module

    files = sorted(Path(tuner).glob("trial_*/trial.json"))
    if not files:
        raise FileNotFoundError(
            f"There are no trials in {os.fspath(tuner)!r}. Give the folder "
            "`directory/project_name` of a search."
        )
    return [trial_module.Trial.load(str(file)) for file in files]


def _result(trial: Any, metric: str) -> TrialResult:
    metrics = trial.metrics.metrics
    for name in (metric, "params", "flops", "compression_ratio"):
        if name not in metrics:
            raise ValueError(
                f"Trial {trial.trial_id} has no metric {name!r}. It has: {sorted(metrics)}."
            )
    # KerasTuner records each metric at the trial's best epoch.
    value = {name: history.get_history()[-1].mean() for name, history in metrics.items()}
    return TrialResult(
        trial.trial_id,
        float(value[metric]),
        int(value["params"]),
        int(value["flops"]),
        float(value["compression_ratio"]),
        float(value["latency"]) if "latency" in value else None,
        _active(trial.hyperparameters),
    )


def _active(hyperparameters: Any) -> dict[str, Any]:
    names = {hp.name for hp in hyperparameters.space if hyperparameters.is_active(hp)}
    return {name: value for name, value in hyperparameters.values.items() if name in names}


def _mark(results: list[TrialResult], size: str, direction: str) -> tuple[TrialResult, ...]:
    """Mark the trials that no other trial equals or beats in both, being better in one."""
    sign = 1.0 if direction == "max" else -1.0

    def beats(one: TrialResult, other: TrialResult) -> bool:
        smaller = getattr(one, size) - getattr(other, size)
        better = sign * (one.metric - other.metric)
        return smaller <= 0 and better >= 0 and (smaller < 0 or better > 0)

    return tuple(
        TrialResult(**{**vars(trial), "on_front": not any(beats(one, trial) for one in results)})
        for trial in results
    )


def _row(trial: TrialResult) -> tuple[str, ...]:
    values = ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in trial.values.items()
        if name != "format"
    )
    return (
        str(trial.trial_id),
        f"{trial.metric:.4f}",
        f"{trial.params:,}",
        f"{trial.flops:,}",
        f"{trial.compression_ratio:.2f}x",
        str(trial.values.get("format", "")),
        values,
        "*" if trial.on_front else "",
    )


def _first_message(trials: list[Any]) -> str:
    lines = [line for trial in trials for line in (trial.message or "").splitlines()[-1:]]
    return f"The first says: {lines[0]}" if lines else ""
