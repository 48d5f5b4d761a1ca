"""Copies of composites in which some of the layers that they hold are replaced.

A composite is built again from its own configuration. Source and copy are then gone through side
by side: what `replace` gives takes the place of the copy's layer, what the rest of the model has
copied already is shared with it (tied weights stay tied), what the user has put in by hand since
the composite was built comes along, and everything else gets the weights of the source.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_tensornet import keras_internals
from keras_tensornet.rewriting import composites, rewritten

# Entries of a configuration that do not say what a layer computes.
APART = ("name", "trainable", "build_config")


def has_config(model: keras.Model) -> bool:
    """Whether a model of a class of its own says how it is built, and says all of it."""
    try:
        built = rewritten.written(model)
    except ValueError:
        return False
    # What has been replaced has other variables than what the class builds.
    return isinstance(model, rewritten.Rewritten) or _shapes(built) == _shapes(model)


def _shapes(layer: keras.Layer) -> list[tuple[int, ...]]:
    return [tuple(variable.shape) for variable in layer.variables]


def copied(rewriter: Any, source: Any, path: str) -> Any:
    """A composite as a new one, with what `rewriter` gives for the layers that it holds.

    Args:
        rewriter: the run of `rewrite_model`: its clones, and what it replaces.
        source: the composite; it stays as it was.
        path: of the composite.

    Raises:
        ValueError: if the composite cannot be built again, or does not work with what is put in.
    """
    copy = rewritten.written(source)
    keras_internals.copy_build_shapes(source, copy)
    pairs = _Pairs(rewriter, path)
    pairs.inside(source, copy, path)
    if pairs.new_of:
        composites.put(copy, pairs.new_of)
        rewritten.declare(copy)
        _check_specs(source, copy, path)
    return copy


class _Pairs:
    """Source and copy, side by side."""

    def __init__(self, rewriter: Any, root: str) -> None:
        self.rewriter, self.root = rewriter, root
        self.new_of: dict[int, keras.layers.Layer] = {}

    def inside(self, source: Any, copy: Any, path: str) -> None:
        """What two holders of the same class hold, and the variables of their own."""
        self.rewriter.flags.append((copy, source.trainable))
        theirs = dict(composites.children(copy, inside=True))
        for step, layer in composites.children(source, inside=True):
            if step not in theirs:
                if keras_internals.flatten_layers(layer) and layer.variables:
                    raise _differs(source, path, f"it holds '{step}', its copy does not")
                continue
            self.layer(layer, theirs[step], f"{path}/{step}" if path else step, step)
        self.rewriter.holders.append((source, copy))

    def layer(self, source: Any, copy: Any, path: str, step: str) -> None:
        """One layer of the source, and what stands in its place in the copy."""
        clones = self.rewriter.clones
        if id(source) in clones:
            self._stand_in(copy, _single(clones[id(source)], source.name), step)
            return
        chosen = None
        if not isinstance(source, keras.Model) and not composites.is_wrapper(source):
            chosen = self.rewriter.replacement(source, path)
        if chosen is not None:
            chosen = _single(chosen, source.name)
            if not chosen.built:
                chosen.build_from_config(source.get_build_config())
            if _as_written(chosen, copy):
                if not copy.built:  # its holder has no `build`, and it was replaced before
                    copy.build_from_config(chosen.get_build_config())
                clones[id(source)] = copy
                self.rewriter.flags.append((copy, chosen.trainable))
                self.rewriter.copies.append((chosen, copy))
                return
        elif _same(source, copy):
            clones[id(source)] = copy
            if composites.children(source, inside=True):
                self.inside(source, copy, path)
            else:
                self.rewriter.flags.append((copy, source.trainable))
                self.rewriter.copies.append((source, copy))
            return
        else:  # put in by hand since the composite was built
            chosen = _single(self.rewriter.operation_at(source, path), source.name)
            if not chosen.built and source.built:
                chosen.build_from_config(source.get_build_config())
        clones[id(source)] = chosen
        self._stand_in(copy, chosen, step)

    def _stand_in(self, copy: Any, new: Any, step: str) -> None:
        if new is copy:
            return
        known = self.new_of.setdefault(id(copy), new)
        if known is not new:
            raise _differs(copy, self.root, f"at '{step}' it holds one layer in place of two")
        rewritten.mark(new, step)


def _same(source: Any, copy: Any) -> bool:
    """Whether a copy's layer is what stands in the source: of the same class and settings."""
    if rewritten.own_class(source) is not rewritten.own_class(copy):
        return False
    if composites.children(source, inside=True):
        return True
    try:
        ours, theirs = _settings(source), _settings(copy)
    except Exception:
        # A layer without a usable configuration is built by its holder's code alone.
        return True
    return ours == theirs


def _as_written(chosen: Any, copy: Any) -> bool:
    """Whether a replacement is what the composite's class builds itself, but for the weights."""
    if type(chosen) is not type(copy) or composites.children(copy, inside=True):
        return False
    first, second = (
        {key: value for key, value in _settings(one).items() if not key.endswith("_initializer")}
        for one in (chosen, copy)
    )
    return first == second


def _settings(layer: keras.Layer) -> dict[str, Any]:
    return {key: value for key, value in layer.get_config().items() if key not in APART}


def _single(chosen: Any, name: str) -> Any:
    """One layer: a list of layers as a Sequential."""
    if not isinstance(chosen, list):
        return chosen
    return keras.Sequential(chosen, name=name)


def _differs(layer: keras.Layer, path: str, how: str) -> ValueError:
    kind = rewritten.own_class(layer).__name__
    return ValueError(
        f"The copy of '{path or layer.name}' of type {kind}, made from its configuration, is "
        f"another than the layer itself: {how}. Put what is missing into `get_config`, or create "
        "it in `__init__` or `build`."
    )


def _check_specs(source: Any, copy: Any, path: str) -> None:
    """Raise where a composite does not compute with the layers that were put in."""
    if not isinstance(source, keras_internals.Functional):
        return
    try:
        keras.tree.map_structure(lambda one: one, copy.compute_output_spec(copy.input))
    except Exception as error:
        raise rewriting_failed(source, path, error) from error


def rewriting_failed(layer: keras.Layer, path: str, error: Exception) -> ValueError:
    """What is raised where a composite does not work with the layers that were put in."""
    reason = " ".join(str(error).split())[:400].rstrip(".")
    return ValueError(
        f"'{path or layer.name}' of type {rewritten.own_class(layer).__name__} does not work with "
        f"the layers that were put into it: {reason}. Its code uses them in a way that they cannot "
        "serve (assigning to `kernel`, for example). Leave them as they are: `exclude=`."
    )
