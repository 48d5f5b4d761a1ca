"""Keras' own files, without what only training needs."""

from __future__ import annotations

from pathlib import Path

import keras


def save_for_inference(model: keras.Model, temporary: Path) -> None:
    """Write a `.keras` file that holds how the model was compiled, but no optimizer's variables.

    Keras takes `include_optimizer` for its old formats only. When the file is loaded, it says in a
    warning that the optimizer begins anew.

    Args:
        model: to write; it stays as it was.
        temporary: path of the file, as `files.write_whole` gives it.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        model.save(temporary)
        return
    model.optimizer = None
    try:
        model.save(temporary)
    finally:
        model.optimizer = optimizer
