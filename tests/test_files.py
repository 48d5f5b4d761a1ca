"""Laws of what is written and deleted: whole or not at all, and nothing that is not ours."""

import ast
import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_tensornet
from keras_tensornet import files

ROOT = Path(keras_tensornet.__file__).parent
SOURCES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
# Calls that delete or move, and those that write to a path; what `files` calls to write is given a
# path named `temporary`.
DELETES = {"rmtree", "unlink", "removedirs", "rmdir", "rename", "renames", "mkstemp", "mkdtemp"}
DELETES |= {"NamedTemporaryFile", "TemporaryDirectory", "copytree", "copyfile", "touch"}
WRITES = {"write_text", "write_bytes", "save", "savez", "savez_compressed", "savefig", "print_png"}
WRITES |= {"save_weights", "save_img", "export", "write_out", "tofile"}
# Traces a model and writes nothing.
TRACES = {("torch.export", "export")}
MODULES = {("os", "remove"), ("os", "replace"), ("shutil", "move")}
# A process of its own, which is given the path of its outputs.
OUTSIDE = ("export/clean_process.py", "files.py")


def writes_of(tree):
    """`(line, call)` of each call that writes or deletes where only `files` may."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
        where = [owner, *(ast.unparse(argument) for argument in node.args[:2])]
        given_one = any(
            isinstance(part, ast.Name) and part.id in ("temporary", "opened")
            for text in where
            if text
            for part in ast.walk(ast.parse(text))
        )
        modes = [part.value for part in node.args[:2] if isinstance(part, ast.Constant)]
        opens = name == "open" and any(set(str(mode)) & set("wax+") for mode in modes)
        ours = isinstance(function, ast.Name) and name == "write_text"
        deletes = name in DELETES or (owner, name) in MODULES
        if (owner, name) in TRACES:
            continue
        if deletes or ((opens or name in WRITES) and not given_one and not ours):
            yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_only_files_writes_and_deletes(path):
    if path.as_posix() not in OUTSIDE:
        found = [
            f"{line}: {call}" for line, call in writes_of(ast.parse((ROOT / path).read_text()))
        ]
        assert not found, f"{path}, {found}: let a function of `files` do it"


@pytest.mark.parametrize(
    "line",
    [
        "shutil.rmtree(f)",
        "path.unlink()",
        "open(path, 'w')",
        "path.open('wb')",
        "path.write_text(t)",
        "np.savez(path)",
        "model.save(path)",
        "os.replace(a, b)",
        "os.remove(a)",
    ],
)
def test_writes_are_found(line):
    assert list(writes_of(ast.parse(line)))


def model_at(folder, content="old"):
    """A folder as TensorFlow writes one."""
    (folder / "variables").mkdir(parents=True)
    (folder / "assets").mkdir()
    (folder / "saved_model.pb").write_text(content)
    (folder / "fingerprint.pb").touch()
    (folder / "variables" / "variables.index").touch()
    (folder / "variables" / "variables.data-00000-of-00001").touch()
    (folder / "assets" / "vocabulary.txt").touch()
    return folder


def listing(folder):
    """Everything below a folder, with its contents."""
    return {
        str(path.relative_to(folder)): (
            os.readlink(path)
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else None
        )
        for path in sorted(folder.rglob("*"))
    }


def replace(path):
    files.write_folder(path, lambda new: model_at(new, "new"), files.foreign_to_saved_model)


def test_a_saved_model_is_replaced_and_nothing_is_left(tmp_path):
    for before in (None, "empty", "model"):
        path = tmp_path / f"at_{before}"
        if before == "model":
            model_at(path)
        elif before == "empty":
            path.mkdir()
        replace(path)
        assert (path / "saved_model.pb").read_text() == "new"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["at_None", "at_empty", "at_model"]


NAMES = st.sampled_from(
    [
        "notes.txt",
        "1",
        "saved_model.pb2",
        ".hidden",
        "variables/mine.npy",
        "variables/sub/a",
        "x/y/z",
    ]
)


@given(NAMES, st.booleans(), st.sampled_from(["file", "link"]))
def test_no_folder_with_anything_foreign_is_touched(tmp_path_factory, name, exported, kind):
    top = tmp_path_factory.mktemp("top")
    path = top / "model"
    if exported:
        model_at(path)
    foreign = path / name
    foreign.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        foreign.write_text("precious")
    else:
        foreign.symlink_to(top)
    before = listing(top)
    written = []
    with pytest.raises(FileExistsError, match=r"is not replaced: .*Choose another path"):
        files.write_folder(path, written.append, files.foreign_to_saved_model)
    assert listing(top) == before and not written, "it is refused before anything is written"


def test_other_things_at_the_path_are_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, model_at(tmp_path / "model")):
        with pytest.raises(FileExistsError, match=r"it is a file|it is not empty"):
            files.write_folder(path, model_at)
    for path in (tmp_path / "model", Path("/dev/null")):
        with pytest.raises(IsADirectoryError, match=r"a folder|no plain file"):
            files.write_text(path, "new")
    link = model_at(tmp_path / "other") / "assets" / "link"
    link.symlink_to(file)
    with pytest.raises(FileExistsError, match="beside the exported model it holds 'assets/link'"):
        replace(tmp_path / "other")
    assert file.read_text() == "mine"
    for write in (files.write_text, files.write_folder):
        with pytest.raises(FileNotFoundError, match=r"There is no folder .* Make it first"):
            write(tmp_path / "missing" / "x", "x")


def test_links_are_followed_and_kept(tmp_path):
    (tmp_path / "far").mkdir()
    model_at(tmp_path / "far" / "model")
    (tmp_path / "far" / "text").write_text("old")
    for name in ("model", "text"):
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
    replace(tmp_path / "model")
    files.write_text(tmp_path / "text", "new")
    assert (tmp_path / "model").is_symlink() and (tmp_path / "text").is_symlink()
    assert (tmp_path / "far" / "model" / "saved_model.pb").read_text() == "new"
    assert (tmp_path / "far" / "text").read_text() == "new"
    assert sorted(entry.name for entry in (tmp_path / "far").iterdir()) == ["model", "text"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_at_any_step_loses_nothing(tmp_path, monkeypatch, error):
    """Each system call that changes something fails once; afterwards old or new is there, whole."""
    steps = ["mkdtemp", "rename", "replace"]
    for step in steps:
        for count in range(3):
            top = tmp_path / f"{step}{count}"
            top.mkdir()
            model_at(top / "model")
            (top / "file").write_text("old")
            owner = files.tempfile if step == "mkdtemp" else os
            calls, real = iter(range(10)), getattr(owner, step)

            def fails(*arguments, calls=calls, real=real, count=count, **named):
                if next(calls) == count:
                    raise error
                return real(*arguments, **named)

            monkeypatch.setattr(owner, step, fails)
            for write in (lambda top=top: replace(top / "model"),
                          lambda top=top: files.write_text(top / "file", "new")):  # fmt: skip
                with contextlib.suppress(error):
                    write()
            monkeypatch.undo()
            assert len(listing(top / "model")) == 7, (step, count)
            assert (top / "model" / "saved_model.pb").read_text() in ("old", "new")
            assert (top / "file").read_text() in ("old", "new")
            assert sorted(entry.name for entry in top.iterdir()) == ["file", "model"]


def test_a_failing_writer_leaves_nothing_behind(tmp_path):
    model_at(tmp_path / "model")
    before = listing(tmp_path)

    def fails(new):
        model_at(new)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_folder(tmp_path / "model", fails, files.foreign_to_saved_model)
    with pytest.raises(NotADirectoryError, match="no folder"):
        files.write_folder(tmp_path / "model", Path.touch, files.foreign_to_saved_model)
    with pytest.raises(IsADirectoryError, match="is no file"):
        files.write_whole(tmp_path / "text", Path.mkdir)
    assert listing(tmp_path) == before


def test_what_appears_in_the_old_folder_meanwhile_is_kept(tmp_path):
    path = model_at(tmp_path / "model")

    def write(new):
        model_at(new, "new")
        (path / "notes.txt").write_text("precious")

    with pytest.raises(FileExistsError, match="it holds 'notes"):
        files.write_folder(path, write, files.foreign_to_saved_model)
    assert (path / "notes.txt").read_text() == "precious"
    assert (path / "saved_model.pb").read_text() == "old"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(PermissionError, match="is read-only for you"):
        files.write_text(folder / "x", "x")


def test_permissions_of_a_replaced_file_are_kept(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o600)
    files.write_text(path, "new")
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_text() == "new"
