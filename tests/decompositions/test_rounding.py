"""Rounding of trains and rings that exist already."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tensornet.decompositions import tr_als, tr_round, tt_round, tt_svd

from .references import merge_ring, merge_train, relative_error, shapes, tensor_of

EXACT = 1e-12  # a QR and an SVD sweep


def random_train(shape, rank, seed):
    bonds = (1, *[rank] * (len(shape) - 1), 1)
    return [tensor_of((bonds[k], n, bonds[k + 1]), seed + k) for k, n in enumerate(shape)]


def random_ring(shape, rank, seed=0):
    return [tensor_of((rank, n, rank), seed + k) for k, n in enumerate(shape)]


@settings(max_examples=30, deadline=None)
@given(shape=shapes(), rank=st.integers(1, 4), seed=st.integers(0, 99), eps=st.floats(0.0, 0.9))
def test_the_rounded_train_stays_within_eps(shape, rank, seed, eps):
    cores = random_train(shape, rank, seed)
    dense = merge_train(cores)
    rounded = tt_round(cores, eps=eps)
    assert relative_error(dense, merge_train(rounded)) <= eps + EXACT
    assert all(a.shape[-1] <= b.shape[-1] for a, b in zip(rounded, cores, strict=True))


def test_rounding_a_sum_finds_its_ranks_again():
    first, second = (random_train((3, 4, 5), 2, seed) for seed in (0, 7))
    total = [
        np.concatenate([first[0], second[0]], axis=2),
        np.zeros((4, 4, 4)),
        np.concatenate([first[2], first[2]], axis=0),
    ]
    total[1][:2, :, :2], total[1][2:, :, 2:] = first[1], first[1]
    total[0] = np.concatenate([first[0], 2 * first[0]], axis=2)  # x + 2 x = 3 x
    rounded = tt_round(total, eps=1e-10)
    assert [core.shape for core in rounded] == [core.shape for core in first]
    assert relative_error(3 * merge_train(first), merge_train(rounded)) < EXACT


def test_rounding_equals_cutting_the_dense_tensor_from_the_right():
    cores = random_train((3, 4, 2, 5), 6, 1)
    dense = merge_train(cores)
    reverse = tt_svd(dense.transpose(), ranks=2)
    expected = merge_train(reverse).transpose()
    assert relative_error(expected, merge_train(tt_round(cores, ranks=2))) < EXACT
    half = tt_round(cores, energy=0.5)
    expected = merge_train(tt_svd(dense.transpose(), energy=0.5)).transpose()
    assert relative_error(expected, merge_train(half)) < EXACT


def test_rounding_equals_t3f():
    t3f = pytest.importorskip("t3f")
    cores = [core.astype("float64") for core in random_train((3, 4, 2, 5), 6, 1)]
    theirs = t3f.round(t3f.TensorTrain(cores), max_tt_rank=3)
    expected = t3f.full(theirs).numpy()
    assert relative_error(expected, merge_train(tt_round(cores, ranks=3))) < 1e-10


def test_paired_modes_are_kept():
    cores = [tensor_of((1, 2, 3, 4)), tensor_of((4, 3, 2, 4), 1), tensor_of((4, 2, 2, 1), 2)]
    rounded = tt_round(cores, ranks=(3, 2))
    assert [core.shape for core in rounded] == [(1, 2, 3, 3), (3, 3, 2, 2), (2, 2, 2, 1)]


def test_a_ring_at_its_own_ranks_is_left_alone():
    cores = random_ring((5, 4, 3, 4), 2)
    for rounded in (tr_round(cores, ranks=2), tr_round(cores, ranks=9)):
        assert all(np.array_equal(a, b) for a, b in zip(rounded, cores, strict=True))


def test_a_ring_with_idle_bonds_loses_only_them():
    """Cutting the bonds locally finds this ring; neither the ring SVD nor least squares does."""
    small = random_ring((7, 6, 7, 6), 3)
    grown = [np.pad(core, ((0, 2), (0, 0), (0, 2))) for core in small]
    rounded = tr_round(grown, ranks=3)
    assert [core.shape for core in rounded] == [core.shape for core in small]
    assert relative_error(merge_ring(small), merge_ring(rounded)) < EXACT
    fresh = tr_als(merge_ring(small), ranks=3)
    assert relative_error(merge_ring(small), merge_ring(fresh)) > 0.01


def test_a_ring_by_eps_never_grows():
    cores = random_ring((5, 4, 3, 4), 2)
    exact = tr_round(cores, eps=1e-6)
    assert relative_error(merge_ring(cores), merge_ring(exact)) < 1e-6
    assert sum(core.size for core in exact) <= sum(core.size for core in cores)
    coarse = tr_round(cores, eps=0.7)
    assert relative_error(merge_ring(cores), merge_ring(coarse)) <= 0.7
    assert sum(core.size for core in coarse) < sum(core.size for core in cores)


def test_cores_that_do_not_meet_say_so():
    with pytest.raises(ValueError, match=r"must have the size of the next core's first axis"):
        tt_round([np.ones((1, 2, 3)), np.ones((2, 2, 1))], ranks=1)
    with pytest.raises(ValueError, match=r"begin and end with bonds of size 1.*Use `tr_round`"):
        tt_round(random_ring((2, 3), 2), ranks=1)
    with pytest.raises(ValueError, match=r"at least one array"):
        tr_round([], ranks=1)
