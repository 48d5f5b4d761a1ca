"""Multi-head attention whose projections have tensor-network kernels.

Everything but the projections is `keras.layers.MultiHeadAttention`'s own: scores, masks, dropout,
gates, sliding windows, flash attention.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_tensornet import formats
from keras_tensornet.layers.arguments import resolve_implementation
from keras_tensornet.layers.common import serialisable
from keras_tensornet.layers.conversion import check_source, one_threshold
from keras_tensornet.layers.einsum_dense import FactorizedEinsumDense
from keras_tensornet.layers.mixin import ByName
from keras_tensornet.types import Config, Implementation, Rank, Shape

# The projections, in the order in which they are built; "gate" only with `use_gate`.
PROJECTIONS = ("query", "key", "gate", "value", "output")


@serialisable
class FactorizedMultiHeadAttention(ByName, keras.layers.MultiHeadAttention):
    """A `keras.layers.MultiHeadAttention` with factorized query, key, value and output projections.

    Args:
        num_heads, key_dim, value_dim: as in `keras.layers.MultiHeadAttention`.
        rank: bond sizes of every projection: an int, or a tuple as the format takes it; or a dict
            with one of these for each of "query", "key", "value" and "output" (and "gate").
        format: name of the format, "tr" by default.
        implementation: as in `FactorizedDense`, of every projection; or a dict with one of these
            for each of "query", "key", "value" and "output" (and "gate").
        **kwargs: as in `keras.layers.MultiHeadAttention`; initializers, regularizers and
            constraints see the merged kernels of the projections.

    Input shape, output shape:
        As in `keras.layers.MultiHeadAttention`: query (B, T, dim), value and key (B, S, dim) give
        (B, T, dim).

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if there is no such format, or `rank` lacks a projection.

    Examples:

    >>> attention = FactorizedMultiHeadAttention(num_heads=4, key_dim=8, rank=4)
    >>> tokens = keras.random.normal((2, 10, 32))
    >>> attention(tokens, tokens).shape
    TensorShape([2, 10, 32])
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        *,
        value_dim: int | None = None,
        rank: Rank | Mapping[str, Rank] = None,
        format: str = "tr",
        implementation: Implementation | Mapping[str, Implementation] = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_heads, key_dim, value_dim=value_dim, **kwargs)
        self.format = formats.get(format).name
        self._use_gate = getattr(self, "_use_gate", False)
        self.implementation = implementation
        self.rank = _resolve_ranks(rank, self._names())
        for name in self._names():  # raises here, not in `build`, where an argument is wrong
            self._projection(name, 2, 1, (1,))

    @staticmethod
    def dense_class() -> type[keras.layers.Layer]:
        """The dense twin."""
        return keras.layers.MultiHeadAttention

    @property
    def projections(self) -> dict[str, FactorizedEinsumDense]:
        """The projections of a built layer by name; a ValueError before."""
        if not self.built:
            # PyTorch modules swallow an AttributeError of a property.
            raise ValueError(
                f"Layer '{self.name}' has no projections yet. Call it on data or `build` it first."
            )
        return {name: getattr(self, f"_{name}_dense") for name in self._names()}

    @property
    def implementation(self) -> Any:
        """One implementation for all projections, or a dict with one for each where they differ."""
        found = dict(self._implementations)
        if self.built:
            found = {name: layer.implementation for name, layer in self.projections.items()}
        first = next(iter(found.values()))
        return first if all(one == first for one in found.values()) else found

    @implementation.setter
    def implementation(self, value: Any) -> None:
        names = self._names()
        each = isinstance(value, Mapping) and set(value) == set(names)
        found = {name: resolve_implementation(value[name] if each else value) for name in names}
        projections = self.projections if self.built else {}
        before = {name: layer.implementation for name, layer in projections.items()}
        try:
            for name, layer in projections.items():
                layer.implementation = found[name]
        except ValueError:
            for name, layer in projections.items():
                layer.implementation = before[name]
            raise
        self._implementations = found

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        """Create the projections for query, value and key of those shapes."""
        query_shape, value_shape = tuple(query_shape), tuple(value_shape)
        key_shape = value_shape if key_shape is None else tuple(key_shape)
        if value_shape[1:-1] != key_shape[1:-1]:
            raise ValueError(
                "Value and key must agree in all axes but the last. Received: "
                f"value shape {value_shape}, key shape {key_shape}."
            )
        sources = {"query": query_shape, "gate": query_shape, "key": key_shape}
        heads = (self.num_heads, self.key_dim)
        wide = (self.num_heads, self.value_dim)
        for name in self._names()[:-1]:
            shape = sources.get(name, value_shape)
            out = wide if name in ("value", "gate") else heads
            setattr(self, f"_{name}_dense", self._projection(name, len(shape), 1, out))
            getattr(self, f"_{name}_dense").build(shape)
        # The hooks that keras.layers.MultiHeadAttention offers for other kinds of attention.
        self._build_attention(len(query_shape) + 1)
        out_shape: Any = self._output_shape or query_shape[-1:]
        self._output_dense = self._projection("output", len(query_shape) + 1, 2, tuple(out_shape))
        self._output_dense.build((*query_shape[:-1], *wide))
        self._shapes = {"query": query_shape, "value": value_shape, "key": key_shape}
        self.built = True

    def _names(self) -> tuple[str, ...]:
        return tuple(name for name in PROJECTIONS if name != "gate" or self._use_gate)

    def _projection(
        self, name: str, ndim: int, summed: int, out: tuple[int, ...]
    ) -> FactorizedEinsumDense:
        """The projection of inputs of `ndim` axes, the last `summed` of them to the axes `out`."""
        letters = string.ascii_lowercase
        rows, old = letters[: ndim - summed], letters[ndim - summed : ndim]
        new = letters[ndim : ndim + len(out)]
        return FactorizedEinsumDense(
            f"{rows}{old},{old}{new}->{rows}{new}",
            output_shape=(None,) * (len(rows) - 1) + out,
            rank=self.rank[name] if isinstance(self.rank, Mapping) else self.rank,
            format=self.format,
            implementation=self._implementations[name],
            bias_axes=new if self.use_bias else None,
            activation="sigmoid" if name == "gate" else None,
            name="attention_output" if name == "output" else name,
            **self._get_common_kwargs_for_sublayer(),
        )

    @classmethod
    def from_layer(
        cls,
        layer: keras.Layer,
        rank: Rank | Mapping[str, Rank] = None,
        energy: float | None = None,
        eps: float | None = None,
        energy_norm: str = "frobenius",
        **kwargs: Any,
    ) -> FactorizedMultiHeadAttention:
        """A factorized layer that stands for a trained `keras.layers.MultiHeadAttention`.

        Args:
            layer: a built layer.
            rank: rank of every projection, or a dict of them; or
            energy: share in (0, 1] of squared singular values that each unfolding keeps, or
            eps: relative error allowed for each kernel. Exactly one of the three.
            energy_norm: "nuclear" takes the share of their sum instead of their squares.
            **kwargs: `format` and `implementation`.

        Returns:
            A built layer of the same name and settings, near the given one.

        Raises:
            TypeError: if the layer is of another kind.
            ValueError: if it is not built, or not exactly one of rank, energy, eps is given.
        """
        check_source(cls, layer)
        threshold = one_threshold(rank, energy, eps, energy_norm)
        shapes = _shapes_of(layer)
        result = cls(rank=1 if threshold else rank, **layer.get_config(), **kwargs)
        ranks = {}
        for name in result._names():
            given = threshold or {"rank": _rank_of(result.rank, name)}
            ranks[name] = FactorizedEinsumDense.from_layer(
                getattr(layer, f"_{name}_dense"), **given, format=result.format
            )
        result.rank = {name: projection.rank for name, projection in ranks.items()}
        result.build(**shapes)
        for name, projection in result.projections.items():
            projection.set_weights(ranks[name].get_weights())
        return result

    def to_dense_layer(self) -> keras.layers.Layer:
        """The `keras.layers.MultiHeadAttention` with the merged kernels and the same settings."""
        projections = self.projections
        config = self.get_config()
        for key in ("rank", "format", "implementation"):
            config.pop(key)
        dense = keras.layers.MultiHeadAttention.from_config(config)
        dense.build(*(self._shapes[name] for name in ("query", "value", "key")))
        for name, projection in projections.items():
            weights = [projection.kernel]
            weights += [] if projection.bias is None else [projection.bias.value]
            target = getattr(dense, f"_{name}_dense")
            target.set_weights([ops.convert_to_numpy(weight) for weight in weights])
        return dense

    def get_config(self) -> Config:
        """All arguments as plain values."""
        return {
            **super().get_config(),
            "rank": self.rank,
            "format": self.format,
            "implementation": self.implementation,
        }


def _resolve_ranks(
    rank: Rank | Mapping[str, Rank], names: tuple[str, ...]
) -> Rank | dict[str, Rank]:
    """One rank for all projections, or a plain dict with one for each."""
    if not isinstance(rank, Mapping):
        return rank
    if set(rank) != set(names):
        raise ValueError(
            "`rank` must be one rank for all projections or a dict with one for each of "
            f"{', '.join(map(repr, names))}. Received: rank={dict(rank)}."
        )
    found = ((name, rank[name]) for name in names)
    return {name: tuple(one) if isinstance(one, list) else one for name, one in found}


def _rank_of(rank: Rank | Mapping[str, Rank], name: str) -> Rank:
    return rank[name] if isinstance(rank, Mapping) else rank


def _shapes_of(layer: keras.Layer) -> dict[str, Shape]:
    """The shapes from which a layer like a built attention layer builds."""
    shapes = {}
    for name in ("query", "value", "key"):
        projection = getattr(layer, f"_{name}_dense")
        width = projection.kernel.shape[0]
        shapes[f"{name}_shape"] = (None,) * (projection.input_spec.ndim - 1) + (width,)
    return shapes
