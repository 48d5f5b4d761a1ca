"""Run a SavedModel in a process that cannot import keras_tensornet.

The demo passes this file's text to a fresh interpreter, `python -c TEXT FOLDER INPUTS OUTPUTS`, so
nothing in it may import this package, and the package is blocked before TensorFlow is imported.

    FOLDER    of the SavedModel
    INPUTS    .npy file, a batch of inputs, float32
    OUTPUTS   .npy file that is written, the outputs for that batch
"""

import importlib
import sys

BLOCKED = "keras_tensornet"


class Blocker:
    """An import hook that refuses the package, installed or not."""

    def find_spec(self, name, path=None, target=None):
        """Refuse the package and its submodules, and leave all others to the next finder."""
        if name.partition(".")[0] == BLOCKED:
            raise ImportError(f"{name} is blocked in this process")
        return None


def main(folder, inputs_file, outputs_file):
    """Load the model, run it, write its outputs; exits with a message if the block leaks."""
    sys.meta_path.insert(0, Blocker())
    try:
        importlib.import_module(BLOCKED)
    except ImportError:
        pass
    else:
        sys.exit(f"{BLOCKED} could be imported, so this run proves nothing")

    import numpy as np
    import tensorflow as tf

    model = tf.saved_model.load(folder)
    np.save(outputs_file, model.serve(np.load(inputs_file)).numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
