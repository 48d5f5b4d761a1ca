"""Tensor-network compressed layers for Keras 3.

`keras_tensornet.layers` holds the layers (`TRDense`, `TRConv2D`, `TTDense`, `TTConv2D`, ...),
`keras_tensornet.initializers` the initializer of merged kernels, `merge` the compiled merge of
cores, `Network` a tensor network of your own. Importing the package registers its layers with
Keras, so that `keras.models.load_model` knows them.
"""

import importlib
import sys

__version__ = "0.1.0"

# Imported when they are first used as attributes: most programs need none of them.
_LATER = ("datasets", "export", "training", "tuner")


def __getattr__(name: str):
    if name in _LATER:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def _is_command_line() -> bool:
    """True in `keras-tensornet ...` and `python -m keras_tensornet ...`.

    Each command imports what it needs, so that `--help` does not wait seconds for Keras. All other
    programs import the layers here, which registers them with Keras for `load_model`.
    """
    argv = getattr(sys, "argv", None) or [""]
    if argv[0] == "-m":  # the module that Python is about to run precedes its arguments
        return sys.orig_argv[-len(argv)] == "keras_tensornet"
    program = argv[0].replace("\\", "/").rsplit("/", 1)[-1]
    return program.removesuffix(".exe") == "keras-tensornet"


if not _is_command_line():
    from keras_tensornet import (
        decompositions,
        initializers,
        interop,
        layers,
        models,
        ranks,
        regularizers,
    )
    from keras_tensornet.back_to_keras import to_dense_model, to_stock_model
    from keras_tensornet.compiled import merge
    from keras_tensornet.compression import (
        CompressionPlan,
        compress_model,
        plan_compression,
        reestimate_batch_norm,
    )
    from keras_tensornet.compression.truncation import round_layer, truncate_ranks
    from keras_tensornet.networks import Network
    from keras_tensornet.reports import compression_report
    from keras_tensornet.rewriting import rewrite_model
    from keras_tensornet.serving import apply_tuning, autotune, freeze, unfreeze
    from keras_tensornet.tbasis.model import tbasis_model
    from keras_tensornet.training import finetune, gradual_compression

__all__ = [
    "CompressionPlan",
    "Network",
    "__version__",
    "apply_tuning",
    "autotune",
    "compress_model",
    "compression_report",
    "decompositions",
    "finetune",
    "freeze",
    "gradual_compression",
    "initializers",
    "interop",
    "layers",
    "merge",
    "models",
    "plan_compression",
    "ranks",
    "reestimate_batch_norm",
    "regularizers",
    "rewrite_model",
    "round_layer",
    "tbasis_model",
    "to_dense_model",
    "to_stock_model",
    "truncate_ranks",
    "unfreeze",
]
