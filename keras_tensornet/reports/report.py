"""What a compression did: parameters, FLOPs, file size, latency, errors and accuracy, as data.

`compression_report` compares two models and returns a record that prints itself as Markdown, goes
to JSON, and draws itself (`plot` with matplotlib, `to_html` without anything).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import keras

from keras_tensornet.compression.choosing.costs import Costs, workload_of
from keras_tensornet.compression.choosing.subjects import Subject
from keras_tensornet.compression.kinds import Target, find_targets, kernel_array
from keras_tensornet.files import write_text, write_whole
from keras_tensornet.kernels import relative_error
from keras_tensornet.reading import read_examples
from keras_tensornet.reports import measures
from keras_tensornet.reports.cuts import Cut, cuts_of, whole_matrix
from keras_tensornet.reports.html import page
from keras_tensornet.reports.plots import draw
from keras_tensornet.rewriting.walker import walk_layers
from keras_tensornet.serving.latency import fixed_batch
from keras_tensornet.shapes import built_shape
from keras_tensornet.wording import change


@dataclass(frozen=True)
class LayerReport:
    """One layer before and after.

    Attributes:
        path: as `walk_layers` gives it.
        layer: class of the dense layer.
        kernel_shape: in Keras layout.
        format: of the compressed layer, or None where it is dense.
        rank: of the compressed layer.
        params: entries of the kernel before and after.
        flops: for one example before and after, of the plan that runs once the layer is frozen.
        error: relative error of the kernel, |V - W| / |W| in the Frobenius norm.
        cuts: what the ranks cut of the dense kernel; of a layer that stayed dense the singular
            values of the matrix (inputs, outputs).
    """

    path: str
    layer: str
    kernel_shape: tuple[int, ...]
    format: str | None
    rank: object
    params: tuple[int, int]
    flops: tuple[int, int]
    error: float
    cuts: tuple[Cut, ...] = ()


@dataclass(frozen=True)
class ModelReport:
    """One model as a whole.

    Attributes:
        name: what it is called in the report.
        params: all of them.
        flops: for one example, of the layers in the table; None for further models.
        file_bytes: size of its `.keras` file.
        latency_ms: median milliseconds of one batch, frozen as it is exported, measured in turns
            with the other models; None where nothing was measured.
        unfrozen_ms: the same without freezing, as the model runs while it is trained.
        scores: metric -> value on the data; empty without data.
    """

    name: str
    params: int
    flops: int | None
    file_bytes: int
    latency_ms: float | None
    unfrozen_ms: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CompressionReport:
    """What a compression did; see `compression_report`.

    Attributes:
        model: name of the model.
        models: the dense and the compressed model, then further ones.
        layers: the layers that could be compressed, in the model's order.
        batch: batch size of the latency and of the plans whose FLOPs are counted.
        versions: of Keras and its backend, and the number of cores.
        conditions: how the latency was measured, in words.
    """

    model: str
    models: tuple[ModelReport, ...]
    layers: tuple[LayerReport, ...]
    batch: int
    versions: Mapping[str, str]
    conditions: str = ""

    @property
    def dense(self) -> ModelReport:
        """The model before."""
        return self.models[0]

    @property
    def compressed(self) -> ModelReport:
        """The model after."""
        return self.models[1]

    @property
    def compression(self) -> float:
        """Dense parameters over compressed ones."""
        return self.dense.params / self.compressed.params

    @property
    def score_name(self) -> str | None:
        """The score to show: an accuracy if there is one, else the first; None without data."""
        names = list(self.dense.scores)
        return next((name for name in names if "acc" in name), names[0] if names else None)

    def changes(self) -> list[tuple[str, str]]:
        """What the compression changed: factors, never below 1, and the words for them."""
        dense, small = self.dense, self.compressed
        found = [
            change(dense.params, small.params, "fewer parameters", "more parameters", "parameters"),
            change(
                dense.file_bytes, small.file_bytes, "smaller file", "larger file", "size of file"
            ),
        ]
        if dense.flops and small.flops:
            words = ("fewer FLOPs", "more FLOPs", "FLOPs")
            found.append(change(dense.flops, small.flops, *(f"{w} in these layers" for w in words)))
        if dense.latency_ms and small.latency_ms:
            words = ("faster", "slower", "the time")
            found.append(
                change(
                    dense.latency_ms,
                    small.latency_ms,
                    *(f"{word}, batch of {self.batch}, measured here" for word in words),
                )
            )
        return found

    def to_json(self) -> str:
        """All numbers as JSON text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def to_markdown(self) -> str:
        """Two tables, the models and the layers, and what changed in words."""
        scores = list(self.dense.scores)
        head = ["model", "parameters", "FLOPs", "file", f"ms / batch of {self.batch}", "unfrozen"]
        lines = [_line([*head, *scores]), _line(["---"] + ["---:"] * (len(head) - 1 + len(scores)))]
        for model in self.models:
            values = [f"{model.scores.get(score, float('nan')):.4f}" for score in scores]
            lines.append(_line([model.name, *_numbers(model), *values]))
        lines += ["", "; ".join(" ".join(pair) for pair in self.changes()) + "."]
        if self.conditions:
            lines.append(f"Latency: frozen as exported; {self.conditions}.")
        head = ["layer", "kernel", "format", "rank", "parameters", "after", "FLOPs", "after"]
        lines += ["", _line([*head, "kernel error"]), _line(["---"] * 4 + ["---:"] * 5)]
        for layer in self.layers:
            cells = [layer.path, "x".join(map(str, layer.kernel_shape)), layer.format or "dense"]
            cells += ["" if layer.rank is None else str(layer.rank)]
            cells += [f"{count:,}" for count in (*layer.params, *layer.flops)]
            lines.append(_line([*cells, f"{layer.error:.4f}"]))
        return "\n".join(lines) + "\n"

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Write the figures as one image (`.png`, `.svg`, `.pdf`); needs matplotlib.

        Raises:
            ImportError: if matplotlib is not installed; names the extra.
        """
        write_whole(path, lambda temporary: draw(self, temporary))

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page with all figures in it; it needs no network and no other file."""
        write_text(path, page(self))

    def __str__(self) -> str:
        return self.to_markdown()


def compression_report(
    dense: keras.Model,
    compressed: keras.Model,
    data: Any = None,
    also: Mapping[str, keras.Model] | None = None,
    batch_size: int = 32,
    repeats: int = 10,
) -> CompressionReport:
    """Compare a compressed model with the dense one it came from.

    Args:
        dense: the model before.
        compressed: the model after; layers are matched by their paths.
        data: inputs and targets to score both models on, in any form that `evaluate` takes: with
            the metrics that the dense model was compiled with, else the accuracy of class indices.
            Also used as inputs for the latency.
        also: `name -> model`, further models for the picture of accuracy against size.
        batch_size: of the latency. A model that was built for a batch size keeps it.
        repeats: least number of timed calls of each model, in turn; 0 measures no latency.

    Returns:
        A `CompressionReport`.

    Raises:
        TypeError: for a model that cannot be built again from its configuration.
        ValueError: if the models share no layer that can be compressed.
    """
    models = {"dense": dense, "compressed": compressed, **(also or {})}
    batch_size = fixed_batch(dense) or batch_size
    after = dict(walk_layers(compressed))
    targets = find_targets(dense)
    layers = tuple(
        _layer_report(target, after[target.path], batch_size)
        for target in targets
        if target.path in after
    )
    if targets and not layers:
        raise ValueError(
            "`compressed` must come from `dense`: no layer of one is found in the other. Received: "
            f"'{dense.name}' and '{compressed.name}'."
        )
    data = None if data is None else read_examples(dense, data, batch_size)
    timing = measures.latencies(models, data, batch_size, repeats)
    flops = {
        name: sum(layer.flops[place] for layer in layers)
        for place, name in enumerate(("dense", "compressed"))
    }
    reports = tuple(
        ModelReport(
            name=name,
            params=model.count_params(),
            flops=flops.get(name),
            file_bytes=measures.file_bytes(model),
            latency_ms=None if timing is None else timing.milliseconds(name),
            unfrozen_ms=measures.unfrozen(timing, name),
            scores=measures.scores(model, dense, data),
        )
        for name, model in models.items()
    )
    conditions = "" if timing is None else timing.conditions
    return CompressionReport(
        dense.name, reports, layers, batch_size, measures.versions(), conditions
    )


def _layer_report(target: Target, layer: keras.Layer, batch_size: int) -> LayerReport:
    kind, kernel = target.kind, kernel_array(target)
    common: dict[str, Any] = {
        "path": target.path,
        "layer": type(target.layer).__name__,
        "kernel_shape": tuple(kernel.shape),
    }
    if type(layer) is type(target.layer) or not hasattr(kind.holder(layer), "network"):
        costs = Subject(target).dense_costs()
        return LayerReport(
            **common,
            format=None,
            rank=None,
            params=(costs.params, costs.params),
            flops=(costs.flops, costs.flops),
            # 0 unless the layer was trained since
            error=relative_error(keras.ops.convert_to_numpy(kind.kernel(layer)), kernel),
            cuts=(whole_matrix(kernel),),
        )
    holder = kind.holder(layer)
    merged = keras.ops.convert_to_numpy(holder.kernel).astype("float64")
    cores = [keras.ops.convert_to_numpy(core) for core in holder.cores]
    return LayerReport(
        **common,
        format=holder.network.name,
        rank=getattr(layer, "rank", None),
        params=(int(kernel.size), holder.network.num_params),
        flops=_flops(target, holder, int(kernel.size), batch_size),
        error=relative_error(merged, kernel),
        cuts=tuple(cuts_of(holder.network, holder.modes, kernel, cores)),
    )


def _flops(target: Target, holder: Any, size: int, batch_size: int) -> tuple[int, int]:
    """FLOPs of one example, dense and in the plan that a frozen layer runs for that batch."""
    workload = workload_of(target, holder)
    if workload is None:
        return 0, 0
    dense = Costs.of_dense(holder.network, size, workload).flops
    shape = (batch_size, *built_shape(target.layer)[1:])
    return dense, holder.plan_for(merged=True, input_shape=shape).flops // batch_size


def _numbers(model: ModelReport) -> list[str]:
    times = ["" if ms is None else f"{ms:.2f}" for ms in (model.latency_ms, model.unfrozen_ms)]
    flops = "" if model.flops is None else f"{model.flops:,}"
    return [f"{model.params:,}", flops, f"{model.file_bytes / 1024:,.0f} KiB", *times]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
