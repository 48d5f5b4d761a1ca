"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_whole(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    """Let `write` make a file or folder beside `path`, then put it in place in one step.

    A file that is there is replaced, a folder that is not empty is not. If `write` fails, or the
    program is stopped, nothing is left behind and what was there is as it was.

    Args:
        path: of the file or folder; its parent must exist.
        write: called with a path of the same name in a temporary folder.

    Raises:
        FileNotFoundError: if the parent folder does not exist.
        OSError: if it cannot be written.
    """
    path = Path(path)
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to write {path.name} into.")
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished:
        temporary = Path(unfinished, path.name)
        write(temporary)
        os.replace(temporary, path)
