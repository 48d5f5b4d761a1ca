"""Classify videos straight from pixels: a TT-LSTM on 57,600 inputs against the dense LSTM.

The videos are made by this script: a soft, coloured disc on a noisy, tilted background, six frames
of 120 x 160 x 3. The class is what the disc does: it moves right, left, down or up, grows or
shrinks. Start, speed, size, colours and background are random, so no single frame tells the class.

Both models see all pixels at every step, as in Yang et al. 2017 ("Tensor-train recurrent neural
networks for video classification"), whose modes and rank the TT-LSTM uses: (8, 20, 20, 18) ->
(4, 4, 4, 4), rank 4, 3,360 parameters where the dense input kernel has 58,982,400.

    python examples/video_lstm.py            # runs already in the results are skipped, and an
                                             # interrupted one goes on after its last epoch
    python examples/video_lstm.py --smoke    # seconds: tiny frames, one epoch, nothing is kept
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import records

from keras_tensornet.layers import TTLSTM

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "video_lstm.json"
WORK = Path(__file__).parents[1] / "runs" / "video_lstm"
CLASSES = ("right", "left", "down", "up", "grow", "shrink")
FRAMES = 6
NOISE = 0.04  # standard deviation per pixel, where black to white is 1
# Pixels are flattened column by column: 8 x 20 counts the columns, 20 x 18 rows times colours.
IN_MODES = {(120, 160): (8, 20, 20, 18), (12, 16): (4, 4, 36)}
OUT_MODES = {256: (4, 4, 4, 4), 8: (2, 2, 2)}


def make_video(height: int, width: int, label: int, rng: np.random.Generator) -> np.ndarray:
    """One video (frames, height, width, 3) of unsigned bytes."""
    unit = height / 120.0
    rows, columns = np.mgrid[0:height, 0:width].astype("float32")
    tilt = rng.uniform(-0.2, 0.2, 2)
    background = 0.5 + tilt[0] * (rows / height - 0.5) + tilt[1] * (columns / width - 0.5)
    colour = rng.uniform(0.35, 0.5, 3) * rng.choice([-1.0, 1.0])
    step = rng.uniform(7.0, 11.0) * unit
    radius = rng.uniform(14.0, 20.0) * unit
    centre = np.array([height, width]) * rng.uniform(0.3, 0.7, 2)
    steps = np.arange(FRAMES) - (FRAMES - 1) / 2
    direction = {0: (0, 1), 1: (0, -1), 2: (1, 0), 3: (-1, 0)}.get(label, (0, 0))
    growth = {4: 0.2, 5: -0.2}.get(label, 0.0)
    frames = []
    for place in steps:
        middle = centre + place * step * np.array(direction)
        size = radius * (1 + growth * place)
        distance = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2
        disc = np.exp(-distance / (2 * size**2))
        frame = background[..., None] + disc[..., None] * colour
        frames.append(frame + rng.normal(0.0, NOISE, (height, width, 3)))
    return (255 * np.clip(frames, 0, 1)).astype("uint8")


def make_videos(count: int, height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Videos (count, frames, height * width * 3) and their classes, each class equally often."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    videos = [make_video(height, width, label, rng) for label in labels]
    # (videos, frames, rows, columns, 3) -> (videos, frames, columns * rows * 3)
    columns_first = np.swapaxes(videos, 2, 3)
    return columns_first.reshape(count, FRAMES, -1), labels


def batches(videos, labels, batch_size: int, seed: int | None = None, epoch: int = 0):
    """Yield batches of videos as numbers in [-1, 1], without end; each epoch has its own order."""
    while True:
        order = np.arange(len(labels))
        if seed is not None:
            np.random.default_rng([seed, epoch]).shuffle(order)
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            yield videos[chosen].astype("float32") / 127.5 - 1.0, labels[chosen]
        epoch += 1


def make_model(settings: dict) -> keras.Model:
    """LSTM on flattened frames, then six classes."""
    keras.utils.set_random_seed(settings["seed"])
    size = settings["height"], settings["width"]
    units = settings["units"]
    if settings["model"] == "dense":
        lstm = keras.layers.LSTM(units)
    else:
        modes = {"in_modes": IN_MODES[size], "out_modes": OUT_MODES[units]}
        lstm = TTLSTM(units, rank=settings["rank"], seed=settings["seed"], **modes)
    model = keras.Sequential(
        [keras.Input((FRAMES, math.prod(size) * 3)), lstm, keras.layers.Dense(len(CLASSES))]
    )
    model.compile(
        keras.optimizers.Adam(settings["learning_rate"], global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def input_parameters(model: keras.Model) -> int:
    """Parameters between the pixels and the gates."""
    lstm = model.layers[0]
    cores = lstm.cores if isinstance(lstm, TTLSTM) else [lstm.cell.kernel]
    return sum(math.prod(core.shape) for core in cores)


def run(settings: dict, work: Path | None) -> dict:
    """Train and test one model."""
    height, width = settings["height"], settings["width"]
    train = make_videos(settings["train_videos"], height, width, seed=1)
    test = make_videos(settings["test_videos"], height, width, seed=2)
    model, size = make_model(settings), settings["batch_size"]
    epochs = records.resumable_fit(
        model,
        lambda epoch: batches(*train, size, settings["seed"], epoch),
        settings,
        work,
        steps_per_epoch=math.ceil(len(train[1]) / size),
        validation_data=batches(*test, size),
        validation_steps=math.ceil(len(test[1]) / size),
        verbose=0,
    )
    return {
        "settings": settings,
        "input_to_hidden_parameters": input_parameters(model),
        "all_parameters": model.count_params(),
        "test_accuracy": epochs[-1]["val_accuracy"],
        "test_accuracy_by_epoch": [round(epoch["val_accuracy"], 4) for epoch in epochs],
        "train_accuracy": epochs[-1]["accuracy"],
        "seconds": round(sum(epoch["seconds"] for epoch in epochs), 1),
    }


def all_settings(arguments) -> list[dict]:
    """One dictionary for each run: every model, learning rate and seed asked for."""
    shared = {"height": 120, "width": 160, "units": 256, "rank": 4, "train_videos": 480}
    shared |= {"test_videos": 240, "batch_size": 32, "epochs": arguments.epochs}
    if arguments.smoke:
        shared |= {"height": 12, "width": 16, "units": 8, "train_videos": 24, "test_videos": 12}
        shared |= {"epochs": 1}
    rates = {"tt": arguments.tt_rates, "dense": arguments.dense_rates}
    return [
        {"model": model, "learning_rate": rate, "seed": seed, **shared}
        for model in arguments.models
        for rate in (rates[model][:1] if arguments.smoke else rates[model])
        for seed in (arguments.seeds[:1] if arguments.smoke else arguments.seeds)
    ]


def main() -> None:
    """Run what has not been run, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, nothing kept")
    parser.add_argument("--models", nargs="+", default=["tt", "dense"], choices=["tt", "dense"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tt-rates", nargs="+", type=float, default=[3e-3])
    parser.add_argument("--dense-rates", nargs="+", type=float, default=[1e-4, 1e-5])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "smoke.json" if arguments.smoke else arguments.results
        for settings in all_settings(arguments):
            if records.find(results, settings) is None:
                records.add(results, run(settings, None if arguments.smoke else WORK))
        print_table(records.read(results))


def print_table(runs: list[dict]) -> None:
    """Parameters and accuracies of all runs."""
    print(f"{'model':6} {'rate':>8} {'epochs':>6} {'input parameters':>17} {'test accuracy':>14}")
    for entry in runs:
        settings = entry["settings"]
        print(
            f"{settings['model']:6} {settings['learning_rate']:8.0e} {settings['epochs']:6} "
            f"{entry['input_to_hidden_parameters']:17,} {entry['test_accuracy']:14.1%}"
        )


if __name__ == "__main__":
    main()
