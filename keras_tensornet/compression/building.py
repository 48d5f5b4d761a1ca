"""The compressed model, from the decompositions that were chosen."""

from __future__ import annotations

from collections.abc import Mapping

import keras
from keras import ops

from keras_tensornet.compression.choosing.subjects import Candidate, Subject
from keras_tensornet.compression.kinds import factorized_layer
from keras_tensornet.rewriting.walker import rewrite_model


def build_compressed(
    model: keras.Model, found: Mapping[str, tuple[Subject, Candidate]]
) -> keras.Model:
    """The model with the layers that were decomposed replaced."""

    def replace(layer, path):
        if path not in found:
            return None
        subject, candidate = found[path]
        form = candidate.form
        result = factorized_layer(
            subject.target, form.format, candidate.rank, candidate.cores, dict(form.arguments)
        )
        shift = subject.bias_shift(candidate)
        if shift is not None:
            bias = ops.convert_to_numpy(result.bias)
            result.bias.assign(bias + shift.reshape(bias.shape))
        return result

    return rewrite_model(model, replace)
