"""Every write and delete of the package: files and folders, written whole or not at all.

Nothing is deleted that this package did not write: a new file takes the place of an old one by a
rename, and of folders only those are replaced that the caller recognises as its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Temporary neighbours of what is written, and of what is being replaced.
UNFINISHED, REPLACED = ".unfinished-", ".replaced-"
# What TensorFlow and Keras write into a SavedModel; assets and variables are folders.
SAVED_MODEL = "saved_model.pb"
SAVED_MODEL_FILES = {SAVED_MODEL, "fingerprint.pb", "keras_metadata.pb"}
SAVED_MODEL_FOLDERS = {"assets", "assets.extra", "variables"}


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it in place in one step.

    A file that is there is replaced, and its permissions are kept; of a link, the file that it
    leads to. If `write` fails, or the program is stopped, what was there is as it was.

    Args:
        path: of the file; its parent must exist.
        write: called with a path of the same name in a temporary folder.

    Raises:
        FileNotFoundError: if the parent folder does not exist.
        IsADirectoryError: if there is a folder, or a device or the like, at `path`.
        OSError: if it cannot be written.
    """
    target = _target(path)
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "no plain file"
        raise IsADirectoryError(f"'{path}' is {kind}, and is not replaced. Choose another path.")
    with _beside(target) as unfinished:
        temporary = Path(unfinished, target.name)
        write(temporary)
        if not temporary.is_file():
            raise IsADirectoryError(f"What was to be the file '{path}' is no file.")
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file as `write_whole` does, with line ends as they are."""
    write_whole(path, lambda temporary: temporary.write_bytes(text.encode("utf-8")))


def write_folder(
    path: str | os.PathLike[str],
    write: Callable[[Path], object],
    replaceable: Callable[[Path], str | None] | None = None,
) -> None:
    """Let `write` make a folder beside `path`, then put it in place.

    A folder that is there is replaced only if `replaceable` has nothing against it, and removed
    last, when the new one is in its place. If anything fails before, it is as it was; if the
    program is stopped between the two renames, it is whole in a folder beside, `.replaced-...`.

    Args:
        path: of the folder; its parent must exist. Of a link, the folder that it leads to.
        write: called with a path of the same name in a temporary folder.
        replaceable: says why a folder must not be replaced, or None if it may be, such as
            `foreign_to_saved_model`; without it only an empty folder is replaced.

    Raises:
        FileExistsError: if there is something at `path` that is not replaced; before anything is
            written, and again if it has changed meanwhile.
        FileNotFoundError: if the parent folder does not exist.
        OSError: if it cannot be written.
    """
    target = _target(path)
    check_replaceable(path, replaceable)
    with _beside(target) as unfinished:
        temporary = Path(unfinished, target.name)
        write(temporary)
        if not temporary.is_dir():
            raise NotADirectoryError(f"What was to be the folder '{path}' is no folder.")
        check_replaceable(path, replaceable)
        if not target.exists():
            os.rename(temporary, target)
            return
        old = Path(tempfile.mkdtemp(prefix=REPLACED, dir=target.parent), target.name)
        try:
            os.rename(target, old)
            try:
                os.rename(temporary, target)
            except BaseException:
                os.rename(old, target)
                raise
        except BaseException:
            with contextlib.suppress(OSError):
                old.parent.rmdir()  # only if it is empty
            raise
        if (reason := _reason(old, replaceable)) is not None:
            raise FileExistsError(
                f"'{path}' was changed while its replacement was written: {reason}. The new folder "
                f"is in place, and the old one is kept as '{old}'."
            )
        shutil.rmtree(old.parent)


def write_together(
    path: str | os.PathLike[str],
    write: Callable[[Path], object],
    companions: tuple[str, ...],
    replaceable: Callable[[Path], str | None],
) -> None:
    """Let `write` make a file and companions of the same stem, then put them in place as one.

    What is there is replaced together: the old files move into a folder beside, `.replaced-...`,
    the named one first, and the new one comes last, so that it never stands beside companions that
    are not its own. If anything fails before the end, all is as it was; if the program is stopped
    meanwhile, the old files are whole in that folder.

    Args:
        path: of the file; its parent must exist. Of a link, the file that it leads to.
        write: called with a path of the same name in a temporary folder.
        companions: suffixes of the other files, such as `(".bin",)`.
        replaceable: says why what is there must not be replaced, or None if it may be, such as
            `foreign_to_openvino`.

    Raises:
        FileExistsError: if there is something that is not replaced; before anything is written,
            and again if it has changed meanwhile.
        FileNotFoundError: if the parent folder does not exist.
        OSError: if it cannot be written.
    """
    main = _target(path)
    check_together(path, companions, replaceable)
    names = [main.name, *(main.with_suffix(suffix).name for suffix in companions)]
    with _beside(main) as unfinished:
        write(Path(unfinished, main.name))
        if missing := [name for name in names if not Path(unfinished, name).is_file()]:
            raise FileNotFoundError(f"Of what was to be written, {', '.join(missing)} is missing.")
        check_together(path, companions, replaceable)
        old = Path(tempfile.mkdtemp(prefix=REPLACED, dir=main.parent))
        moves = [(main.parent / name, old / name) for name in names]
        moves = [(here, there) for here, there in moves if here.exists()]
        for here, _ in moves:
            shutil.copymode(here, Path(unfinished, here.name))
        moves += [(Path(unfinished, name), main.parent / name) for name in reversed(names)]
        _move_all(moves, old)
        shutil.rmtree(old)


def _move_all(moves: list[tuple[Path, Path]], old: Path) -> None:
    """Rename files one after another; if one fails, those before it go back, and `old` goes."""
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            done.append((source, target))
            os.rename(source, target)
    except BaseException:
        for source, target in reversed(done):
            if target.exists() and not source.exists():
                os.rename(target, source)
        with contextlib.suppress(OSError):
            old.rmdir()  # only if it is empty
        raise


def check_together(
    path: str | os.PathLike[str],
    companions: tuple[str, ...],
    replaceable: Callable[[Path], str | None],
) -> None:
    """Raise FileExistsError if there is something that `write_together` would not replace."""
    main = _target(path)
    places = [main, *(main.with_suffix(suffix) for suffix in companions)]
    there = [place for place in places if os.path.lexists(place)]
    wrong = [place for place in there if not place.is_file()]
    reason = f"'{wrong[0]}' is no plain file" if wrong else None
    if there and reason is None:
        reason = replaceable(main)
    if reason is not None:
        raise FileExistsError(
            f"'{path}' is not replaced: {reason}. Choose another path, or remove it yourself."
        )


def foreign_to_openvino(path: Path) -> str | None:
    """Why `model.xml` and `model.bin` are no exported model, or None if they are."""
    if not path.is_file():
        return f"there is a '{path.with_suffix('.bin').name}' without it, which may be another's"
    with open(path, "rb") as file:
        beginning = file.read(4096)
    return None if b"<net " in beginning else "it is no OpenVINO model"


def check_replaceable(
    path: str | os.PathLike[str], replaceable: Callable[[Path], str | None] | None = None
) -> None:
    """Raise FileExistsError if there is something at a path that `write_folder` would not replace.

    Args:
        path: of the folder.
        replaceable: as in `write_folder`.
    """
    target = _target(path)
    if not os.path.lexists(target):
        return
    reason = _reason(target, replaceable)
    if reason is not None:
        raise FileExistsError(
            f"'{path}' is not replaced: {reason}. Choose another path, or remove it yourself."
        )


def foreign_to_saved_model(folder: Path) -> str | None:
    """Why a folder is not only a SavedModel, or None if it is; may be given as `replaceable`."""
    entries = sorted(folder.iterdir())
    if SAVED_MODEL not in {entry.name for entry in entries}:
        return f"it holds no {SAVED_MODEL}, so it is no exported model"
    for entry in entries:
        kind = entry.lstat().st_mode
        if stat.S_ISREG(kind) and entry.name in SAVED_MODEL_FILES:
            continue
        if stat.S_ISDIR(kind) and entry.name in SAVED_MODEL_FOLDERS:
            inside = entry.rglob("*")
            wrong = next((found for found in inside if not _belongs(entry, found)), None)
            if wrong is None:
                continue
            entry = wrong
        return f"beside the exported model it holds '{entry.relative_to(folder)}'"
    return None


def remove_file(path: str | os.PathLike[str]) -> None:
    """Remove a file that this package wrote; that there is none is no error.

    Args:
        path: of the file; of a link, the link is removed.
    """
    Path(path).unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder among the system's temporary ones, removed at the end with all that is in it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def check_writable(folder: Path) -> None:
    """Raise OSError if no file can be made in a folder."""
    tempfile.TemporaryFile(dir=folder).close()


def _belongs(folder: Path, entry: Path) -> bool:
    """Whether an entry is of the kind that a SavedModel's folder of that name holds."""
    if entry.is_symlink():
        return False
    if folder.name != "variables":
        return entry.is_file() or entry.is_dir()
    name = entry.name
    return entry.is_file() and (name == "variables.index" or name.startswith("variables.data-"))


def _reason(target: Path, replaceable: Callable[[Path], str | None] | None) -> str | None:
    """Why what is at a path is not replaced, or None."""
    if not target.is_dir():
        return "it is a file, and a folder is to be written"
    if not any(target.iterdir()):
        return None
    return "it is not empty" if replaceable is None else replaceable(target)


def _target(path: str | os.PathLike[str]) -> Path:
    """Where a path leads, links followed; its parent exists."""
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {target.parent} to write {target.name} into. Make it first."
        )
    return target


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[str]:
    """A temporary folder beside a path, on the same file system."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=target.parent)
    except PermissionError as error:
        raise PermissionError(
            f"'{target}' cannot be written: its folder {target.parent} is read-only for you. "
            "Choose another path."
        ) from error
    except OSError as error:
        raise type(error)(
            f"'{target}' cannot be written: nothing can be made in its folder {target.parent} "
            f"({error.strerror or error}). Choose another path."
        ) from error
    with folder as name:
        yield name
