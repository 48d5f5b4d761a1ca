"""A TT-LSTM by ADMM: digits read row by row, the input kernel pulled to a tensor train.

As in section 5.3 of Yin et al. 2021, only the input-to-hidden kernel is compressed, with the gates
in its first output mode. The dense LSTM is trained first; then, at equal epochs, ADMM is compared
with direct decomposition and with a TT-LSTM from random cores. `recurrent.py` has the same task.

    python examples/admm_lstm.py            # all runs; those already in the results are skipped
    python examples/admm_lstm.py --smoke    # the 8 x 8 digits of scikit-learn, nothing is kept
    python examples/admm_lstm.py --report   # only print the table
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import admm_study
import keras

from keras_tensornet import datasets

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "admm_lstm.json"
UNITS = 128
BATCH = 128
SEEDS = (0, 1, 2)
ROW_MODES = {28: (4, 7), 8: (2, 4)}


def study(arguments, results: Path, cache: Path) -> admm_study.Study:
    """The comparison on the rows of MNIST, or of scikit-learn's digits."""
    name = "digits" if arguments.smoke else "mnist"
    data = datasets.load(name)
    train_images, test_images = data.x_train[..., 0], data.x_test[..., 0]
    rows, row = train_images.shape[1:]
    settings = {
        "task": f"lstm on the rows of {name}",
        "epochs": {"dense": 1, "admm": 1, "finetune": 1}
        if arguments.smoke
        else {"dense": 2, "admm": 3, "finetune": 2},
        "batch_size": BATCH,
        "optimizer": "Adam 0.002, cosine decay in each phase",
        "rho": 0.5,
        "adaptive_rho": False,
        "every": "epoch" if arguments.smoke else 234,  # two updates in an epoch
        "format": "ttm",
        "rank": 4,
    }

    def trained(seed):
        file = cache / f"admm_lstm_{name}_{seed}.keras"
        if not file.exists():
            model = keras.Sequential(
                [
                    keras.Input((rows, row)),
                    keras.layers.LSTM(UNITS, name="lstm"),
                    keras.layers.Dense(10, name="classifier"),
                ]
            )
            compile(model, settings["epochs"]["dense"], False)
            train(model, settings["epochs"]["dense"], [])
            model.save(file)
        return keras.models.load_model(file, compile=False)

    def compile(model, epochs, penalised):
        steps = max(epochs, 1) * -(-len(data.y_train) // BATCH)
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.002, steps)),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

    train = admm_study.trainer(train_images, data.y_train, BATCH)
    evaluate = admm_study.evaluator(test_images, data.y_test)
    modes = {"rank": settings["rank"], "in_modes": ROW_MODES[row], "out_modes": (16, UNITS // 16)}
    plan = {"format": "ttm", "rank": settings["rank"], "overrides": {"lstm": modes}}
    return admm_study.Study(results, settings, trained, compile, train, evaluate, plan)


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny and quick, nothing is kept")
    parser.add_argument("--report", action="store_true", help="no runs, only the report")
    parser.add_argument("--cache", type=Path, help="folder that keeps the dense networks")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json" if arguments.smoke else RESULTS
        if not arguments.report:
            cache = arguments.cache or Path(folder)
            cache.mkdir(parents=True, exist_ok=True)
            runs = study(arguments, results, cache)
            for seed in SEEDS[:1] if arguments.smoke else SEEDS:
                for arm in ("admm", "direct", "scratch", "dense"):
                    runs.run(arm, seed, None)
        name = "digits" if arguments.smoke else "mnist"
        admm_study.report(results, f"lstm on the rows of {name}", {}, None)


if __name__ == "__main__":
    main()
