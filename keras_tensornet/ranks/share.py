"""The largest uniform rank that fits a wanted share of a layer's parameters (or FLOPs)."""

from __future__ import annotations

import operator
from collections.abc import Callable


def rank_for_share(count: Callable[[int], int], dense: int, share: float, multiple: int = 1) -> int:
    """Return the largest rank whose count is at most `share * dense`.

    One bisection serves every format: a tensor ring's count is quadratic in its rank, a CP's
    linear, a Tucker's of higher degree, and the caller has the function for each already.

    Args:
        count: function of a rank (int >= 1) that returns parameters or FLOPs; must not fall.
        dense: the dense layer's count in the same units.
        share: share of `dense` to spend, above 0.
        multiple: return a multiple of this (8 suits most hardware).

    Returns:
        The rank, at least `multiple`.

    Raises:
        ValueError: if not even the smallest rank fits, or no rank is too large (a count that stops
            growing, as ranks that clip do), or an argument is out of range.
        TypeError: if `multiple` is not an int.

    Examples:
        >>> rank_for_share(lambda rank: 90 * rank**2, dense=9000, share=0.5)
        7
    """
    multiple = operator.index(multiple)
    if multiple < 1 or not share > 0 or not dense > 0:
        raise ValueError(
            "`multiple` must be at least 1, `share` and `dense` above 0. "
            f"Received: multiple={multiple}, share={share}, dense={dense}."
        )
    budget = share * dense
    if count(multiple) > budget:
        raise ValueError(
            f"No rank fits: `share` * `dense` must be at least the count of rank {multiple}. "
            f"Received: share={share}, dense={dense}, count({multiple})={count(multiple)}. "
            "Raise `share` or leave the layer dense."
        )
    fits, above = 1, 2  # in units of `multiple`
    while count(above * multiple) <= budget:
        if above * multiple > budget:
            raise ValueError(
                "`count` must grow with the rank: a rank holds at least one parameter. "
                f"Received: count({above * multiple})={count(above * multiple)}, within the "
                f"budget of {budget:g}. Count the asked ranks, not clipped ones."
            )
        fits, above = above, 2 * above
    while above - fits > 1:
        middle = (fits + above) // 2
        if count(middle * multiple) <= budget:
            fits = middle
        else:
            above = middle
    return fits * multiple
