"""What the ADMM examples share: the ways to a compressed network, at equal epochs in all.

- dense: the dense network, trained on;
- direct: decomposed at one rank for all layers, then fine-tuned;
- calibrated: decomposed by a budget with calibration images, recovered on them without labels, then
  fine-tuned;
- admm: trained with the paper's penalty, decomposed, fine-tuned;
- pull: the same with the package's growing pull in place of the penalty;
- scratch: from random cores.

Every run is a row of the results file, written when it is done and found again by its settings: a
study that was interrupted goes on with the run that was not finished.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import records

from keras_tensornet.compression import RecoverySettings, compress_model, plan_compression
from keras_tensornet.files import write_whole
from keras_tensornet.ranks import rank_for_share
from keras_tensornet.training import ADMM

ARMS = ("dense", "direct", "calibrated", "admm", "pull", "scratch")
# What only one arm reads; the settings of the others do without.
PENALTY = ("rho", "adaptive_rho", "every")


COLOURS = {"direct": "#c44e52", "calibrated": "#dd8452", "admm": "#4c72b0", "pull": "#55a868"}
LABELS = {
    "direct": "decomposed at once",
    "calibrated": "with calibration and recovery",
    "admm": "ADMM, penalty",
    "pull": "ADMM, growing pull",
}


@dataclass(frozen=True)
class Study:
    """One comparison.

    Attributes:
        results: the file of the runs.
        settings: what all runs share, plain values: `format`, `epochs` of each phase, `rho`,
            `adaptive_rho`, `every`, `calibration_images`, `recovery_epochs`, and whatever else
            makes runs comparable.
        trained: `seed -> model`, the dense network after its own training.
        compile: `(model, epochs, penalised)`, compiles for a phase of so many epochs; `penalised`
            says whether it is the phase with the penalty in the loss.
        train: `(model, epochs, callbacks) -> history`.
        evaluate: `model -> accuracy` on the test images.
        plan: further arguments of `plan_compression`; with the rank, if runs have no ratio.
        images: of the training, the first of which calibrate.
    """

    results: Path
    settings: dict
    trained: Callable
    compile: Callable
    train: Callable
    evaluate: Callable
    plan: dict
    images: np.ndarray | None = None

    def run(self, arm: str, seed: int, ratio: float | None) -> None:
        """Do one run if it is missing, and write it down."""
        settings = {**self.settings_of(arm), "arm": arm, "seed": seed, "ratio": ratio}
        if records.find(self.results, settings) is not None:
            return
        keras.utils.set_random_seed(seed)
        model = self.trained(seed)
        began = time.perf_counter()
        outcome = getattr(self, f"_{arm}")(model, ratio)
        outcome["seconds"] = round(time.perf_counter() - began, 1)
        records.add(self.results, {"settings": settings, **outcome})
        print(f"{arm:8} seed {seed} ratio {ratio}: {outcome['accuracy']:.4f}", flush=True)

    def settings_of(self, arm: str) -> dict:
        """The settings that count for an arm. Runs of the first four arms are recorded with all."""
        new = ("calibration_images", "recovery_epochs")
        left = {"pull": (*PENALTY, *new), "calibrated": PENALTY}.get(arm, new)
        return {name: value for name, value in self.settings.items() if name not in left}

    def _dense(self, model, ratio) -> dict:
        left = self.settings["epochs"]["admm"] + self.settings["epochs"]["finetune"]
        before = self.evaluate(model)
        history = self._fit(model, left)
        return {"params": model.count_params(), "before": before, **self._measured(model, history)}

    def _direct(self, model, ratio) -> dict:
        left = self.settings["epochs"]["admm"] + self.settings["epochs"]["finetune"]
        return self._decomposed(model, self.plan_for(model, ratio), left)

    def _scratch(self, model, ratio) -> dict:
        small = compress_model(model, plan=self.plan_for(model, ratio))
        # New cores, drawn by the dense layers' initializers.
        small = keras.models.clone_model(small)
        history = self._fit(small, sum(self.settings["epochs"].values()))
        return {"params": small.count_params(), **self._measured(small, history)}

    def _calibrated(self, model, ratio) -> dict:
        images = self.images[: self.settings["calibration_images"]]
        left = self.settings["epochs"]["admm"] + self.settings["epochs"]["finetune"]
        recover = RecoverySettings(epochs=self.settings["recovery_epochs"], seconds=None)
        arguments = {**self.plan, "params": 1 / ratio, "calibration_data": images}
        arguments["recover"] = recover
        return self._finetuned(model, compress_model(model, **arguments), left)

    def _admm(self, model, ratio) -> dict:
        return self._split(model, ratio, **{key: self.settings[key] for key in PENALTY})

    def _pull(self, model, ratio) -> dict:
        return self._split(model, ratio)

    def _split(self, model, ratio, **chosen) -> dict:
        """Train by ADMM, decompose, fine-tune."""
        admm = ADMM(self.plan_for(model, ratio), **chosen)
        before = self.evaluate(model)
        penalised = "rho" in chosen
        history = self._fit(model, self.settings["epochs"]["admm"], [admm], penalised)
        after = self._decomposed(model, admm.plan, self.settings["epochs"]["finetune"])
        return {
            "pretrained": before,
            "admm_history": history,
            "projection_seconds": round(sum(admm.seconds), 2),
            **after,
        }

    def _decomposed(self, model, plan, epochs: int) -> dict:
        """Decompose, fine-tune, and measure before, in between and after."""
        return self._finetuned(model, compress_model(model, plan=plan), epochs)

    def _finetuned(self, model, small, epochs: int) -> dict:
        dense = self.evaluate(model)
        self.compile(small, epochs, False)
        at_once = self.evaluate(small)
        history = self._fit(small, epochs)
        return {
            "params": small.count_params(),
            "dense_params": model.count_params(),
            "before_decomposition": dense,
            "after_decomposition": at_once,
            **self._measured(small, history),
        }

    def _fit(self, model, epochs: int, callbacks=(), penalised: bool = False) -> dict:
        self.compile(model, epochs, penalised)
        history = self.train(model, epochs, list(callbacks))
        return {
            name: [float(f"{value:.6g}") for value in values] for name, values in history.items()
        }

    def _measured(self, model, history: dict) -> dict:
        return {"accuracy": self.evaluate(model), "history": history}

    def plan_for(self, model, ratio: float | None):
        """The largest rank, the same for all layers, that makes the model so many times smaller."""
        if ratio is None:
            return plan_compression(model, **self.plan)

        def plan(rank):
            return plan_compression(model, rank=rank, **self.plan)

        return plan(largest_rank(lambda rank: plan(rank).params, model.count_params() / ratio))


def largest_rank(params_of: Callable[[int], int], most: float) -> int:
    """The largest rank for which `params_of(rank)` is at most so many.

    Raises:
        ValueError: if there is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a rank above what a layer can use
        return rank_for_share(params_of, most, share=1.0)


def trainer(images, labels, batch_size: int) -> Callable:
    """`(model, epochs, callbacks) -> history`, for `Study.train`."""

    def train(model, epochs, callbacks):
        arguments = {"epochs": epochs, "callbacks": callbacks, "batch_size": batch_size}
        return model.fit(images, labels, verbose=0, **arguments).history

    return train


def evaluator(images, labels) -> Callable:
    """`model -> accuracy`, for `Study.evaluate`."""

    def evaluate(model):
        logits = model.predict(images, batch_size=1000, verbose=0)
        return float(np.mean(np.argmax(logits, -1) == labels))

    return evaluate


def report(results: Path, task: str, paper: dict, figure: Path | None) -> None:
    """Print a table of all finished runs of a task, and draw the figure."""
    runs = [run for run in records.read(results) if run["settings"]["task"] == task]
    ratios = sorted({run["settings"]["ratio"] for run in runs if run["settings"]["ratio"]})
    print("| ratio (parameters) | network | runs | dense | at decomposition | in the end | paper |")
    print("|---|---|---|---|---|---|---|")
    for ratio in [None, *ratios]:
        for arm in ARMS:
            group = [
                run
                for run in runs
                if (run["settings"]["arm"], run["settings"]["ratio"]) == (arm, ratio)
            ]
            if group:
                columns = [
                    _mean(group, key)
                    for key in ("before_decomposition", "after_decomposition", "accuracy")
                ]
                published = f"{paper[ratio]:.2%}" if arm == "admm" and ratio in paper else ""
                params = f"{group[0]['params']:,}"
                size = f"{ratio} ({params})" if ratio else params
                print(
                    f"| {size} | {arm} | {len(group)} | "
                    + " | ".join(columns)
                    + f" | {published} |"
                )
    if figure is not None and ratios:
        draw(runs, ratios, figure)


def _mean(group: list[dict], key: str) -> str:
    values = [run[key] for run in group if key in run]
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.2%}" if len(values) > 1 else ""
    return f"{np.mean(values):.2%}{spread}"


def draw(runs: list[dict], ratios: list[float], figure: Path) -> None:
    """Accuracy before, at and after decomposition, with ADMM and without."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    stages = ("before_decomposition", "after_decomposition", "accuracy")
    names = ("dense", "decomposed", "fine-tuned")
    plot, axes = plt.subplots(1, len(ratios), figsize=(4.2 * len(ratios), 3.6), squeeze=False)
    for axis, ratio in zip(axes[0], ratios, strict=True):
        for arm, colour in COLOURS.items():
            group = [
                run
                for run in runs
                if (run["settings"]["arm"], run["settings"]["ratio"]) == (arm, ratio)
            ]
            for number, run in enumerate(group):
                label = LABELS[arm] if not number else None
                heights = [100 * run[stage] for stage in stages]
                axis.plot(names, heights, "o-", color=colour, alpha=0.8, label=label)
        axis.set_title(f"{ratio} times fewer parameters")
        axis.set_ylabel("test accuracy, %")
        axis.grid(alpha=0.3)
        axis.legend()
    plot.tight_layout()
    write_whole(figure, lambda path: plot.savefig(path, dpi=120))
