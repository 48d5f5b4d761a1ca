"""Sequential calibration: later layers are fitted to the inputs that the compressed network has.

Layers decomposed on the dense network's inputs know nothing of each other's errors, which add up.
Here their cores are fitted once more, in the order in which the layers run and in a few waves.
Before each wave the dense network and a copy of it that holds what has been found so far run on the
same data. With x the input patch of a layer in the dense network and x' in the compressed one, the
layer is to give on x' what the dense kernel W gives on x:

    min_V  E |x'^T V - x^T W|^2  =  min_V  tr((V - W')^T G (V - W')) + const,
    G = E[x' x'^T],   W' = G^-1 E[x' x^T] W,

which is the same least squares of one core at a time as without a sequence, with W' for W (Zhang et
al., "Accelerating very deep convolutional networks", 2015, section 3.2, for one cut of a matrix). A
part of the data is kept aside, and a layer whose error is not smaller on it keeps its cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet import keras_internals
from keras_tensornet.compression import normalisation
from keras_tensornet.compression.choosing.selection import decompose_each
from keras_tensornet.compression.choosing.subjects import Candidate, Subject, merged_kernel
from keras_tensornet.compression.covariance import unchanged
from keras_tensornet.compression.cuts import cut_cores, cut_of
from keras_tensornet.compression.kind import add_to_bias
from keras_tensornet.compression.normalisation import without_noise
from keras_tensornet.compression.patches import Geometry
from keras_tensornet.compression.recording import Event, Recorder, listening
from keras_tensornet.compression.weighted import RIDGE, Metric, as_matrix, from_matrix, refine
from keras_tensornet.kernels import equalised
from keras_tensornet.reading import Batches
from keras_tensornet.rewriting.walker import rewrite_model, walk_layers

# The layers are taken in so many waves; each runs both networks over the data.
WAVES = 6
# Inputs that the networks run on, in batches, every so many of which are kept aside.
INPUTS, BATCH, ASIDE = 512, 64, 4
# With as many rows of data as a patch has entries, the ridge is so many times the usual one more.
FEW_ROWS = 10.0

Found = Mapping[str, tuple[Subject, Candidate]]


def fit_in_sequence(
    model: keras.Model, found: Found, data: Batches, report: Callable[[str], None]
) -> dict[str, tuple[Subject, Candidate]]:
    """Fit decompositions once more, each to the inputs that the compressed network gives it.

    Args:
        model: the dense model; it stays as it was.
        found: `path -> (subject, candidate)`, from the dense network's inputs.
        data: inputs of the model; the first `INPUTS` are used.
        report: called with the path of each layer that is done.

    Returns:
        The same with other cores where they are better on the part of the data that is kept aside.
        Layers that are never called, or whose patches cannot be recorded, stay as they are.
    """
    fixed = data.signature.batch_size
    batches = _cut(data.first(INPUTS).x, fixed)
    copy = rewrite_model(model, without_noise)
    own, before = normalisation.moving(copy), normalisation.measured(copy, batches)
    normalisation.assign(copy, own)
    twins = dict(walk_layers(copy))
    geometry_of = _geometries(model, found, batches[0], fixed or 1)
    followed = [path for path in geometry_of if path in twins]
    result = dict(found)
    for path, (subject, candidate) in found.items():
        # Layers of several kernels compute with what was found, and are not fitted again.
        if path not in geometry_of and subject.target.layer_path in twins:
            _put(twins[subject.target.layer_path], subject, candidate)
    for number, wave in enumerate(_waves(followed)):
        geometries = {path: geometry_of[path] for path in wave}
        pairs = _pairs(model, copy, geometries, twins, batches) if number else {}
        jobs = [(*found[path], pairs.get(path)) for path in wave]
        for (subject, _, _), kept in decompose_each(jobs, lambda job: _fitted(*job)):
            result[subject.path] = kept
            _put(twins[subject.path], *kept)
            report(subject.path)
        found_here = normalisation.measured(copy, batches)
        normalisation.assign(copy, normalisation.followed(own, before, found_here))
    return result


@dataclass
class Pair:
    """Moments of a layer's patches x in the dense network and x' in the compressed one.

    Attributes:
        gram, cross: sums of x' x'^T and of x' x^T, (groups, patch, patch).
        own, other: sums of x' and of x, (groups, patch).
        count: how many patches.
    """

    gram: np.ndarray
    cross: np.ndarray
    own: np.ndarray
    other: np.ndarray
    count: int = 0

    @classmethod
    def empty(cls, geometry: Geometry) -> Pair:
        """No patches yet."""
        row = geometry.groups, geometry.patch
        square = *row, geometry.patch
        return cls(np.zeros(square), np.zeros(square), np.zeros(row), np.zeros(row))

    def add(self, own: np.ndarray, other: np.ndarray) -> None:
        """Add patches (groups, positions, patch) of both networks, position by position."""
        turned = own.transpose(0, 2, 1)
        self.gram += turned @ own
        self.cross += turned @ other
        self.own += own.sum(axis=1)
        self.other += other.sum(axis=1)
        self.count += own.shape[1]

    def moments(self, centred: bool) -> tuple[np.ndarray, np.ndarray]:
        """The means of x' x'^T and of x' x^T; around the means of x' and x where centred."""
        gram, cross = self.gram / self.count, self.cross / self.count
        if not centred:
            return gram, cross
        own, other = self.own / self.count, self.other / self.count
        return (
            gram - own[:, :, None] * own[:, None, :],
            cross - own[:, :, None] * other[:, None, :],
        )


@dataclass(frozen=True)
class Pairs:
    """The moments of one layer: of the data that it is fitted to, and of what is kept aside."""

    fit: Pair
    aside: Pair


class Followed(Subject):
    """A subject whose inputs are those of the compressed network; its bias takes up both means."""

    def __init__(self, subject: Subject, pair: Pair) -> None:
        vars(self).update(vars(subject))
        self.own, self.other = pair.own / pair.count, pair.other / pair.count

    def mean_lost(self, kernel: np.ndarray) -> np.ndarray | None:
        """E[x]^T W - E[x']^T V, (outputs,)."""
        if self.mean is None:
            return None
        wanted = np.einsum("gp,gpo->go", self.other, as_matrix(self.kernel, self.modes))
        return (wanted - np.einsum("gp,gpo->go", self.own, as_matrix(kernel, self.modes))).ravel()


def _fitted(
    subject: Subject, candidate: Candidate, pairs: Pairs | None
) -> tuple[Subject, Candidate]:
    """The layer with the cores that are better on the data kept aside."""
    if pairs is None or subject.metric is None or not pairs.fit.count or not pairs.aside.count:
        return subject, candidate
    centred = subject.mean is not None
    modes, form = candidate.form.modes, candidate.form
    gram, cross = pairs.fit.moments(centred)
    patch = gram.shape[-1]
    scale = None if subject.metric.scale is None else subject.metric.scale.ravel()
    ridge = RIDGE * (1.0 + FEW_ROWS * patch / pairs.fit.count)
    metric = Metric.regularised(gram, scale, ridge)
    kernel = as_matrix(np.asarray(subject.kernel, dtype=np.float64), modes)
    # (G + ridge) W' = E[x' x^T] W + ridge W: the ridge draws towards the dense kernel.
    drawn = (metric.gram - gram) @ kernel
    target = from_matrix(np.linalg.solve(metric.gram, cross @ kernel + drawn), modes)
    cut = cut_of(candidate.network, modes)
    if cut is None:
        cores = refine(target, candidate.network, modes, metric, candidate.cores or [])
    else:  # the least error in closed form, many times faster
        cores = cut_cores(target, candidate.network, modes, cut, metric)
    trial = Candidate(form, candidate.rank, candidate.network, candidate.error, equalised(cores))
    before, after = (_error(one, kernel, pairs.aside, centred, scale) for one in (candidate, trial))
    if not after < before:
        return Followed(subject, pairs.fit), candidate
    return Followed(subject, pairs.fit), trial


def _error(
    candidate: Candidate, kernel: np.ndarray, pair: Pair, centred: bool, scale: np.ndarray | None
) -> float:
    """E |x'^T V - x^T W|^2 without the part in which there is no V, each output at its scale."""
    modes = candidate.form.modes
    gram, cross = pair.moments(centred)
    merged = as_matrix(merged_kernel(candidate.network, modes, candidate.cores), modes)
    each = np.sum(merged * (gram @ merged) - 2 * merged * (cross @ kernel), axis=1)
    weights = 1.0 if scale is None else scale.reshape(each.shape) ** 2
    return float(np.sum(each * weights))


class _Keeper(Recorder):
    """Keeps the patches of one batch, call by call."""

    def __init__(self) -> None:
        super().__init__(share=False)
        self.patches: dict[Event, np.ndarray] = {}

    def start(self, batch: Any) -> None:
        super().start(batch)
        self.patches = {}

    def record(self, path: str, geometry: Geometry, inputs: Any, mask: Any = None) -> None:
        """Keep the patches of one call."""
        event = path, self.calls.get(path, 0)
        self.calls[path] = event[1] + 1
        self.patches[event] = geometry.patches(inputs, self._mask(geometry, inputs, mask))


def _pairs(
    model: keras.Model,
    copy: Any,
    geometries: Mapping[str, Geometry],
    twins: Mapping[str, Any],
    batches: list[Any],
) -> dict[str, Pairs]:
    """Moments of the layers of one wave, both networks run on every batch."""
    ours = dict(walk_layers(model))
    here = {path: (ours[path], geometry, False) for path, geometry in geometries.items()}
    there = {path: (twins[path], geometry, False) for path, geometry in geometries.items()}
    found = {
        path: Pairs(Pair.empty(geometry), Pair.empty(geometry))
        for path, geometry in geometries.items()
    }
    dense, small = _Keeper(), _Keeper()
    with unchanged(model), unchanged(copy), listening(dense, here), listening(small, there):
        for number, batch in enumerate(batches):
            for keeper, network in ((dense, model), (small, copy)):
                keeper.start(batch)
                network(batch, training=False)
            for event, own in small.patches.items():
                other = dense.patches.get(event)
                if other is None or other.shape != own.shape:
                    continue
                pairs = found[event[0]]
                (pairs.aside if number % ASIDE == ASIDE - 1 else pairs.fit).add(own, other)
    return found


def _geometries(model: keras.Model, found: Found, batch: Any, count: int) -> dict[str, Geometry]:
    """`path -> geometry` of calibrated layers, in the order in which they run."""
    layers = {}
    for path, (subject, _) in found.items():
        geometry = subject.target.kind.geometry(subject.target.layer)
        one = not subject.target.part and not subject.target.kind.parts()
        if subject.metric is not None and geometry is not None and one:
            layers[path] = subject.target.layer, geometry, False
    keeper = _Keeper()
    with unchanged(model), listening(keeper, layers):
        keeper.start(batch)
        model(keras.tree.map_structure(lambda leaf: leaf[:count], batch), training=False)
    return {path: layers[path][1] for path, call in keeper.patches if call == 0}


def _waves(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    """The layers in their order, cut into waves of about one size."""
    for part in np.array_split(np.arange(len(paths)), min(WAVES, len(paths)) or 1):
        yield [paths[place] for place in part]


def _put(layer: keras.Layer, subject: Subject, candidate: Candidate) -> None:
    """Let a layer of the copy compute with the cores that were found."""
    kernel = merged_kernel(candidate.network, candidate.form.modes, candidate.cores)
    add_to_bias(subject.target.kind.bias(layer), subject.bias_shift(candidate))
    variable = subject.target.kind.kernel(layer)
    kernel = kernel.reshape(tuple(variable.shape))
    if not isinstance(variable, keras.Variable):  # LoRA adds to the variable beneath
        beneath = keras_internals.adapted_kernel(layer)
        kernel = kernel - ops.convert_to_numpy(variable) + ops.convert_to_numpy(beneath)
        variable = beneath
    variable.assign(kernel)


def _cut(inputs: Any, fixed: int | None = None) -> list[Any]:
    """Inputs in batches, of the size that a model is fixed to or small enough to keep one aside."""
    size = len(keras.tree.flatten(inputs)[0])
    step = fixed or max(1, min(BATCH, size // ASIDE))
    return [
        keras.tree.map_structure(lambda leaf, start=start: leaf[start : start + step], inputs)
        for start in range(0, size, step)
    ]
