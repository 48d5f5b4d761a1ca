"""What a compression did: parameters, FLOPs, file size, latency, errors and accuracy, as data.

`compression_report` compares two models and returns a record that prints itself as Markdown, goes
to JSON, and draws itself (`plot` with matplotlib, `to_html` without anything).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_tensornet.compression.choosing.costs import Costs, workload_of
from keras_tensornet.compression.choosing.subjects import Subject
from keras_tensornet.compression.kinds import Target, find_targets, kernel_array
from keras_tensornet.files import write_whole
from keras_tensornet.kernels import relative_error
from keras_tensornet.reading import read_examples
from keras_tensornet.reports import measures
from keras_tensornet.reports.html import page
from keras_tensornet.reports.plots import draw
from keras_tensornet.rewriting.walker import walk_layers

# Singular values kept of each layer for the figures.
SPECTRUM = 96


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
        flops: for one example before and after.
        error: relative error of the kernel, |V - W| / |W| in the Frobenius norm.
        spectrum: singular values of the kernel as a matrix (patch entries, outputs), the largest
            being 1; thinned to `SPECTRUM` of them.
        positions: the number of each of these singular values, from 0.
        cut: the rank of the compressed kernel as that matrix.
    """

    path: str
    layer: str
    kernel_shape: tuple[int, ...]
    format: str | None
    rank: object
    params: tuple[int, int]
    flops: tuple[int, int]
    error: float
    spectrum: tuple[float, ...] = ()
    positions: tuple[int, ...] = ()
    cut: int | None = None


@dataclass(frozen=True)
class ModelReport:
    """One model as a whole.

    Attributes:
        name: what it is called in the report.
        params: all of them.
        flops: for one example, of the layers in the table; None for further models.
        file_bytes: size of its `.keras` file.
        latency_ms: median milliseconds of one batch, measured next to the other models in one
            run; None where inputs are unknown.
        scores: metric -> value on the data; empty without data.
    """

    name: str
    params: int
    flops: int | None
    file_bytes: int
    latency_ms: float | None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CompressionReport:
    """What a compression did; see `compression_report`.

    Attributes:
        model: name of the model.
        models: the dense and the compressed model, then further ones.
        layers: the layers that could be compressed, in the model's order.
        batch: batch size of the latency.
        versions: of Keras and its backend, and the number of cores.
    """

    model: str
    models: tuple[ModelReport, ...]
    layers: tuple[LayerReport, ...]
    batch: int
    versions: Mapping[str, str]

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

    def to_json(self) -> str:
        """All numbers as JSON text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def to_markdown(self) -> str:
        """Two tables: the models, and the layers."""
        scores = list(self.dense.scores)
        head = ["model", "parameters", "FLOPs", "file", f"ms / batch of {self.batch}", *scores]
        lines = [_line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
        for model in self.models:
            values = [f"{model.scores.get(score, float('nan')):.4f}" for score in scores]
            lines.append(_line([model.name, *_numbers(model), *values]))
        head = ["layer", "kernel", "format", "rank", "parameters", "after", "FLOPs", "after"]
        lines += ["", _line([*head, "kernel error"]), _line(["---"] * 4 + ["---:"] * 5)]
        for layer in self.layers:
            cells = [layer.path, "x".join(map(str, layer.kernel_shape)), layer.format or "dense"]
            cells += ["" if layer.rank is None else str(layer.rank)]
            cells += [f"{count:,}" for count in (*layer.params, *layer.flops)]
            lines.append(_line([*cells, f"{layer.error:.4f}"]))
        return "\n".join(lines) + "\n"

    def plot(self, path: str | os.PathLike) -> None:
        """Write the figures as one image (`.png`, `.svg`, `.pdf`); needs matplotlib.

        Raises:
            ImportError: if matplotlib is not installed; names the extra.
        """
        write_whole(path, lambda temporary: draw(self, temporary))

    def to_html(self, path: str | os.PathLike) -> None:
        """Write a page with all figures in it; it needs no network and no other file."""
        text = page(self)
        write_whole(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))

    def __str__(self) -> str:
        return self.to_markdown()


def compression_report(
    dense: keras.Model,
    compressed: keras.Model,
    data=None,
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
        batch_size: of the latency.
        repeats: timed calls of each model, in turn; 0 measures no latency.

    Returns:
        A `CompressionReport`.

    Raises:
        TypeError: for subclassed models.
        ValueError: if the models share no layer that can be compressed.
    """
    models = {"dense": dense, "compressed": compressed, **(also or {})}
    after = dict(walk_layers(compressed))
    layers = tuple(
        _layer_report(target, after[target.path])
        for target in find_targets(dense)
        if target.path in after
    )
    if not layers:
        raise ValueError(
            "`compressed` must come from `dense`: no layer of one is found in the other. Received: "
            f"'{dense.name}' and '{compressed.name}'."
        )
    data = None if data is None else read_examples(dense, data, batch_size)
    batch = measures.example_batch(dense, data, batch_size)
    times = measures.latencies(models, batch, repeats)
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
            latency_ms=times.get(name),
            scores=measures.scores(model, dense, data),
        )
        for name, model in models.items()
    )
    return CompressionReport(dense.name, reports, layers, batch_size, measures.versions())


def _layer_report(target: Target, layer) -> LayerReport:
    row = target.row
    kernel = kernel_array(target)
    matrix = kernel.astype("float64").reshape(-1, kernel.shape[-1])
    spectrum = _singular_values(matrix)
    common: dict[str, Any] = {
        "path": target.path,
        "layer": type(target.layer).__name__,
        "kernel_shape": tuple(kernel.shape),
    }
    top = max(float(spectrum[0]), 1e-300)
    positions = np.unique(np.linspace(0, len(spectrum) - 1, SPECTRUM).round().astype(int))
    common["spectrum"] = tuple((spectrum[positions] / top).tolist())
    common["positions"] = tuple(positions.tolist())
    if type(layer) is type(target.layer) or not hasattr(row.holder(layer), "network"):
        costs = Subject(target).dense_costs()
        return LayerReport(
            **common,
            format=None,
            rank=None,
            params=(costs.params, costs.params),
            flops=(costs.flops, costs.flops),
            # 0 unless the layer was trained since
            error=relative_error(keras.ops.convert_to_numpy(row.kernel(layer)), kernel),
        )
    holder = row.holder(layer)
    merged = keras.ops.convert_to_numpy(holder.kernel).astype("float64")
    workload = workload_of(holder, target.layer)
    before = Costs(int(kernel.size))
    if workload is not None:
        before = Costs.of_dense(holder.network, int(kernel.size), workload)
    after = Costs.of(holder.network, workload)
    values = _singular_values(merged.reshape(matrix.shape))
    return LayerReport(
        **common,
        format=holder.network.name,
        rank=getattr(layer, "rank", None),
        params=(before.params, after.params),
        flops=(before.flops, after.flops),
        error=relative_error(merged, kernel),
        cut=int(np.count_nonzero(values > 1e-5 * max(float(values[0]), 1e-300))),
    )


def _singular_values(matrix: np.ndarray) -> np.ndarray:
    """Falling singular values by the Gram matrix of the short side: exact enough for a picture."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    return np.sqrt(np.maximum(np.linalg.eigvalsh(matrix.T @ matrix)[::-1], 0.0))


def _numbers(model: ModelReport) -> list[str]:
    latency = "" if model.latency_ms is None else f"{model.latency_ms:.2f}"
    flops = "" if model.flops is None else f"{model.flops:,}"
    return [f"{model.params:,}", flops, f"{model.file_bytes / 1024:,.0f} KiB", latency]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
