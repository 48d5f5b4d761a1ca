"""Training on several devices or processes gives the losses of one; layouts are as proposed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from keras_tensornet import layers

SCRIPT = Path(__file__).parents[2] / "examples" / "distributed_training.py"
HAS_JAX = importlib.util.find_spec("jax") is not None
LONGEST = 600


def run(way: str, backend: str) -> dict:
    """What the example prints, in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment |= {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), way],
        capture_output=True,
        text=True,
        env=environment,
        timeout=LONGEST,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "ways"),
    [
        ("tensorflow", ("mirrored", "workers")),
        ("jax", ("data_parallel", "model_parallel")),
    ],
)
def test_losses_are_those_of_a_single_device(backend, ways):
    if backend == "jax" and not HAS_JAX:
        pytest.skip("JAX is not installed")
    single = run("single", backend)
    assert single["losses"][1] < single["losses"][0]
    for way in ways:
        found = run(way, backend)
        # the same float32 sums in another order
        assert found["losses"] == pytest.approx(single["losses"], rel=1e-5), way
        assert found["weights"] == pytest.approx(single["weights"], rel=1e-5), way
        if way == "data_parallel":
            assert found["devices"] == 4
            assert not any("model" in place for place in found["placed"].values())
        if way == "model_parallel":
            parted = {path for path, place in found["placed"].items() if "model" in place}
            assert "head/kernel" in parted and len(parted) == found["parted"] == 4
            assert any("core" in path for path in parted)


class Mesh:
    """The names and shape of a mesh, without devices."""

    axis_names = ("batch", "model")
    shape = (1, 2)


@pytest.fixture
def plain_maps(monkeypatch):
    """Layout maps as dicts: the real ones want devices."""
    monkeypatch.setattr(keras.distribution, "LayoutMap", lambda mesh: {})


def test_large_variables_are_parted_along_what_is_not_summed_over(plain_maps):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 4), name="image"),
            layers.TTConv2D(8, kernel_size=3, rank=3, name="train"),
            keras.layers.Flatten(),
            keras.layers.Dense(6, name="head"),
            keras.layers.Dense(5, name="odd"),
        ]
    )
    found = layers.layout_map(model, Mesh, least=24)
    last = model.get_layer("train").cores[-1]  # (3, 8, 1): the output mode
    assert found[f"^{last.path}$"] == (None, "model", None)
    assert found[f"^{model.get_layer('head').kernel.path}$"] == (None, "model")
    assert not any("odd" in key or "bias" in key for key in found)
    assert len(found) == 2  # the other cores are small, or have no mode that 2 divides
    assert layers.layout_map(model, Mesh) == {}
    for variable in model.variables:
        for key, layout in found.items():
            if key == f"^{variable.path}$":
                axis = layout.index("model")
                assert variable.shape[axis] % 2 == 0 and len(layout) == len(variable.shape)


def test_a_wrong_axis_or_an_unbuilt_model_is_refused(plain_maps):
    layer = layers.TRDense(4, rank=2)
    with pytest.raises(ValueError, match=r"`axis` must be one of the mesh's axes.*'rows'"):
        layers.layout_map(layer, Mesh, axis="rows")
    with pytest.raises(ValueError, match="is not built"):
        layers.layout_map(layer, Mesh)
