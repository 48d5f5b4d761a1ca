"""Keras is told of this package's layers before anyone can ask it for them.

`keras.models.load_model` knows a class of ours once its module has been imported, and importing
`keras_tensornet` has to be enough for that. But `keras-tensornet --help` should not wait seconds
for Keras. So where Keras is loaded already the layers are imported at once; where it is not, the
first import of Keras, by whomever, brings them along.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Modules whose import registers classes with Keras.
REGISTERING = (
    "keras_tensornet.layers",
    "keras_tensornet.initializers",
    "keras_tensornet.regularizers",
    "keras_tensornet.optimizers",
    "keras_tensornet.rewriting.rewritten",
)


def register() -> None:
    """Import what registers classes with Keras."""
    for name in REGISTERING:
        importlib.import_module(name)


def register_with_keras() -> None:
    """Register now where Keras is loaded, and otherwise together with its first import."""
    if "keras" in sys.modules:
        register()
    elif not any(isinstance(finder, WaitForKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, WaitForKeras())


class WaitForKeras(MetaPathFinder):
    """Registers our classes when Keras has been imported, once, and is gone then.

    Keras is imported by the user or by a module of ours. Then that module has to be complete before
    the layers are imported, as they may need it: it is the end of the outermost import that counts.
    """

    def __init__(self) -> None:
        self.depth = 0

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec that other finders have for Keras and modules of ours, its loader watched."""
        if fullname != "keras" and not fullname.startswith("keras_tensornet."):
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = Watched(spec.loader, self)  # type: ignore[assignment]  # all but its words
        return spec

    def begin(self) -> None:
        """An import that is watched begins."""
        self.depth += 1

    def end(self, loaded: bool) -> None:
        """One has ended; `loaded` unless it was Keras and failed."""
        self.depth -= 1
        if loaded and not self.depth and "keras" in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            register()


class Watched:
    """A loader that tells when it begins to run a module and when it has ended."""

    def __init__(self, loader: Loader, watcher: WaitForKeras) -> None:
        self.loader, self.watcher = loader, watcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, which from then on has the loader that is its own."""
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.watcher.begin()
        loaded = module.__name__ != "keras"
        try:
            self.loader.exec_module(module)
            loaded = True
        finally:
            self.watcher.end(loaded)
