"""What commands share on the console."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator

from keras_tensornet.commands.errors import CommandError


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Hold back what libraries write to standard error while they are imported.

    TensorFlow's C++ code greets on the file descriptor, before any setting of its log level is
    read. If the body raises, what was held back is written after all.
    """
    sys.stderr.flush()
    try:
        descriptor = os.dup(2)
    except OSError:  # started without a standard error
        yield
        return
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(descriptor, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(descriptor, 2)
            os.close(descriptor)


def require_packages(needed_by: str, extra: str, packages: dict[str, str]) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        needed_by: what needs them, the first words of the error.
        extra: the extra of this package that installs them.
        packages: import name to the name under which pip knows it.

    Raises:
        CommandError: if one is missing; names all that are, and the extra.
    """
    missing = [
        name for module, name in packages.items() if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise CommandError(
            f"{needed_by} needs {', '.join(missing)}, not installed here. "
            f'Install with: python -m pip install "keras-tensornet[{extra}]"'
        )
