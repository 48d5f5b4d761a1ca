"""Write docs/benchmarks.md from the results: every number on the page is one of a result file.

python benchmarks/page.py
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from common import RESULTS, show

from keras_tensornet.files import write_whole

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Ratios of medians, taken in turns within one run: below 1 is faster than the dense twin, except
where a table says otherwise. TensorFlow backend, float32; {machine}. The scripts and
the full results, with every candidate plan, are in `benchmarks/`; `python benchmarks/page.py` wrote
this page from them.
"""


def load(name: str) -> dict | None:
    """A result file, or None where it was not measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def layers_section(result: dict) -> list[str]:
    """Every case of the grid, and which miss the rule."""
    verdicts, rows = result["settings"]["verdicts"], result["rows"]
    missed = verdicts["missed"]
    columns = ("case", "q", "dense ms", "frozen", "forward", "dense step ms", "step", "chosen/best")
    keys = ("case", "q", "dense_ms", "frozen", "forward", "dense_step_ms", "step", "auto_of_best")
    table = [dict(zip(columns, (row[key] for key in keys), strict=True)) for row in rows]
    return [
        "## Layers",
        "",
        "`frozen` is inference with merged kernels, as in exported files; `forward` merges "
        "in the call; "
        "`step` is forward and backward pass. `q` is the FLOPs of the cheapest plan, merging "
        "included, over the dense layer's. `chosen/best` is the step by the plan that "
        "`auto` chose over "
        "the fastest candidate measured.",
        "",
        f"{len(rows)} cases. The rule, and the cases that miss it:",
        "",
        f"- frozen at most 1.05 of dense, or 0.05 ms more where dense takes under 1 ms: "
        f"{_names(missed['frozen'])};",
        f"- forward at most 1.1 max(1, q), or 0.1 ms more where dense takes under 2 ms: "
        f"{_names(missed['forward'])};",
        f"- training step at batch 32 and 128, the same: {_names(missed['step'])}.",
        "",
        "Most of what misses has one cause: a TensorFlow operation costs about 0.02 ms whatever "
        "its size, a ring of eight cores takes at least eight of them, and layers this small take "
        "0.3 to 1 ms as they are. `autotune` finds the faster plan where the prediction errs. "
        "The chosen plan is "
        f"{verdicts['auto_of_best_geometric_mean']:.3f} times the fastest candidate on geometric "
        f"average, {verdicts['auto_of_best_worst']:.2f} at worst.",
        "",
        show(table, columns),
    ]


def _names(cases: Sequence[str]) -> str:
    return f"{len(cases)} ({', '.join(cases)})" if cases else "none"


def auto_section(result: dict) -> list[str]:
    """What `auto` takes over the fastest plan."""
    lines = [
        '## `implementation="auto"` and the fastest plan',
        "",
        "`python benchmarks/auto.py`: the plans that are predicted to be fastest and the dense "
        "one, measured in turns with kernels merged beforehand and in a training step; time of the "
        "predicted choice over the fastest. The committed grid is that of the table above, the "
        "other is drawn by its seed. Not all cases of a grid need have been measured.",
        "",
        "| grid | cases measured | geometric mean | worst | worst case |",
        "|---|---:|---:|---:|---|",
    ]
    for name, found in result["settings"]["verdicts"].items():
        numbers = f"{found['cases']} | {found['geometric_mean']:.3f} | {found['worst']:.2f}"
        lines.append(f"| {name} | {numbers} | {found['worst_case']} |")
    return lines


def models_section(result: dict) -> list[str]:
    """Whole models."""
    columns = ("case", "params", "dense ms", "dense MB", "ratio")
    keys = ("case", "params", "dense_ms", "dense_mb", "ratio")
    rows = [row for row in result["rows"] if "ratio" in row]
    table = [
        {column: row[key] for column, key in zip(columns, keys, strict=True) if key in row}
        for row in rows
    ]
    (imports,) = (row for row in result["rows"] if "added_ms" in row)
    return [
        "## Models",
        "",
        "Training steps are on a batch of 128 (16 videos). Exported files are frozen for "
        "their batch. "
        "`build` and `first_step` (tracing and compiling) are in fresh processes, and so is peak "
        "memory: the largest resident size of a process that trains, less one that only imports. "
        f"`import keras_tensornet` adds {imports['added_ms']:.0f} ms to `import keras`.",
        "",
        show(table, columns),
    ]


def whole_section(result: dict) -> list[str]:
    """Whole models by budget; what has no row was not measured."""
    columns = ("case", "params", "dense ms", "ratio", "not kept or not written")
    table = []
    for row in result["rows"]:
        measured = "ratio" in row
        note = "" if measured else row["note"].partition(". ")[0]
        values = (row["case"], row.get("params"), row.get("dense_ms"), row.get("ratio"), note)
        pairs = zip(columns, values, strict=True)
        table.append({column: value for column, value in pairs if value is not None})
    return [
        "## Whole models by budget",
        "",
        "`python benchmarks/whole_models.py`: exported files of models that `compress_model` made "
        "with `latency=0.5` and `params=0.5`, in turns with the dense twin's. Of its seven models "
        "(ResNet-20, a BERT of six layers, MobileNetV2, EfficientNetB0, ResNet50, ConvNeXtTiny, "
        "VGG16) only those in the table have been measured.",
        "",
        show(table, columns),
    ]


def peers_section(result: dict) -> list[str]:
    """Other libraries."""
    columns = ("case", "peer", "forward ms", "peer/ours", "step ms", "peer/ours, step")
    keys = ("case", "peer", "forward_ms", "peer_forward", "step_ms", "peer_step")
    table = [dict(zip(columns, (r[key] for key in keys), strict=True)) for r in result["rows"]]
    return [
        "## Other libraries",
        "",
        "The same modes and ranks, batch 128, convolutions on 32 x 32; here a ratio above "
        "1 means that "
        "this package is faster. The others run on PyTorch's CPU build, tensorly-torch in "
        "both of its "
        "implementations.",
        "",
        show(table, columns),
    ]


def merge_section(result: dict) -> list[str]:
    """Merging alone."""
    rows = result["rows"]
    return ["## Merging", "", "Milliseconds and ratios to them.", "", show(rows, list(rows[0]))]


def growth_section(result: dict) -> list[str]:
    """The figure."""
    figure = PAGE.parent / "figures" / "growth.png"
    figure.parent.mkdir(exist_ok=True)
    shutil.copyfile(RESULTS / "growth.png", figure)
    return [
        "## How cost grows",
        "",
        "Forward time of a tensor-ring convolution against rank, channels and batch, with "
        "the prediction "
        "that plans are chosen by.",
        "",
        "![time against rank, channels and batch](figures/growth.png)",
    ]


def compression_section(result: dict) -> list[str]:
    """Compressing trained models."""
    parts = {
        "difference": "Networks of keras.applications with random weights and 64 x 64 images, "
        "every layer brought into a format at full rank: the largest difference of outputs over "
        "the largest output, of the compressed model and of the dense and the stock model made "
        "from it.",
        "peak_mb": "`compress_model` by energy, each in a fresh process: seconds, the model's "
        "size, and the peak of resident memory above what the loaded model takes.",
        "error": "CP of one large kernel against tensorly's `parafac`: seconds, relative errors.",
    }
    lines = ["## Compressing"]
    for key, words in parts.items():
        rows = [row for row in result["rows"] if key in row]
        if rows:
            lines += ["", words, "", show(rows, list(rows[0]))]
    return lines


def real_networks_section(result: dict) -> list[str]:
    """Trained networks against truncated SVD."""
    return [
        "## Trained networks against truncated SVD",
        "",
        "Networks whose weights Python packages carry, and the ResNet-20 of these pages, by a "
        "budget of parameters with calibration inputs, without recovery. `worst`: of all kernels, "
        "the largest error of the output over that of the truncated SVD of the same matrix, "
        "whitened by the same inputs, of no more parameters; 1 where the plan takes that SVD "
        "(`svd_taken` of the kernels, in place of what was asked for). Where it is in the rows, "
        "`distance`: of the network's outputs from the dense one's on fresh inputs, relative and "
        "squared; `svd_distance`: with those SVDs. Seconds are those of planning, on a machine "
        "that did other things.",
        "",
        show(result["rows"], list(result["rows"][0])),
    ]


def admm_section(result: dict) -> list[str]:
    """What ADMM adds to an epoch."""
    return [
        "## ADMM",
        "",
        "Training ResNet-32 towards a quarter of its parameters, batch "
        f"{result['settings']['batch']}: seconds of one update of all kernels' low-rank copies, "
        "over an epoch of CIFAR-10 (391 of the measured steps), and a step with the penalty over "
        "one without.",
        "",
        show(result["rows"], list(result["rows"][0])),
    ]


def epochs_section(result: dict) -> list[str]:
    """How late epochs end."""
    return [
        "## How late an epoch ends",
        "",
        "Milliseconds a step of `fit` on LeNet-5, the end of the epoch included, at batch "
        f"{result['settings']['batch']}: on arrays and on `datasets.batches`. On arrays "
        "TensorFlow joins a sleeping thread when an epoch is over.",
        "",
        show(result["rows"], list(result["rows"][0])),
    ]


SECTIONS = {
    "layers": layers_section,
    "auto": auto_section,
    "models": models_section,
    "whole_models": whole_section,
    "peers": peers_section,
    "merge": merge_section,
    "growth": growth_section,
    "compression": compression_section,
    "real_networks": real_networks_section,
    "admm": admm_section,
    "epochs": epochs_section,
}


def main() -> None:
    """Write the page."""
    results = {name: load(name) for name in SECTIONS}
    found = {name: result for name, result in results.items() if result}
    known = next(iter(found.values()))["machine"]
    versions = known["versions"]
    machine = (
        f"{known['cores']} cores of an {known['processor']}, Python {known['python']}, "
        f"Keras {versions['keras']}, TensorFlow {versions['tensorflow']}, {known['date']}"
    )
    lines = [HEAD.format(machine=machine)]
    for name, result in found.items():
        lines += ["\n".join(SECTIONS[name](result)), ""]
    write_whole(PAGE, lambda draft: draft.write_text("\n".join(lines)))
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
