"""A shared basis against one SVD a layer: MiniLM's encoder at half its size, by output error.

The kernels of all-MiniLM-L6-v2's six blocks at half of their entries: one truncated SVD a layer,
the same in the metric of the layer's inputs (calibrated), and calibrated bases shared between
layers whose groups are found. Errors are relative errors of each layer's output on sentences that
were not calibrated with, inputs those of the original network.

    KERAS_TENSORNET_WHEELS=folder python examples/shared_basis_minilm.py   # see pretrained.py
    python examples/shared_basis_minilm.py --smoke     # a small random encoder, nothing is kept
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pretrained
import records

from keras_tensornet.tbasis import share_basis

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "shared_basis_minilm.json"
FOLDER = "model"
HEADS, BLOCKS, LENGTH = 12, 6, 48
NAMES = ("query", "key", "value", "output", "up", "down")
PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}


class Encoder:
    """BERT's encoder in NumPy; keeps x x^T of the inputs of every kernel.

    Attributes:
        weights: arrays by their names in the checkpoint.
        grams: `(block, name) -> E[x x^T]` of what has been run.
    """

    def __init__(self, weights: dict[str, np.ndarray], heads: int, blocks: int):
        self.weights, self.heads, self.blocks = weights, heads, blocks
        self.grams: dict[tuple[int, str], np.ndarray] = {}

    def kernel(self, block: int, name: str) -> np.ndarray:
        """(inputs, outputs)."""
        return self.weights[f"encoder.layer.{block}.{PARTS[name]}.weight"].T

    def run(self, ids: np.ndarray) -> None:
        """Run on token ids, (texts, length) with 0 for none."""
        self.grams, mask = {}, ids > 0
        self.real = mask.ravel()
        where = "embeddings."
        x = self.weights[where + "word_embeddings.weight"][ids]
        x = x + self.weights[where + "position_embeddings.weight"][: ids.shape[1]]
        x = x + self.weights[where + "token_type_embeddings.weight"][0]
        x = self._normal(x, where + "LayerNorm")
        shut = np.where(mask, 0.0, -1e9)[:, None, None, :].astype("float32")
        for block in range(self.blocks):
            q, k, v = (self._split(self._linear(x, block, name)) for name in NAMES[:3])
            scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]).astype("float32") + shut
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True)) @ v
            mixed = mixed.transpose(0, 2, 1, 3).reshape(x.shape)
            layer = f"encoder.layer.{block}."
            x = self._normal(
                x + self._linear(mixed, block, "output"), layer + "attention.output.LayerNorm"
            )
            inner = _gelu(self._linear(x, block, "up"))
            x = self._normal(x + self._linear(inner, block, "down"), layer + "output.LayerNorm")

    def _linear(self, x: np.ndarray, block: int, name: str) -> np.ndarray:
        seen = x.reshape(-1, x.shape[-1])[self.real].astype("float32")
        self.grams[block, name] = (seen.T @ seen).astype("float64") / len(seen)
        bias = self.weights[f"encoder.layer.{block}.{PARTS[name]}.bias"]
        return x @ self.kernel(block, name) + bias

    def _split(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)

    def _normal(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-12)
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return 0.5 * x * (1.0 + erf(x / np.sqrt(2.0).astype("float32")))


def compare(encoder: Encoder, calibration: np.ndarray, test: np.ndarray, share: float) -> dict:
    """Mean relative output error of each way on the test texts, and the groups that were found."""
    names = [(block, name) for block in range(encoder.blocks) for name in NAMES]
    kernels = [encoder.kernel(*name) for name in names]
    encoder.run(calibration)
    known = [encoder.grams[name] for name in names]
    encoder.run(test)
    unseen = [encoder.grams[name] for name in names]
    flat = [np.eye(len(kernel)) for kernel in kernels]
    alone = [(place,) for place in range(len(kernels))]
    same_inputs = [
        (block * len(NAMES), block * len(NAMES) + 1, block * len(NAMES) + 2)
        for block in range(encoder.blocks)
    ]
    taken = {place for group in same_inputs for place in group}
    same_inputs += [(place,) for place in range(len(kernels)) if place not in taken]
    ways = {
        "SVD of each layer": (flat, alone),
        "calibrated SVD of each layer": (known, alone),
        "calibrated, query, key and value share": (known, same_inputs),
        "calibrated, groups found": (known, None),
    }
    found = {}
    for way, (grams, groups) in ways.items():
        fitted = share_basis(kernels, grams, share, groups)
        errors = np.zeros(len(kernels))
        for group in fitted:
            for place in group.members:
                gap = kernels[place] - group.kernel(place)
                errors[place] = np.sqrt(
                    np.vdot(gap, unseen[place] @ gap)
                    / np.vdot(kernels[place], unseen[place] @ kernels[place])
                )
        by_name = {
            name: round(float(np.mean(errors[place :: len(NAMES)])), 4)
            for place, name in enumerate(NAMES)
        }
        found[way] = {
            "params": sum(group.params for group in fitted),
            "error": round(float(errors.mean()), 4),
            "by_kind": by_name,
            "groups": [
                [f"{names[place][1]}{names[place][0]}" for place in group.members]
                for group in fitted
                if len(group.members) > 1
            ],
        }
        print(f"{way}: {found[way]['error']} {by_name}", flush=True)
    return {"dense_params": sum(kernel.size for kernel in kernels), "ways": found}


def minilm(arguments) -> tuple[Encoder, np.ndarray, np.ndarray]:
    """The trained encoder, sentences to calibrate with and others."""
    raw = pretrained.read(pretrained.MINILM, f"{FOLDER}/model.safetensors", arguments.wheels)
    vocabulary = pretrained.read(pretrained.MINILM, f"{FOLDER}/vocab.txt", arguments.wheels)
    ids = pretrained.WordPieces(vocabulary.decode())(pretrained.sentences(600), LENGTH)
    return Encoder(pretrained.safetensors(raw), HEADS, BLOCKS), ids[:400], ids[400:]


def random_encoder() -> tuple[Encoder, np.ndarray, np.ndarray]:
    """Two blocks of width 12, untrained."""
    random = np.random.default_rng(0)
    sizes = {"up": (24, 12), "down": (12, 24)}
    weights = {
        "embeddings.word_embeddings.weight": random.standard_normal((50, 12)),
        "embeddings.position_embeddings.weight": random.standard_normal((8, 12)),
        "embeddings.token_type_embeddings.weight": random.standard_normal((2, 12)),
    }
    norms = ["embeddings.LayerNorm"]
    for block in range(2):
        layer = f"encoder.layer.{block}."
        norms += [layer + "attention.output.LayerNorm", layer + "output.LayerNorm"]
        for name, part in PARTS.items():
            rows, columns = sizes.get(name, (12, 12))
            weights[f"{layer}{part}.weight"] = random.standard_normal((rows, columns))
            weights[f"{layer}{part}.bias"] = np.zeros(rows)
    for name in norms:
        weights |= {f"{name}.weight": np.ones(12), f"{name}.bias": np.zeros(12)}
    ids = random.integers(1, 50, (16, 8))
    return Encoder(weights, 2, 2), ids[:8], ids[8:]


def main() -> None:
    """Compare, unless it is recorded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, nothing is kept")
    parser.add_argument("--wheels", type=Path, help="folder of wheels, see pretrained.py")
    parser.add_argument("--share", type=float, default=0.5, help="of the kernels' entries")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json" if arguments.smoke else arguments.results
        settings = {"network": "MiniLM", "share": arguments.share, "sentences": [400, 200]}
        if records.find(results, settings) is None:
            parts = random_encoder() if arguments.smoke else minilm(arguments)
            records.add(results, {"settings": settings, **compare(*parts, arguments.share)})
        print("| kernels at half their size | error of outputs |")
        print("|---|---|")
        for run in records.read(results):
            for way, row in run["ways"].items():
                print(f"| {way} | {row['error']} |")


if __name__ == "__main__":
    main()
