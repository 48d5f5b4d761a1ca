"""ADMM: train a dense model towards low tensor rank, so that decomposing it costs almost nothing.

Yin et al., "Towards efficient tensor decomposition-based DNN model compression with optimization
framework" (CVPR 2021). Each kernel W gets a low-rank copy Z and a scaled dual variable U. Training
pulls W towards Z - U; after each epoch Z becomes the projection of W + U onto the kernels of the
wanted format and rank (equation 18) and U grows by W - Z (13). The paper pulls with the penalty
rho/2 |W - Z + U|^2 in the loss (equation 14), this package by default with a step of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet import validation
from keras_tensornet.compression.planning import plan_compression
from keras_tensornet.compression.plans import CompressionPlan
from keras_tensornet.files import remove_file
from keras_tensornet.training import state
from keras_tensornet.training.course import Course
from keras_tensornet.training.penalty import PenaltySwitch
from keras_tensornet.training.projection import in_threads
from keras_tensornet.training.pull import PullSwitch, accumulated_steps
from keras_tensornet.training.residual_log import Limits, log_entries, table
from keras_tensornet.training.splits import (
    PulledKernel,
    check_choices,
    check_replan,
    metrics_of,
    targets_of,
    trainable_kernels,
)
from keras_tensornet.training.splitting import Residuals, Splitting
from keras_tensornet.training.switch import Switch
from keras_tensornet.types import Config

# How often Z is updated if nothing else is said: between these the pull acts on one target.
TIMES_AN_EPOCH = 10
LEAST_STEPS = 5
UNKNOWN_STEPS = 50  # in an epoch whose length nobody knows yet


class ADMM(keras.callbacks.Callback):
    """Pull a model's kernels towards a tensor format while `fit` trains it.

    The model stays the dense model it is: same layers, same weights, same saved form. Afterwards
    `compress_model(model, plan=admm.plan)` replaces its layers almost without loss.

        admm = ADMM(format="tt", params=0.25)
        model.fit(x, y, epochs=20, callbacks=[admm])
        small = compress_model(model, plan=admm.plan)

    `loss` in the logs is the loss that the model was compiled with, and so is `val_loss`. The
    logs get, after each epoch,

    - `admm_primal`: |W - Z| / |W| over all kernels; Z has the wanted ranks, so decomposing now
      makes no larger an error,
    - `admm_dual`: |Z - Z before| / |W| over all kernels,
    - `admm_worst`: the largest |W - Z| / |W| of a kernel,
    - with a penalty, `admm_penalty`: the sum of rho/2 |W - Z + U|^2 at the end of the epoch.

    Callbacks that watch these must come after this one in the list.

    Args:
        plan: a `CompressionPlan` that says which kernels go to which format and rank, or
        **choices: the arguments of `plan_compression` that make one from the model as `fit` begins:
            `format="tt"`, one of `rank`, `energy`, `share`, `params` and so on, `include`,
            `exclude`.
        pull: W <- W - pull (W - Z + U) after each training step, whatever the optimizer, as AdamW
            decays weights. A share in (0, 1], or a pair that grows from first to last over the
            epochs of a `fit`; `(0.01, 1.0)` by default. A mapping of regular expressions of layer
            paths gives kernels their own; the first that matches counts, and every kernel must be
            matched.
        rho: instead of `pull` the penalty rho/2 |W - Z + U|^2 in the loss, as in the paper, which
            finds 0.005 good and 0.001 too small. A number above 0 or a mapping, as for `pull`. An
            optimizer that scales gradients, such as Adam, undoes most of it.
        every: "epoch", or after how many training steps Z and U are updated. By default ten times
            an epoch with `pull`, but not before five steps have passed, and once with `rho`.
        dual: whether there is a U. A penalty needs one to close the gap; a pull that grows closes
            it alone, and where updates are rare it does better without.
        hard: share of the training, at its end, without any pull; after every `hard_every` steps
            kernels themselves are replaced by their projections.
        hard_every: see `hard`.
        ranks_from: Z begins with so many times the plan's ranks, and comes down to them
            geometrically over the first half of the training.
        replan: so many times, evenly over the first half of the training, ranks are chosen anew
            from the kernels as they are then: a training from scratch finds its ranks, and a layer
            that was cut too far gets them back. Needs choices and not a plan.
        calibration_data: inputs of the model, as in `plan_compression`. Z then is the kernel of its
            format whose *outputs* on them are nearest, measured anew after each epoch.
            Decompose with the same: `compress_model(model, plan=admm.plan, calibration_data=...)`.
        adaptive_rho: let each kernel's rho follow its residuals: doubled where the primal residual
            is ten times the dual one or U would outgrow W, halved again where the dual residual
            is ten times the primal one, never below `rho`. Needs `rho`.
        tolerance: stop training when |W - Z| / |W| of every kernel is at most this.
        warm_start: begin with Z as the projection of the kernel; False begins with Z = W, as the
            paper's Algorithm 2 does, whose first epoch is then held at the starting point.
        log_layers: log the residuals of each kernel as well, as `admm_primal/<path>` and so
            on. They are in `history` in any case.
        workers: threads that project; by default one for each processor, at most 8.
        backup: path of a file that holds Z, U and rho after every epoch, from which an interrupted
            training goes on; removed when training ends. Use it together with
            `keras.callbacks.BackupAndRestore`, which does the same for the model.

    Attributes:
        plan: the plan in use, from when `fit` begins; the last one with `replan`.
        history: `{path: {"primal": [...], "dual": [...], "size": [...], "pull": [...]}}`, one
            entry for each update; `size` is |U| / |W|. With a penalty "penalty" and "rho" stand in
            place of "pull".
        seconds: how long each update took.
        converged: whether `tolerance` ended the training.

    Raises:
        TypeError: for an argument of the wrong kind or unknown to `plan_compression`.
        ValueError: for an argument out of range, both a plan and choices, or both `pull` and `rho`.

    Warns:
        UserWarning: when U of a kernel stays at its limit: training does not follow its target.
    """

    def __init__(
        self,
        plan: CompressionPlan | None = None,
        *,
        pull: float | tuple[float, float] | Mapping[str, Any] | None = None,
        rho: float | Mapping[str, float] | None = None,
        every: int | str | None = None,
        dual: bool = True,
        hard: float = 0.0,
        hard_every: int = 10,
        ranks_from: float = 1.0,
        replan: int = 0,
        calibration_data: Any = None,
        adaptive_rho: bool = False,
        tolerance: float | None = None,
        warm_start: bool = True,
        log_layers: bool = False,
        workers: int | None = None,
        backup: str | os.PathLike[str] | None = None,
        **choices: Any,
    ) -> None:
        super().__init__()
        check_choices(plan, choices)
        self.plan = plan
        self.choices = choices
        self.course = Course.checked(pull, rho, hard, ranks_from, replan)
        check_replan(self.course.replan, plan)
        if every is None and rho is not None:
            every = "epoch"
        self.every = every if every in ("epoch", None) else validation.positive_int("every", every)
        self.dual = bool(dual)
        self.hard_every = validation.positive_int("hard_every", hard_every)
        self.calibration_data = calibration_data
        self.adaptive_rho = bool(adaptive_rho)
        if self.adaptive_rho and rho is None:
            raise ValueError(
                "`adaptive_rho` needs a `rho` to begin with. Received: rho=None, which pulls "
                "kernels beside the optimizer. Give `rho=0.005`, or a growing `pull=(0.01, 1.0)`."
            )
        self.tolerance = None if tolerance is None else validation.fraction("tolerance", tolerance)
        self.warm_start = bool(warm_start)
        self.log_layers = bool(log_layers)
        self.workers = None if workers is None else validation.positive_int("workers", workers)
        self.backup = None if backup is None else os.fspath(backup)
        self.history: dict[str, dict[str, list[float]]] = {}
        self.seconds: list[float] = []
        self.converged = False
        self._targets: list[PulledKernel] = []
        self._splittings: list[Splitting] = []
        self._residuals: list[Residuals] = []
        self._switch: Switch | None = None
        self._saved: str | None = None
        self._epoch = self._steps_done = self._steps_waiting = 0
        self._replanned = 0
        self._limits = Limits(self.course)

    @property
    def async_safe(self) -> bool:
        """Whether Keras may call this beside the next step: not if it updates between steps."""
        return self.every == "epoch" and not self.course.hard

    @property
    def residuals(self) -> dict[str, Residuals]:
        """The latest residuals of each kernel, by the path of its layer."""
        return {
            target.path: residuals
            for target, residuals in zip(self._targets, self._residuals, strict=True)
        }

    def on_train_begin(self, logs: Config | None = None) -> None:
        """Choose kernels, make Z and U or keep those of an earlier `fit`, begin to pull."""
        switch = self._switch or self._prepare()
        if switch.model is not self.model:
            raise ValueError(
                "An ADMM callback holds the state of one model. Received: another model, "
                f"'{self.model.name}'. Make a new callback, for example ADMM(plan=admm.plan)."
            )
        self.converged = False
        self._epoch = self._steps_done = self._steps_waiting = 0
        if self._saved is not None:
            saved, self._saved = self._saved, None
            if self.course.replan and (plan := state.read_plan(saved, self.plan)) is not None:
                self._follow(plan)
            counts = state.load_state(saved, self._splittings)
            self._steps_waiting, self._replanned = counts["waiting"], counts.get("replanned", 0)
        self._aim()
        switch.turn_on()

    def on_epoch_begin(self, epoch: int, logs: Config | None = None) -> None:
        """Count steps anew."""
        self._epoch, self._steps_done = epoch, 0
        self._aim()

    def on_train_batch_end(self, batch: Any, logs: Config | None = None) -> None:
        """Update Z and U if it is time."""
        hard = self.course.is_hard(self._progress())
        every = self.hard_every if hard else self._every()
        # With `steps_per_execution` this is called once for several steps.
        self._steps_waiting += batch + 1 - self._steps_done
        self._steps_done = batch + 1
        if isinstance(every, int) and self._steps_waiting >= every:
            self._update()

    def on_epoch_end(self, epoch: int, logs: Config | None = None) -> None:
        """Update Z and U, and put the residuals into the logs."""
        if self.calibration_data is not None and epoch + 1 < self.params.get("epochs", 1):
            self._calibrate()
        self._epoch, self._steps_done = epoch + 1, 0
        if self.course.replans(self._progress()) > self._replanned:
            self._replanned = self.course.replans(self._progress())
            self._follow(self._planned())
        hard = self.course.is_hard(self._progress())
        if self._every() == "epoch" or (hard and self._steps_waiting):
            self._update()
        elif not self._residuals:  # no update has come yet
            self._residuals = [
                splitting.measure(_read(target))
                for splitting, target in zip(self._splittings, self._targets, strict=True)
            ]
        if self.backup is not None:
            self.save_state(self.backup)
        if logs is not None:
            logs.update(log_entries(self.residuals, self.course, self.log_layers))

    def on_train_end(self, logs: Config | None = None) -> None:
        """Take the pull out again: what is left is a normal model."""
        self.detach()
        if self.backup is not None and self._switch is not None:
            remove_file(self.backup)

    def detach(self) -> None:
        """Take the pull out of the model; needed by hand only after `fit` was interrupted."""
        if self._switch is not None:
            self._switch.turn_off()

    def save_state(self, path: str) -> None:
        """Write Z, U and rho of every kernel to one file, whole or not at all."""
        if self._switch is None:
            raise ValueError("There is no ADMM state to save before `fit` has begun.")
        counts: dict[str, Any] = {"updates": len(self.seconds), "waiting": self._steps_waiting}
        if self.course.replan and self.plan is not None:
            counts |= {"replanned": self._replanned, "plan": self.plan.to_json()}
        state.save_state(path, self._splittings, counts)

    def load_state(self, path: str) -> None:
        """Go on from a saved state at the next `fit`; the callback needs the same plan.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: when `fit` begins, if the state is damaged or of other kernels or ranks.
        """
        if not os.path.exists(path):
            raise FileNotFoundError(f"There is no ADMM state at '{path}'.")
        self._saved = os.fspath(path)

    def __str__(self) -> str:
        """A table of the kernels and their latest residuals."""
        return table(self._targets, self._residuals, self.course, self._progress())

    def _prepare(self) -> Switch:
        """Find the kernels, and make Z and U from them or from the backup."""
        plan = self._planned() if self.plan is None else self.plan
        targets = targets_of(self.model, plan)
        # With `replan` any kernel may come to be pulled.
        slots = trainable_kernels(self.model) if self.course.replan else ()
        kernels = list(slots) or [target.variable for target in targets]
        kind = PenaltySwitch if self.course.pull is None else PullSwitch
        switch = self._switch = kind(self.model, kernels)
        if self.backup is not None and os.path.exists(self.backup):
            state.read_counts(self.backup)  # it will be replaced and removed
            self._saved = self._saved or self.backup
        self._follow(plan)
        return switch

    def _planned(self) -> CompressionPlan:
        return plan_compression(self.model, calibration_data=self.calibration_data, **self.choices)

    def _follow(self, plan: CompressionPlan) -> None:
        """Pull towards what a plan says; kernels that were pulled already keep their Z and U."""
        known = {splitting.path: splitting for splitting in self._splittings}
        self.plan, self._targets = plan, targets_of(self.model, plan)
        progress, options = self._progress(), (self.adaptive_rho, self.dual)
        self._splittings = [
            self.course.splitting(target, known.get(target.path), progress, *options)
            for target in self._targets
        ]
        for target in self._targets:
            self.history.setdefault(target.path, {name: [] for name in self.course.measures})
        if self.calibration_data is not None:
            self._calibrate()
        pairs = list(zip(self._splittings, self._targets, strict=True))
        if self._saved is None:
            new = [pair for pair in pairs if pair[0].z is None]
            in_threads(
                lambda pair: pair[0].start(_read(pair[1]), self.warm_start), new, self.workers
            )
            if self._residuals:
                self._residuals = [splitting.measure(_read(target)) for splitting, target in pairs]

    def _calibrate(self) -> None:
        """Measure what errors of each kernel count, on the model as it is now."""
        metrics = metrics_of(self.model, self._targets, self.calibration_data)
        for splitting, metric in zip(self._splittings, metrics, strict=True):
            splitting.metric = metric

    def _progress(self) -> float:
        """How much of the training is done, from 0 to 1."""
        epochs, steps = self.params.get("epochs") or 1, self.params.get("steps")
        within = min(self._steps_done / steps, 1.0) if steps else 0.0
        return min((self._epoch + within) / epochs, 1.0)

    def _every(self) -> int | str:
        """After how many steps Z and U are updated, or "epoch"."""
        if self.every is not None:
            return self.every
        steps = self.params.get("steps")
        return max(LEAST_STEPS, steps // TIMES_AN_EPOCH) if steps else UNKNOWN_STEPS

    def _update(self) -> None:
        """One Z step and one U step of every kernel; in the hard phase the kernels become Z."""
        began = time.perf_counter()
        self._steps_waiting = 0
        progress = self._progress()
        hard = self.course.is_hard(progress)
        if hasattr(self.model, "jax_state_sync"):
            # On JAX the weights live in the training loop until they are asked for.
            self.model.jax_state_sync()

        def update(pair: tuple[Splitting, PulledKernel]) -> Residuals:
            splitting, target = pair
            splitting.resize(self.course.network_at(target.network, progress))
            kernel = _read(target)
            return splitting.replace(kernel) if hard else splitting.update(kernel)

        pairs = list(zip(self._splittings, self._targets, strict=True))
        self._residuals = in_threads(update, pairs, self.workers)
        if hard:
            for splitting, target in pairs:
                target.variable.assign(splitting.target)
        self._aim()
        for (path, row), target in zip(self.residuals.items(), self._targets, strict=True):
            for name, values in self.history[path].items():
                at = self.course.pull_at
                values.append(at(target.path, progress) if name == "pull" else getattr(row, name))
        self.seconds.append(time.perf_counter() - began)
        self._limits.note(self.residuals)
        if self.tolerance is not None:
            worst = max(residuals.primal for residuals in self._residuals)
            self.converged = worst <= self.tolerance
            self.model.stop_training = self.model.stop_training or self.converged

    def _aim(self) -> None:
        """Hand the new targets and strengths to the training."""
        pulled = [] if self._switch is None else self._switch.pulled
        progress = self._progress()
        targets = {
            id(target.variable): (splitting, target)
            for splitting, target in zip(self._splittings, self._targets, strict=True)
        }
        for one in pulled:
            if id(one.kernel) not in targets:
                one.strength.assign(0.0)
                continue
            splitting, target = targets[id(one.kernel)]
            steps = accumulated_steps(self.model.optimizer, target.variable)
            strength = self.course.strength(splitting, progress, steps)
            one.aim(splitting.target, strength)


def _read(target: PulledKernel) -> np.ndarray:
    """The kernel as an array; a half-precision one is read as float32."""
    kernel = ops.convert_to_numpy(target.variable.value)
    return kernel if kernel.dtype == "float64" else kernel.astype("float32")
