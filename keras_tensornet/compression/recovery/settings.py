"""What the user can say about recovery: `RecoverySettings`."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_tensornet import validation


@dataclass(frozen=True)
class RecoverySettings:
    """How `recover` trains. The defaults suit a network of any kind and a thousand examples.

    Attributes:
        seconds: time limit for the whole of `recover`, None for none. Training is planned to end in
            time: where `epochs` would take longer there are fewer steps, and the learning rate
            falls to zero all the same. Results then depend on how fast the machine is.
        epochs: passes over the examples, both phases together. None takes 30, and more where that
            would be fewer than 400 steps.
        blocks: share in [0, 1) of the steps in which each block is first trained on its own,
            no gradient passing the end of a block.
        features: weight of the ends of the blocks against the outputs of the network, where it is
            trained as a whole; the distance that they have at the beginning is their unit. A
            thousand examples say little by their outputs and much by what they become inside: with
            less weight a large network learns its examples by heart.
        match: how outputs are compared: "auto", "logits" or "probabilities" (of classes, on the
            last axis), "binary_logits" or "binary" (each value a probability of its own), "values",
            a function `(target, output) -> (batch,)`, or a list or dict of these in the structure
            of the outputs.
        temperature: at which class scores are compared.
        learning_rate: its peak; it warms up over the first 5 % and falls to zero along a cosine.
            Where the held-out examples show that it is too high for a network, it is lowered.
        batch_size: of a step.
        augment: `(inputs, random) -> inputs`, applied to each batch of examples (NumPy arrays in
            the model's own structure) with a `numpy.random.Generator`, or a Keras layer, which is
            called with training=True. The dense model then sees what the small one sees. For
            images there is `keras_tensornet.augment.shifted()`.
        mix: share of batches whose examples are mixed with one another, after `augment`: see
            `keras_tensornet.augment.mixed`, which says what is never mixed. 0 for none.
        held_out: share in (0, 0.5] of the examples that are not trained on and decide which weights
            are kept.
        optimizer: instead of Adam; its own learning rate is replaced by the schedule's.
        quantize: "int8" to train the network in the form that an int8 LiteRT file holds, as if its
            weights and activations were rounded already: stock layers, with batch normalisations
            folded. `recover` then returns that form, to be exported with `quantize="int8"`.
        seed: of the order of examples, of what is held out and of `augment`.
    """

    seconds: float | None = 80.0
    epochs: int | None = None
    blocks: float = 0.0
    features: float = 1.25
    match: Any = "auto"
    temperature: float = 2.0
    learning_rate: float = 3e-3
    batch_size: int = 50
    augment: Callable[..., Any] | None = None
    mix: float = 0.5
    held_out: float = 0.1
    optimizer: keras.Optimizer | None = None
    quantize: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seconds is not None:
            _number("seconds", self.seconds, lambda value: value > 0, "positive, or None")
        if self.epochs is not None:
            validation.positive_int("epochs", self.epochs)
        validation.positive_int("batch_size", self.batch_size)
        _number("blocks", self.blocks, lambda value: 0 <= value < 1, "in [0, 1)")
        _number("features", self.features, lambda value: value >= 0, "at least 0")
        _number("temperature", self.temperature, lambda value: value > 0, "positive")
        _number("learning_rate", self.learning_rate, lambda value: value > 0, "positive")
        _number("mix", self.mix, lambda value: 0 <= value <= 1, "in [0, 1]")
        _number("held_out", self.held_out, lambda value: 0 < value <= 0.5, "in (0, 0.5]")
        if self.quantize is not None:
            validation.one_of("quantize", self.quantize, ("int8",))
        if self.augment is not None and not callable(self.augment):
            raise TypeError(
                "`augment` must be a function (inputs, random) -> inputs, or a Keras layer. "
                f"Received: augment={self.augment!r}."
            )
        if self.optimizer is not None and not isinstance(self.optimizer, keras.Optimizer):
            raise TypeError(
                f"`optimizer` must be a Keras optimizer. Received: optimizer={self.optimizer!r}."
            )


def _number(name: str, value: Any, fits: Callable[[float], bool], rule: str) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number. Received: {name}={value!r} of type {type(value).__name__}."
        )
    if not fits(float(value)):
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={value}.")
