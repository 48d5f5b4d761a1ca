"""How many steps there are in the time that there is, and the learning rate of each."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

WARM_UP = 0.05
# Looks at the held-out examples in a phase, and the share of the time that they may take.
CHECKS = 16
SHARE_FOR_CHECKS = 0.1


@dataclass
class Clock:
    """How many steps there will be: as planned, or as many as the time allows.

    The first steps compile and tell little; from the fourth on the time of a step is known.
    """

    steps: int
    end: float
    done: int = 0
    spent: float = 0.0
    looks: int = 0
    look_seconds: float = 0.0
    last: float = field(default_factory=time.perf_counter)
    slow: int = 3

    def tick(self) -> None:
        """A step is over."""
        now = time.perf_counter()
        self.done += 1
        if self.done > self.slow:
            self.spent += now - self.last
            each = self.spent / (self.done - self.slow)
            left = self.end - now - self.look_seconds
            if left < (self.steps - self.done) * each:
                self.steps = self.done + max(0, int(left / each))
        self.last = now

    def time_to_look(self) -> bool:
        """Whether the held-out examples should be looked at now; not in the first fifth."""
        if self.done >= self.steps or self.done < self.steps / 5:
            return False
        return self.done % max(1, self.steps // CHECKS) == 0 and (
            self.look_seconds <= SHARE_FOR_CHECKS * self.spent or self.looks == 0
        )

    def looked(self, seconds: float) -> None:
        """The held-out examples have been looked at."""
        self.looks += 1
        self.look_seconds = seconds
        self.last = time.perf_counter()

    def progress(self) -> float:
        """In [0, 1]."""
        return min(1.0, self.done / max(self.steps, 1))

    def over(self) -> bool:
        """Whether that was all."""
        return self.done >= self.steps or time.perf_counter() >= self.end


def schedule(progress: float) -> float:
    """Share of the peak: up along a line, down along a cosine."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.02)
    return 0.5 * (1.0 + math.cos(math.pi * (progress - WARM_UP) / (1.0 - WARM_UP)))
