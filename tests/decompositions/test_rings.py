"""Tensor rings: exactness, the choice of shift and split, and the refinement by least squares."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_tensornet.decompositions import max_tt_ranks, ring_als, tr_als, tr_svd, tt_svd

from .references import hilbert, merge_ring, relative_error, shapes, tensor_of

EXACT = 1e-12  # a few float64 SVDs in a row


@settings(max_examples=30, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 99), data=st.data())
def test_ranks_that_suffice_for_a_train_at_any_cut_are_exact(shape, seed, data):
    tensor = tensor_of(shape, seed)
    cut = data.draw(st.integers(0, len(shape) - 1))
    turned = shape[cut:] + shape[:cut]
    ranks = (1, *max_tt_ranks(turned))
    ranks = ranks[len(shape) - cut :] + ranks[: len(shape) - cut]
    cores = tr_svd(tensor, ranks=ranks)
    assert tuple(core.shape[0] for core in cores) == ranks
    assert [core.shape[1] for core in cores] == list(shape)
    assert relative_error(tensor, merge_ring(cores)) < EXACT


@pytest.mark.parametrize("shape, rank", [((9, 9), 3), ((4, 7, 2), 7), ((3, 4, 1, 5), 12)])
def test_a_uniform_rank_that_suffices_is_exact_and_met(shape, rank):
    """For two modes rank * rank >= 9; with more, what a train or a ring cut needs at some shift."""
    tensor = tensor_of(shape)
    for decompose in (tr_svd, tr_als):
        cores = decompose(tensor, ranks=rank)
        assert {core.shape[0] for core in cores} == {rank}
        assert relative_error(tensor, merge_ring(cores)) < EXACT


@settings(max_examples=30, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 99), eps=st.floats(0.0, 0.9))
def test_error_stays_below_eps(shape, seed, eps):
    tensor = tensor_of(shape, seed)
    assert relative_error(tensor, merge_ring(tr_svd(tensor, eps=eps))) <= eps + EXACT


def test_eps_and_energy_choose_the_shift_with_the_fewest_parameters():
    tensor = tensor_of((2, 5, 3, 4), 1)
    for rule in ({"eps": 0.3}, {"energy": 0.8}):
        sizes = [_num_params(tr_svd(tensor, shift=shift, **rule)) for shift in range(4)]
        assert len(set(sizes)) > 1  # else the choice would not show
        assert _num_params(tr_svd(tensor, **rule)) == min(sizes)


def test_the_best_shift_has_the_least_error_and_axes_stay_in_place():
    tensor = tensor_of((2, 5, 3, 4), 4)
    errors = [relative_error(tensor, merge_ring(tr_svd(tensor, 2, shift=s))) for s in range(4)]
    best = relative_error(tensor, merge_ring(tr_svd(tensor, 2)))
    assert max(errors) > min(errors)
    assert best == pytest.approx(min(errors), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    shape=shapes(least=2, size=4),
    ranks=st.lists(st.integers(2, 4), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
# Missed by a search that gives all of the first rank's share to the closing bond.
@example(shape=(4, 4, 4), ranks=[3, 2, 4, 2], seed=434)
@example(shape=(4, 3, 3), ranks=[3, 2, 2, 2], seed=805)
def test_no_train_of_these_ranks_is_better(shape, ranks, seed):
    """A train is a ring with one bond of 1, so every cut of the ring into a train is tried."""
    tensor, ndim = tensor_of(shape, seed), len(shape)
    # From 2 on, products of two bonds reach every mode: nothing is reduced before the search.
    ranks = ranks[:ndim]
    best = relative_error(tensor, merge_ring(tr_svd(tensor, ranks)))
    for cut in range(ndim):
        turned = tensor.transpose([*range(cut, ndim), *range(cut)])
        inner = [*ranks[cut + 1 :], *ranks[:cut]]
        train = relative_error(turned, merge_ring(tt_svd(turned, inner, pad=True)))
        assert best <= train + 1e-7  # errors are compared through squares


def test_hilbert_error():
    merged = merge_ring(tr_svd(hilbert(), ranks=2))
    assert relative_error(hilbert(), merged) == pytest.approx(5.3649482620e-03, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(shape=shapes(least=2), rank=st.integers(1, 3), seed=st.integers(0, 99))
def test_least_squares_is_never_worse_than_its_start(shape, rank, seed):
    tensor = tensor_of(shape, seed)
    start = relative_error(tensor, merge_ring(tr_svd(tensor, rank)))
    refined = tr_als(tensor, rank, num_iter=10)
    assert all(core.shape[0] == rank for core in refined)
    assert relative_error(tensor, merge_ring(refined)) <= start + EXACT


def test_least_squares_finds_a_ring_that_the_svd_misses():
    random = np.random.default_rng(5)
    tensor = merge_ring([random.standard_normal((2, n, 2)) for n in (5, 4, 3, 4)])
    start = relative_error(tensor, merge_ring(tr_svd(tensor, 2)))
    reached = relative_error(tensor, merge_ring(tr_als(tensor, 2, num_iter=500, tol=1e-10)))
    assert start > 0.1
    assert reached < 0.5 * start


@pytest.mark.parametrize("bonds", [(2, 3, 4, 3), (1, 4, 2, 3), (3, 3, 3, 3)])
def test_a_sweep_ends_with_the_best_last_core(bonds):
    """The transfer matrices give the same core as least squares on the whole design matrix."""
    random = np.random.default_rng(7)
    shape = (3, 4, 2, 5)
    tensor = random.standard_normal(shape)
    ends = zip(bonds, shape, (*bonds[1:], bonds[0]), strict=True)
    cores = [random.standard_normal(end) for end in ends]
    error = ring_als._sweep(tensor, cores, np.linalg.norm(tensor))
    assert error == pytest.approx(relative_error(tensor, merge_ring(cores)), rel=1e-9)
    design = np.einsum("aib,bjc,ckd->ijkda", *cores[:3]).reshape(24, -1)
    best = np.linalg.lstsq(design, tensor.reshape(24, 5), rcond=None)[0]
    assert error == pytest.approx(relative_error(tensor, (design @ best).reshape(shape)), rel=1e-9)


def test_ranks_beyond_the_start_are_put_to_use():
    """The padded entries are not dead: least squares lowers the error through them."""
    tensor = tensor_of((3, 4, 3, 4), 0)
    cores = tr_svd(tensor, ranks=(3, 2, 5, 3))
    refined = tr_als(tensor, ranks=(3, 2, 5, 3))
    assert relative_error(tensor, merge_ring(refined)) < 0.9 * relative_error(
        tensor, merge_ring(cores)
    )


def test_a_shift_must_be_an_axis():
    with pytest.raises(ValueError, match=r"`shift` must be an axis in \[0, 3\). Received: shift=3"):
        tr_svd(np.ones((2, 3, 4)), 1, shift=3)
    with pytest.raises(ValueError, match=r"must hold 3 values, one for each of the 3 bonds"):
        tr_svd(np.ones((2, 3, 4)), ranks=(1, 2))


def _num_params(cores):
    return sum(core.size for core in cores)


def test_least_squares_leave_cores_whose_equations_would_be_too_large(monkeypatch):
    tensor = tensor_of((4, 5, 6), 3)
    start, refined = tr_svd(tensor, 2), tr_als(tensor, 2)
    monkeypatch.setattr(ring_als, "LARGEST", 2**4 - 1)  # all bonds are 2
    left = tr_als(tensor, 2)
    assert all(np.array_equal(core, old) for core, old in zip(left, start, strict=True))
    assert not any(np.array_equal(core, old) for core, old in zip(refined, start, strict=True))
    # At full rank nothing is left to gain, and the equations would take 80 GB.
    wide = tensor_of((320, 2, 640), 0)
    cores = tr_als(wide, (1, 320, 640))
    assert relative_error(wide, merge_ring(cores)) < EXACT


def test_merging_a_ring_makes_nothing_much_larger_than_its_halves():
    cores = [np.ones((24, 3, 24)) for _ in range(8)]
    halves = 2 * 24 * 3**4 * 24
    tracemalloc.start()
    try:
        merged = ring_als.merge_ring(cores)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert merged.shape == (3,) * 8
    assert peak < 4 * 8 * (halves + merged.size)  # left to right, one array has 24 * 3**7 * 24
