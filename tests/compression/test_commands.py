"""`inspect`, `plan` and `compress` as their user meets them: files whole or none, one line."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_tensornet import cli
from keras_tensornet.compression import CompressionPlan
from tests.compression.test_compress import convnet, images


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.keras"
    convnet().save(path)
    return path


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_inspect_lists_layers(saved, capsys):
    code, out, _ = run(capsys, "inspect", saved)
    assert code == 0 and "second" in out and "3x3x8x12" in out
    code, out, _ = run(capsys, "inspect", saved, "--json")
    rows = json.loads(out)["layers"]
    assert [row["layer"] for row in rows] == ["first", "second", "third", "hidden", "classifier"]
    assert all(1 <= row["rank90"] <= row["full_rank"] for row in rows)


def test_plan_writes_json_that_compress_carries_out(saved, capsys, tmp_path):
    plan, small = tmp_path / "plan.json", tmp_path / "small.keras"
    code, out, _ = run(capsys, "plan", saved, "--rank", "2", "-o", plan)
    assert code == 0 and "second" in out and "fewer" in out
    made = CompressionPlan.from_json(plan.read_text())
    code, out, _ = run(capsys, "compress", saved, "-o", small, "--plan", plan, "--json")
    assert code == 0 and json.loads(out)["params"] == made.params
    model = keras.models.load_model(small)
    assert model.count_params() == made.params
    code, out, _ = run(capsys, "plan", saved, "--energy", "0.5", "--all", "--json")
    assert CompressionPlan.from_json(out)["first"].note in ("", "would grow")
    code, _, err = run(capsys, "compress", saved, "-o", tmp_path / "x.keras", "--plan", plan,
                       "--rank", "3")  # fmt: skip
    assert code == 2 and "leave --rank out" in err


def test_compress_with_calibration_and_report(saved, capsys, tmp_path):
    np.save(tmp_path / "calibration.npy", images(16))
    np.savez(tmp_path / "data.npz", x=images(8), y=np.arange(8) % 4)
    output, report = tmp_path / "small.keras", tmp_path / "report.html"
    code, out, err = run(
        capsys, "compress", saved, "-o", output, "--params", "0.6", "--report", report,
        "--calibration", tmp_path / "calibration.npy", "--data", tmp_path / "data.npz",
        "--no-recover",
    )  # fmt: skip
    assert (code, err) == (0, "") and "fewer" in out
    assert "fewer parameters" in report.read_text()
    assert files(tmp_path) == ["calibration.npy", "data.npz", "report.html", "small.keras"]
    code, _, err = run(capsys, "compress", saved, "-o", output, "--rank", "2")
    assert code == 2 and "there already" in err
    assert run(capsys, "compress", saved, "-o", output, "--rank", "1", "--force")[0] == 0


def test_compress_finds_the_smallest_that_keeps_its_accuracy(saved, capsys, tmp_path):
    np.savez(tmp_path / "data.npz", x=images(8), y=np.arange(8) % 4)
    code, out, err = run(
        capsys, "compress", saved, "-o", tmp_path / "small.keras", "--max-drop", "0.9", "--all",
        "--data", tmp_path / "data.npz",
    )  # fmt: skip
    assert (code, err) == (0, "") and "<- smallest" in out and "fewer" in out


BAD = [
    (["--rank", "2", "--energy", "0.5"], "exactly one of"),
    ([], "exactly one of"),
    (["--rank", "2", "--max-drop", "0.1"], "`max_drop` chooses the size"),
    (["--energy", "2"], "energy"),
    (["--params", "0.001"], "below what stays dense"),
    (["--rank", "2", "--include", "nothing"], "'nothing'"),
    (["--rank", "2", "--calibration", "none.npy"], "cannot be read as an array"),
    (["--rank", "2", "--report", "report.pdf"], "must end in one of"),
    (["--rank", "2", "--format", "qr"], "`format` must be one of"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=lambda value: str(value)[:30])
def test_wrong_arguments_give_one_line_and_leave_no_file(saved, capsys, tmp_path, arguments, text):
    code, out, err = run(capsys, "compress", saved, "-o", tmp_path / "small.keras", *arguments)
    assert code == 2 and out == "" and text in err
    assert len(err.strip().splitlines()) == 1 and files(tmp_path) == []


def bad_files(folder, saved):
    truncated = folder / "truncated.keras"
    truncated.write_bytes(saved.read_bytes()[:2000])
    foreign = folder / "foreign.keras"
    foreign.write_text("not a model")
    other = folder / "other.keras"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "a zip file, but no model")
    unsafe = folder / "unsafe.keras"
    inputs = keras.Input((3,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(unsafe)
    return [truncated, foreign, other, unsafe, folder / "missing.keras"]


def test_bad_model_files_give_one_line_and_code_2(saved, capsys, tmp_path):
    inside = tmp_path / "out"
    inside.mkdir()
    for path in bad_files(tmp_path, saved):
        for command in (
            ["inspect", path],
            ["plan", path, "--rank", "2"],
            ["compress", path, "-o", inside / "small.keras", "--rank", "2"],
        ):
            code, out, err = run(capsys, *command)
            assert code == 2 and out == "", path
            assert len(err.strip().splitlines()) == 1 and path.name in err
    assert files(inside) == []


def test_an_interrupted_compress_leaves_nothing(saved, capsys, tmp_path, monkeypatch):
    def interrupted(self, path, **kwargs):
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save", interrupted)
    code, _, err = run(capsys, "compress", saved, "-o", tmp_path / "small.keras", "--rank", "2")
    assert code == 130 and "interrupted" in err and files(tmp_path) == []


def test_the_optimizer_is_left_out_unless_asked_for(tmp_path, capsys):
    """Its slots are twice the weights, and a small file is what `compress` is for."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32, name="d")])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 8)), np.ones((4, 32)), verbose=0)
    model.save(tmp_path / "model.keras")
    stored = {}
    for name, extra in {"small": [], "kept": ["--keep-optimizer"]}.items():
        output = tmp_path / f"{name}.keras"
        arguments = ["compress", tmp_path / "model.keras", "-o", output, "--rank", "2", "--all"]
        code, out, _ = run(capsys, *arguments, *extra)
        assert code == 0 and ("variables are left out" in out) == (not extra)
        with zipfile.ZipFile(output) as archive:
            file = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(file) as weights:
            stored[name] = {key for key in weights if weights[key].keys()}
        small = keras.models.load_model(output)
        small.fit(np.ones((4, 8)), np.ones((4, 32)), verbose=0)
    assert stored["small"] == {"layers"} and "optimizer" in stored["kept"]


def test_inputs_of_several_names_come_in_one_archive(tmp_path, capsys):
    a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
    model = keras.Model([a, b], keras.layers.Dense(8, name="d")(keras.ops.concatenate([a, b], -1)))
    model.save(tmp_path / "model.keras")
    inputs = {"a": np.ones((5, 4)), "b": np.eye(5, 6)}
    np.savez(tmp_path / "inputs.npz", **inputs)
    np.savez(tmp_path / "data.npz", **inputs, y=np.arange(5), sample_weight=np.ones(5))
    code, _, err = run(
        capsys, "compress", tmp_path / "model.keras", "-o", tmp_path / "small.keras", "--rank", "2",
        "--all", "--no-recover", "--calibration", tmp_path / "inputs.npz",
        "--data", tmp_path / "data.npz", "--report", tmp_path / "report.json",
    )  # fmt: skip
    assert (code, err) == (0, ""), err
    assert "accuracy" in (tmp_path / "report.json").read_text()
    np.savez(tmp_path / "data.npz", **inputs)
    code, _, err = run(capsys, "compress", tmp_path / "model.keras", "-o", tmp_path / "s.keras",
                       "--rank", "2", "--all", "--data", tmp_path / "data.npz")  # fmt: skip
    assert code == 2 and "must hold arrays x and y" in err
