"""How ADMM changes on its way through a training: strength of the pull, ranks, the hard phase.

Progress runs from 0, where `fit` begins, to 1, where it ends. Nothing here is saved: a training
that was interrupted finds itself again from its epoch.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_tensornet import validation
from keras_tensornet.networks import Network, largest_useful_ranks
from keras_tensornet.training.splits import PulledKernel
from keras_tensornet.training.splitting import Splitting

# Shares of the way between kernel and target that a step of training goes, first and last.
PULL = (0.01, 1.0)
# Until when ranks that begin larger have come down to the plan's.
RANKS_UNTIL = 0.5


@dataclass(frozen=True)
class Course:
    """What is planned for a training.

    Attributes:
        pull: a share or `(first, last)`, or patterns of layer paths to these; None with a penalty.
        rho: penalty parameter, or patterns of layer paths to some; None with a pull.
        hard: share of the training, at its end, in which kernels are projected themselves.
        ranks_from: at how many times the plan's bond sizes the projections begin.
        replan: how often ranks are chosen anew while they come down.
    """

    pull: float | tuple[Any, ...] | dict[str, Any] | None
    rho: float | dict[str, Any] | None
    hard: float = 0.0
    ranks_from: float = 1.0
    replan: int = 0

    @classmethod
    def checked(
        cls, pull: Any, rho: Any, hard: object, ranks_from: object, replan: int = 0
    ) -> Course:
        """The course of these arguments of `ADMM`, or an error that names what is wrong."""
        if pull is not None and rho is not None:
            raise ValueError(
                "`pull` moves kernels beside the optimizer, `rho` is a penalty in the loss: give "
                f"one of them. Received: pull={pull}, rho={rho}."
            )
        if rho is None:
            pull = _checked(PULL if pull is None else pull, _checked_pull)
        else:
            rho = _checked(rho, _checked_rho)
        factor = ranks_from
        if isinstance(factor, bool) or not isinstance(factor, (float, numbers.Real)):
            raise TypeError(
                "`ranks_from` must be a number of at least 1. Received: "
                f"ranks_from={factor!r} of type {type(factor).__name__}."
            )
        if not 1.0 <= float(factor) < math.inf:
            raise ValueError(
                "`ranks_from` is how many times the plan's ranks the training begins with, at "
                f"least 1. Received: ranks_from={factor}."
            )
        if isinstance(hard, bool) or not isinstance(hard, (float, numbers.Real)):
            raise TypeError(
                "`hard` must be a share of the training, a number in [0, 1). Received: "
                f"hard={hard!r} of type {type(hard).__name__}."
            )
        if not 0.0 <= float(hard) < 1.0:
            raise ValueError(
                "`hard` is the share of the training, at its end, in which kernels are projected, "
                f"and must lie in [0, 1). Received: hard={hard}."
            )
        if replan != 0 or isinstance(replan, bool):
            replan = validation.positive_int("replan", replan)
        return cls(pull, rho, float(hard), float(factor), replan)

    def replans(self, progress: float) -> int:
        """How many times ranks should have been chosen anew by now."""
        return min(self.replan, int(self.replan * progress / RANKS_UNTIL + 1e-9))

    def is_hard(self, progress: float) -> bool:
        """Whether the hard phase has come."""
        return self.hard > 0 and progress >= 1.0 - self.hard - 1e-9

    def pull_at(self, path: str, progress: float) -> float:
        """The share of the way to its target that a kernel goes after a step.

        A pair is run through geometrically, up to the hard phase; there nothing is pulled.

        Raises:
            ValueError: if no pattern matches the path.
        """
        if self.is_hard(progress):
            return 0.0
        pull = _for_path("pull", self.pull, path)
        first, last = pull if isinstance(pull, tuple) else (pull, pull)
        share = min(progress / (1.0 - self.hard), 1.0)
        return first * (last / first) ** share

    def rho_for(self, path: str) -> float:
        """The penalty parameter that a kernel begins with; 0 where the pull is no penalty.

        Raises:
            ValueError: if no pattern matches the path.
        """
        return 0.0 if self.rho is None else _for_path("rho", self.rho, path)

    @property
    def measures(self) -> tuple[str, ...]:
        """What is noted of each kernel."""
        own = ("pull",) if self.rho is None else ("rho", "penalty")
        return ("primal", "dual", "size", *own)

    def splitting(
        self,
        target: PulledKernel,
        known: Splitting | None,
        progress: float,
        adaptive: bool,
        dual: bool,
    ) -> Splitting:
        """The state of a target: what is known of it, at the ranks of now, or a new one."""
        if self.rho is None:
            self.pull_at(target.path, progress)  # refuses a path without a pull
        if known is None or known.modes != target.modes:
            rho = self.rho_for(target.path)
            parts = (target.path, target.network, target.modes, rho, adaptive)
            known = Splitting(*parts, dual=dual)
        known.network = target.network
        known.resize(self.network_at(target.network, progress))
        return known

    def strength(self, splitting: Splitting, progress: float, steps: int) -> float:
        """What training is to use now: rho, or the pull of one of so many steps of an update."""
        if self.rho is None:
            return 1 - (1 - self.pull_at(splitting.path, progress)) ** (1 / steps)
        return 0.0 if self.is_hard(progress) else splitting.rho

    def network_at(self, network: Network, progress: float) -> Network:
        """The network whose ranks projections have, on the way down to those of the plan."""
        left = max(1.0 - progress / RANKS_UNTIL, 0.0)
        factor = self.ranks_from**left
        if factor == 1.0:
            return network
        # The bonds at the ends of a train are in one core only and stay 1.
        ends = {bond for bond in network.bonds if sum(bond in core for core in network.cores) == 1}
        wider = network.with_ranks(
            tuple(
                1 if bond in ends else round(factor * network.size[bond]) for bond in network.bonds
            )
        )
        return wider.with_ranks(largest_useful_ranks(wider))


def _checked(value: Any, check: Any) -> Any:
    """One value, or a mapping of patterns of layer paths to some."""
    if not isinstance(value, Mapping):
        return check(value)
    for pattern in value:
        re.compile(pattern)
    return {pattern: check(one) for pattern, one in value.items()}


def _checked_pull(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(
                "A `pull` that changes is (first, last), two shares in (0, 1]. Received: "
                f"pull={value}."
            )
        return validation.fraction("pull", value[0]), validation.fraction("pull", value[1])
    return validation.fraction("pull", value)


def _checked_rho(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (float, numbers.Real)):
        raise TypeError(
            "`rho` must be a number above 0, or a mapping of patterns of layer paths to such "
            f"numbers. Received: rho={value!r} of type {type(value).__name__}."
        )
    if not 0 < float(value) < math.inf:
        raise ValueError(f"`rho` must be above 0 and finite. Received: rho={value}. Try 0.005.")
    return float(value)


def _for_path(name: str, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        return value
    for pattern, one in value.items():
        if re.search(pattern, path):
            return one
    raise ValueError(
        f"Every kernel needs a {name}. No pattern matches the layer '{path}'. Received: "
        f"{name}={value}. Add a pattern '.*' at the end for the rest."
    )
