"""The demo: what it measures, what it keeps, and the whole of it on little data."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_tensornet import cli, datasets, export
from keras_tensornet.demo import command, figure, outcomes, shipping, training, twins
from keras_tensornet.demo.outcomes import Result
from keras_tensornet.demo.twins import Comparison, Twin
from keras_tensornet.layers import TRDense, TTDense
from keras_tensornet.layers.common import FactorizedMethods

pytest.importorskip("rich", reason='rich is not installed: pip install "keras-tensornet[demo]"')
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")


def results():
    return [
        Result("dense", "dense", 1000, 0.95, 0.5, {1: 1.0, 128: 10.0}),
        Result("tr", "tensor ring", 100, 0.940, 0.25, {1: 1.5, 128: 5.0}),
        Result("tt", "tensor train", 50, 0.925, 0.25, {1: 2.0, 128: 20.0}),
    ]


def little_data(images=96):
    whole = datasets.load("digits")
    return whole._replace(
        x_train=whole.x_train[:images],
        y_train=whole.y_train[:images],
        x_test=whole.x_test[:128],
        y_test=whole.y_test[:128],
    )


@pytest.fixture
def on_little_data(monkeypatch):
    data = little_data()
    monkeypatch.setattr(datasets, "load", lambda name: data)


@pytest.fixture
def little_networks(on_little_data, monkeypatch):
    """A comparison of the same three names whose networks are traced in no time."""

    def network(layer):
        return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), layer])

    twin_list = (
        Twin("dense", "dense", lambda: network(keras.layers.Dense(10)), 1e-3),
        Twin("tr", "tensor ring", lambda: network(TRDense(10, rank=2)), 1e-3),
        Twin("tt", "tensor train", lambda: network(TTDense(10, rank=2)), 1e-3),
    )
    job = Comparison("Little networks", twin_list, epochs=1, batch_size=32, repeats=2)
    monkeypatch.setattr(twins, "comparison", lambda dataset: job)


def test_rows_compare_with_the_first():
    table = outcomes.rows(results())
    assert all(len(row) == len(outcomes.HEADER) for row in table)
    assert table[0] == ("dense", "1,000", "1.0x", "95.00%", "0.50", "1.00 1.00x", "10.00 1.00x")
    assert table[1] == ("tensor ring", "100", "10.0x", "94.00%", "0.25", "1.50 1.50x", "5.00 0.50x")


def test_a_result_without_latencies_has_a_row():
    unfinished = [Result("dense", "dense", 1000, 0.95, 0.5)]
    assert outcomes.rows(unfinished)[0][-2:] == ("-", "-")


def test_best_is_the_smallest_within_a_point_of_the_best():
    assert outcomes.best(results()).name == "tr"
    close = results()
    close[2].accuracy = 0.941
    assert outcomes.best(close).name == "tt"


def test_the_first_epoch_traces_and_does_not_count():
    assert outcomes.epoch_seconds([9.0, 1.0, 3.0, 2.0]) == 2.0
    assert outcomes.epoch_seconds([9.0]) == 9.0


@pytest.mark.parametrize("dataset", datasets.NAMES)
def test_twins_are_smaller_and_give_logits_of_the_same_shape(dataset):
    assert datasets.NAMES == command.DATASETS
    job = twins.comparison(dataset)
    dense, *factorised = [twin.build() for twin in job.twins]
    assert job.twins[0].name == "dense"
    assert len({twin.name for twin in job.twins}) == len(job.twins)
    for model in factorised:
        assert model.output_shape == dense.output_shape
        assert model.count_params() * 4 < dense.count_params()
        assert any(isinstance(layer, FactorizedMethods) for layer in model.layers)
        assert model.layers[-1].activation in (None, keras.activations.linear)


def test_mnist_ring_is_the_paper_s_lenet5():
    """Tensor Ring Nets, Table 3: 19 + 34 + 46 + 31 = 130 r^2 at rank 10, and 400 biases."""
    ring = twins.comparison("mnist").twins[1].build()
    assert ring.count_params() == 130 * 10**2 + 400


def test_digits_sizes_are_those_of_the_documentation():
    dense, *_ = twins.comparison("digits").twins
    assert dense.build().count_params() == 91_082


def test_training_is_the_same_for_the_same_seed_and_reports_every_step(little_networks):
    job = twins.comparison("digits")
    data, reports = little_data(), []
    weights = []
    for _ in range(2):
        model, result = training.train(
            job.twins[1], data, 1, 32, 5, lambda steps, accuracy: reports.append(steps)
        )
        weights.append(model.get_weights())
    assert reports == [1, 2, 3, 3] * 2
    assert 0.0 <= result.accuracy <= 1.0
    assert result.parameters == model.count_params()
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_write_whole_leaves_what_was_there_when_writing_fails(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("before")

    def fails(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shipping.write_whole(path, fails)
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.slow
def test_export_replaces_and_runs_alone(tmp_path):
    model = keras.Sequential([keras.Input((6,)), TRDense(4, rank=2)])
    folder = tmp_path / "saved_model"
    shipping.export_saved_model(model, folder)
    written = (folder / "saved_model.pb").stat().st_mtime_ns
    shipping.export_saved_model(model, folder)
    assert (folder / "saved_model.pb").stat().st_mtime_ns > written
    (folder / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="beside the exported model it holds 'notes"):
        shipping.export_saved_model(model, folder)
    (folder / "notes.txt").unlink()
    # the check runs what was exported, and sees that the model has changed since
    model.layers[-1].bias.assign(np.ones(4))
    inputs = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    assert shipping.difference_in_clean_process(model, folder, inputs) == pytest.approx(1, abs=1e-5)
    shutil.rmtree(folder / "variables")
    with pytest.raises(RuntimeError, match="does not run in a process of its own"):
        shipping.difference_in_clean_process(model, folder, inputs)


@pytest.mark.slow
def test_clean_process_refuses_the_package():
    program = (
        "import sys\n"
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        f"spec = spec_from_file_location('clean', {clean_process_file()!r})\n"
        "clean = module_from_spec(spec); spec.loader.exec_module(clean)\n"
        "sys.meta_path.insert(0, clean.Blocker())\n"
        "import json\n"
        "import keras_tensornet.layers\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ImportError: keras_tensornet is blocked in this process"


def clean_process_file():
    return str(Path(export.__file__).with_name("clean_process.py"))


def test_figure_is_a_png(tmp_path):
    path = tmp_path / "figure.png"
    figure.draw(results(), "heading", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5_000


@pytest.mark.slow
def test_demo_keeps_models_that_load(on_little_data, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert cli.main(["demo", "--epochs", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "96 training and 128 test images, 1 epoch, seed 0" in printed.out
    for title in ("dense", "tensor ring", "tensor train"):
        assert re.search(rf"^ {title} +[\d,]+ ", printed.out, re.MULTILINE)
    assert "Loaded in a new process without keras_tensornet: 128 predictions equal" in printed.out
    names = {path.name for path in out.iterdir()}
    assert names == {
        "dense.keras",
        "tr.keras",
        "tt.keras",
        "saved_model",
        "accuracy_vs_parameters.png",
    }
    assert keras.models.load_model(out / "tr.keras").count_params() < 10_000
    # nothing is overwritten without --force
    before = (out / "tr.keras").read_bytes()
    assert cli.main(["demo", "--out", str(out)]) == 2
    assert "is not empty. Choose another folder, or --force" in capsys.readouterr().err
    assert (out / "tr.keras").read_bytes() == before


def test_ctrl_c_keeps_what_is_finished(little_networks, tmp_path, monkeypatch, capsys):
    train = training.train

    def interrupted(twin, *arguments):
        if twin.name == "tt":
            raise KeyboardInterrupt
        return train(twin, *arguments)

    monkeypatch.setattr(training, "train", interrupted)
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 130
    printed = capsys.readouterr().out
    assert "Interrupted after 2 of 3 networks." in printed
    assert "tensor ring" in printed
    assert "tensor train" not in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"dense.keras", "tr.keras", "accuracy_vs_parameters.png"}


def test_ctrl_c_before_anything_is_finished(little_networks, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    assert cli.main(["demo"]) == 130
    assert "keras-tensornet: interrupted" in capsys.readouterr().err


def test_an_export_that_differs_fails(little_networks, monkeypatch, capsys):
    monkeypatch.setattr(shipping, "export_saved_model", lambda model, folder: None)
    monkeypatch.setattr(shipping, "difference_in_clean_process", lambda *arguments: 0.5)
    assert cli.main(["demo"]) == 1
    assert "predictions DIFFER, largest difference 5.0e-01" in capsys.readouterr().out
    monkeypatch.setattr(shipping, "difference_in_clean_process", lambda *arguments: float("nan"))
    assert cli.main(["demo"]) == 1


def test_out_that_is_a_file_is_refused(tmp_path, capsys):
    path = tmp_path / "file"
    path.touch()
    assert cli.main(["demo", "--out", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no folder that can be written" in line


def test_without_data_one_line_names_the_variable(monkeypatch, capsys):
    def absent(name):
        raise FileNotFoundError(f"The {name} data is nowhere. Set TFDS_DATA_DIR to a folder.")

    monkeypatch.setattr(datasets, "load", absent)
    assert cli.main(["demo", "--dataset", "mnist"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "keras-tensornet: The mnist data is nowhere. Set TFDS_DATA_DIR to a folder."


def test_another_backend_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert cli.main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Received: jax. Set KERAS_BACKEND=tensorflow." in line


def test_mnist_goes_the_same_way(monkeypatch, capsys):
    """LeNet-5 and its twins on a few made-up images, through the same command."""
    rng = np.random.default_rng(0)
    images = rng.random((128, 28, 28, 1), dtype="float32")
    labels = np.arange(128, dtype="int32") % 10
    few = datasets.ImageData(images, labels, images, labels, 10, "mnist")
    monkeypatch.setattr(datasets, "load", lambda name: few)
    monkeypatch.setattr(shipping, "export_saved_model", lambda model, folder: None)
    monkeypatch.setattr(shipping, "difference_in_clean_process", lambda *arguments: 0.0)
    assert cli.main(["demo", "--dataset", "mnist", "--epochs", "1"]) == 0
    assert "LeNet-5 on MNIST: 128 training" in capsys.readouterr().out
