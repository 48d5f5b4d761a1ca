"""Look over the shoulder of layers while their model runs: what their kernels are multiplied by.

The layers of the model itself are listened to, in place, by standing in for their `call`; so it
does not matter where a layer stands: in a graph, in a wrapper, in a composite layer that calls it
from Python code, shared by several of them. Nothing of the model is changed, and what stood in is
taken away again, also after an error.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tensornet.compression.patches import RECURRENT, Geometry
from keras_tensornet.keras_internals import stand_in

# Name of an input that tells which positions of a sequence count, as KerasHub calls it.
PADDING = "padding_mask"
Event = tuple[str, int]


class Sums:
    """Sums of x x^T and of x over patches x, and how many there were."""

    def __init__(self, geometry: Geometry) -> None:
        groups, patch = geometry.groups, geometry.patch
        self.gram = np.zeros((groups, patch, patch), "float32")
        self.total = np.zeros((groups, patch), "float64")
        self.count, self.done = 0, False

    def add(self, patches: np.ndarray) -> None:
        """Add (groups, positions, patch)."""
        for gram, total, group in zip(self.gram, self.total, patches, strict=True):
            gram += group.T @ group  # a symmetric product, which BLAS does in half the time
            total += group.sum(axis=0, dtype="float64")
        self.count += patches.shape[1]

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """E[x x^T] and E[x]; nothing can be added afterwards."""
        if not self.done:
            self.gram /= np.float32(self.count)  # in place: a second array is much for wide layers
            self.total /= self.count
            self.done = True
        return self.gram, self.total


class Recorder:
    """The sums of all kernels that are listened to.

    Query, key and value projections multiply the same inputs. Where several kernels are given the
    very same tensor their sums are kept once.

    Args:
        share: whether sums may be shared. A model that shares tensors in one batch and not in the
            next one sets `unsteady`, and has to be run again without.
    """

    def __init__(self, share: bool = True) -> None:
        self.share, self.unsteady = share, False
        self.sums: dict[Event, Sums] = {}
        self.owners: dict[Event, Event] = {}
        self.calls: dict[str, int] = {}
        self.seen: dict[tuple[Any, ...], tuple[weakref.ref[Any], Event]] = {}
        self.padding = None

    def start(self, batch: Any) -> None:
        """Forget which tensors the batch before this one had."""
        self.calls, self.seen = {}, {}
        self.padding = batch.get(PADDING) if isinstance(batch, Mapping) else None

    def record(self, path: str, geometry: Geometry, inputs: Any, mask: Any = None) -> None:
        """Add the patches of one call."""
        event = path, self.calls.get(path, 0)
        self.calls[path] = event[1] + 1
        owner = self._owner(event, geometry, inputs)
        if self.owners.setdefault(event, owner) != owner:
            self.unsteady = True
        if owner != event:
            return
        if event not in self.sums:
            self.sums[event] = Sums(geometry)
        self.sums[event].add(geometry.patches(inputs, self._mask(geometry, inputs, mask)))

    def _owner(self, event: Event, geometry: Geometry, inputs: Any) -> Event:
        """The first call in this batch that was given the same tensor to take the same rows of."""
        if not self.share or geometry.kernel_size:
            return event
        axes = None if geometry.equation is None else geometry.equation.input_axes(inputs.ndim)
        flat = axes is None or axes[1] == (inputs.ndim - 1,)
        key = id(inputs), None if flat else axes
        known = self.seen.get(key)
        if known is not None and known[0]() is inputs:
            return known[1]
        with suppress(TypeError):  # a tensor that takes no weak references is not shared
            self.seen[key] = weakref.ref(inputs), event
        return event

    def _mask(self, geometry: Geometry, inputs: Any, mask: Any) -> Any:
        """Which positions count: those of Keras' mask, or else of an input that says so."""
        if geometry.kernel_size:
            return None
        if mask is None:
            mask = getattr(inputs, "_keras_mask", None)
        if mask is None and self.padding is not None and len(inputs.shape) > 2:
            mask = self.padding
        if mask is None:
            return None
        fits = tuple(mask.shape) == tuple(inputs.shape[: len(mask.shape)])
        if geometry.equation is not None:
            # Rows come in the order of the axes that are kept: those of the mask must lead.
            kept, _ = geometry.equation.input_axes(len(inputs.shape))
            fits = fits and kept[: len(mask.shape)] == tuple(range(len(mask.shape)))
        return mask if fits and len(mask.shape) < len(inputs.shape) else None

    def moments(self, path: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The means of x x^T and of x over all calls of one path; None where there were none."""
        found = [self.sums[owner] for event, owner in self.owners.items() if event[0] == path]
        found = [sums for sums in found if sums.count]
        if len(found) == 1:  # the common case: those who share the sums share the array
            return found[0].means()
        if not found:
            return None
        shares = np.array([sums.count for sums in found]) / sum(sums.count for sums in found)
        means = [sums.means() for sums in found]
        gram = np.zeros_like(means[0][0])
        for share, (part, _) in zip(shares, means, strict=True):
            gram += np.float32(share) * part
        return gram, np.tensordot(shares, np.stack([mean for _, mean in means]), axes=1)


@contextmanager
def listening(recorder: Recorder, layers: Mapping[str, tuple[Any, ...]]) -> Iterator[None]:
    """Record what kernels are multiplied by in every call of their layers within the context.

    Args:
        recorder: takes the patches.
        layers: `path -> (layer, geometry, recurrent)`; `recurrent` for the hidden states of a
            recurrent layer.
    """
    with ExitStack() as stack:
        for path, (layer, geometry, recurrent) in layers.items():
            note = functools.partial(recorder.record, path, geometry)
            if recurrent:
                stack.enter_context(stand_in(layer, "inner_loop", _states_noted(layer, note)))
            elif isinstance(layer, RECURRENT):
                stack.enter_context(stand_in(layer, "inner_loop", _sequences_noted(note)))
            else:
                stack.enter_context(stand_in(layer, "call", _inputs_noted(note)))
        yield


def _inputs_noted(note: Callable[..., Any]) -> Callable[..., Any]:
    def around(call: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            note(args[0] if args else next(iter(kwargs.values())))
            return call(*args, **kwargs)

        return noted

    return around


def _sequences_noted(note: Callable[..., Any]) -> Callable[..., Any]:
    def around(inner_loop: Any) -> Any:
        def noted(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
            note(sequences, _single(mask))
            return inner_loop(sequences, initial_state, mask, training=training)

        return noted

    return around


def _states_noted(layer: keras.Layer, note: Callable[..., Any]) -> Callable[..., Any]:
    """What the recurrent kernel is multiplied by: the first state, and all outputs but the last."""

    def around(inner_loop: Any) -> Any:
        def noted(sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
            wanted = layer.return_sequences
            layer.return_sequences = True
            try:
                found = inner_loop(sequences, initial_state, mask, training=training)
            finally:
                layer.return_sequences = wanted
            first = keras.tree.flatten(initial_state)[0][:, None]
            outputs = ops.cast(found[1], first.dtype)
            where = _single(mask)
            if where is not None and layer.go_backwards:
                where = ops.flip(where, axis=1)
            note(ops.concatenate([first, outputs[:, :-1]], axis=1), where)
            return found

        return noted

    return around


def _single(mask: Any) -> Any:
    return mask[0] if isinstance(mask, (list, tuple)) and mask else mask
