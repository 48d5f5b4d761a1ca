"""Tensor-network compressed layers for Keras 3.

`keras_tensornet.layers` holds the layers (`TRDense`, `TRConv2D`, `TTDense`, `TTConv2D`, ...),
`keras_tensornet.initializers` the initializer of merged kernels, `merge` the compiled merge of
cores, `Network` a tensor network of your own. Importing the package registers its layers with
Keras, so that `keras.models.load_model` knows them.

Public names are imported when they are first used. They are listed once, with their types for
editors and type checkers, in `__init__.pyi`.
"""

import ast
import importlib
from pathlib import Path

from keras_tensornet.registration import register_with_keras

__version__ = "0.1.0"


def _public_names() -> dict[str, tuple[str, str]]:
    """`name -> (module, name in it)`, read from the imports of `__init__.pyi`."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


_PUBLIC = _public_names()
# Without what needs the `tuner` extra, so that `from keras_tensornet import *` works without it.
__all__ = sorted(
    ["__version__", *(name for name, where in _PUBLIC.items() if "tuner" not in str(where))]
)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    if module == __name__:
        return importlib.import_module(f"{module}.{attribute}")
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


register_with_keras()
