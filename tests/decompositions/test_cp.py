"""CP: exactness, what the conditioning buys and costs, and the search for a rank."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tensornet.decompositions import cp_als
from keras_tensornet.decompositions.cp_sweeps import Sweeps, khatri_rao
from keras_tensornet.decompositions.least_squares import solve_gram

from .references import merge_cp, relative_error, shapes, tensor_of

EXACT = 1e-12  # one SVD, or unit vectors times fibres


@settings(max_examples=40, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 99), extra=st.integers(0, 3))
def test_full_rank_is_exact(shape, seed, extra):
    tensor = tensor_of(shape, seed)
    rank = tensor.size // max(shape) + extra
    factors = cp_als(tensor, rank)
    assert [factor.shape for factor in factors] == [(size, rank) for size in shape]
    assert relative_error(tensor, merge_cp(factors)) < EXACT


def test_terms_beyond_the_exact_rank_receive_a_gradient():
    """A term of zero trains only if all its factors but one differ from zero."""
    factors = cp_als(tensor_of((2, 3, 4)), rank=8)
    idle = [np.linalg.norm(factor[:, 6:], axis=0) for factor in factors]
    assert np.count_nonzero(np.array(idle) > 0.1, axis=0).tolist() == [2, 2]


@pytest.mark.parametrize("seed", range(3))
def test_a_tensor_of_low_rank_is_found(seed):
    factors = [tensor_of((size, 3), 10 * seed + size) for size in (4, 5, 6, 2)]
    tensor = merge_cp(factors)
    found = cp_als(tensor, 3, num_iter=1000, tol=1e-12)
    # Least squares stops at the error's roundoff, about 1e-8; 1e-4 is what layers need.
    assert relative_error(tensor, merge_cp(found)) < 1e-6


def test_the_weights_are_shared_evenly():
    factors = cp_als(tensor_of((4, 5, 6)), rank=4)
    norms = np.array([np.linalg.norm(factor, axis=0) for factor in factors])
    assert np.allclose(norms, norms[0], rtol=1e-10)


def test_conditioning_lowers_the_terms_at_a_bounded_error():
    tensor = _swamp()
    plain, conditioned = (cp_als(tensor, 4, num_iter=500, slack=slack) for slack in (0, 0.05))
    before, after = (relative_error(tensor, merge_cp(found)) for found in (plain, conditioned))
    assert after <= 1.05 * before * (1 + 1e-6)
    assert _sensitivity(conditioned) < 0.6 * _sensitivity(plain)


@settings(max_examples=20, deadline=None)
@given(shape=shapes(least=2), rank=st.integers(1, 3), seed=st.integers(0, 99))
def test_one_sweep_solves_each_factor_in_turn(shape, rank, seed):
    """Against the design matrix of each mode, written out."""
    tensor = tensor_of(shape, seed)
    start = [tensor_of((size, rank), seed + k) for k, size in enumerate(shape)]
    start = [factor / np.linalg.norm(factor, axis=0) for factor in start]
    expected = list(start)
    for mode in range(len(shape)):
        design = khatri_rao([f for k, f in enumerate(expected) if k != mode])
        unfolding = np.moveaxis(tensor, mode, 0).reshape(shape[mode], -1)
        gram = design.T @ design
        if np.linalg.cond(gram) > 1e6:
            return  # the solution is then not unique to the tolerance below
        expected[mode] = unfolding @ design @ np.linalg.inv(gram)
        weights = np.linalg.norm(expected[mode], axis=0)
        expected[mode] = expected[mode] / weights
    factors, found, error = Sweeps(tensor).sweep(start, solve_gram)
    merged = merge_cp([factors[0] * found, *factors[1:]])
    assert np.allclose(merged, merge_cp([expected[0] * weights, *expected[1:]]), atol=1e-6)
    assert error == pytest.approx(relative_error(tensor, merged), abs=1e-6)


def test_error_falls_with_rank():
    tensor = tensor_of((3, 3, 6, 7), 1)
    errors = [relative_error(tensor, merge_cp(cp_als(tensor, r))) for r in (1, 2, 4, 8, 16, 54)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("rule", [{"eps": 0.5}, {"eps": 0.0}, {"energy": 0.8}, {"energy": 1.0}])
def test_the_rank_meets_the_rule(rule):
    tensor = tensor_of((3, 4, 5), 1)
    factors = cp_als(tensor, **rule)
    error = relative_error(tensor, merge_cp(factors))
    if "eps" in rule:
        assert error <= rule["eps"] + EXACT
    else:
        assert 1 - error**2 >= rule["energy"] - EXACT
    rank = factors[0].shape[1]
    if rank > 1 and error > EXACT:  # bisection: one rank less was tried and failed
        less = relative_error(tensor, merge_cp(cp_als(tensor, rank - 1)))
        assert less > rule["eps"] if "eps" in rule else 1 - less**2 <= rule["energy"]


def test_the_search_ends_between_powers_of_two():
    tensor = merge_cp([tensor_of((size, 5), size) for size in (6, 7, 8)])
    assert cp_als(tensor, eps=1e-3, num_iter=500, tol=1e-9)[0].shape[1] == 5


def test_a_reduced_tensor_loses_little():
    """Sweeps run on a core of 5 x 5 x 3 and end on the full 20 x 30 x 3."""
    tensor = tensor_of((20, 30, 3), 0)
    reduced = relative_error(tensor, merge_cp(cp_als(tensor, 5)))
    plain = min(_plain_least_squares(tensor, 5, seed) for seed in range(3))
    assert reduced < 1.02 * plain


def _plain_least_squares(tensor, rank, seed):
    random = np.random.default_rng(seed)
    factors = [random.standard_normal((size, rank)) for size in tensor.shape]
    for _ in range(100):
        for mode in range(tensor.ndim):
            design = khatri_rao([f for k, f in enumerate(factors) if k != mode])
            unfolding = np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)
            factors[mode] = np.linalg.lstsq(design, unfolding.T, rcond=None)[0].T
    return relative_error(tensor, merge_cp(factors))


def _sensitivity(factors):
    return np.sum(np.prod([np.sum(factor**2, axis=0) for factor in factors], axis=0))


def _swamp():
    """A sum of tensors a a b + a b a + b a a: rank 3 on the border of rank 2, with noise."""
    random, tensor = np.random.default_rng(0), 0.0
    for _ in range(2):
        a, b = random.standard_normal((2, 6))
        for first, second, third in ((a, a, b), (a, b, a), (b, a, a)):
            tensor = tensor + np.einsum("i,j,k->ijk", first, second, third)
    return tensor + 0.02 * random.standard_normal((6, 6, 6))
