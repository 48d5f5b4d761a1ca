"""`recover`: train a compressed network on inputs alone until it does what the dense one did."""

from __future__ import annotations

import time
from typing import Any

import keras

from keras_tensornet import validation
from keras_tensornet.back_to_keras import fold_batch_norm, to_stock_model
from keras_tensornet.compression.calibration import calibration_inputs
from keras_tensornet.compression.progress import Progress, reporter
from keras_tensornet.compression.recovery.examples import FEWEST_EXAMPLES, Examples
from keras_tensornet.compression.recovery.run import Run
from keras_tensornet.compression.recovery.settings import RecoverySettings
from keras_tensornet.rewriting.walker import rewrite_model


def recover(
    dense: keras.Model,
    compressed: keras.Model,
    data: Any,
    settings: RecoverySettings | None = None,
    progress: Progress = None,
) -> keras.Model:
    """Return the compressed model trained to do what the dense one does; no labels are needed.

    Both given models stay as they were. First each block learns to give the dense block's output
    from the inputs that the compressed network gives it, then the whole network learns the outputs,
    with the ends of blocks beside them (Hinton et al. 2015; Romero et al. 2015). Everything runs in
    inference mode: dropout is off and batch normalisations keep their statistics, so what is
    trained is what is later served. What part of the data is held out decides which weights are
    kept; if none are better than those at the beginning, these are.

    With the default settings a ResNet-20 takes under 90 s on two cores and a small model seconds.

    Args:
        dense: the model that was compressed.
        compressed: made from it by `compress_model`, or any other model with the same inputs and
            outputs. Layers that are frozen stay so, but for those that were compressed.
        data: inputs as in `plan_compression`, without labels. A thousand are plenty.
        settings: time, epochs, augmentation and more.
        progress: True for a bar on standard error, or `(done, total, text) -> None`.

    Returns:
        A model like `compressed`, compiled in the same way; `model.recovery` says what was done.
        With `RecoverySettings(quantize="int8")` it is in the form to be exported, of stock layers.

    Raises:
        ValueError: if there are fewer than 8 examples, or the outputs do not match.

    Examples:

    >>> import numpy as np
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"),
    ...                           keras.layers.Dense(16, "relu"), keras.layers.Dense(4)])
    >>> x = np.random.default_rng(0).standard_normal((64, 8)).astype("float32")
    >>> small = compress_model(model, rank=4, calibration_data=x, recover=False)
    >>> better = recover(model, small, x)
    >>> better.recovery.after < better.recovery.before
    True
    """
    settings = settings or RecoverySettings()
    examples = Examples.read(dense, calibration_inputs(data))
    return _recover(dense, compressed, examples, settings, progress)


def _recover(
    dense: Any,
    compressed: keras.Model,
    examples: Examples,
    settings: RecoverySettings,
    progress: Progress,
) -> Any:
    began = time.perf_counter()
    if len(examples) < FEWEST_EXAMPLES:
        raise _TooFew(
            f"Recovery needs at least {FEWEST_EXAMPLES} examples. Received: {len(examples)}. Give "
            "more, or compress with recover=False."
        )
    if settings.quantize:
        compressed = fold_batch_norm(to_stock_model(compressed))
    work = rewrite_model(compressed, lambda layer, path: None)
    run = Run(dense, work, examples, settings, began, reporter(progress, 100))
    run.train()
    result = rewrite_model(compressed, lambda layer, path: None)
    for variable, value in zip(result.variables, run.best, strict=True):
        variable.assign(value)
    result.recovery = run.record()
    return result


def check_recovery(recover: Any, data: Any) -> None:
    """Refuse what `compress_model` cannot take as `recover`.

    Raises:
        TypeError: if it is of another kind.
        ValueError: if there are settings and no data to use them on.
    """
    if not isinstance(recover, (bool, RecoverySettings)):
        raise TypeError(
            f"`recover` must be True, False or RecoverySettings(...). Received: {recover!r}."
        )
    if isinstance(recover, RecoverySettings) and data is None:
        raise ValueError(
            "Recovery needs inputs to train on. Received: recover=RecoverySettings(...) and no "
            "`calibration_data`. Give some inputs of the model, without labels."
        )


def recovered(
    dense: Any,
    compressed: keras.Model,
    data: Any,
    recover: bool | RecoverySettings,
    progress: Progress,
) -> Any:
    """`recover` as the last step of a compression: too few examples are said, not refused."""
    settings = recover if isinstance(recover, RecoverySettings) else RecoverySettings()
    try:
        return _recover(dense, compressed, Examples.read(dense, data), settings, progress)
    except _TooFew as error:
        validation.warn_user(f"The compressed model is not recovered. {error}")
        return compressed


class _TooFew(ValueError):
    """There are not enough examples."""
