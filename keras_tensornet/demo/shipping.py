"""Keep what the demo made, whole or not at all, and check it where this package is absent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_tensornet.files import foreign_to_saved_model, write_folder, write_whole

if TYPE_CHECKING:
    import keras

# Largest difference between the outputs of a model and of its SavedModel, in logits of order 10:
# the same float32 sums in another order.
TOLERANCE = 1e-4


def save_model(model: keras.Model, path: Path) -> None:
    """Write a `.keras` file."""
    write_whole(path, lambda temporary: model.save(temporary))


def export_saved_model(model: keras.Model, folder: Path) -> None:
    """Write a SavedModel, replacing one that is there already, and nothing else.

    Raises:
        FileExistsError: if there is a file, or a folder that holds anything else.
    """
    from keras_tensornet.export import writers

    def write(temporary: Path) -> None:
        writers.write_saved_model(model, temporary, {})

    write_folder(folder, write, foreign_to_saved_model)


def difference_in_clean_process(model: keras.Model, folder: Path, inputs: np.ndarray) -> float:
    """The largest difference of the SavedModel's outputs, in a new process, from the model's.

    That process cannot import keras_tensornet, and both sides compute on the CPU.

    Args:
        model: the Keras model that was exported.
        folder: of its SavedModel.
        inputs: (batch, *input shape of the model), float32.

    Raises:
        RuntimeError: if the other process fails; with the last line it wrote.
    """
    import keras

    from keras_tensornet.export import verification, writers

    with keras.device("cpu:0"):
        expected = keras.ops.convert_to_numpy(model(inputs, training=False))
    (name,) = writers.named_inputs(model)
    found = verification.run_fresh("tf_saved_model", folder, {name: inputs}, len(inputs))
    return verification.largest_difference(list(found.outputs.values()), [expected])
