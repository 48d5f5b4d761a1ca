"""Trained networks against truncated SVD: no format may lose more than that at its size.

    KERAS_TENSORNET_WHEELS=folder python benchmarks/real_networks.py --resnet resnet20.keras

Networks whose weights Python packages carry (see examples/pretrained.py): a block of a sentence
encoder (MiniLM), a speaker encoder of three LSTMs, mini-Xception for facial expressions (FER), and
a ResNet-20. Each is planned in every format and in "auto" at some shares of its parameters, with
calibration inputs. For every kernel the plan's error of the output is compared with that of the
truncated SVD of its matrix whitened by the same inputs, of no more parameters than the plan gives
that kernel, computed here by LAPACK: `worst` is the largest ratio. `distance` is how far the
outputs of the whole compressed network are from the dense one's on inputs that were not calibrated
with, relative; `svd_distance` the same with those SVDs in place of the kernels. Both have
the statistics of batch normalisations estimated again.

Rows that are in the results file are kept, so an interrupted run goes on. Inputs: sentences of
Python's own docstrings for MiniLM, crops of scikit-learn's sample photographs for FER, CIFAR-10 for
ResNet-20, and for the speaker encoder made-up spectra, which are no speech.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import json
import sys
import tempfile
import time
from pathlib import Path

import common
import keras
import numpy as np
from keras import ops

from keras_tensornet import compress_model, formats, plan_compression, reestimate_batch_norm
from keras_tensornet.compression import calibrate
from keras_tensornet.compression.calibration import knowledge_of
from keras_tensornet.compression.kinds import find_kernels
from keras_tensornet.compression.weighted import RIDGE
from keras_tensornet.rewriting.walker import rewrite_model

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import minilm
import pretrained

SHARES = (0.75, 0.5, 0.25)
FORMATS = (*formats.FORMATS, "auto")
NETWORKS = ("FER", "ResNet-20", "speaker encoder", "MiniLM, one block")
CALIBRATION, HELD_OUT = 128, 64
COUNT = CALIBRATION + HELD_OUT


def network(name: str, resnet: Path | None):
    """`(model, inputs, what to compress)` of a network; None where its weights are not at hand."""
    if name == "small":
        return small()
    try:
        if name == "FER":
            return expressions()
        if name == "speaker encoder":
            return speakers()
        if name.startswith("MiniLM"):
            return sentences()
    except pretrained.Missing as missing:
        print(missing)
        return None
    if resnet is None:
        print("ResNet-20 needs --resnet FILE")
        return None
    from keras_tensornet import datasets

    images = datasets.load("cifar10").x_train[:COUNT]
    return keras.models.load_model(resnet), images, None


def small():
    """A convolution, an LSTM and a dense layer, untrained: to see it run."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.Reshape((6, 48))(x)
    x = keras.layers.LSTM(16, name="lstm")(x)
    model = keras.Model(inputs, keras.layers.Dense(12, name="dense")(x))
    images = np.random.default_rng(0).standard_normal((COUNT, 8, 8, 2)).astype("float32")
    return model, images, None


def expressions():
    """Mini-Xception and crops of photographs in grey, in [-1, 1]."""
    from sklearn.datasets import load_sample_images

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.hdf5"
        file.write_bytes(pretrained.read(pretrained.FER, "data/emotion_model.hdf5"))
        model = keras.models.load_model(file, compile=False)
    size, random = model.input_shape[1], np.random.default_rng(0)
    photographs = [image.mean(-1) for image in load_sample_images().images]
    crops = []
    for number in range(COUNT):
        image = photographs[number % len(photographs)]
        top, left = (random.integers(0, edge - size) for edge in image.shape)
        crops.append(image[top : top + size, left : left + size, None] / 127.5 - 1.0)
    return model, np.stack(crops).astype("float32"), None


def speakers():
    """The speaker encoder, and spectra that wander like those of sounds."""
    raw = pretrained.read(pretrained.SPEAKER, "pretrained.pt")
    weights = pretrained.torch_state(raw, "model_state")
    inputs = x = keras.Input((40, 40), name="mel")
    for number in range(3):
        x = keras.layers.LSTM(256, return_sequences=number < 2, name=f"lstm{number}")(x)
    model = keras.Model(inputs, keras.layers.Dense(256, activation="relu", name="linear")(x))
    for number in range(3):
        ways = [weights[f"lstm.weight_{way}_l{number}"].T for way in ("ih", "hh")]
        bias = sum(weights[f"lstm.bias_{way}_l{number}"] for way in ("ih", "hh"))
        model.get_layer(f"lstm{number}").set_weights([*ways, bias])
    model.get_layer("linear").set_weights([weights["linear.weight"].T, weights["linear.bias"]])
    random = np.random.default_rng(0)
    walk = np.cumsum(random.standard_normal((COUNT, 40, 40)), axis=1) * 0.3
    walk = walk + np.cumsum(random.standard_normal((COUNT, 1, 40)), axis=2) * 0.3
    return model, np.exp(walk - 6.0).clip(0, 1).astype("float32"), None


def sentences():
    """MiniLM, of which the fourth block is compressed, and sentences."""
    ids = minilm.tokenizer()(pretrained.sentences(COUNT), 32)
    model = minilm.sentence_model(minilm.trained_encoder())
    return model, minilm.model_inputs(ids), "transformer_layer_3/.*"


class Case:
    """A network with what it is compared by."""

    def __init__(self, name: str, model, inputs, include):
        self.name, self.model, self.include = name, model, include
        known, self.fresh = (
            keras.tree.map_structure(lambda leaf, part=part: leaf[part], inputs)
            for part in (slice(None, CALIBRATION), slice(CALIBRATION, None))
        )
        self.calibration = calibrate(model, known)
        self.targets = {target.path: target for target in find_kernels(model)}
        self.knowledge = knowledge_of(model, [*self.targets.values()], self.calibration)
        self.wanted = model.predict(self.fresh, verbose=0)
        self.factors: dict[str, tuple] = {}

    def row(self, format: str, share: float) -> dict | None:
        """One plan against SVDs of its size; None where no network of that format is so small."""
        began = time.perf_counter()
        chosen = [t for p, t in self.targets.items() if self.include is None or "layer_3/" in p]
        total, kernels = self.model.count_params(), sum(_size(target) for target in chosen)
        settings = {"include": self.include, "exclude": () if self.include is None else []}
        budget = 1 - (1 - share) * kernels / total
        plan = plan_compression(
            self.model, format, params=budget, calibration_data=self.calibration, **settings
        )
        seconds = time.perf_counter() - began
        worst, taken, svds = 0.0, 0, {}
        for choice in plan:
            if choice.format is None:
                continue
            error, svds[choice.path] = self.svd(choice.path, choice.params)
            worst = max(worst, choice.error / error if error else 1.0)
            taken += "truncated SVD" in choice.note
        small = compress_model(
            self.model, plan=plan, calibration_data=self.calibration, recover=False
        )
        return {
            "case": f"{self.name}, {format}, {share}",
            "kernels": len(svds),
            "svd_taken": taken,
            "params": plan.params,
            "worst": worst,
            "distance": self.distance(small),
            "svd_distance": self.distance(self.with_kernels(svds)),
            "seconds": seconds,
        }

    def svd(self, path: str, params: int) -> tuple[float, np.ndarray]:
        """Relative error of the whitened SVD of no more parameters, and its kernel."""
        target = self.targets[path]
        kernel = ops.convert_to_numpy(target.kernel).astype("float64")
        matrix = kernel.reshape(-1, _outputs(target))
        if path not in self.factors:
            known, root, scale = self.knowledge.get(path), np.eye(len(matrix)), 1.0
            if known is not None:
                gram = known.gram[0].astype("float64")
                if known.mean is not None:
                    gram = gram - np.outer(known.mean[0], known.mean[0])
                gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
                root = np.linalg.cholesky(gram).T
                scale = 1.0 if known.scale is None else known.scale
            parts = np.linalg.svd(root @ matrix * scale, full_matrices=False)
            self.factors[path] = (root, scale, *parts)
        root, scale, left, values, right = self.factors[path]
        rank = params // sum(matrix.shape)
        cut = np.linalg.solve(root, left[:, :rank] * values[:rank]) @ right[:rank] / scale
        error = float(np.linalg.norm(values[rank:]) / np.linalg.norm(values))
        return error, cut.reshape(kernel.shape)

    def with_kernels(self, kernels: dict[str, np.ndarray]):
        """The dense model with other kernels, batch norms estimated again as compression does."""
        copy = rewrite_model(self.model, lambda layer, path: None)
        for target in find_kernels(copy):
            if target.path in kernels:
                target.kernel.assign(kernels[target.path])
        return reestimate_batch_norm(copy, self.calibration.data)

    def distance(self, model) -> float:
        """Squared difference of the outputs over what the dense ones vary around their mean."""
        found = model.predict(self.fresh, verbose=0)
        varies = np.sum((self.wanted - self.wanted.mean(0)) ** 2)
        return float(np.sum((found - self.wanted) ** 2) / varies)


def _size(target) -> int:
    return int(np.prod(target.kernel_shape))


def _outputs(target) -> int:
    """Columns of the kernel's matrix."""
    equation = getattr(target.layer, "equation", None)
    if equation is None:
        return target.kernel_shape[-1]
    ends = equation.split("->")[1].replace("...", "")
    axes = equation.split("->")[0].split(",")[1]
    return int(np.prod([n for a, n in zip(axes, target.kernel_shape, strict=True) if a in ends]))


def main() -> None:
    """Every network, share and format that is not in the results yet."""
    resnet = None
    if "--resnet" in sys.argv:
        place = sys.argv.index("--resnet")
        resnet = Path(sys.argv[place + 1])
        del sys.argv[place : place + 2]
    arguments = common.parse(__doc__.splitlines()[0])
    path = arguments.out / "real_networks.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for name in ("small",) if arguments.smoke else NETWORKS:
        wanted = [
            (format, share)
            for share in ((0.5,) if arguments.smoke else SHARES)
            for format in (("tt", "auto") if arguments.smoke else FORMATS)
            if arguments.only in f"{name}, {format}, {share}"
            and not any(row["case"] == f"{name}, {format}, {share}" for row in rows)
        ]
        found = network(name, resnet) if wanted else None
        if found is None:
            continue
        case = Case(name, *found)
        for format, share in wanted:
            try:
                rows.append(case.row(format, share))
            except ValueError as error:
                print(f"{name}, {format}, {share}: {error}")
                continue
            print(rows[-1], flush=True)
            common.save("real_networks", rows, arguments.out)
    print(common.show(rows, list(rows[0]) if rows else []))


if __name__ == "__main__":
    main()
