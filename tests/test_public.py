"""Public names: listed once, imported when used, and Keras knows the layers all the same."""

import ast
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_tensornet
from keras_tensornet import layers

STUB = Path(keras_tensornet.__file__).with_suffix(".pyi")
# What a process may import first; afterwards Keras must know the layers.
FIRST = (
    "import keras, keras_tensornet",
    "import keras_tensornet, keras",
    "import keras_tensornet.kernels, keras",  # a module that the layers themselves need
    "from keras_tensornet import formats; assert 'keras' not in sys.modules; import keras",
)
LOAD = """
import sys
{first}
model = keras.models.load_model(sys.argv[1])
assert type(model.layers[0]).__name__ == "TRDense"
assert not [finder for finder in sys.meta_path if "keras_tensornet" in type(finder).__module__]
import keras_tensornet.kernels, keras_tensornet.layers.common
assert keras_tensornet.layers.common.FactorizedKernel is keras_tensornet.kernels.FactorizedKernel
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    keras.Sequential([keras.Input((8,)), layers.TRDense(4, rank=2)]).save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("first", FIRST)
def test_keras_knows_the_layers_whatever_is_imported_first(first, saved):
    run = subprocess.run(
        [sys.executable, "-c", LOAD.format(first=first), str(saved)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.slow
def test_a_keras_that_cannot_be_imported_says_why(tmp_path):
    (tmp_path / "keras.py").write_text("raise RuntimeError('no backend')")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import keras_tensornet, keras"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.stderr.splitlines()[-1] == "RuntimeError: no backend"


def test_every_public_name_is_there_and_is_what_it_is_called():
    pytest.importorskip("keras_tuner")
    for name in dir(keras_tensornet):
        assert getattr(keras_tensornet, name, None) is not None, name
    imported = {
        alias.asname
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= set(dir(keras_tensornet))
    for name in ("ADMM", "export_model", "pareto", "compress_model", "Network", "freeze"):
        assert name in imported and getattr(keras_tensornet, name).__name__ == name


def test_names_that_do_not_exist_raise():
    with pytest.raises(AttributeError, match="module 'keras_tensornet' has no attribute 'nothing'"):
        keras_tensornet.nothing  # noqa: B018


def test_importing_all_names_needs_no_extra():
    assert "pareto" not in keras_tensornet.__all__ and "freeze" in keras_tensornet.__all__
    namespace = {}
    exec("from keras_tensornet import *", namespace)
    assert set(keras_tensornet.__all__) <= set(namespace)
