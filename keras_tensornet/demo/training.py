"""Train one network of the demo, telling a progress bar about every step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras

from keras_tensornet.datasets import ImageData, batches
from keras_tensornet.demo.outcomes import BATCH_SIZES, Result, epoch_seconds
from keras_tensornet.demo.twins import Twin
from keras_tensornet.serving.latency import measure_models
from keras_tensornet.types import Config

# Called with the steps done so far and the accuracy of the last epoch, or None before its end.
Report = Callable[[int, float | None], None]


class _Progress(keras.callbacks.Callback):
    """Reports steps, and takes the time of each epoch."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report
        self.durations: list[float] = []
        self.steps = 0
        self.accuracy: float | None = None

    def on_epoch_begin(self, epoch: int, logs: Config | None = None) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: Any, logs: Config | None = None) -> None:
        self.steps += 1
        self.report(self.steps, self.accuracy)

    def on_epoch_end(self, epoch: int, logs: Config | None = None) -> None:
        self.durations.append(time.perf_counter() - self.start)
        self.accuracy = (logs or {})["accuracy"]
        self.report(self.steps, self.accuracy)


def steps_per_epoch(data: ImageData, batch_size: int) -> int:
    """Number of training steps in an epoch, the last batch included."""
    return -(-len(data.x_train) // batch_size)


def train(
    twin: Twin, data: ImageData, epochs: int, batch_size: int, seed: int, report: Report
) -> tuple[keras.Model, Result]:
    """Build and train a network from a seed, and measure it on the test images.

    Returns:
        the trained model, and its result without latencies.
    """
    keras.utils.set_random_seed(seed)
    model = twin.build()
    total_steps = epochs * steps_per_epoch(data, batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(twin.learning_rate, total_steps)
    model.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    progress = _Progress(report)
    images = batches(data.x_train, data.y_train, batch_size, seed)
    model.fit(images, epochs=epochs, shuffle=False, verbose=0, callbacks=[progress])
    scores = model.evaluate(data.x_test, data.y_test, verbose=0, return_dict=True)
    seconds = epoch_seconds(progress.durations)
    result = Result(twin.name, twin.title, model.count_params(), scores["accuracy"], seconds)
    return model, result


def measure_latencies(
    models: dict[str, keras.Model], results: list[Result], data: ImageData, repeats: int
) -> None:
    """Fill in `result.latency`: milliseconds of one batch, all networks in turn, as served.

    Factorised layers are frozen for it: their cores are merged once, beforehand, where the plan for
    this batch size merges them at all.

    Args:
        models: by the name of their result; left as they were.
        results: of those models; changed in place.
        data: whose test images are the inputs.
        repeats: least number of measurements of each.
    """
    for size in BATCH_SIZES:
        timing = measure_models(models, size, data.x_test[:size], repeats=repeats)
        for result in results:
            result.latency[size] = timing.milliseconds(result.name)
