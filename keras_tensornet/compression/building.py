"""The compressed model, from the decompositions that were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_tensornet.compression.choosing.subjects import Candidate, Subject
from keras_tensornet.compression.kind import Piece, add_to_bias
from keras_tensornet.compression.kinds import kind_of
from keras_tensornet.rewriting.walker import rewrite_model


def build_compressed(
    model: keras.Model, found: Mapping[str, tuple[Subject, Candidate]]
) -> keras.Model:
    """The model with the layers that were decomposed replaced."""
    parts: dict[str, list[Any]] = {}  # the kernels of one layer
    for subject, candidate in found.values():
        parts.setdefault(subject.target.layer_path, []).append((subject, candidate))

    def replace(layer: keras.Layer, path: str) -> keras.Layer | None:
        if path not in parts:
            return None
        pieces = {subject.target.part: piece_of(candidate) for subject, candidate in parts[path]}
        kind: Any = kind_of(layer)  # a target has one
        result = kind.assemble(layer, pieces)
        for subject, candidate in parts[path]:
            add_to_bias(subject.target.kind.bias(result), subject.bias_shift(candidate))
        return result

    return rewrite_model(model, replace)


def piece_of(candidate: Candidate) -> Piece:
    """What a layer is made of, from the decomposition of one of its kernels."""
    form = candidate.form
    return Piece(form.format, candidate.rank, dict(form.arguments), candidate.cores or [])
