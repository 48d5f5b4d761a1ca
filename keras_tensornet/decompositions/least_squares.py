"""The one linear solve under every alternating least squares sweep."""

import numpy as np

RIDGE = 1e-13


def solve_gram(gram, moment, previous=0.0):
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
