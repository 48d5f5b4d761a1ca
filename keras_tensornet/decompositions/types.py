"""Words of the signatures in this room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Array: TypeAlias = np.ndarray
Ranks: TypeAlias = int | Sequence[int] | None
Axes: TypeAlias = Sequence[int] | None
# The keyword that sets the rank of one truncation, as `truncated_svd` takes it.
Rule: TypeAlias = dict[str, Any]
# Left singular vectors, singular values, right singular vectors as rows.
Triple: TypeAlias = tuple[Array, Array, Array]
# The core of one block term, and its factors.
Block: TypeAlias = tuple[Array, list[Array]]

__all__ = ["Array", "ArrayLike", "Axes", "Block", "Ranks", "Rule", "Triple"]
