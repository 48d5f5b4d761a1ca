"""The one linear solve under every alternating least squares sweep."""

from __future__ import annotations

import numpy as np

from keras_tensornet.decompositions.types import Array

RIDGE = 1e-13


def solve_gram(gram: Array, moment: Array, previous: Array | float = 0.0) -> Array:
    """Return the solution X of X @ gram = moment that lies nearest to `previous`.

    A ridge at the level of roundoff pulls towards `previous`: where `gram` is singular, because
    the other cores do not use a direction yet, the entries stay as they were.

    Args:
        gram: symmetric positive semidefinite (k, k).
        moment: (n, k).
        previous: (n, k), or 0 for the solution of least norm.

    Returns:
        (n, k).
    """
    ridge = RIDGE * np.trace(gram) + np.finfo(np.float64).tiny
    return np.linalg.solve(gram + ridge * np.eye(len(gram)), (moment + ridge * previous).T).T
