"""Use a tensor network of your own as the kernel of a dense layer and of a convolution.

Two networks that no library has layers for: a 2 x 3 patch of PEPS (a lattice whose cores are joined
to their neighbours), and a MERA-like tree with a disentangler in its middle. Each is one string of
labels; merging, plans, initial variance, saving and export follow from it.

    python examples/custom_network.py
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_tensornet import Network
from keras_tensornet.layers import FactorizedConv2D, FactorizedDense


def peps_dense() -> FactorizedDense:
    """Six sites in two rows of three, each with an input and an output mode, as a Dense kernel."""
    rows = "i0 o0 a d, i1 o1 a b e, i2 o2 b f, i3 o3 c d, i4 o4 c e g, i5 o5 f g"
    sizes = {f"{side}{site}": 3 for side in "io" for site in range(6)} | dict.fromkeys("abcdefg", 2)
    return FactorizedDense(3**6, network=Network.parse(rows, sizes, name="2 x 3 PEPS"))


def peps_conv() -> FactorizedConv2D:
    """The same patch as a Conv2D kernel: inputs on the left, height and width between, outputs."""
    rows = "i0 a d, h a b e, o0 b f, i1 c d, w c e g, o1 f g"
    sizes = {"i0": 4, "i1": 4, "o0": 4, "o1": 8} | dict.fromkeys("abcdefg", 3)
    patch = Network.parse(rows, sizes, spatial={"h": (3,), "w": (3,)}, name="2 x 3 PEPS")
    return FactorizedConv2D(32, 3, network=patch, padding="same")


def mera_dense() -> FactorizedDense:
    """Isometries that join pairs of inputs, a disentangler, isometries that part the outputs."""
    tree = "i0 i1 a, i2 i3 b, a b c d, c o0 o1, d o2 o3"
    sizes = {f"{side}{site}": 4 for side in "io" for site in range(4)} | dict.fromkeys("abcd", 6)
    return FactorizedDense(256, network=Network.parse(tree, sizes, name="MERA-like"))


def show(layer, input_shape: tuple[int, ...]) -> None:
    """Print what the layer is, and check it: against its merged kernel, trained, saved, loaded."""
    inputs = np.random.default_rng(0).standard_normal((8, *input_shape)).astype("float32")
    model = keras.Sequential([keras.Input(input_shape), layer])
    dense = int(np.prod(layer.kernel.shape))
    print(f"{layer.network.name} as {type(layer).dense_class().__name__} {layer.kernel.shape}")
    print(f"  {layer.network.num_params:,} parameters instead of {dense:,}")
    print(f"  plan for a batch of 8: {layer.plan_for(8).describe()}")
    outputs, wanted = model.predict(inputs, verbose=0), layer.to_dense_layer()(inputs)
    print(f"  against the dense layer: {np.max(np.abs(outputs - wanted)):.1e}")
    model.compile("adam", "mse")
    losses = model.fit(inputs, 0.1 * outputs, epochs=20, verbose=0).history["loss"]
    print(f"  loss in 20 steps: {losses[0]:.1e} -> {losses[-1]:.1e}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
    same = np.array_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0))
    print(f"  saved and loaded, outputs equal: {same}\n")


def main() -> None:
    """Show the three layers."""
    show(peps_dense(), (3**6,))
    show(peps_conv(), (12, 12, 16))
    show(mera_dense(), (256,))


if __name__ == "__main__":
    main()
