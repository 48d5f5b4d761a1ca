"""ADMM: train a dense model towards low tensor rank, so that decomposing it costs almost nothing.

Yin et al., "Towards efficient tensor decomposition-based DNN model compression with optimization
framework" (CVPR 2021). Each kernel W gets a low-rank copy Z and a scaled dual variable U. Training
minimises loss + rho/2 |W - Z + U|^2 (equation 14); after each epoch Z becomes the projection of
W + U onto the kernels of the wanted format and rank (equation 18) and U grows by W - Z (13).
"""

from __future__ import annotations

import math
import numbers
import os
import re
import time
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_tensornet import validation
from keras_tensornet.compression.planning import plan_compression
from keras_tensornet.training import state
from keras_tensornet.training.penalty import PenaltySwitch
from keras_tensornet.training.projection import in_threads
from keras_tensornet.training.splits import Target, check_choices, targets_of
from keras_tensornet.training.splitting import Residuals, Splitting


class ADMM(keras.callbacks.Callback):
    """Pull a model's kernels towards a tensor format while `fit` trains it.

    The model stays the dense model it is: same layers, same weights, same saved form. Afterwards
    `compress_model(model, plan=admm.plan)` replaces its layers almost without loss.

        admm = ADMM(format="tt", params=0.25)
        model.fit(x, y, epochs=20, callbacks=[admm])
        small = compress_model(model, plan=admm.plan)

    `loss` in the logs is the loss that the model was compiled with, and so is `val_loss`. The
    logs get, after each epoch,

    - `admm_penalty`: the sum of rho/2 |W - Z + U|^2 at the end of the epoch,
    - `admm_primal`: |W - Z| / |W| over all kernels; Z has the wanted ranks, so decomposing now
      makes no larger an error,
    - `admm_dual`: |Z - Z before| / |W| over all kernels.

    Callbacks that watch these must come after this one in the list.

    Args:
        plan: a `CompressionPlan` that says which kernels go to which format and rank, or
        **choices: the arguments of `plan_compression` that make one from the model as `fit` begins:
            `format="tt"`, one of `rank`, `energy`, `ratio`, `params` and so on, `include`,
            `exclude`.
        rho: penalty parameter, above 0. The paper finds 0.005 good and 0.001 too small. A mapping
            of regular expressions of layer paths gives kernels their own; the first that
            matches counts, and every kernel must be matched.
        every: "epoch", or after how many training steps Z and U are updated.
        adaptive_rho: let each kernel's rho follow its residuals: doubled where the primal residual
            is ten times the dual one or U would outgrow W, halved again where the dual residual
            is ten times the primal one, never below `rho`.
        tolerance: stop training when |W - Z| / |W| of every kernel is at most this.
        warm_start: begin with Z as the projection of the kernel; False begins with Z = W, as the
            paper's Algorithm 2 does, whose first epoch is then held at the starting point.
        log_layers: log the residuals and rho of each kernel as well, as `admm_primal/<path>` and so
            on. They are in `history` in any case.
        workers: threads that project; by default one for each processor, at most 8.
        backup: path of a file that holds Z, U and rho after every update, from which an interrupted
            training goes on; removed when training ends. Use it together with
            `keras.callbacks.BackupAndRestore`, which does the same for the model.

    Attributes:
        plan: the plan in use, from when `fit` begins.
        history: `{path: {"primal": [...], "dual": [...], "penalty": [...], "rho": [...]}}`, one
            entry for each update.
        seconds: how long each update took.
        converged: whether `tolerance` ended the training.

    Raises:
        TypeError: for an argument of the wrong kind or unknown to `plan_compression`.
        ValueError: for an argument out of range, or both a plan and choices.
    """

    def __init__(
        self,
        plan=None,
        *,
        rho=5e-3,
        every="epoch",
        adaptive_rho=False,
        tolerance=None,
        warm_start=True,
        log_layers=False,
        workers=None,
        backup=None,
        **choices,
    ) -> None:
        super().__init__()
        check_choices(plan, choices)
        self.plan = plan
        self.choices = choices
        self.rho = _checked_rho(rho)
        self.every = every if every == "epoch" else validation.positive_int("every", every)
        self.adaptive_rho = bool(adaptive_rho)
        self.tolerance = None if tolerance is None else validation.fraction("tolerance", tolerance)
        self.warm_start = bool(warm_start)
        self.log_layers = bool(log_layers)
        self.workers = None if workers is None else validation.positive_int("workers", workers)
        self.backup = None if backup is None else os.fspath(backup)
        self.history: dict[str, dict[str, list[float]]] = {}
        self.seconds: list[float] = []
        self.converged = False
        self._targets: list[Target] = []
        self._splittings: list[Splitting] = []
        self._residuals: list[Residuals] = []
        self._switch: PenaltySwitch | None = None
        self._saved: str | None = None
        self._steps_done = self._steps_waiting = 0

    @property
    def async_safe(self) -> bool:
        """Whether Keras may call this beside the next step: not if it updates between steps."""
        return self.every == "epoch"

    @property
    def residuals(self) -> dict[str, Residuals]:
        """The latest residuals of each kernel, by the path of its layer."""
        return {
            target.path: residuals
            for target, residuals in zip(self._targets, self._residuals, strict=True)
        }

    def on_train_begin(self, logs=None):
        """Choose kernels, make Z and U or keep those of an earlier `fit`, attach the penalties."""
        if self._switch is None:
            self._prepare()
        if self._switch.model is not self.model:
            raise ValueError(
                "An ADMM callback holds the state of one model. Received: another model, "
                f"'{self.model.name}'. Make a new callback, for example ADMM(plan=admm.plan)."
            )
        if self._saved is not None:
            saved, self._saved = self._saved, None
            state.load_state(saved, self._splittings)
            self._pull()
        self.converged = False
        self._steps_done = self._steps_waiting = 0
        self._switch.turn_on()

    def on_epoch_begin(self, epoch, logs=None):
        """Count steps anew."""
        self._steps_done = 0

    def on_train_batch_end(self, batch, logs=None):
        """Update Z and U if `every` steps have passed."""
        if self.every == "epoch":
            return
        # With `steps_per_execution` this is called once for several steps.
        self._steps_waiting += batch + 1 - self._steps_done
        self._steps_done = batch + 1
        if self._steps_waiting >= self.every:
            self._steps_waiting = 0
            if hasattr(self.model, "jax_state_sync"):
                # On JAX the weights live in the training loop until they are asked for.
                self.model.jax_state_sync()
            self._update()

    def on_epoch_end(self, epoch, logs=None):
        """Update Z and U, and put the residuals into the logs."""
        if self.every == "epoch":
            self._update()
        elif not self._residuals:  # no update has come yet
            self._residuals = [
                splitting.measure(_read(target))
                for splitting, target in zip(self._splittings, self._targets, strict=True)
            ]
        if logs is not None:
            logs.update(self._log_entries())

    def on_train_end(self, logs=None):
        """Take the penalties out again: what is left is a normal model."""
        self.detach()
        if self.backup is not None and os.path.exists(self.backup):
            os.remove(self.backup)

    def detach(self) -> None:
        """Take the penalties out of the model; needed by hand only after `fit` was interrupted."""
        if self._switch is not None:
            self._switch.turn_off()

    def save_state(self, path) -> None:
        """Write Z, U and rho of every kernel to one file, whole or not at all."""
        if self._switch is None:
            raise ValueError("There is no ADMM state to save before `fit` has begun.")
        state.save_state(path, self._splittings, {"updates": len(self.seconds)})

    def load_state(self, path) -> None:
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
        width = max([len(target.path) for target in self._targets], default=5)
        lines = [f"{'layer':{width}}  format  {'|W-Z|/|W|':>10}  {'|dZ|/|W|':>10}  {'rho':>8}"]
        for target, row in zip(self._targets, self._residuals, strict=True):
            lines.append(
                f"{target.path:{width}}  {target.network.name:6}  {row.primal:10.3e}  "
                f"{row.dual:10.3e}  {row.rho:8.2e}"
            )
        return "\n".join(lines)

    def _prepare(self) -> None:
        """Find the kernels, and make Z and U from them or from the backup."""
        if self.plan is None:
            self.plan = plan_compression(self.model, **self.choices)
        self._targets = targets_of(self.model, self.plan)
        self._splittings = [
            Splitting(
                target.path,
                target.network,
                target.modes,
                _rho_for(self.rho, target.path),
                self.adaptive_rho,
            )
            for target in self._targets
        ]
        kernels = [target.variable for target in self._targets]
        self._switch = PenaltySwitch(self.model, kernels)
        if self.backup is not None and os.path.exists(self.backup) and self._saved is None:
            self._saved = self.backup
        if self._saved is None:
            in_threads(
                lambda pair: pair[0].start(_read(pair[1]), self.warm_start),
                list(zip(self._splittings, self._targets, strict=True)),
                self.workers,
            )
            self._pull()
        self.history = {
            target.path: {"primal": [], "dual": [], "penalty": [], "rho": []}
            for target in self._targets
        }

    def _update(self) -> None:
        """One Z step and one U step of every kernel."""
        began = time.perf_counter()
        self._residuals = in_threads(
            lambda pair: pair[0].update(_read(pair[1])),
            list(zip(self._splittings, self._targets, strict=True)),
            self.workers,
        )
        self._pull()
        for path, residuals in self.residuals.items():
            for name, values in self.history[path].items():
                values.append(getattr(residuals, name))
        self.seconds.append(time.perf_counter() - began)
        if self.backup is not None:
            self.save_state(self.backup)
        if self.tolerance is not None:
            worst = max(residuals.primal for residuals in self._residuals)
            self.converged = worst <= self.tolerance
            self.model.stop_training = self.model.stop_training or self.converged

    def _pull(self) -> None:
        """Hand the new targets and rho to the training."""
        penalties = [] if self._switch is None else self._switch.penalties
        for splitting, penalty in zip(self._splittings, penalties, strict=True):
            penalty.target.assign(splitting.target)
            penalty.rho.assign(splitting.rho)

    def _log_entries(self) -> dict[str, float]:
        """Residuals over all kernels, and of each where asked for."""
        rows = self._residuals
        size = math.sqrt(sum(row.kernel_norm**2 for row in rows)) or 1.0
        entries = {"admm_penalty": sum(row.penalty for row in rows)}
        for name in ("primal", "dual"):
            squares = [(getattr(row, name) * row.kernel_norm) ** 2 for row in rows]
            entries[f"admm_{name}"] = math.sqrt(sum(squares)) / size
        if self.log_layers:
            for path, row in self.residuals.items():
                for name in ("primal", "dual", "rho"):
                    entries[f"admm_{name}/{path}"] = getattr(row, name)
        return entries


def _read(target: Target) -> np.ndarray:
    """The kernel as an array; a half-precision one is read as float32."""
    kernel = ops.convert_to_numpy(target.variable.value)
    return kernel if kernel.dtype == "float64" else kernel.astype("float32")


def _checked_rho(rho):
    if isinstance(rho, Mapping):
        for pattern, value in rho.items():
            re.compile(pattern)
            _checked_rho(value)
        return dict(rho)
    if isinstance(rho, bool) or not isinstance(rho, numbers.Real):
        raise TypeError(
            "`rho` must be a number above 0, or a mapping of patterns of layer paths to such "
            f"numbers. Received: rho={rho!r} of type {type(rho).__name__}."
        )
    if not 0 < rho < math.inf:
        raise ValueError(f"`rho` must be above 0 and finite. Received: rho={rho}. Try 0.005.")
    return float(rho)


def _rho_for(rho, path: str) -> float:
    if not isinstance(rho, dict):
        return rho
    for pattern, value in rho.items():
        if re.search(pattern, path):
            return float(value)
    raise ValueError(
        f"Every kernel needs a rho. No pattern matches the layer '{path}'. Received: rho={rho}. "
        "Add a pattern '.*' at the end for the rest."
    )
