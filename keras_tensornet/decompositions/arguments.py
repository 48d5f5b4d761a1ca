"""Read what a decomposition is given: the tensor, and the one rule that sets its ranks.

Every decomposition computes in float64 and hands the caller's dtype back; every decomposition
takes its ranks from exactly one of `ranks`, `eps` and `energy`. Both are said here, once.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

import numpy as np

from keras_tensornet.decompositions.types import Array, ArrayLike, Axes, Rule


def read_tensor(tensor: ArrayLike, name: str = "tensor") -> tuple[Array, np.dtype]:
    """Return `tensor` as a float64 array and the dtype its cores should come back in.

    Args:
        tensor: any array-like of real numbers with at least one axis.
        name: the argument's name, for the messages.

    Returns:
        `(array, dtype)`: float64 data to read only (it may be the caller's own), and the caller's
        floating dtype (float64 for integers).

    Raises:
        TypeError: for kinds that are not real numbers.
        ValueError: for no axes, an empty axis, NaN or infinity.
    """
    given = np.asarray(tensor)
    if not _is_real(given.dtype):
        raise TypeError(
            f"`{name}` must hold real numbers. Received: dtype {given.dtype}. "
            "Convert it to a floating dtype first."
        )
    if given.ndim == 0 or given.size == 0:
        raise ValueError(
            f"`{name}` must have at least one axis and no axis of size 0. "
            f"Received: shape {given.shape}. Reshape a scalar to (1,)."
        )
    array = np.asarray(given, dtype=np.float64, order="C")
    if not np.isfinite(array).all():
        count = int(np.size(array) - np.isfinite(array).sum())
        raise ValueError(
            f"`{name}` must be finite. Received: {count} NaN or infinite entries in shape "
            f"{given.shape}. Check the layer's weights before decomposing them."
        )
    return array, np.dtype(np.float64) if given.dtype.kind in "iu" else given.dtype


def _is_real(dtype: np.dtype) -> bool:
    # bfloat16 and the float8 family (ml_dtypes) call themselves void without fields.
    return dtype.kind in "fiu" or (dtype.kind == "V" and "float" in dtype.name)


def read_rule(
    ranks: object, eps: float | None, energy: float | None, ranks_name: str = "ranks"
) -> None:
    """Check that exactly one of the three rules is given and lies in its range."""
    given = {ranks_name: ranks, "eps": eps, "energy": energy}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise ValueError(
            f"Give exactly one of `{ranks_name}`, `eps` and `energy`. "
            f"Received: {', '.join(names) if names else 'none of them'}."
        )
    if eps is not None and not 0 <= _number(eps, "eps") < 1:
        raise ValueError(
            "`eps` is a relative error and must lie in [0, 1). "
            f"Received: eps={eps}. Use 0.01 to keep the error below 1 %."
        )
    if energy is not None and not 0 < _number(energy, "energy") <= 1:
        raise ValueError(
            "`energy` is the share of squared singular values to keep and must lie in (0, 1]. "
            f"Received: energy={energy}. Use 0.9 for 90 %."
        )


def _number(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"`{name}` must be a number. Received: {value!r}.")
    return value


def read_count(value: SupportsIndex, name: str, least: int = 1) -> int:
    """Return `value` as a plain int of at least `least`."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an int. Received: {value!r}.") from None
    if isinstance(value, bool):
        raise TypeError(f"`{name}` must be an int. Received: {value!r}.")
    if count < least:
        raise ValueError(f"`{name}` must be at least {least}. Received: {value!r}.")
    return count


def read_ranks(ranks: int | Iterable[int], count: int, what: str) -> tuple[int, ...]:
    """Return `ranks` (an int for all, or one for each) as a tuple of `count` ints.

    Args:
        ranks: int or sequence of ints, each at least 1.
        count: how many ranks the decomposition has.
        what: what they belong to, for the message, such as `"the 3 inner bonds"`.
    """
    if isinstance(ranks, (int, np.integer)):
        return (read_count(ranks, "ranks"),) * count
    try:
        given = tuple(ranks)
    except TypeError:
        raise TypeError(
            f"`ranks` must be an int or a tuple of ints. Received: {ranks!r}."
        ) from None
    if len(given) != count:
        raise ValueError(
            f"`ranks` must hold {count} values, one for each of {what}. "
            f"Received: ranks={given}. An int sets them all."
        )
    return tuple(read_count(rank, "ranks") for rank in given)


def read_axes(axes: Axes, ndim: int) -> tuple[int, ...]:
    """Return `axes` (None for all) as a tuple of distinct axes in [0, ndim)."""
    if axes is None:
        return tuple(range(ndim))
    chosen = tuple(operator.index(axis) for axis in axes)
    wrapped = tuple(axis + ndim if axis < 0 else axis for axis in chosen)
    if len(set(wrapped)) != len(wrapped) or any(not 0 <= axis < ndim for axis in wrapped):
        raise ValueError(
            f"`axes` must be distinct axes of a tensor with {ndim} axes. Received: axes={chosen}."
        )
    return wrapped


def cut_rules(
    norm: float, ranks: Sequence[int] | None, eps: float | None, energy: float | None, num_cuts: int
) -> list[Rule]:
    """Return for each of `num_cuts` truncations the keyword that `truncated_svd` takes.

    With `eps` each cut may lose delta = eps * norm / sqrt(num_cuts), so that all together
    stay below eps * norm (Oseledets 2011, Theorem 2.2).
    """
    if ranks is not None:
        return [{"rank": rank} for rank in ranks]
    if eps is not None:
        return [{"delta": eps * norm / math.sqrt(max(num_cuts, 1))}] * num_cuts
    return [{"energy": energy}] * num_cuts


def clip_ranks(
    wanted: Sequence[int], allowed: Sequence[int], what: str, first: int = 1, stacklevel: int = 4
) -> tuple[int, ...]:
    """Lower each rank to what is allowed, with one warning for each that had to give way."""
    for number, (rank, most) in enumerate(zip(wanted, allowed, strict=True), start=first):
        if rank > most:
            warnings.warn(
                f"rank {rank} of {what} {number} is above what the modes allow; using {most}",
                stacklevel=stacklevel,
            )
    return tuple(min(pair) for pair in zip(wanted, allowed, strict=True))


def to_dtype(cores: Iterable[Array], dtype: np.dtype) -> list[Array]:
    """Return float64 `cores` as contiguous arrays of the caller's `dtype`."""
    return [np.ascontiguousarray(core).astype(dtype) for core in cores]
