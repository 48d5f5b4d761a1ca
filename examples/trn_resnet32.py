"""ResNet-32 on CIFAR-10 as tensor rings, tensor trains and Tucker: Table 6 of Wang et al. 2018.

The paper trains for 200 epochs; this study for three, every network alike, so its numbers compare
with each other and not with the paper's.

    TFDS_DATA_DIR=... python examples/trn_resnet32.py            # what is missing, then the table
    TFDS_DATA_DIR=... python examples/trn_resnet32.py --report   # only the table
    python examples/trn_resnet32.py --smoke                      # digits, seconds, nothing is kept

Rings and trains have the modes of the paper's Table 5 in every layer. Tucker factorizes the 30
convolutions between the first and the classifier, with ranks of 0.35 of their channels, which gives
the paper's 0.09 million. Interrupted runs go on after their last epoch.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import records
from images import ShiftedImages

from keras_tensornet import datasets, layers, models

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "trn_resnet32.json"
# (method, rank, 0 where there is none): millions of parameters, error in %, as published
PAPER = {
    ("dense", 0): (0.46, 7.50),
    ("tucker", 0): (0.09, 12.3),
    ("train", 13): (0.096, 11.7),
    ("ring", 2): (0.004, 22.2),
    ("ring", 6): (0.03, 19.2),
    ("ring", 10): (0.09, 9.4),
}
TUCKER_SHARE = 0.35  # of the channels
EPOCHS = 3
BATCH = 128
RATE = 3e-3
WARMUP = 200


def build(method: str, rank: int, input_shape=(32, 32, 3), depth: int = 32) -> keras.Model:
    """The network with the layers of a method.

    Args:
        method: `"dense"`, `"tucker"`, `"train"` or `"ring"`.
        rank: of every bond of trains and rings.
        input_shape: `(H, W, C)`.
        depth: of the ResNet, 6 n + 2.
    """
    make = functools.partial(models.resnet_cifar, depth, input_shape)
    if method == "dense":
        return make()
    if method == "tucker":

        def tucker(filters, kernel_size, *, strides, **kwargs):
            into = filters // strides  # a convolution with strides doubles the channels
            ranks = tuple(round(TUCKER_SHARE * channels) for channels in (into, filters))
            return layers.TuckerConv2D(filters, kernel_size, rank=ranks, strides=strides, **kwargs)

        return make(conv=tucker)
    format = {"ring": "tr", "train": "tt"}[method]
    modes = models.tensor_ring_modes("resnet_cifar32")

    def conv(filters, kernel_size, *, name, **kwargs):
        own = dict(modes[name])
        if name == "conv1":
            own["in_modes"] = (input_shape[2],)
        return layers.FactorizedConv2D(
            filters,
            kernel_size,
            rank=rank,
            format=format,
            spatial="joint",
            name=name,
            **own,
            **kwargs,
        )

    def dense(units, *, name, **kwargs):
        return layers.FactorizedDense(
            units, rank=rank, format=format, name=name, **modes[name], **kwargs
        )

    return make(conv=conv, stem=conv, dense=dense)


def run(results: Path, work: Path | None, data: datasets.ImageData, settings: dict, depth: int):
    """One run, unless it is recorded."""
    if records.find(results, settings):
        return
    keras.utils.set_random_seed(settings["seed"])
    model = build(settings["method"], settings["rank"], data.x_train.shape[1:], depth)
    steps = settings["epochs"] * (len(data.y_train) // BATCH)
    warmup = min(WARMUP, steps // 4)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=settings["learning_rate"], warmup_steps=warmup
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])

    def batches_from(epoch: int) -> ShiftedImages:
        return ShiftedImages(data.x_train, data.y_train, BATCH, settings["seed"], epoch)

    test = {"validation_data": (data.x_test, data.y_test), "validation_batch_size": 500}
    epochs = records.resumable_fit(model, batches_from, settings, work, verbose=0, **test)
    errors = [round(100 * (1 - epoch["val_accuracy"]), 2) for epoch in epochs]
    outcome = {
        "params": records.parameters(model),
        "test_error_by_epoch": errors,
        "test_error": errors[-1],
        "seconds": sum(epoch["seconds"] for epoch in epochs),
    }
    records.add(results, {"settings": settings, **outcome})
    print(settings["method"], settings["rank"], outcome, flush=True)


def report(runs: list[dict]) -> None:
    """The table, the paper's figures beside ours."""
    print("| network | parameters | error, % | paper's parameters | paper's error, % |")
    print("|---|---|---|---|---|")
    for done in runs:
        key = done["settings"]["method"], done["settings"]["rank"]
        millions, error = PAPER[key]
        name = f"{key[0]} {key[1]}" if key[1] else key[0]
        print(f"| {name} | {done['params']:,} | {done['test_error']} | {millions} M | {error} |")


def main() -> None:
    """Train what is not recorded yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=["dense", "ring", "train", "tucker"])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, nothing is kept")
    parser.add_argument("--report", action="store_true", help="no runs, only the table")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "trn_resnet32")
    arguments = parser.parse_args()
    # One rank for all layers: small layers cut theirs, which loses nothing.
    warnings.filterwarnings("ignore", "Some ranks of the", UserWarning)
    smoke = arguments.smoke
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json" if smoke else arguments.results
        cases = [key for key in PAPER if key[0] in arguments.methods]
        if not arguments.report:
            data = datasets.load("digits" if smoke else "cifar10")
            for method, rank in [("ring", 2)] if smoke else cases:
                for seed in arguments.seeds[:1] if smoke else arguments.seeds:
                    settings = {
                        "data": data.name,
                        "method": method,
                        "rank": rank,
                        "seed": seed,
                        "epochs": 1 if smoke else arguments.epochs,
                        "batch_size": BATCH,
                        "optimizer": "Adam, linear warm-up of 200 steps, cosine decay",
                        "learning_rate": RATE,
                        "augmentation": "shifts by 4 pixels, mirroring",
                    }
                    work = None if smoke else arguments.work
                    run(results, work, data, settings, depth=8 if smoke else 32)
        report(records.read(results))


if __name__ == "__main__":
    main()
