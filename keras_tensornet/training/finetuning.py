"""Fine-tuning after compression, and compression in several rounds.

`finetune` is a recipe over `fit`: SGD with momentum, a short warm-up, a cosine decay to zero, and
on request distillation from the dense model. `gradual_compression` compresses a little, fine-tunes,
and compresses again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_tensornet import validation
from keras_tensornet.back_to_keras.dense import to_dense_model
from keras_tensornet.compression.calibration import readable
from keras_tensornet.compression.compress import compress_model
from keras_tensornet.compression.recovery.distances import Distance, kinds_of
from keras_tensornet.compression.recovery.student import Student, Teacher
from keras_tensornet.reading import read_examples
from keras_tensornet.rewriting.clones import compile_like
from keras_tensornet.rewriting.composites import is_graph
from keras_tensornet.rewriting.walker import rewrite_model
from keras_tensornet.types import Shape

WARM_UP = 0.05
MOMENTUM = 0.9


def finetune(
    model: keras.Model,
    data: Any,
    epochs: int = 3,
    learning_rate: float = 0.02,
    batch_size: int = 128,
    validation_data: Any = None,
    teacher: keras.Model | None = None,
    distillation: float = 0.5,
    temperature: float = 2.0,
    optimizer: keras.Optimizer | None = None,
    loss: Any = None,
    metrics: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    steps_per_epoch: int | None = None,
    verbose: int = 0,
) -> keras.Model:
    """Return a trained copy of a model; the given model stays as it was.

    Args:
        model: a compressed (or any other) Sequential or Functional model.
        data: inputs, targets and perhaps sample weights in any form that `fit` takes: `(x, y)` or
            `(x, y, sample_weight)`, a list of such batches, a `tf.data.Dataset`, a `PyDataset`, a
            DataLoader, a generator; see `reading.read_examples`. An iterator is read once and kept
            for all epochs, unless `steps_per_epoch` says how much of it is an epoch.
        epochs: passes over the data.
        learning_rate: its peak; it rises linearly over the first 5 % of the steps and then falls
            to zero along a cosine. Cores are products, so a rate that suits the dense model may be
            too high: halve it if the loss rises.
        batch_size: for arrays, and for what is read once and kept.
        validation_data: in any form that `data` may have.
        teacher: the dense model, to learn from its outputs as well (Hinton et al. 2015), compared
            as `recover` compares them: see `match` in `RecoverySettings`.
        distillation: weight in [0, 1] of the teacher against the targets.
        temperature: at which class scores of teacher and student are compared.
        optimizer: instead of SGD with the schedule.
        loss, metrics: as in `compile`; by default those the model was compiled with.
        callbacks, verbose: as in `fit`.
        steps_per_epoch: of data that has no end, or of which an epoch is a part. Where it is
            missing and a data set does not know its length, it is read once to count.

    Returns:
        A new model of the same architecture, compiled; `model.history` holds the training's log.

    Raises:
        ValueError: if there is no loss, or the data does not fit the model or has no end.
    """
    validation.positive_int("epochs", epochs)
    if not 0.0 <= distillation <= 1.0:
        raise ValueError(
            f"`distillation` must lie in [0, 1]. Received: distillation={distillation}."
        )
    if not temperature > 0.0:
        raise ValueError(f"`temperature` must be positive. Received: temperature={temperature}.")
    if loss is None and not model.compiled:
        raise ValueError(
            "`finetune` needs a loss: the model is not compiled and `loss` is None. Give `loss`, "
            "for example loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
        )
    examples = read_examples(model, data, batch_size)
    arguments = examples.for_fit(steps_per_epoch)
    if validation_data is not None:
        held_out = read_examples(model, validation_data, batch_size, name="validation_data")
        arguments |= held_out.for_validation()
    result = rewrite_model(model, lambda layer, path: None)
    if optimizer is None:
        steps = epochs * examples.steps(steps_per_epoch)
        optimizer = keras.optimizers.SGD(_schedule(learning_rate, steps), momentum=MOMENTUM)
    if loss is None:
        compile_like(result, model, optimizer=optimizer)
    else:
        result.compile(optimizer, loss=loss, metrics=metrics)
    trained = result
    if teacher is not None:
        trained = _student(result, teacher, distillation, temperature, examples.peek())
        compile_like(trained, result, optimizer=optimizer)
    history = trained.fit(**arguments, epochs=epochs, callbacks=list(callbacks), verbose=verbose)
    result.history = history
    return result


def gradual_compression(
    model: keras.Model,
    data: Any,
    stages: Sequence[Mapping[str, Any]],
    calibration_data: Any = None,
    on_stage: Callable[[int, keras.Model], None] | None = None,
    **finetuning: Any,
) -> keras.Model:
    """Return a model compressed in several rounds, with fine-tuning after each.

    Each round merges the kernels, compresses them anew and trains: ranks can move between layers
    as the network adapts, and no single cut is large.

    Args:
        model: a trained dense model; it stays as it was.
        data: as in `finetune`.
        stages: arguments of `compress_model` for each round, relative to the dense model, for
            example `[{"params": 0.6}, {"params": 0.35}, {"params": 0.2}]`. Recovery without labels
            is off here, because training with labels follows, unless a stage has `recover=True`.
        calibration_data: as in `compress_model`.
        on_stage: `(number, model) -> None`, called after each round.
        **finetuning: arguments of `finetune`, the same for each round.

    Returns:
        The model after the last round.

    Raises:
        ValueError: for no stage, or wrong arguments of one.
    """
    if not stages:
        raise ValueError("`stages` must hold at least one round. Received: none.")
    data = read_examples(model, data)
    calibration_data = readable(model, calibration_data)
    current = model
    for number, stage in enumerate(stages):
        small = compress_model(
            to_dense_model(current),
            **{"calibration_data": calibration_data, "recover": False, **stage},
        )
        current = finetune(small, data, **finetuning)
        if on_stage is not None:
            on_stage(number, current)
    return current


def _student(
    result: keras.Model, teacher: keras.Model, distillation: float, temperature: float, probe: Any
) -> Student:
    """The student of `recover`, with labels beside the teacher and in training mode."""
    _check_teacher(result, teacher)
    structure = teacher(probe, training=False)
    flat = [ops.convert_to_numpy(tensor) for tensor in keras.tree.flatten(structure)]
    kinds = kinds_of(teacher, structure, flat, "auto")
    keep = [place for place, kind in enumerate(kinds) if kind is not None]
    # Labels stand beside them, so distances keep their own unit: none is relative.
    outputs = [Distance(kinds[place], temperature) for place in keep]
    return Student(
        result, Teacher(teacher, (), keep), outputs, keep=keep, labels=1.0 - distillation,
        training=True,
    )  # fmt: skip


def _check_teacher(student: keras.Model, teacher: keras.Model) -> None:
    """Raise unless both take the same inputs and give the same outputs."""
    if not (is_graph(student) and is_graph(teacher)):
        return
    for what in ("inputs", "outputs"):
        ours, theirs = ([tuple(t.shape[1:]) for t in getattr(m, what)] for m in (student, teacher))
        if len(ours) != len(theirs) or not all(map(_alike, ours, theirs)):
            raise ValueError(
                f"`teacher` must have the {what} of the model that learns from it. Received: "
                f"shapes {theirs} of '{teacher.name}', for {ours} of '{student.name}'. Give the "
                "dense model that it was compressed from."
            )


def _alike(shape: Shape, other: Shape) -> bool:
    """Whether two shapes can be the same, extents of None being open."""
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(a == b or None in (a, b) for a, b in pairs)


def _schedule(peak: float, steps: int) -> Any:
    warm_up = max(1, round(WARM_UP * steps))
    return keras.optimizers.schedules.CosineDecay(
        0.1 * peak, max(1, steps - warm_up), warmup_target=peak, warmup_steps=warm_up
    )
