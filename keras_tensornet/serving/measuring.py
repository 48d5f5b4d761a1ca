"""Measuring time: the one loop that every time of this package comes from.

Candidates take turns, call by call and forwards and backwards, so that a busy moment of the machine
hits all of them alike and ratios mean something. Each is called a few times first, because the
first call traces and allocates. The median of many calls is what is reported, the least beside it:
where the two lie far apart, the machine was busy.

This file needs nothing but the standard library: `keras_tensornet.export` loads it by its path in
processes that cannot import this package.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Unless told otherwise, each candidate is called at least this often, and until this much time has
# gone into it.
REPEATS = 5
SECONDS = 0.1
WARM_UP = 2


@dataclass(frozen=True)
class Timing:
    """The times of some calls that were measured in turns; prints as a table.

    Attributes:
        median: name -> median seconds of one call, in the order in which they were given.
        least: name -> the shortest of them.
        repeats: timed calls of each.
        cores: processor cores that the process may use.
        threads: threads of one operation in the library that computes; None where it is not known.
    """

    median: Mapping[str, float]
    least: Mapping[str, float]
    repeats: int
    cores: int
    threads: int | None = None

    def milliseconds(self, name: str) -> float:
        """Median milliseconds of one call."""
        return 1e3 * self.median[name]

    def ratio(self, name: str, to: str) -> float:
        """Time of one call over that of another; below 1 is faster."""
        return self.median[name] / self.median[to]

    @property
    def conditions(self) -> str:
        """How the times were taken, in words."""
        threads = "" if self.threads is None else f", {self.threads} threads"
        return f"median of {self.repeats} calls in turns, {self.cores} cores{threads}"

    def __str__(self) -> str:
        first = next(iter(self.median))
        width = max(map(len, self.median))
        lines = [
            f"{name:<{width}}  {1e3 * seconds:10.3f} ms (least {1e3 * self.least[name]:.3f})"
            f"  {seconds / self.median[first]:6.2f} x {first}"
            for name, seconds in self.median.items()
        ]
        return "\n".join([*lines, self.conditions])


def measure(
    calls: Mapping[str, Callable[[], object]],
    repeats: int = REPEATS,
    seconds: float = SECONDS,
    warm_up: int = WARM_UP,
    lead: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Measure calls in turns.

    Args:
        calls: name -> function without arguments that returns when the work is done.
        repeats: least number of timed calls of each.
        seconds: least time that goes into each, on average.
        warm_up: calls of each before the first timed one.
        lead: untimed calls before each timed one. Two libraries in one process disturb each other:
            threads of the one still wait busily when the other begins.
        clock: returns seconds.

    Returns:
        The median and the least time of each.
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    spent, rounds = 0.0, 0
    while rounds < repeats or spent < seconds * len(calls):
        turn = list(calls.items())
        for name, call in turn if rounds % 2 == 0 else reversed(turn):
            for _ in range(lead):
                call()
            start = clock()
            call()
            stop = clock()
            taken[name].append(stop - start)
            spent += stop - start
        rounds += 1
    return Timing(
        {name: statistics.median(times) for name, times in taken.items()},
        {name: min(times) for name, times in taken.items()},
        rounds,
        usable_cores(),
        library_threads(),
    )


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def library_threads() -> int | None:
    """Threads of one operation in the library that is loaded; None where it does not say."""
    tensorflow, torch = (sys.modules.get(name) for name in ("tensorflow", "torch"))
    try:
        if tensorflow is not None:
            return tensorflow.config.threading.get_intra_op_parallelism_threads() or usable_cores()
        return None if torch is None else torch.get_num_threads()
    except AttributeError:  # a library that is being imported, or a stub of it
        return None
