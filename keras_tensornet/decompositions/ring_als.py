"""Tensor rings by alternating least squares, from the best SVD start.

Zhao et al., "Tensor ring decomposition" (2016), the TR-ALS: with all cores but one fixed, the
ring is linear in that core. The normal equations are built from the cores' transfer matrices, so a
sweep costs one contraction with the tensor for each core and never forms the design matrix. They
grow with the fourth power of the bonds: a core whose equations pass `LARGEST` stays as it is.
"""

import math

import numpy as np

from keras_tensornet.decompositions import arguments
from keras_tensornet.decompositions.least_squares import solve_gram
from keras_tensornet.decompositions.rings import ring_with_bonds

# Entries of the largest array that solving for one core may take: two bonds of 64.
LARGEST = 1 << 24


def tr_als(tensor, ranks, *, num_iter=50, tol=1e-6, seed=0):
    """Return a tensor ring refined by alternating least squares.

    Starts from `tr_svd` with its best shift and split, and never returns a larger error.

    Args:
        tensor: array-like of shape (n_1, ..., n_d).
        ranks: int, or the d bond sizes (r_0, ..., r_{d-1}) as in `tr_svd`; always met exactly.
        num_iter: largest number of sweeps over the cores.
        tol: stop when a sweep lowers the relative error by less than this.
        seed: seed of the padding that bonds beyond the SVD's need start from.

    Returns:
        A list of d cores (r_{k-1}, n_k, r_k) with r_d = r_0, in the dtype of `tensor`.

    Raises:
        ValueError, TypeError: as `tr_svd`.

    Examples:
        >>> [core.shape for core in tr_als(np.ones((4, 5, 6)), ranks=(2, 1, 3))]
        [(2, 4, 1), (1, 5, 3), (3, 6, 2)]
    """
    tensor, dtype = arguments.read_tensor(tensor)
    num_iter = arguments.read_count(num_iter, "num_iter", least=0)
    bonds = arguments.read_ranks(ranks, tensor.ndim, f"the {tensor.ndim} bonds, r_0 first")
    cores = ring_with_bonds(tensor, bonds, seed=seed)
    return arguments.to_dtype(improve_ring(tensor, cores, num_iter, tol), dtype)


def improve_ring(tensor, cores, num_iter, tol):
    """Return the better of `cores` and what sweeps from them reach; bond sizes stay."""
    if tensor.ndim == 1 or not tensor.any():
        return cores
    norm = np.linalg.norm(tensor)
    start_error = np.linalg.norm(tensor - merge_ring(cores)) / norm
    if start_error < tol:  # no sweep can gain more than that
        return list(cores)
    trial, error = list(cores), start_error
    places = [k for k in range(len(cores)) if _largest_array(cores, k) <= LARGEST]
    for _ in range(num_iter if places else 0):
        new_error = _sweep(tensor, trial, places, norm)
        if error - new_error < tol:
            break
        error = new_error
    reached = np.linalg.norm(tensor - merge_ring(trial)) / norm
    return trial if reached < start_error else list(cores)


def merge_ring(cores):
    """Contract cores (r_{k-1}, n_k, r_k) of a ring into the dense tensor (n_1, ..., n_d)."""
    shape = [core.shape[1] for core in cores]
    if len(cores) == 1:
        return np.trace(cores[0], axis1=0, axis2=2)
    # In two halves, as alike as their modes allow: no intermediate has more entries than a half.
    half = min(range(1, len(cores)), key=lambda k: max(math.prod(shape[:k]), math.prod(shape[k:])))
    near, far = _merge_chain(cores[:half]), _merge_chain(cores[half:])
    return np.tensordot(near, far, axes=((0, 2), (2, 0))).reshape(shape)


def _sweep(tensor, cores, places, norm):
    """Update the cores at some places; return the relative error after the last."""
    for k in places:
        core = cores[k]
        before, mode, after = core.shape
        moment = _moment(tensor, cores, k).reshape(mode, before * after)
        gram = _environment(cores, k)
        previous = core.transpose(1, 0, 2).reshape(moment.shape)
        update = solve_gram(gram, moment, previous)
        cores[k] = update.reshape(mode, before, after).transpose(1, 0, 2)
    _balance(cores)
    squared = norm**2 - 2 * np.sum(update * moment) + np.sum((update @ gram) * update)
    return math.sqrt(max(squared, 0.0)) / norm


def _moment(tensor, cores, k):
    """Contract the tensor with every core but k: (n_k, r_{k-1}, r_k).

    The other cores are merged in two halves, so that no intermediate is much larger than the
    tensor's square root times the bonds.
    """
    order = [*range(k + 1, len(cores)), *range(k)]
    near = _merge_chain([cores[j] for j in order[: (len(order) + 1) // 2]])
    # (n_k, near modes, far modes) x (r_k, near modes, r) -> (n_k, far modes, r_k, r)
    unfolded = tensor.transpose([k, *order]).reshape(tensor.shape[k], near.shape[1], -1)
    moment = np.tensordot(unfolded, near, axes=(1, 1))
    if len(order) == 1:
        return moment[:, 0].transpose(0, 2, 1)
    far = _merge_chain([cores[j] for j in order[(len(order) + 1) // 2 :]])
    # x (r, far modes, r_{k-1}) -> (n_k, r_k, r_{k-1})
    return np.tensordot(moment, far, axes=((1, 3), (1, 0))).transpose(0, 2, 1)


def _merge_chain(cores):
    """Contract neighbouring cores into (r_first, product of their modes, r_last)."""
    merged = cores[0]
    for core in cores[1:]:
        merged = np.tensordot(merged, core, 1).reshape(merged.shape[0], -1, core.shape[-1])
    return merged


def _environment(cores, k):
    """Return the Gram matrix (r_{k-1} r_k, r_{k-1} r_k) of all the other cores' contraction."""
    before, _, after = cores[k].shape
    product = np.eye(after * after)
    for core in cores[k + 1 :] + cores[:k]:
        left, _, right = core.shape
        # Transfer matrix: sum_n core[a, n, b] core[a', n, b'] as ((a, a'), (b, b')).
        transfer = np.tensordot(core, core, axes=(1, 1)).transpose(0, 2, 1, 3)
        product = product @ transfer.reshape(left * left, right * right)
    # ((b, b'), (a, a')) -> ((a, b), (a', b'))
    product = product.reshape(after, after, before, before).transpose(2, 0, 3, 1)
    return product.reshape(before * after, before * after)


def _largest_array(cores, k):
    """Entries of the largest array that `_environment` makes for core k."""
    after = cores[k].shape[2]
    others = map(np.shape, cores[k + 1 :] + cores[:k])
    return max((max(left, after) * max(right, after)) ** 2 for left, _, right in others)


def _balance(cores):
    """Give all cores the same norm, which keeps the next sweep's equations well scaled."""
    norms = [np.linalg.norm(core) for core in cores]
    if min(norms) > 0:
        common = math.exp(sum(math.log(norm) for norm in norms) / len(norms))
        for k, norm in enumerate(norms):
            cores[k] = cores[k] * (common / norm)
