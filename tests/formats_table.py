"""The one table of cases: every format in every kind of layer, on small odd shapes.

A `Kind` is a layer's operation: its dense twin, its slow NumPy reference and the cases that can
break it. A `Row` is one format in one kind. The law tests run over the whole table, so a new format
or kind adds rows here and no test files:

- a new format: one `Row` for each kind it comes in, added to `ROWS`;
- a new kind: one `Kind` with its reference and cases, added to `KINDS`, and its rows.

A law (or case) that has no meaning for a row is named in `skips` with the reason; it then shows up
as skipped. `python -m tests.formats_table` prints the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tests import references

LAWS = {
    "reference": "outputs equal the slow NumPy reference, every case, every batch and size",
    "plans": "every candidate plan gives the same outputs",
    "kernel": "`.kernel` equals the einsum of all cores, in three merge orders",
    "full rank": "`assign_kernel` at full rank returns the kernel",
    "variance": "the merged kernel has the variance that the initializer aims at",
    "initializers": "every Keras initializer keeps its meaning, seeds reproduce",
    "gradients": "every core gets a non-zero gradient",
    "saving": "`.keras`, weights, configuration and clones are bit-equal",
    "precision": "mixed_bfloat16, mixed_float16 and float64",
    "training": "fit with and without XLA; Sequential, Functional, subclassed; shared; frozen",
    "penalty": "a kernel regularizer sees the merged kernel",
    "constraint": "a kernel constraint holds for the merged kernel",
    "conversion": "`from_layer` and `to_dense_layer` keep outputs and settings",
    "refusals": "`quantize`, `enable_lora` and bad ranks raise, and leave nothing half built",
    "export": "SavedModel, LiteRT and ONNX give the same outputs",
}

# What these laws speak of is written once for all formats and once for all kinds, so they run on
# every format in one kind, and on one format in every kind; the others run on the whole table.
CROSS_LAWS = (
    "initializers",
    "gradients",
    "saving",
    "precision",
    "training",
    "penalty",
    "constraint",
    "conversion",
    "refusals",
)
CROSS_FORMAT, CROSS_KIND = "tr", "dense"
# On JAX and PyTorch: one format in every kind, CP for the operations on shared labels, every third
# case. JAX compiles each operation for each shape, about a second a layer.
ELSEWHERE_ALSO = ("cp-dense", "cp-conv2d")


@dataclass(frozen=True)
class Case:
    """One way to call a kind of layer.

    Attributes:
        name: what the case is about.
        input_shape: shape of the inputs without the batch.
        arguments: arguments of the layer but for `rank`; also those of its dense twin, but for
            the ones that dense layers do not know.
    """

    name: str
    input_shape: tuple[int, ...]
    arguments: Mapping = field(hash=False)


def normal_inputs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Standard normal inputs, the default of `Kind.inputs`."""
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@dataclass(frozen=True)
class Kind:
    """One layer operation.

    Attributes:
        name: "dense", "conv2d", ...
        dense: name of the dense twin in `keras.layers`.
        reference: `(layer, inputs, kernel, bias) -> outputs` in NumPy, without the activation.
        cases: the first one is the plain case that laws run on which need only one.
        inputs: `(shape with batch, seed) -> array`.
        unknown: which axes of the input shape (without batch) may be unknown; those that a case
            does not have are left out.
        empty_batch: whether the dense twin takes a batch of 0; TensorFlow's convolution returns
            the shape of its inputs for it.
        skips: laws that have no meaning for this kind, each with the reason.
    """

    name: str
    dense: str
    reference: Callable = field(hash=False)
    cases: tuple[Case, ...]
    inputs: Callable = field(default=normal_inputs, hash=False)
    unknown: tuple[int, ...] = ()
    empty_batch: bool = True
    skips: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Row:
    """One format in one kind.

    Attributes:
        format: name of the format.
        kind: key of `KINDS`.
        layer: name of the layer in `keras_tensornet.layers`.
        rank: a small rank, an int that every case can take.
        full_rank: an int that is enough for any kernel of the plain case; what is too much is cut.
        arguments: further arguments of the layer that the format needs.
        skips: laws and cases that this row leaves out, each with the reason.
    """

    format: str
    kind: str
    layer: str
    rank: int = 2
    full_rank: int = 1000
    arguments: Mapping = field(default_factory=dict, hash=False)
    skips: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The row's name in test ids."""
        return f"{self.format}-{self.kind}"

    @property
    def operation(self) -> Kind:
        """The row's `Kind`."""
        return KINDS[self.kind]

    @property
    def plain(self) -> Case:
        """The case for laws that need only one."""
        return self.operation.cases[0]

    @property
    def layer_class(self):
        """The layer's class."""
        from keras_tensornet import layers

        return getattr(layers, self.layer)

    def make(self, case: Case | None = None, **overrides):
        """The layer of a case, not built."""
        case = case or self.plain
        arguments = {"rank": self.rank, **case.arguments, **self.arguments, **overrides}
        return self.layer_class(**arguments)

    def built(self, case: Case | None = None, **overrides):
        """The layer of a case, built for an unknown batch, its bias not zero."""
        case = case or self.plain
        layer = self.make(case, **overrides)
        layer.build((None, *case.input_shape))
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(normal_inputs(tuple(layer.bias.shape), seed=7))
        return layer

    def inputs(self, case: Case | None = None, batch: int = 3, seed: int = 0) -> np.ndarray:
        """Inputs of a case."""
        case = case or self.plain
        return self.operation.inputs((batch, *case.input_shape), seed)

    def why_not(self, law: str, case: Case | None = None) -> str | None:
        """The reason why a law (or one of its cases) is left out, or None."""
        skips = {**self.operation.skips, **self.skips}
        return skips.get(law) or (skips.get(case.name) if case else None)


def _dense_reference(layer, inputs, kernel, bias):
    return references.dense(inputs, kernel, bias)


def _conv_reference(layer, inputs, kernel, bias):
    return references.conv(
        inputs,
        kernel,
        bias,
        strides=layer.strides,
        padding=layer.padding,
        dilation=layer.dilation_rate,
        groups=layer.groups,
        channels_first=layer.data_format == "channels_first",
    )


def _transpose_reference(layer, inputs, kernel, bias):
    return references.conv_transpose(
        inputs,
        kernel,
        bias,
        shape=layer.compute_output_shape(inputs.shape),
        strides=layer.strides,
        padding=layer.padding,
        dilation=layer.dilation_rate,
        channels_first=layer.data_format == "channels_first",
    )


def _einsum_reference(layer, inputs, kernel, bias):
    outputs = np.einsum(layer.equation, inputs.astype("float64"), kernel)
    return outputs if bias is None else outputs + bias


DENSE_CASES = (
    Case("plain", (12,), {"units": 10, "in_modes": (3, 4), "out_modes": (2, 5)}),
    Case("more axes", (2, 3, 12), {"units": 10}),
    Case("modes of 1", (6,), {"units": 10, "in_modes": (1, 6), "out_modes": (5, 1, 2)}),
    Case("unequal modes", (30,), {"units": 7, "in_modes": (2, 3, 5), "out_modes": (7,)}),
    Case("padded modes", (37,), {"units": 41}),
    Case("one input", (1,), {"units": 6, "out_modes": (2, 3)}),
    Case("one unit", (8,), {"units": 1, "in_modes": (2, 4)}),
    Case("one weight", (1,), {"units": 1}),
    Case("no bias", (12,), {"units": 4, "use_bias": False}),
)

CONV2D_CASES = (
    Case(
        "plain",
        (6, 5, 4),
        {"filters": 6, "kernel_size": 3, "in_modes": (2, 2), "out_modes": (2, 3)},
    ),
    Case("same", (5, 6, 4), {"filters": 6, "kernel_size": (3, 2), "padding": "same"}),
    Case("strides", (7, 8, 4), {"filters": 6, "kernel_size": 3, "strides": 2}),
    Case(
        "same strides",
        (7, 8, 4),
        {"filters": 6, "kernel_size": 3, "strides": (2, 2), "padding": "same"},
    ),
    Case("unequal strides", (7, 8, 4), {"filters": 4, "kernel_size": (2, 3), "strides": (2, 1)}),
    Case("dilation", (9, 8, 4), {"filters": 6, "kernel_size": 3, "dilation_rate": 2}),
    Case(
        "unequal dilation",
        (9, 8, 4),
        {"filters": 6, "kernel_size": 3, "dilation_rate": (1, 2), "padding": "same"},
    ),
    Case(
        "joint",
        (5, 6, 4),
        {"filters": 6, "kernel_size": 3, "spatial": "joint", "in_modes": 2, "out_modes": 2},
    ),
    Case(
        "separate",
        (7, 6, 4),
        {
            "filters": 6,
            "kernel_size": (3, 2),
            "spatial": "separate",
            "strides": 2,
            "padding": "same",
            "in_modes": 2,
            "out_modes": 2,
        },
    ),
    Case(
        "groups",
        (5, 6, 8),
        {"filters": 12, "kernel_size": 3, "groups": 2, "in_modes": (2, 2), "out_modes": (2, 3)},
    ),
    Case(
        "groups strides",
        (6, 6, 6),
        {"filters": 3, "kernel_size": 2, "groups": 3, "strides": 2, "padding": "same"},
    ),
    Case(
        "groups separate",
        (6, 7, 4),
        {
            "filters": 8,
            "kernel_size": 3,
            "groups": 2,
            "spatial": "separate",
            "strides": 2,
            "padding": "same",
        },
    ),
    Case(
        "groups dilation",
        (8, 7, 4),
        {"filters": 4, "kernel_size": (2, 3), "groups": 2, "dilation_rate": (1, 2)},
    ),
    Case("one channel a group", (6, 5, 4), {"filters": 8, "kernel_size": 3, "groups": 4}),
    Case("strides above the kernel", (7, 8, 4), {"filters": 6, "kernel_size": 2, "strides": 3}),
    Case("one channel", (6, 5, 1), {"filters": 6, "kernel_size": 3, "out_modes": (2, 3)}),
    Case("one filter", (6, 5, 4), {"filters": 1, "kernel_size": 3}),
    Case("pointwise strides", (5, 6, 4), {"filters": 6, "kernel_size": 1, "strides": 2}),
    Case("flat kernel", (5, 6, 4), {"filters": 6, "kernel_size": (1, 3), "spatial": "separate"}),
    Case(
        "modes of 1",
        (5, 6, 4),
        {"filters": 6, "kernel_size": 2, "in_modes": (4, 1), "out_modes": (1, 6)},
    ),
    Case(
        "padded modes", (4, 4, 37), {"filters": 41, "kernel_size": 2, "in_modes": 2, "out_modes": 2}
    ),
    Case(
        "channels first",
        (4, 6, 5),
        {
            "filters": 6,
            "kernel_size": 3,
            "strides": 2,
            "padding": "same",
            "data_format": "channels_first",
        },
    ),
)

CONV1D_CASES = (
    Case(
        "plain",
        (9, 4),
        {"filters": 6, "kernel_size": 3, "in_modes": (2, 2), "out_modes": (2, 3)},
    ),
    Case(
        "causal", (9, 4), {"filters": 6, "kernel_size": 3, "dilation_rate": 2, "padding": "causal"}
    ),
    Case("same strides", (8, 4), {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same"}),
    Case("groups", (5, 8), {"filters": 12, "kernel_size": 3, "groups": 2}),
)

CONV3D_CASES = (
    Case(
        "plain",
        (4, 3, 5, 4),
        {"filters": 6, "kernel_size": 2, "in_modes": (2, 2), "out_modes": (2, 3)},
    ),
    Case(
        "same strides",
        (5, 4, 3, 4),
        {
            "filters": 6,
            "kernel_size": (2, 3, 1),
            "strides": 2,
            "padding": "same",
            "spatial": "separate",
        },
    ),
)

TRANSPOSE_CASES = (
    Case(
        "plain",
        (4, 5, 4),
        {"filters": 6, "kernel_size": 3, "in_modes": (2, 2), "out_modes": (2, 3), "strides": 2},
    ),
    Case("same", (4, 5, 4), {"filters": 6, "kernel_size": (3, 2), "padding": "same", "strides": 2}),
    Case(
        "output padding",
        (3, 4, 4),
        {
            "filters": 6,
            "kernel_size": 3,
            "strides": (2, 3),
            "output_padding": (1, 0),
            "spatial": "separate",
        },
    ),
    Case(
        "same output padding",
        (3, 4, 4),
        {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same", "output_padding": 1},
    ),
    Case("dilation", (4, 5, 4), {"filters": 6, "kernel_size": 2, "dilation_rate": (1, 2)}),
    Case("wide strides", (3, 4, 4), {"filters": 6, "kernel_size": 2, "strides": 3}),
    Case(
        "channels first",
        (4, 3, 5),
        {"filters": 6, "kernel_size": 3, "strides": (1, 2), "data_format": "channels_first"},
    ),
)

EINSUM_CASES = (
    Case(
        "plain",
        (5, 12),
        {
            "equation": "abc,cd->abd",
            "output_shape": (5, 10),
            "bias_axes": "d",
            "in_modes": (3, 4),
            "out_modes": (2, 5),
        },
    ),
    Case(
        "heads",
        (5, 6),
        {"equation": "abc,cde->abde", "output_shape": (5, 2, 5), "bias_axes": "de"},
    ),
    Case(
        "joined heads",
        (5, 3, 4),
        {"equation": "abcd,cde->abe", "output_shape": (5, 10), "bias_axes": "e"},
    ),
    Case(
        "ellipsis",
        (3, 12),
        {"equation": "...x,yx->...y", "output_shape": 10, "bias_axes": "y"},
    ),
    Case(
        "middle axis",
        (6, 3),
        {"equation": "abc,bd->acd", "output_shape": (3, 10), "bias_axes": "cd"},
    ),
    Case(
        "right ellipsis",
        (6, 3),
        {"equation": "ab...,bc->ac...", "output_shape": 4, "bias_axes": "c"},
    ),
    Case("padded modes", (37,), {"equation": "ab,cb->ac", "output_shape": 41, "bias_axes": "c"}),
)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("dense", "Dense", _dense_reference, DENSE_CASES, unknown=(-3, -2)),
        Kind(
            "conv2d",
            "Conv2D",
            _conv_reference,
            CONV2D_CASES,
            unknown=(0, 1),
            empty_batch=False,
        ),
        Kind("conv1d", "Conv1D", _conv_reference, CONV1D_CASES, unknown=(0,), empty_batch=False),
        Kind(
            "conv3d", "Conv3D", _conv_reference, CONV3D_CASES, unknown=(0, 1, 2), empty_batch=False
        ),
        Kind(
            "conv2d_transpose",
            "Conv2DTranspose",
            _transpose_reference,
            TRANSPOSE_CASES,
            unknown=(0, 1),
            empty_batch=False,
        ),
        Kind("einsum", "EinsumDense", _einsum_reference, EINSUM_CASES),
    )
}

ROWS: tuple[Row, ...] = (
    Row("tr", "dense", "TRDense"),
    Row("ttm", "dense", "TTDense"),
    Row("tt", "dense", "FactorizedDense", arguments={"format": "tt"}),
    Row("tr", "conv2d", "TRConv2D"),
    Row("tt", "conv2d", "TTConv2D"),
    Row("ttm", "conv2d", "TTMConv2D"),
    Row("cp", "dense", "CPDense"),
    Row("tucker", "dense", "TuckerDense"),
    Row("bt", "dense", "BTDense"),
    Row("ht", "dense", "HTDense"),
    Row("cp", "conv2d", "CPConv2D"),
    Row("tucker", "conv2d", "TuckerConv2D"),
    Row("bt", "conv2d", "BTConv2D"),
    Row("ht", "conv2d", "HTConv2D"),
    Row("tr", "conv1d", "TRConv1D"),
    Row("tt", "conv1d", "TTConv1D"),
    Row("ttm", "conv1d", "TTMConv1D"),
    Row("cp", "conv1d", "CPConv1D"),
    Row("tucker", "conv1d", "TuckerConv1D"),
    Row("bt", "conv1d", "BTConv1D"),
    Row("ht", "conv1d", "HTConv1D"),
    Row("tr", "conv3d", "TRConv3D"),
    Row("tt", "conv3d", "TTConv3D"),
    Row("ttm", "conv3d", "TTMConv3D"),
    Row("cp", "conv3d", "CPConv3D"),
    Row("tucker", "conv3d", "TuckerConv3D"),
    Row("bt", "conv3d", "BTConv3D"),
    Row("ht", "conv3d", "HTConv3D"),
    Row("tr", "conv2d_transpose", "TRConv2DTranspose"),
    Row("tt", "conv2d_transpose", "TTConv2DTranspose"),
    Row("cp", "conv2d_transpose", "CPConv2DTranspose"),
    Row("tucker", "conv2d_transpose", "TuckerConv2DTranspose"),
    Row("tr", "einsum", "TREinsumDense"),
    Row("ttm", "einsum", "TTEinsumDense"),
    Row("cp", "einsum", "CPEinsumDense"),
    Row("tucker", "einsum", "TuckerEinsumDense"),
    Row("bt", "einsum", "BTEinsumDense"),
    Row("ht", "einsum", "HTEinsumDense"),
)


def rows(law: str) -> list:
    """The rows as pytest parameters; those that leave the law out are skipped with the reason."""
    return [_parameter(row.why_not(law), row.name, row) for row in _known(law)]


def cases(law: str) -> list:
    """`(row, case)` of the whole table as pytest parameters."""
    return [
        _parameter(row.why_not(law, case), f"{row.name}-{case.name}", row, case)
        for row in _known(law)
        for case in row.operation.cases[:: 1 if on_tensorflow() else 3]
    ]


def _known(law: str) -> tuple[Row, ...]:
    if law not in LAWS:
        raise ValueError(f"No law is called {law!r}; there are {', '.join(LAWS)}.")
    if not on_tensorflow():
        kinds = ("dense", "conv2d") if law in CROSS_LAWS and law != "gradients" else tuple(KINDS)
        also = () if law in CROSS_LAWS else ELSEWHERE_ALSO
        own = [row for row in ROWS if row.format == CROSS_FORMAT and row.kind in kinds]
        return (*own, *(row for row in ROWS if row.name in also))
    return tuple(row for row in ROWS if in_cross(row)) if law in CROSS_LAWS else ROWS


def in_cross(row: Row) -> bool:
    """Whether a row is held to `CROSS_LAWS`."""
    first = next(other for other in ROWS if other.kind == row.kind)
    return row.kind == CROSS_KIND or row.format == CROSS_FORMAT or row is first


def on_tensorflow() -> bool:
    """Whether the whole table runs."""
    return os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"


def _parameter(reason: str | None, name: str, *values):
    import pytest

    marks = [pytest.mark.skip(reason=reason)] if reason else []
    return pytest.param(*values, id=name.replace(" ", "_"), marks=marks)


def markdown() -> str:
    """The table of format x kind, with the laws that each row is held to."""
    lines = ["| format | kind | layer | cases | laws | left out |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        skips = {**row.operation.skips, **row.skips}
        left_out = "; ".join(f"{name}: {reason}" for name, reason in skips.items()) or "none"
        ran = sum(not row.why_not(law) and (law not in CROSS_LAWS or in_cross(row)) for law in LAWS)
        cases_run = sum(case.name not in skips for case in row.operation.cases)
        lines.append(
            f"| {row.format} | {row.kind} | `{row.layer}` | {cases_run} | {ran} of {len(LAWS)} "
            f"| {left_out} |"
        )
    lines += ["", "| law | what it says |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in LAWS.items()]
    lines += ["", f"On every format of {CROSS_KIND} and every kind of {CROSS_FORMAT} alone: "]
    lines[-1] += ", ".join(CROSS_LAWS) + "."
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
