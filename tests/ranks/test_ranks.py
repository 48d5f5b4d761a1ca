"""Ranks by variational Bayes against published values, and by a share of parameters."""

import doctest
import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tensornet.ranks import evbmf, evbmf_rank, rank_for_share, vbmf_ranks

# rows, columns, rank, noise, seed, then: rank, noise variance, free energy, shrunk values
TABLE = [
    (50, 80, 5, 0.1, 0, 5, 0.0097693087, -781.29294, (84.54115, 68.14909, 58.55878)),
    (50, 80, 5, 1, 0, 5, 0.97777659, 6942.0137, (84.04755, 67.71505, 57.85597)),
    (64, 576, 10, 0.5, 1, 10, 0.25153139, 44986.655, (268.80224, 221.26185, 220.35897)),
    (64, 576, 10, 2, 1, 10, 4.0260636, 87401.315, (265.27373, 217.37765, 215.57062)),
    (16, 144, 0, 1, 3, 0, 1.0114489, 3282.3542, ()),
    (100, 100, 20, 0.3, 4, 20, 0.099081267, 15766.664, (164.48916, 143.48104, 139.86396)),
]


def noisy(rows, columns, rank, noise, seed):
    random = np.random.RandomState(seed)
    left = random.randn(rows, max(rank, 1))
    right = random.randn(max(rank, 1), columns)
    return (left @ right if rank else 0) + noise * random.randn(rows, columns)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}x{row[1]}-{row[3]}")
def test_published_values(row):
    rank, sigma2, free_energy, values = row[5:]
    found = evbmf(noisy(*row[:5]))
    assert found.rank == rank
    # The published variances stop at an absolute tolerance of 1e-5 of their minimiser.
    assert found.sigma2 == pytest.approx(sigma2, abs=1e-5)
    assert found.free_energy == pytest.approx(free_energy, rel=1e-7)
    assert found.singular_values[:3] == pytest.approx(values, abs=2e-5)
    # Ours is the better minimum: no variance near it has less free energy.
    assert evbmf(noisy(*row[:5]), sigma2).free_energy >= found.free_energy - 1e-9


@pytest.mark.parametrize("row", [TABLE[0], TABLE[5]], ids=["wide", "square"])
def test_a_tall_matrix_is_transposed(row):
    matrix = noisy(*row[:5])
    tall, wide = evbmf(matrix.T), evbmf(matrix)
    assert tall.rank == wide.rank
    assert tall.sigma2 == pytest.approx(wide.sigma2, rel=1e-6)  # flat minimum


def test_the_rank_is_never_zero():
    noise = noisy(*TABLE[4][:5])
    assert evbmf(noise).rank == 0
    assert evbmf_rank(noise) == 1


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), seed=st.integers(0, 99))
def test_small_matrices_get_a_legal_rank(rows, columns, seed):
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    assert 1 <= evbmf_rank(matrix) <= min(rows, columns)
    low_rank = np.outer(matrix[:, 0], matrix[0])  # zeros among the singular values
    assert evbmf_rank(low_rank) == 1


def test_scaling_the_matrix_scales_the_noise_only():
    matrix = noisy(*TABLE[1][:5])
    plain, scaled = evbmf(matrix), evbmf(1e-3 * matrix)
    assert scaled.rank == plain.rank
    assert scaled.sigma2 == pytest.approx(1e-6 * plain.sigma2, rel=1e-6)


def test_ranks_of_the_channel_unfoldings():
    random = np.random.default_rng(0)
    rows, columns = random.standard_normal((30, 4)), random.standard_normal((40, 6))
    kernel = np.einsum("hwab,ia,ob->hwio", random.standard_normal((3, 3, 4, 6)), rows, columns)
    kernel += 0.1 * random.standard_normal(kernel.shape)
    assert vbmf_ranks(kernel, axes=(2, 3)) == (4, 6)
    assert vbmf_ranks(kernel, axes=(3, -2)) == (6, 4)


def test_a_matrix_without_noise_or_axes_says_so():
    with pytest.raises(ValueError, match=r"must have two axes. Received: shape"):
        evbmf(np.ones(3))
    with pytest.raises(ValueError, match="must not be all zeros"):
        evbmf(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"`sigma2` must be positive, or None. Received: sigma2=0"):
        evbmf(np.ones((2, 3)), sigma2=0)


@settings(max_examples=60, deadline=None)
@given(
    square=st.integers(0, 50),
    linear=st.integers(1, 50),
    dense=st.integers(1, 10**6),
    share=st.floats(0.01, 1.5),
    multiple=st.sampled_from([1, 2, 8]),
)
def test_the_next_rank_no_longer_fits(square, linear, dense, share, multiple):
    def count(rank):
        return square * rank**2 + linear * rank

    if count(multiple) > share * dense:
        with pytest.raises(ValueError, match=r"No rank fits: .* leave the layer dense"):
            rank_for_share(count, dense, share, multiple)
    else:
        rank = rank_for_share(count, dense, share, multiple)
        assert rank % multiple == 0
        assert count(rank) <= share * dense < count(rank + multiple)


def test_a_count_that_does_not_grow_is_refused():
    with pytest.raises(ValueError, match="`count` must grow with the rank"):
        rank_for_share(lambda rank: min(rank, 5), dense=100, share=0.5)


@pytest.mark.parametrize("module", ["budget", "share", "vbmf"])
def test_examples_in_docstrings(module):
    module = importlib.import_module(f"keras_tensornet.ranks.{module}")
    assert doctest.testmod(module).failed == 0
