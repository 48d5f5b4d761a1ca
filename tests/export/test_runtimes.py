"""Files for OpenVINO and PyTorch: equal outputs, open batch, nothing twice, pairs as one."""

import importlib.util
import os
import shutil

import keras
import numpy as np
import pytest

from keras_tensornet import cli, export, files, layers
from keras_tensornet.export import clean_process, exporting, runtimes
from tests.export.test_export import one_of_each, small

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None or BACKEND not in ("tensorflow", "torch"),
    reason='OpenVINO needs the "openvino" extra, and the TensorFlow or PyTorch backend',
)
needs_torch = pytest.mark.skipif(
    BACKEND != "torch", reason="torch.export needs Keras' PyTorch backend"
)
BOTH = [
    pytest.param("openvino", marks=needs_openvino),
    pytest.param("torch", marks=needs_torch),
]


def path_of(folder, format):
    return folder / f"model{exporting.SUFFIXES[format]}"


def two_inputs():
    """Inputs in another order than that of their names, two outputs, an open extent."""
    image, row = keras.Input((None, 6, 2), name="zoom"), keras.Input((3,), name="age")
    x = layers.TRConv2D(4, 3, rank=2, name="conv", implementation="factorized")(image)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Concatenate(name="both")([x, layers.TTDense(8, rank=2, name="first")(row)])
    outputs = [keras.layers.Dense(2, name="zebra")(x), layers.CPDense(2, rank=2, name="ape")(x)]
    return keras.Model([image, row], outputs)


def stopped(*args):
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("format", BOTH)
@pytest.mark.parametrize("form", ["factorized", "dense", "stock"])
def test_every_form_runs_alone(format, form, tmp_path):
    model = one_of_each()
    if form == "factorized" and BACKEND == "torch":  # its T-Basis cannot be traced, see below
        model = keras.Model(model.inputs, model.outputs[:-2])
    report = export.export_model(model, path_of(tmp_path, format), format, form, batch_size=2)
    # 1e-4 of the largest output: the same float32 sums in another order
    assert report.alone and report.difference <= 1e-4 * report.scale and report.latency > 0
    written = [file.stat().st_size for file in tmp_path.iterdir()]
    assert report.size == sum(written) and len(written) == 1 + (format == "openvino")


@pytest.mark.parametrize("format", BOTH)
def test_names_order_batch_and_open_extents(format, tmp_path):
    """A program for every batch size and width, 1 as well, with the model's inputs and outputs."""
    model = two_inputs()
    path = path_of(tmp_path, format)
    report = export.export_model(model, path, format, "factorized", verify=False)
    assert (report.inputs, report.outputs) == (("zoom", "age"), ("zebra", "ape"))
    run = getattr(clean_process, f"load_{format}")(str(path))
    for batch, height in ((1, 4), (5, 7)):
        x = RNG.normal(size=(batch, height, 6, 2)).astype("float32")
        row = RNG.normal(size=(batch, 3)).astype("float32")
        found = run({"zoom": x, "age": row})
        for name, expected in zip(report.outputs, model([x, row]), strict=True):
            # the same float32 sums in another order, on numbers of about 1
            np.testing.assert_allclose(
                found[name], keras.ops.convert_to_numpy(expected), atol=1e-5, err_msg=name
            )


@pytest.mark.parametrize("format", BOTH)
def test_files_hold_each_number_once(format, tmp_path):
    """Of a frozen layer the merged kernel without the cores, of dense ones no second copy."""
    inputs = keras.Input((400,), name="x")
    x = layers.TTDense(400, rank=40, name="cores")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(300, name="plain")(x))
    report = export.export_model(
        model, path_of(tmp_path, format), format, "factorized", verify=False, batch_size=64
    )
    numbers = 4 * (400 * 400 + 400 + 400 * 300 + 300)
    assert report.size < numbers + 60_000  # graph and signature


@needs_openvino
def test_float16_halves_the_weights_for_openvino(tmp_path):
    model = keras.Sequential([keras.Input((300,), name="x"), keras.layers.Dense(300, name="y")])
    sizes = {}
    for how in (None, "float16"):
        path = tmp_path / f"{how}.xml"
        export.export_model(model, path, "openvino", quantize=how, verify=False)
        sizes[how] = path.with_suffix(".bin").stat().st_size
    assert sizes["float16"] < 0.51 * sizes[None]


@needs_openvino
def test_a_pair_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "model.xml"
    model = small()
    export.export_model(model, path, "openvino", verify=False)
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        export.export_model(model, path, "openvino", verify=False)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(before) == {"model.xml", "model.bin"}
    model.set_weights([2 * weight for weight in model.get_weights()])
    with monkeypatch.context() as patch:
        patch.setattr(runtimes, "write_openvino", stopped)
        with pytest.raises(KeyboardInterrupt):
            export.export_model(model, path, "openvino", verify=False, overwrite=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    export.export_model(model, path, "openvino", verify=False, overwrite=True)
    x = np.ones((2, 6), "float32")
    (found,) = clean_process.load_openvino(str(path))({"features": x}).values()
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(x)), atol=1e-5)
    assert set(os.listdir(tmp_path)) == {"model.xml", "model.bin"}


# ------------------------------------------------- pairs of files, on any backend


def write_pair(xml, bin):
    def write(path):
        path.write_text(f"<?xml?><net {xml}>")
        path.with_suffix(".bin").write_text(bin)

    return lambda path: files.write_together(path, write, (".bin",), files.foreign_to_openvino)


def contents(folder):
    return {file.name: file.read_text() for file in folder.iterdir()}


@pytest.mark.parametrize("failing", range(1, 5))
def test_a_rename_that_fails_leaves_the_old_pair(failing, tmp_path, monkeypatch):
    """Whichever of the four renames fails: two files out, two in."""
    write_pair("old", "old")(tmp_path / "m.xml")
    before, count, rename = contents(tmp_path), [0], os.rename

    def fails(source, target):
        count[0] += 1
        if count[0] == failing:
            raise OSError("disk")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fails)
        with pytest.raises(OSError, match="disk"):
            write_pair("new", "new")(tmp_path / "m.xml")
    assert contents(tmp_path) == before
    write_pair("new", "new")(tmp_path / "m.xml")
    assert contents(tmp_path) == {"m.xml": "<?xml?><net new>", "m.bin": "new"}


def test_the_first_file_never_stands_beside_anothers_companion(tmp_path, monkeypatch):
    """At every moment of a replacement `.xml` and `.bin` belong together, or `.xml` is away."""
    path = tmp_path / "m.xml"
    write_pair("old", "old")(path)
    seen, rename = [], os.rename

    def watched(source, target):
        rename(source, target)
        seen.append((path.exists() and path.read_text()[12:-1], path.with_suffix(".bin").exists()))
        if path.exists():
            assert path.with_suffix(".bin").read_text() == path.read_text()[12:-1]

    monkeypatch.setattr(os, "rename", watched)
    write_pair("new", "new")(path)
    assert seen == [(False, True), (False, False), (False, True), ("new", True)]


@pytest.mark.parametrize("name, words", [("m.bin", "another's"), ("m.xml", "no OpenVINO model")])
def test_files_of_others_are_not_replaced(name, words, tmp_path):
    (tmp_path / name).write_text("precious")
    with pytest.raises(FileExistsError, match=words):
        write_pair("new", "new")(tmp_path / "m.xml")
    assert contents(tmp_path) == {name: "precious"}
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match="no plain file"):
        write_pair("new", "new")(tmp_path / "m.xml")


def test_half_a_pair_is_not_put_in_place(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m\.bin is missing"):
        files.write_together(
            tmp_path / "m.xml", lambda path: path.write_text("<net "), (".bin",), lambda path: None
        )
    assert not os.listdir(tmp_path)


# ----------------------------------------------------- what is missing is said first


@pytest.mark.parametrize(
    "format, able",
    [("torch", "PyTorch"), ("openvino", "TensorFlow or PyTorch"), ("litert", "TensorFlow")],
)
def test_the_backend_that_is_needed_is_named_before_anything_is_written(
    format, able, tmp_path, monkeypatch
):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(RuntimeError, match=rf"{able} backend\. Received: numpy.*KERAS_BACKEND="):
        exporting._require(format)
    model = small()
    with pytest.raises(RuntimeError, match=f"needs Keras' {able}"):
        export.export_model(model, path_of(tmp_path, format), format)
    assert not os.listdir(tmp_path)


def test_the_package_that_is_needed_is_named_before_anything_is_written(tmp_path, monkeypatch):
    if BACKEND not in ("tensorflow", "torch"):
        pytest.skip("OpenVINO needs the TensorFlow or PyTorch backend")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ImportError, match=r'install "keras-tensornet\[openvino\]"'):
        export.export_model(small(), tmp_path / "m.xml", "openvino")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("format", BOTH)
def test_recurrent_layers_are_unrolled_or_refused(format, tmp_path):
    sequence = keras.Input((3, 4), name="x")
    hidden = layers.FactorizedLSTM(4, rank=2, return_sequences=True)(sequence)
    model = keras.Model(sequence, keras.layers.Bidirectional(keras.layers.GRU(3))(hidden))
    path = path_of(tmp_path, format)
    export.export_model(model, path, format, "factorized", verify=False)
    x = RNG.normal(size=(5, 3, 4)).astype("float32")
    (found,) = getattr(clean_process, f"load_{format}")(str(path))({"x": x}).values()
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(x)), atol=1e-5)
    model = keras.Sequential([keras.Input((None, 4)), keras.layers.LSTM(2, name="memory")])
    with pytest.raises(ValueError, match=r"layers memory\. Give the model's input"):
        export.export_model(model, tmp_path / f"m{path.suffix}", format)
    assert not [file for file in tmp_path.iterdir() if file.stem != "model"]


@needs_openvino
def test_openvino_refuses_a_tensor_with_two_names(tmp_path):
    inputs = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(3, name="y")(inputs)
    for outputs in ([hidden, hidden], [hidden, inputs]):
        with pytest.raises(ValueError, match="no output may be an input, or be given twice"):
            export.export_model(keras.Model(inputs, outputs), tmp_path / "m.xml", "openvino")
    assert not os.listdir(tmp_path)


@needs_torch
def test_what_pytorch_cannot_trace_is_said(tmp_path):
    class ByBatch(keras.layers.Layer):
        """Computes by the batch size, which a program for every batch cannot."""

        def call(self, inputs):
            return inputs * int(inputs.shape[0] or 1)

    inputs = keras.Input((4,))
    with pytest.raises(RuntimeError, match="PyTorch cannot trace the model for inputs of every"):
        export.export_model(keras.Model(inputs, ByBatch()(inputs)), tmp_path / "m.pt2", "torch")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the command runs on TensorFlow here")
def test_the_command_knows_the_formats_by_suffix(tmp_path, capsys):
    small().save(tmp_path / "m.keras")
    command = ["export", str(tmp_path / "m.keras"), "-o"]
    assert cli.main([*command, str(tmp_path / "m.pt2")]) == 2
    assert "Writing torch needs Keras' PyTorch backend" in capsys.readouterr().err
    shutil.copy(tmp_path / "m.keras", tmp_path / "m.bin")
    assert cli.main([*command, str(tmp_path / "m.xml"), "--force"]) == 2
    assert "may be another's" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["m.bin", "m.keras"]
