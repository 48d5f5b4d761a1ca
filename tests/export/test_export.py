"""Exported files: equal outputs in a process without this package, and nothing half written."""

import importlib.util
import json
import os
import zipfile

import keras
import numpy as np
import pytest

from keras_tensornet import cli, export, layers
from keras_tensornet.back_to_keras import to_stock_model
from keras_tensornet.export import clean_process, exporting, forms, verification, writers
from keras_tensornet.serving.freezing import factorized_layers

FORMATS = ("tr", "tt", "ttm", "cp", "tucker", "bt", "ht")
X = np.random.default_rng(0).normal(size=(3, 4, 4, 6)).astype("float32")

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="export needs the TensorFlow backend"
)
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tf2onnx", "onnxruntime")),
    reason='ONNX needs the "export" extra',
)


def one_of_each():
    """A model with one output for each format, a T-Basis and a recurrent one beside them."""
    keras.utils.set_random_seed(1)
    image = keras.Input((4, 4, 6), name="image")
    outputs = []
    for name in FORMATS:
        x = layers.FactorizedConv2D(6, 3, rank=2, format=name, padding="same", name=f"conv_{name}")(
            image
        )
        x = keras.layers.Flatten()(x)
        outputs.append(layers.FactorizedDense(5, rank=2, format=name, name=f"fc_{name}")(x))
    basis = layers.TBasis(3, 2, name="basis")(image)
    x = layers.TBasisConv2D(6, 3, name="conv_tbasis")(image, basis=basis)
    outputs.append(keras.layers.GlobalAveragePooling2D(name="tbasis")(x))
    sequence = keras.layers.Reshape((4, 24))(image)
    outputs.append(layers.FactorizedLSTM(4, rank=2, unroll=True, name="lstm")(sequence))
    return keras.Model(image, outputs)


def small():
    inputs = keras.Input((6,), name="features")
    x = layers.TRDense(8, rank=2, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))


# --------------------------------------------------------- what is written


@pytest.mark.slow
@pytest.mark.parametrize(
    "format, form",
    [
        ("tf_saved_model", "factorized"),
        ("litert", "factorized"),
        pytest.param("onnx", "factorized", marks=needs_onnx),
        ("tf_saved_model", "stock"),
        ("litert", "stock"),
        ("keras", "dense"),
    ],
)
def test_every_format_runs_alone(format, form, tmp_path):
    model = one_of_each()
    before = model.get_weights()
    path = tmp_path / f"model{exporting.SUFFIXES.get(format, '')}"
    # 1e-4 of the largest output: the same float32 sums in another order
    report = export.export_model(model, path, format, form, samples=X, batch_size=2)
    assert report.alone and report.form == form
    assert report.difference <= 1e-4 * report.scale
    assert report.latency > 0 and report.size > 1000
    assert os.listdir(tmp_path) == [path.name]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert "without keras_tensornet: largest difference" in str(report)


def test_saved_model_has_named_inputs_an_open_batch_and_several_endpoints(tmp_path):
    import tensorflow as tf

    left, right = keras.Input((6,), name="left"), keras.Input((3,), name="right")
    x = layers.TTDense(4, rank=2, name="first")(left)
    both = keras.layers.Concatenate(name="both")([x, right])
    model = keras.Model([left, right], keras.layers.Dense(2, name="logits")(both))
    endpoints = {"features": "both", "probabilities": lambda logits: keras.ops.softmax(logits)}
    report = export.export_model(
        model, tmp_path / "served", as_="factorized", endpoints=endpoints, verify=False
    )
    assert (report.inputs, report.outputs) == (("left", "right"), ("logits",))
    assert "not verified" in str(report)
    signatures = tf.saved_model.load(str(tmp_path / "served")).signatures
    assert set(signatures) == {"serving_default", "features", "probabilities"}
    for batch in (1, 5):
        a, b = np.ones((batch, 6), "float32"), np.ones((batch, 3), "float32")
        given = {"left": tf.constant(a), "right": tf.constant(b)}
        logits = signatures["serving_default"](**given)["logits"].numpy()
        np.testing.assert_allclose(logits, model([a, b]), atol=1e-5)
        assert signatures["features"](**given)["features"].shape == (batch, 7)
        chances = signatures["probabilities"](**given)["probabilities"].numpy()
        np.testing.assert_allclose(chances.sum(axis=-1), 1.0, atol=1e-5)


def test_open_extents_are_filled_for_the_check(tmp_path):
    inputs = keras.Input((None, None, 3), name="image")
    x = layers.FactorizedConv2D(4, 3, rank=2, name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x))
    report = export.export_model(model, tmp_path / "open")
    assert report.inputs == ("image",) and report.alone
    # 1e-4 of the largest output: the same float32 sums in another order
    assert report.difference <= 1e-4 * report.scale


def test_litert_unrolls_recurrent_layers(tmp_path):
    """The plain interpreter has no loops; the given model keeps its own."""
    loops = [
        keras.layers.Bidirectional(keras.layers.GRU(3, return_sequences=True)),
        layers.FactorizedLSTM(4, rank=2, return_sequences=True),
        keras.layers.LSTM(2, go_backwards=True, name="memory"),
    ]
    model = keras.Sequential([keras.Input((3, 4), name="x"), *loops])
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("float32")
    for form in ("factorized", "dense"):
        path = tmp_path / f"{form}.tflite"
        report = export.export_model(model, path, "litert", form, verify=False)
        (found,) = clean_process.load_litert(str(path))({report.inputs[0]: x}).values()
        np.testing.assert_allclose(found, model(x), atol=1e-5)
    assert not any(layer.unroll for layer in forms.recurrent_layers(model))


def test_litert_asks_for_the_length_of_sequences(tmp_path):
    model = keras.Sequential([keras.Input((None, 4)), keras.layers.LSTM(2, name="memory")])
    with pytest.raises(ValueError, match=r"layers memory\. Give the model's input"):
        export.export_model(model, tmp_path / "m.tflite", "litert")
    assert list(tmp_path.iterdir()) == []


def stored_values(path):
    """How many numbers a SavedModel's checkpoint holds."""
    tf = pytest.importorskip("tensorflow")
    shapes = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    return sum(
        int(np.prod(shape))
        for name, shape in shapes.get_variable_to_shape_map().items()
        if "OBJECT_GRAPH" not in name
    )


def test_a_saved_model_holds_each_variable_once(tmp_path):
    """Of a frozen layer it holds the merged kernel, as a constant, and no cores."""
    inputs = keras.Input((20,), name="x")
    x = layers.TTDense(24, rank=2, name="cores")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(30, name="plain")(x))
    sizes = {}
    for form in ("dense", "factorized"):
        export.export_model(
            model, tmp_path / form, as_=form, verify=False, endpoints={"hidden": "cores"}
        )
        sizes[form] = stored_values(tmp_path / form)
    assert sizes["dense"] == 20 * 24 + 24 + 24 * 30 + 30
    assert sizes["factorized"] == 24 + 24 * 30 + 30


def test_a_saved_model_keeps_lookup_tables(tmp_path):
    words = keras.Input((), dtype="string", name="text")
    lookup = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
    model = keras.Model(words, keras.layers.Dense(2)(lookup(words)))
    export.export_model(model, tmp_path / "text", verify=False, samples=np.array(["a", "b", "c"]))
    run = clean_process.load_tf_saved_model(str(tmp_path / "text"))
    (found,) = run({"text": np.array(["b", "z"])}).values()
    np.testing.assert_allclose(found, model(np.array(["b", "z"])), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["int8", "float16"])
def test_quantized_litert_is_smaller_and_close(quantize, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,), name="features")
    x = layers.TRDense(256, rank=12, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))
    data = np.random.default_rng(0).normal(size=(100, 64)).astype("float32")
    sizes = {}
    for how in (None, quantize):
        report = export.export_model(
            model,
            tmp_path / f"{how}.tflite",
            "litert",
            "dense",
            how,
            calibration_data=data,
            samples=data[:8],
            verify=how is not None,
        )
        sizes[how] = report.size
    assert sizes[quantize] < 0.6 * sizes[None]
    assert 0 < report.difference < exporting.TOLERANCE[quantize] * report.scale


@needs_onnx
def test_onnx_refuses_grouped_convolutions(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(4, 3, groups=2)])
    with pytest.raises(ValueError, match=r"grouped convolutions.*conv2d"):
        export.export_model(model, tmp_path / "m.onnx", "onnx")
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_stock_chains_keep_to_what_litert_transposes(tmp_path):
    # Many small modes: transpositions of up to nine axes, biases on their own.
    inputs = keras.Input((64,))
    modes = {"in_modes": (4, 4, 4), "out_modes": (4, 4, 4)}
    outputs = [
        layers.FactorizedDense(64, rank=2, format=name, bias_initializer="normal", **modes)(inputs)
        for name in FORMATS
    ]
    model = keras.Model(inputs, outputs)
    stock = to_stock_model(model)
    assert any(isinstance(layer, keras.layers.EinsumDense) for layer in stock.layers)
    report = export.export_model(model, tmp_path / "m.tflite", "litert", "stock")
    assert report.difference <= 1e-4 * report.scale


def test_quantized_keras_file(tmp_path):
    report = export.export_model(small(), tmp_path / "m.keras", "keras", "dense", "int8")
    assert report.quantize == "int8" and report.alone


def test_clean_process_cannot_import_the_package(tmp_path):
    model = small()
    model.save(tmp_path / "m.keras")
    inputs = {"features": np.ones((2, 6), "float32")}
    with pytest.raises(RuntimeError, match="does not run in a process of its own"):
        verification.run_fresh("keras", tmp_path / "m.keras", inputs)
    with pytest.raises(ImportError, match="blocked in this process"):
        clean_process.Blocker().find_spec("keras_tensornet.layers")
    assert clean_process.Blocker().find_spec("numpy") is None


def test_a_factorized_keras_file_says_that_it_needs_the_package(tmp_path):
    report = export.export_model(small(), tmp_path / "m.keras", "keras", "factorized")
    assert not report.alone and "with keras_tensornet" in str(report)


# ---------------------------------------------------------- forms and plans


def test_auto_ships_frozen_plans_but_dense_layers_in_keras_files():
    ring = keras.Sequential([keras.Input((1250,)), layers.TRDense(320, rank=20)])
    assert {format: export.choose_form(ring, format) for format in export.exporting.FORMATS} == {
        "tf_saved_model": "factorized",
        "litert": "factorized",
        "onnx": "factorized",
        "openvino": "factorized",
        "torch": "factorized",
        "keras": "dense",
    }
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    assert export.choose_form(plain) == "dense"
    assert export.choose_form(one_of_each()) == "dense"  # its T-Basis cannot be frozen
    frozen = forms.in_form(ring, "factorized", 128)
    assert frozen.layers[0].plan.implementation == "reconstructed"  # closing it costs too much
    assert frozen.layers[0].frozen and not ring.layers[0].frozen


def test_factorized_form_is_planned_for_the_serving_batch():
    inputs = keras.Input((256,))
    model = keras.Model(inputs, layers.TRDense(256, rank=4, name="fc")(inputs))
    chains = set()
    for batch in (1, 1024):
        shipped = forms.in_form(model, "factorized", batch).get_layer("fc")
        assert shipped.plan == model.get_layer("fc").plan_for(batch, merged=True)
        chains.add(shipped.plan.describe())
    assert len(chains) == 2, "the law needs a layer whose best plan depends on the batch"
    assert forms.in_form(model, "factorized", 1, "keras") is model


def test_dense_form_has_no_layer_of_this_package_and_equal_outputs():
    model = one_of_each()
    dense = forms.in_form(model, "dense", 1)
    assert not factorized_layers(dense) and not forms.needs_package(dense)
    for old, new in zip(model(X), dense(X), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-4)


# ------------------------------------------------------- failures and arguments


def test_nothing_is_overwritten_and_nothing_left_behind(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        export.export_model(small(), path)
    path.rmdir()

    def fails(model, path, endpoints):
        path.mkdir()
        (path / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(writers, "write_saved_model", fails)
    with pytest.raises(KeyboardInterrupt):
        export.export_model(small(), path)
    assert list(tmp_path.iterdir()) == []


def test_samples_carry_the_names_of_the_exported_model(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((6,)), layers.TRDense(3, rank=2, name="logits")])
    sent = {}

    def run(format, path, inputs, batch_size, blocked):
        import tensorflow as tf

        sent.update(inputs)
        served = tf.saved_model.load(str(path)).signatures["serving_default"]
        given = {name: tf.constant(array) for name, array in inputs.items()}
        return verification.FreshRun({"logits": served(**given)["logits"].numpy()}, 1.0)

    monkeypatch.setattr(verification, "run_fresh", run)
    for form in ("dense", "factorized"):
        report = export.export_model(model, tmp_path / form, as_=form)
        assert report.inputs == tuple(sent)
        sent.clear()


def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch):
    def run(format, path, inputs, batch_size, blocked):
        return verification.FreshRun({"logits": np.full((8, 3), 9.0)}, 1.0)

    monkeypatch.setattr(verification, "run_fresh", run)
    with pytest.raises(RuntimeError, match="differs from the model by"):
        export.export_model(small(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"format": "pmml"}, ValueError, "`format` must be one of"),
        ({"as_": "sparse"}, ValueError, "`as_` must be one of"),
        ({"quantize": "int8"}, ValueError, "`quantize` must suit the format"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"format": "litert"}, ValueError, "file ends in '.tflite'"),
        (
            {"format": "litert", "path": "m.tflite", "endpoints": {"a": "hidden"}},
            ValueError,
            "Only a SavedModel has several endpoints",
        ),
        ({"endpoints": {"serving_default": "hidden"}}, ValueError, "is the model itself"),
        ({"endpoints": {"a": "none"}}, ValueError, "must name a layer .* Received: 'none'"),
        ({"endpoints": {"a": 3}}, TypeError, "the name of a layer or a function"),
        ({"samples": {"other": X}}, ValueError, "`samples` does not fit .*: it has no"),
        ({"samples": [X, X]}, ValueError, "as batches, entry 0: input"),
        (
            {"format": "keras", "path": "m.keras", "as_": "factorized", "quantize": "int8"},
            ValueError,
            "Keras cannot quantize cores",
        ),
        ({"path": "missing/model"}, FileNotFoundError, "There is no folder"),
        ({"model": 3}, TypeError, "`model` must be a built"),
    ],
)
def test_wrong_arguments_leave_nothing(arguments, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"model": small(), "path": "model", "as_": "dense", **arguments}
    with pytest.raises(error, match=words):
        export.export_model(**given)
    assert list(tmp_path.iterdir()) == []


def test_largest_difference_sees_shapes_and_nan():
    one = [np.ones((2, 3))]
    assert verification.largest_difference(one, one) == 0.0
    assert verification.largest_difference(one, [np.ones((2, 4))]) == float("inf")
    assert verification.largest_difference([np.full((2, 3), np.nan)], one) == float("inf")
    assert verification.largest_difference([], one) == float("inf")


# ---------------------------------------------------------------- command line


def test_command_exports_and_reports(tmp_path, capsys):
    small().save(tmp_path / "m.keras")
    arguments = ["export", str(tmp_path / "m.keras"), "-o", str(tmp_path / "m.tflite")]
    assert cli.main([*arguments, "--as", "dense", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["format"], report["form"], report["alone"]) == ("litert", "dense", True)
    assert cli.main(arguments) == 2
    assert "is there already. Choose another, or --force." in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, words",
    [(None, "There is no file"), (b"PK not a model", "is no `.keras` file"), ("zip", "cannot be")],
)
def test_command_refuses_what_is_no_model_in_one_line(content, words, tmp_path, capsys):
    path = tmp_path / "m.keras"
    if content == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
    elif content is not None:
        path.write_bytes(content)
    assert cli.main(["export", str(path), "-o", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not (tmp_path / "out").exists()


def test_command_names_what_is_wrong_with_its_arguments(tmp_path, capsys):
    path = tmp_path / "m.keras"
    small().save(path)
    assert cli.main(["export", str(path), "-o", str(tmp_path / "m.pb")]) == 2
    assert "has a suffix of no format" in capsys.readouterr().err
    assert cli.main(["export", str(path), "-o", str(tmp_path / "m"), "--quantize", "int8"]) == 2
    assert "`quantize` must suit the format" in capsys.readouterr().err
    (tmp_path / "x.npy").write_text("no array")
    data = ["--samples", str(tmp_path / "x.npy")]
    assert cli.main(["export", str(path), "-o", str(tmp_path / "m"), *data]) == 2
    assert "cannot be read as an array" in capsys.readouterr().err


@pytest.mark.parametrize("format, name", [("tf_saved_model", "model"), ("litert", "m.tflite")])
def test_no_folder_of_others_is_replaced(format, name, tmp_path, capsys):
    """`overwrite` is for exports; a folder that holds anything else stays, in the command too."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("precious")
    small().save(tmp_path / "model.keras")
    with pytest.raises(OSError, match="is not replaced"):
        export.export_model(small(), tmp_path / name, format, overwrite=True)
    arguments = ["export", str(tmp_path / "model.keras"), "-o", str(tmp_path / name), "--force"]
    assert cli.main(arguments) and "not replaced" in capsys.readouterr().err
    assert (tmp_path / name / "notes.txt").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 2


def test_an_export_is_replaced_by_an_export(tmp_path):
    for factor in (1.0, 2.0):
        model = small()
        model.set_weights([factor * weight for weight in model.get_weights()])
        export.export_model(model, tmp_path / "model", verify=False, overwrite=True)
        found = clean_process.load_tf_saved_model(str(tmp_path / "model"))({"features": X[:, 0, 0]})
        np.testing.assert_allclose(next(iter(found.values())), model(X[:, 0, 0]), atol=1e-5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
