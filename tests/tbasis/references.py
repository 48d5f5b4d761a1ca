"""T-Basis in plain NumPy, straight from the paper's equations, independent of the engine."""

from __future__ import annotations

import itertools
import math

import numpy as np


def ring_cores(basis, coefficients, adapters) -> np.ndarray:
    """diag(rho_k) sum_b alpha_kb B_b of every core: (cores, R, N, R); `adapters` are rho itself."""
    cores = np.einsum("kb,brns->krns", coefficients, np.asarray(basis, "float64"))
    return cores if adapters is None else cores * np.asarray(adapters)[:, :, None, None]


def kernel(cores: np.ndarray, kernel_shape: tuple[int, ...], base: int) -> np.ndarray:
    """Entry by entry: digits of the channels pick a matrix from each core, the trace closes it."""
    *kernel_size, in_size, out_size = kernel_shape
    positions = math.prod(kernel_size)
    places = len(cores) - (positions > 1)
    result = np.zeros((positions, in_size, out_size))
    for position, i, o in itertools.product(range(positions), range(in_size), range(out_size)):
        product = np.eye(cores.shape[1])
        for place in range(places):
            weight = base ** (places - 1 - place)
            out_digit, in_digit = o // weight % base, i // weight % base
            product = product @ cores[place][:, out_digit * base + in_digit, :]
        if positions > 1:
            product = product @ cores[-1][:, _spatial_entry(position, kernel_size, base), :]
        result[position, i, o] = np.trace(product)
    return result.reshape(kernel_shape)


def _spatial_entry(position: int, kernel_size, base: int) -> int:
    """Where a kernel position stands in the n x n envelope, or in flat order if it is too long."""
    if len(kernel_size) == 2 and max(kernel_size) <= base:
        row, column = divmod(position, kernel_size[1])
        return row * base + column
    return position
