"""The compression plan: which layer gets which format and ranks, as a table that can be edited.

A plan is data: frozen, without arrays, printable, and it goes to JSON and back. `plan_compression`
makes one, `compress_model` carries one out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from keras_tensornet import formats
from keras_tensornet.formats import Rank
from keras_tensornet.wording import parameters

VERSION = 1
# How the note of a kernel begins that no format stands for.
NOT_SUPPORTED = "not supported: "
# How many layers a message names for each reason.
NAMED = 3
MERGES = "smaller, not faster: merged when frozen"

# The note of a layer of which the calibration data said nothing.
NOT_CALIBRATED = "not calibrated"


@dataclass(frozen=True)
class LayerChoice:
    """What happens to one layer.

    Attributes:
        path: of the layer, as `walk_layers` gives it.
        layer: its class, for example "Conv2D".
        kernel_shape: of the dense kernel in Keras layout.
        format: name of the format, or None where the layer stays dense.
        rank: argument of the factorized layer.
        arguments: further arguments of the factorized layer, such as `in_modes`.
        modes: the kernel's modes in words.
        dense_params, params: entries of the kernel before and after (biases apart).
        dense_flops, flops: floating-point operations for one example before and after; None where
            they are not known.
        error: relative error, see the plan's `measure`; None where it is not known yet.
        note: why the layer stays dense, or what is to be said of its decomposition.
        merges: whether the layer runs its merged kernel once it is frozen, because its cores are
            predicted to be no faster: it is smaller then, and as fast as the dense layer.
        supported: whether some format could stand for the kernel; where none could the note says
            why.
    """

    path: str
    layer: str
    kernel_shape: tuple[int, ...]
    format: str | None
    rank: Rank | None
    arguments: Mapping[str, Any]
    modes: str
    dense_params: int
    params: int | None
    dense_flops: int | None
    flops: int | None
    error: float | None
    note: str = ""
    merges: bool = False
    supported: bool = True

    @property
    def share(self) -> float | None:
        """The share of its parameters that the layer keeps: after over before."""
        return None if self.params is None else self.params / self.dense_params


@dataclass(frozen=True)
class CompressionPlan:
    """A table of choices for one model.

    Attributes:
        model: its name.
        layers: one choice for each kernel, in the model's order; those that no format could stand
            for say so, see `LayerChoice.supported`.
        model_params: parameters of the whole dense model.
        measure: what `error` is relative to: "kernel" or "output" (on calibration data).
        settings: what was asked for, for the record.
    """

    model: str
    layers: tuple[LayerChoice, ...]
    model_params: int
    measure: str = "kernel"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def params(self) -> int | None:
        """Parameters of the whole model after compression; None if an edited layer's is unknown."""
        saved = 0
        for choice in self.layers:
            if choice.params is None:
                return None
            saved += choice.dense_params - choice.params
        return self.model_params - saved

    @property
    def compression(self) -> float | None:
        """Dense parameters of the whole model over compressed ones."""
        return None if self.params is None else self.model_params / self.params

    @property
    def flops(self) -> tuple[int, int]:
        """FLOPs for one example of the layers in the table, before and after."""
        before = sum(choice.dense_flops or 0 for choice in self.layers)
        after = sum(
            (choice.dense_flops if choice.flops is None else choice.flops) or 0
            for choice in self.layers
        )
        return before, after

    @property
    def frozen_flops(self) -> int:
        """FLOPs for one example of what the frozen or exported model runs, which merges layers
        that are only smaller."""
        return self.flops[1] + sum(
            (choice.dense_flops or 0) - (choice.flops or 0) for choice in self if choice.merges
        )

    def __getitem__(self, path: str) -> LayerChoice:
        for choice in self.layers:
            if choice.path == path:
                return choice
        raise KeyError(
            f"The plan has no layer '{path}'. It has: "
            f"{', '.join(choice.path for choice in self.layers)}."
        )

    def __iter__(self) -> Iterator[LayerChoice]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def with_layer(
        self, path: str, rank: Rank, format: str | None = None, **arguments: Any
    ) -> CompressionPlan:
        """A plan in which one layer has another rank, and perhaps another format.

        What the change costs and how large its error is, is not known until `compress_model`
        carries the plan out; until then these columns are empty.

        Args:
            path: of the layer.
            rank: of the cores.
            format: name of the format; by default the layer's present one.
            **arguments: further arguments of the factorized layer; those at hand by default where
                the format stays.

        Raises:
            KeyError: if the plan has no such layer.
            ValueError: if the format is unknown, the layer is dense and no format is given, or no
                format could stand for it.
        """
        choice = self[path]
        if not choice.supported:
            raise ValueError(f"Layer '{path}' of class {choice.layer} stays dense: {choice.note}.")
        if format is None and choice.format is None:
            raise ValueError(
                f"Layer '{path}' is dense in this plan. Say which format it should get, for "
                'example format="tt".'
            )
        kept = choice.arguments if format in (None, choice.format) else {}
        changed = replace(
            choice,
            format=formats.get(format or choice.format).name,
            rank=tuple(rank) if isinstance(rank, list) else rank,
            arguments={**kept, **arguments},
            params=None,
            flops=None,
            error=None,
            note="",
            merges=False,
        )
        return self._with(changed)

    def without_layer(self, path: str, note: str = "left dense by hand") -> CompressionPlan:
        """A plan in which one layer stays dense."""
        choice = self[path]
        return self._with(
            replace(
                choice,
                format=None,
                rank=None,
                arguments={},
                modes="",
                params=choice.dense_params,
                flops=choice.dense_flops,
                error=0.0,
                note=note,
                merges=False,
            )
        )

    def _with(self, changed: LayerChoice) -> CompressionPlan:
        layers = tuple(changed if choice.path == changed.path else choice for choice in self.layers)
        return replace(self, layers=layers)

    def to_json(self) -> str:
        """The plan as JSON text, from which `from_json` makes it again."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CompressionPlan:
        """The plan that `to_json` wrote.

        Raises:
            ValueError: if the text is not a plan of this version.
        """
        try:
            data = json.loads(text)
            version = data.pop("version")
            layers = tuple(LayerChoice(**_tuples(entry)) for entry in data.pop("layers"))
            plan = cls(layers=layers, **data)
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                "The text is no compression plan. Write one with `plan.to_json()`. "
                f"Reason: {error}."
            ) from error
        if version != VERSION:
            raise ValueError(
                f"The plan must be of version {VERSION}. Received: version {version}. Make it "
                "again with `plan_compression`."
            )
        return plan

    def __str__(self) -> str:
        return plan_table(self)


def unshrunk(plan: CompressionPlan, params: int) -> str:
    """What to say of a plan that makes nothing smaller: the layers, why, and the way out."""
    why: dict[str, list[str]] = {}
    for choice in plan:
        reason = choice.note if choice.format is None else f"{choice.format}, rank {choice.rank}"
        why.setdefault(reason or "left dense", []).append(f"'{choice.path}'")
    named = "; ".join(
        f"{', '.join(paths[:NAMED])}{f' and {len(paths) - NAMED} more' if paths[NAMED:] else ''} "
        f"({reason})"
        for reason, paths in why.items()
    )
    return (
        f"Nothing in '{plan.model}' became smaller: {plan.model_params:,} parameters before, "
        f"{params:,} after. Its layers: {named or 'none has a kernel'}. Ask for a lower rank, "
        "share or energy; take in what stays dense by default with `exclude=()` or `include=`; or "
        "give layers of your own a kind with `compression.kinds.register`."
    )


COLUMNS = ("layer", "kernel", "format", "rank", "params", "after", "FLOPs", "after", "error")


def plan_table(plan: CompressionPlan) -> str:
    """The plan as text: one line for each layer, and the totals."""
    rows = [COLUMNS, *(_cells(choice) for choice in plan)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    left = (0, 1, 2, 3)
    lines = []
    for row, choice in zip(rows, (None, *plan), strict=True):
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        note = "" if choice is None else choice.note
        if choice is not None and choice.merges:
            note = ", ".join(part for part in (note, MERGES) if part)
        note = f"  {note}" if note else ""
        lines.append(("  ".join(cells) + note).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    (before, after), frozen = plan.flops, plan.frozen_flops
    missed = sum(one.dense_params for one in plan if one.note.startswith(NOT_SUPPORTED))
    mixed = plan.measure == "output" and any(NOT_CALIBRATED in choice.note for choice in plan)
    known = "unknown until compressed" if plan.params is None else f"{plan.params:,}"
    change = "" if plan.params is None else f" ({parameters(plan.model_params, plan.params)})"
    lines += [
        lines[1],
        f"model '{plan.model}': {plan.model_params:,} parameters -> {known}{change}",
        *([_missed(missed, plan.model_params)] if missed else []),
        f"FLOPs of these layers for one example: {before:,} -> {after:,}"
        + (f"; merged where that is faster: {frozen:,}" if frozen != after else ""),
        f"error: relative, of each layer's {plan.measure}"
        + (", or of its kernel where it is not calibrated" if mixed else ""),
    ]
    if "measured" in plan.settings:
        share, how = plan.settings["measured"], plan.settings["conditions"]
        lines.append(f"latency: {share} of the dense model's, measured ({how})")
    return "\n".join(lines)


def _cells(choice: LayerChoice) -> tuple[str, ...]:
    return (
        choice.path,
        "x".join(str(extent) for extent in choice.kernel_shape),
        choice.format or "dense",
        "" if choice.rank is None else str(choice.rank).replace(" ", ""),
        f"{choice.dense_params:,}",
        "?" if choice.params is None else f"{choice.params:,}",
        "" if choice.dense_flops is None else f"{choice.dense_flops:,}",
        _flops_after(choice),
        "?" if choice.error is None else f"{choice.error:.3f}",
    )


def _missed(params: int, total: int) -> str:
    return f"layers that no format stands for: {params:,} parameters ({100 * params / total:.0f} %)"


def _flops_after(choice: LayerChoice) -> str:
    if choice.flops is None and choice.format:
        return "?"
    return f"{choice.flops or 0:,}" if choice.supported else ""


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    """JSON lists back as tuples."""
    entry = {
        name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()
    }
    entry["arguments"] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in entry["arguments"].items()
    }
    return entry
