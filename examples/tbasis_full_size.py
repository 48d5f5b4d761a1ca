"""T-Basis at full size: WideResNet-28-10 and DeepLabV3+ with a ResNet-34, the paper's largest.

Not trained here: each is rewritten onto one basis, counted, takes two training steps, is saved and
loaded, and exported; how far the loaded outputs are from the model's is printed. DeepLabV3+ is
KerasHub's (the extra `hub`); without it that network is left out.

    python examples/tbasis_full_size.py            # minutes; what is recorded is not repeated
    python examples/tbasis_full_size.py --smoke    # a small WideResNet, nothing is kept
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import records

from keras_tensornet import models
from keras_tensornet.tbasis import tbasis_model, tbasis_optimizer

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "tbasis_full_size.json"
# (network, B, R) and what the paper reports in percent of the dense parameters, basis included.
CASES = {
    ("wide_resnet28_10", 32, 8): 0.149,
    ("deeplab_v3_plus_resnet34", 128, 16): 1.450,
    ("deeplab_v3_plus_resnet34", 128, 32): 4.777,
}
BATCH = 2


def dense_network(name: str) -> keras.Model:
    """The dense network of a case.

    Raises:
        ImportError: if it needs KerasHub, which is not installed.
    """
    if name == "wide_resnet10_1":
        return models.wide_resnet(10, 1)
    if name == "wide_resnet28_10":  # the paper's: CIFAR-100, a bias on every convolution
        return models.wide_resnet(28, 10, num_classes=100, use_bias=True)
    import keras_hub

    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        use_pre_activation=False,
        image_shape=(96, 96, 3),
    )
    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=encoder,
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P5",
        dilation_rates=[6, 12, 18],
        upsampling_size=8,
        projection_filters=48,
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone=backbone, num_classes=21)


def run(name: str, size: int, rank: int) -> dict:
    """Rewrite, count, train for two steps, save, load and export one network."""
    keras.utils.set_random_seed(0)
    dense = dense_network(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # KerasHub's models compile themselves
        model = tbasis_model(dense, size, rank, mode=9, seed=0)
    shape = [BATCH, *(extent or 96 for extent in dense.input_shape[1:])]
    images = np.random.default_rng(0).normal(size=shape).astype("float32")
    labels = np.zeros(model(images).shape[:-1], "int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tbasis_optimizer(keras.optimizers.SGD(0.01)), loss)
    losses = [float(model.train_on_batch(images, labels)) for _ in range(2)]
    return {
        "dense_params": records.parameters(dense),
        "params": records.parameters(model),
        "loss": losses[-1],
        **_files(model, images),
    }


def _files(model: keras.Model, images: np.ndarray) -> dict:
    """Sizes of the files, and how far the outputs of what was loaded are from the model's."""
    import tensorflow as tf

    wanted = model.predict(images, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        file, saved = Path(folder, "model.keras"), Path(folder, "saved")
        model.save(file)
        loaded = _loaded_outputs(file, images)
        # Of this image size: KerasHub's network cannot enlarge images of unknown sizes in a graph.
        signature = [tf.TensorSpec((None, *images.shape[1:]))]
        model.export(str(saved), verbose=False, input_signature=signature)
        restored = tf.saved_model.load(str(saved))
        served = restored.serve(images).numpy()
        size = file.stat().st_size
    scale = float(np.abs(wanted).max())
    return {
        "keras_file_bytes": size,
        "loaded_is_equal": None if loaded is None else bool(np.array_equal(loaded, wanted)),
        "largest_difference_of_savedmodel": float(np.abs(served - wanted).max()) / scale,
    }


def _loaded_outputs(file: Path, images: np.ndarray) -> np.ndarray | None:
    try:
        return keras.models.load_model(file).predict(images, verbose=0)
    except TypeError as error:
        print(f"not loaded: {str(error).splitlines()[-1]}")
        return None


def main() -> None:
    """Run what is not recorded, then print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, nothing is kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.json") if arguments.smoke else RESULTS
        for case in [("wide_resnet10_1", 4, 4)] if arguments.smoke else CASES:
            settings = dict(zip(("network", "size", "rank"), case, strict=True))
            if records.find(results, settings) is None:
                try:
                    outcome = run(*case)
                except ImportError as error:
                    print(f"{case[0]} is left out: {error}")
                    continue
                paper = CASES.get(case)
                records.add(results, {"settings": settings, "paper_percent": paper, **outcome})
        for one in records.read(results):
            settings = one["settings"]
            print(
                f"{settings['network']:26} B={settings['size']:<4} R={settings['rank']:<3} "
                f"{one['dense_params']:>11,} -> {one['params']:>9,} parameters, "
                f"{100 * one['params'] / one['dense_params']:.3f} % (paper: {one['paper_percent']}"
                f"), loss {one['loss']:.2f}, loaded equal: {one['loaded_is_equal']}, "
                f"SavedModel differs by {one['largest_difference_of_savedmodel']:.1e}"
            )


if __name__ == "__main__":
    main()
