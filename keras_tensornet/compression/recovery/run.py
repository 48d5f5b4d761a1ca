"""One run of recovery: what is matched, both phases of training, and which weights are kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet import keras_internals, validation
from keras_tensornet.augment import can_mix, mixed
from keras_tensornet.compression.recovery.blocks import (
    find_ends,
    is_changed,
    operations,
    recorded,
)
from keras_tensornet.compression.recovery.clock import Clock, schedule
from keras_tensornet.compression.recovery.distances import Distance, kinds_of, mask_of
from keras_tensornet.compression.recovery.examples import augmented, size_of, take
from keras_tensornet.compression.recovery.settings import RecoverySettings
from keras_tensornet.compression.recovery.student import Student, Teacher, forward
from keras_tensornet.types import Tensor

FEWEST_STEPS = 400
# A held-out distance of so many times that of the beginning says that the rate is too high; it
# becomes so much smaller.
FAR, LOWER = 4.0, 0.3
EPOCHS = 30
# Targets of the dense network are kept in memory up to this, else computed in every step.
MOST_BYTES = 1 << 30
# Examples that distances get their scales from.
PROBE = 64
SCORE_BATCH = 128
# Ends of blocks that are nearer than this count as if they were so far.
NEAR = 0.02
# A distance that float32 alone may make.
NOTHING = 1e-6


@dataclass(frozen=True)
class Recovery:
    """What `recover` did; it prints itself. A recovered model has it as `model.recovery`.

    Attributes:
        before, after: relative distance from the dense network on the held-out examples: 0 is
            equal, 1 what the dense network's mean output would have.
        steps: of training, in the phases "blocks" and "network".
        seconds: that it took.
        ends: paths at which blocks were matched.
        kinds: how each output was compared.
        log: `(step, distance)` of every look at the held-out examples.
    """

    before: float
    after: float
    steps: dict[str, int]
    seconds: float
    ends: tuple[str, ...]
    kinds: tuple[Any, ...]
    log: tuple[tuple[int, float], ...]

    def __str__(self) -> str:
        phases = " and ".join(f"{count} steps of {name}" for name, count in self.steps.items())
        kinds = ", ".join(getattr(kind, "__name__", str(kind)) for kind in self.kinds)
        kept = "" if self.after < self.before else "; nothing was gained, so nothing was changed"
        if not self.steps:
            kept = "; nothing was lost, so nothing was trained"
        return (
            f"recovery: relative distance {self.before:.4f} -> {self.after:.4f} on held-out "
            f"examples{kept}\n  {phases or 'no steps'} in {self.seconds:.1f} s, "
            f"{len(self.ends)} ends of blocks, outputs as {kinds}"
        )


class Run:
    """One run of `recover`."""

    def __init__(
        self, dense: Any, work: Any, examples: Any, settings: Any, began: Any, report: Any
    ) -> None:
        self.dense, self.work, self.settings = dense, work, settings
        self.began, self.report, self.reported = began, report, 0
        self.random = np.random.default_rng(settings.seed)
        self.examples, self.held = examples.split(settings.held_out, self.random)
        self.mix = None
        if settings.mix and all(can_mix(group) for group in self.examples.groups):
            self.mix = mixed(settings.mix)
        self._match()
        self._thaw()
        self.targets = self._targets()
        self.wanted = [self.teach(group) for group in self.held.groups]
        self.outputs_of = _Compiled(self._outputs)
        self.best, self.scores = self._values(), self._score()
        self.before, self.log = self.scores, [(0, self.scores.mean())]
        self.steps: dict[Any, Any] = {}

    def _match(self) -> None:
        """Find the ends of blocks that both networks have, and the distances."""
        group = self.examples.groups[0]
        probe = take(group, np.arange(min(size_of(group), PROBE)))
        structure = self.dense(probe, training=False)
        flat = [ops.convert_to_numpy(tensor) for tensor in keras.tree.flatten(structure)]
        ours = keras.tree.flatten(self.work(probe, training=False))
        shapes = [tuple(tensor.shape) for tensor in flat], [tuple(t.shape) for t in ours]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "Both models must give the same outputs. Received: shapes "
                f"{shapes[0]} of '{self.dense.name}' and {shapes[1]} of '{self.work.name}'."
            )
        settings = self.settings
        kinds = kinds_of(self.dense, structure, flat, settings.match)
        self.keep = [place for place, kind in enumerate(kinds) if kind is not None]
        self.kinds = tuple(kinds[place] for place in self.keep)
        self.outputs = [
            Distance.fitted(kind, flat[place], settings.temperature)
            for kind, place in zip(self.kinds, self.keep, strict=True)
        ]
        self.names: list[str] = []
        self.features: list[Distance] = []
        self.feature_weight = 0.0
        if settings.features or settings.blocks:
            self._match_ends(probe)
        found = dict(operations(self.dense)), dict(operations(self.work))
        self.ends = [[known[name] for name in self.names] for known in found]
        self.teacher = Teacher(self.dense, self.ends[0], self.keep)

    def _match_ends(self, probe: Any) -> None:
        names = find_ends(self.dense, self.work)
        known = dict(operations(self.dense)), dict(operations(self.work))
        both = []
        for model, found in zip((self.dense, self.work), known, strict=True):
            with recorded([found[name] for name in names]) as left:
                model(probe, training=False)
            both.append(left)
        lost = []
        for name, theirs, ours in zip(names, *both, strict=True):
            shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (theirs, ours)]
            if not shapes[0] or shapes[0] != shapes[1]:
                continue
            self.names.append(name)
            for wanted, found in zip(theirs, ours, strict=True):
                array = ops.convert_to_numpy(ops.cast(wanted, "float32"))
                self.features.append(Distance.fitted("values", array, 1.0))
                lost.append(float(ops.mean(self.features[-1](array, found))))
        if lost:
            self.feature_weight = self.settings.features / max(float(np.mean(lost)), NEAR)
        if not self.names:
            validation.warn_user(
                f"No inner outputs of '{self.dense.name}' and '{self.work.name}' can be matched, "
                "so only their outputs are: recovery may need more examples."
            )

    def _thaw(self) -> None:
        """Let the compressed layers learn, frozen or not."""
        theirs, layers = dict(operations(self.dense)), keras_internals.flatten_layers(self.work)
        changed = {
            id(operation)
            for path, operation in operations(self.work)
            if is_changed(theirs.get(path), operation)
        }
        frozen = [layer for layer in layers if not layer.trainable]
        if any(_holds(layer, changed) for layer in frozen):
            self.work.trainable = True  # this reaches down to every layer
            for layer in frozen:
                if not _holds(layer, changed):
                    layer.trainable = False
        if not self.work.trainable_variables:
            raise ValueError(
                f"Every layer of '{self.work.name}' is frozen, and none of them was compressed, so "
                "there is nothing to train. Set `trainable = True` on those that may change."
            )

    def _targets(self) -> tuple[Any, ...]:
        """The dense network's outputs on all examples, where they are always the same."""
        if self.settings.augment is not None or self.mix is not None:
            return ()
        probe = take(self.examples.groups[0], np.arange(1))
        size = sum(math.prod(tensor.shape) * 4 for tensor in self.teacher(probe))
        if size * len(self.examples) > MOST_BYTES:
            return ()
        return tuple(self.teach(group) for group in self.examples.groups)

    def teach(self, group: Any) -> list[np.ndarray]:
        """The dense network's outputs and ends of blocks on some examples."""
        holder = _Compiled(self.teacher)
        parts = [holder(part) for part in _cut(group, SCORE_BATCH)]
        return [np.concatenate(found) for found in zip(*parts, strict=True)]

    def train(self) -> None:
        """Both phases, within the time that there is."""
        if self.scores.mean() < NOTHING:
            return
        settings, batch_size = self.settings, self.settings.batch_size
        per_epoch = self.examples.steps(batch_size)
        epochs = settings.epochs or max(EPOCHS, math.ceil(FEWEST_STEPS / per_epoch))
        total = epochs * per_epoch
        first = round(settings.blocks * total) if self.names else 0
        if first:
            self._phase("blocks", first, settings.blocks, True)
        self._phase("network", total - first, 1.0, False)
        while self.reported < 100:
            self._tell("recovery")

    def _phase(self, name: str, steps: int, share: float, cut: bool) -> None:
        """Train until `share` of the time that is left has been used."""
        settings = self.settings
        student = Student(
            self.work, self.teacher, self.outputs, self.features, self.ends[1], self.keep,
            1.0 if cut else self.feature_weight, cut, quantize=settings.quantize,
        )  # fmt: skip
        rate = settings.learning_rate
        optimizer = _optimizer(settings)
        student.compile(optimizer)
        optimizer.build(student.trainable_variables)
        start = time.perf_counter()
        end = math.inf
        if settings.seconds is not None:
            end = start + share * (self.began + settings.seconds - start)
        clock = Clock(steps, end)
        batches = self.examples.epochs(settings.batch_size, self.random, self.targets)
        while not clock.over():
            optimizer.learning_rate = rate * schedule(clock.progress())
            inputs, targets = next(batches)
            inputs = augmented(settings.augment, inputs, self.random)
            if self.mix is not None:
                inputs = self.mix(inputs, self.random)
            loss = float(student.train_on_batch(inputs, targets))
            clock.tick()
            if not math.isfinite(loss):
                self._restore()  # and go on no further: the rate is too high
                break
            if clock.time_to_look():
                began = time.perf_counter()
                if self._look(sum(self.steps.values()) + clock.done) > FAR * self.before.mean():
                    self._restore()
                    rate *= LOWER
                clock.looked(time.perf_counter() - began)
            self._advance(name, share if cut else 1.0, clock.progress())
        self.steps[name] = clock.done
        self._look(sum(self.steps.values()))
        self._restore()

    def _look(self, step: int) -> float:
        """The held-out distance, compared with that of the best weights so far, which are kept."""
        scores = self._score()
        distance = float(scores.mean()) if np.isfinite(scores).all() else math.inf
        self.log.append((step, distance))
        gain = self.before - scores
        # The beginning is only left for what is better beyond chance.
        chance = gain.std() / math.sqrt(len(gain)) if distance < math.inf else math.inf
        if distance < self.scores.mean() and gain.mean() > chance:
            self.best, self.scores = self._values(), scores
        return distance

    def _score(self) -> np.ndarray:
        """(held-out examples,) distances of the outputs."""
        found = []
        for group, wanted in zip(self.held.groups, self.wanted, strict=True):
            parts = [self.outputs_of(part) for part in _cut(group, SCORE_BATCH)]
            outputs = [np.concatenate(parts) for parts in zip(*parts, strict=True)]
            terms = [
                ops.convert_to_numpy(distance(target, output, mask_of(group, target)))
                for distance, target, output in zip(self.outputs, wanted, outputs, strict=False)
            ]
            found.append(sum(terms) / len(terms))
        return np.concatenate(found).astype("float64")

    def _outputs(self, inputs: Any) -> list[Any]:
        outputs, _ = forward(self.work, inputs, (), quantize=self.settings.quantize)
        flat = keras.tree.flatten(outputs)
        return [flat[place] for place in self.keep]

    def _values(self) -> list[np.ndarray]:
        return [np.array(ops.convert_to_numpy(v)) for v in self.work.variables]

    def _restore(self) -> None:
        for variable, value in zip(self.work.variables, self.best, strict=True):
            variable.assign(value)

    def _advance(self, name: str, share: float, progress: float) -> None:
        done = share * progress if name == "blocks" else None
        if done is None:
            first = self.settings.blocks if self.names else 0.0
            done = first + (1.0 - first) * progress
        while self.reported < int(99 * done):
            self._tell(f"recovery, {name} {self.log[-1][1]:.4f}")

    def _tell(self, text: str) -> None:
        self.reported += 1
        self.report(text)

    def record(self) -> Recovery:
        """What was done."""
        return Recovery(
            before=float(self.before.mean()),
            after=float(self.scores.mean()),
            steps=dict(self.steps),
            seconds=time.perf_counter() - self.began,
            ends=tuple(self.names),
            kinds=self.kinds,
            log=tuple(self.log),
        )


def _holds(layer: keras.Layer, wanted: set[int]) -> bool:
    return any(id(inner) in wanted for inner in keras_internals.flatten_layers(layer))


class _Compiled:
    """A function of a batch of inputs that is not in any model, compiled by `predict_on_batch`."""

    def __init__(self, function: Any) -> None:
        self.model = _Function(function)

    def __call__(self, inputs: Any) -> list[np.ndarray]:
        found = self.model.predict_on_batch(inputs)
        return [np.asarray(array) for array in keras.tree.flatten(found)]


class _Function(keras.Model):
    def __init__(self, function: Any) -> None:
        super().__init__(name="dense_outputs")
        self.function = function
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        return self.function(inputs)


def _cut(group: Any, size: int) -> Iterator[Any]:
    for start in range(0, size_of(group), size):
        yield take(group, np.arange(start, min(start + size, size_of(group))))


def _optimizer(settings: RecoverySettings) -> keras.Optimizer:
    if settings.optimizer is None:
        return keras.optimizers.Adam(settings.learning_rate)
    config = settings.optimizer.get_config() | {"learning_rate": settings.learning_rate}
    return type(settings.optimizer).from_config(config)
