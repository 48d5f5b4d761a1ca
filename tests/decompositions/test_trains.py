"""Tensor trains: what they merge to, their ranks, and how they answer each rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tensornet.decompositions import grouped_tt_svd, max_tt_ranks, tt_svd, ttm_svd

from .references import (
    hilbert,
    merge_train,
    relative_error,
    shapes,
    tensor_of,
)

# Rounding of a few float64 SVDs in a row; Gram-based ones are held to the same.
EXACT = 1e-12


@settings(max_examples=40, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 99))
def test_full_ranks_are_exact(shape, seed):
    tensor = tensor_of(shape, seed)
    cores = tt_svd(tensor, ranks=max_tt_ranks(shape))
    assert [core.shape[1] for core in cores] == list(shape)
    assert cores[0].shape[0] == cores[-1].shape[-1] == 1
    assert relative_error(tensor, merge_train(cores)) < EXACT


@settings(max_examples=40, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 99), eps=st.floats(0.0, 0.9))
def test_error_stays_below_eps(shape, seed, eps):
    tensor = tensor_of(shape, seed)
    assert relative_error(tensor, merge_train(tt_svd(tensor, eps=eps))) <= eps + EXACT


@pytest.mark.parametrize(
    "rank, error",
    [
        (1, 7.5409345181e-02),
        (2, 5.7167732209e-03),
        (3, 3.4055731481e-04),
        (4, 1.5380515912e-05),
        (5, 5.4722102304e-07),
    ],
)
def test_hilbert_errors(rank, error):
    merged = merge_train(tt_svd(hilbert(), ranks=rank))
    # The published figures have eleven digits.
    assert relative_error(hilbert(), merged) == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize(
    "eps, ranks", [(0.1, (1, 1, 1)), (0.01, (2, 2, 2)), (1e-3, (3, 3, 3)), (1e-4, (4, 4, 4))]
)
def test_hilbert_ranks_for_eps(eps, ranks):
    assert _inner_ranks(tt_svd(hilbert(), eps=eps)) == ranks


def test_energy_keeps_the_fewest_values_above_the_share():
    # Squared singular values 0.5, 0.3, 0.2: the paper's equation 14 has a strict ">".
    matrix = np.diag(np.sqrt([0.5, 0.3, 0.2]))
    ranks = [_inner_ranks(tt_svd(matrix, energy=energy))[0] for energy in (0.49, 0.51, 0.79, 0.81)]
    assert ranks == [1, 2, 2, 3]
    assert _inner_ranks(tt_svd(matrix, energy=1.0)) == (3,)


def test_energy_is_asked_of_every_unfolding_of_the_rest():
    tensor = tensor_of((4, 3, 3, 5), 3)
    rest, rank = tensor, 1
    cores = tt_svd(tensor, energy=0.7)
    for core, mode in zip(cores[:-1], tensor.shape[:-1], strict=True):
        _, values, right = np.linalg.svd(rest.reshape(rank * mode, -1), full_matrices=False)
        share = np.cumsum(values**2) / np.sum(values**2)
        rank = int(np.argmax(share > 0.7)) + 1
        assert core.shape[2] == rank
        rest = values[:rank, None] * right[:rank]


@settings(max_examples=30, deadline=None)
@given(
    in_modes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_paired_modes_give_the_matrix_back(in_modes, seed, data):
    out_modes = tuple(data.draw(st.integers(1, 3)) for _ in in_modes)
    matrix = tensor_of((int(np.prod(in_modes)), int(np.prod(out_modes))), seed)
    cores = ttm_svd(matrix, in_modes, out_modes, eps=0.0)
    assert [core.shape[1:3] for core in cores] == list(zip(in_modes, out_modes, strict=True))
    merged = merge_train(cores)  # (i_1, o_1, i_2, o_2, ...)
    count = len(in_modes)
    order = [2 * k for k in range(count)] + [2 * k + 1 for k in range(count)]
    assert relative_error(matrix, merged.transpose(order).reshape(matrix.shape)) < EXACT


def test_grouped_cores_of_a_convolution():
    kernel = tensor_of((3, 3, 2, 4, 5, 2), 0)  # (kh, kw, i_1, i_2, o_1, o_2)
    cores = grouped_tt_svd(kernel, ((0, 1), (2, 4), (3, 5)), eps=0.0)
    assert [core.shape[1:-1] for core in cores] == [(3, 3), (2, 5), (4, 2)]
    merged = np.einsum("xhwr,riot,tjpy->hwijop", *cores)
    assert relative_error(kernel, merged) < EXACT


@settings(max_examples=30, deadline=None)
@given(shape=shapes(), rank=st.integers(1, 9), seed=st.integers(0, 99))
def test_padding_meets_the_ranks_and_changes_nothing(shape, rank, seed):
    tensor = tensor_of(shape, seed)
    padded = tt_svd(tensor, ranks=rank, pad=True)
    assert _inner_ranks(padded) == (rank,) * (len(shape) - 1)
    clipped = tt_svd(tensor, ranks=[min(rank, most) for most in max_tt_ranks(shape)], pad=True)
    assert relative_error(merge_train(clipped), merge_train(padded)) < EXACT


def test_padding_leaves_no_dead_entries():
    """At the padded bond one side is noise, so the zeros of the other receive a gradient."""
    first, second = tt_svd(tensor_of((2, 3), 1), ranks=5, pad=True)
    assert np.abs(first[:, :, 2:]).min() > 0
    assert not second[2:].any()


@pytest.mark.filterwarnings("error")
def test_a_rank_that_is_too_high_warns_with_the_rank_used():
    with pytest.warns(
        UserWarning, match=r"rank 12 of bond 2 is above what the modes allow; using 9"
    ):
        cores = tt_svd(np.ones((5, 5, 3, 3)), ranks=(5, 12, 3))
    assert _inner_ranks(cores) == (5, 9, 3)
    with pytest.warns(UserWarning, match=r"rank 9 of bond 2 .* using 3"):
        tt_svd(np.ones((3, 3, 9)), ranks=(1, 9))  # only 1 * 3 arrive from the left


def test_error_falls_with_rank():
    tensor = tensor_of((4, 5, 3, 2), 2)
    errors = [
        relative_error(tensor, merge_train(tt_svd(tensor, ranks=r, pad=True))) for r in range(1, 9)
    ]
    assert errors == sorted(errors, reverse=True)


def test_the_modes_must_fit_the_matrix():
    with pytest.raises(ValueError, match=r"must have shape \(6, 4\) or \(2, 3, 2, 2\)"):
        ttm_svd(np.ones((6, 5)), (2, 3), (2, 2), ranks=1)
    with pytest.raises(ValueError, match=r"same length"):
        ttm_svd(np.ones((6, 4)), (2, 3), (4,), ranks=1)
    with pytest.raises(ValueError, match=r"exactly once"):
        grouped_tt_svd(np.ones((2, 3, 4)), ((0, 1), (1, 2)), ranks=1)


def _inner_ranks(cores):
    return tuple(core.shape[-1] for core in cores[:-1])
