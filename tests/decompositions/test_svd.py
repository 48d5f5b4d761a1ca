"""The truncated SVD: every way to it must give LAPACK's answer to its stated accuracy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tensornet.decompositions import rank_for_energy, rank_for_error, truncated_svd

from .references import tensor_of


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    rank=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_small_matrices(rows, columns, rank, seed):
    matrix = tensor_of((rows, columns), seed)
    left, values, right = truncated_svd(matrix, rank=rank)
    kept = min(rank, rows, columns)
    expected = np.linalg.svd(matrix, compute_uv=False)
    assert left.shape == (rows, kept) and right.shape == (kept, columns)
    assert np.allclose(values, expected[:kept])
    error = np.linalg.norm(matrix - left * values @ right)
    assert error == pytest.approx(np.linalg.norm(expected[kept:]), abs=1e-12)


@pytest.mark.parametrize("shape", [(60, 700), (700, 60), (200, 200)])
@pytest.mark.parametrize("rule", [{"rank": 7}, {"rank": 60}, {"energy": 0.8}, {"delta": 30.0}])
def test_the_gram_matrix_agrees_with_lapack(shape, rule):
    matrix = tensor_of(shape)
    expected = np.linalg.svd(matrix, compute_uv=False)
    left, values, right = truncated_svd(matrix, **rule)
    kept = len(values)
    if "energy" in rule:
        assert kept == rank_for_energy(expected, 0.8)
    if "delta" in rule:
        assert kept == rank_for_error(expected, 30.0)
    assert np.allclose(values, expected[:kept], rtol=1e-10)
    assert np.allclose(left.T @ left, np.eye(kept), atol=1e-12)
    assert np.allclose(right @ right.T, np.eye(kept), atol=1e-10)
    error = np.linalg.norm(matrix - left * values @ right)
    assert error == pytest.approx(np.linalg.norm(expected[kept:]), abs=1e-12 * expected[0] * 10)


@pytest.mark.parametrize("smallest", [1e-3, 1e-6, 1e-9, 1e-12])
def test_a_steep_spectrum_keeps_full_accuracy(smallest):
    """The Gram matrix squares the spectrum: below 1e-4 of the largest value LAPACK takes over."""
    left, _ = np.linalg.qr(tensor_of((100, 12), 0))
    right, _ = np.linalg.qr(tensor_of((300, 12), 1))
    values = np.geomspace(1.0, smallest, 12)
    matrix = left * values @ right.T
    for rank in (3, 9, 12):
        found = truncated_svd(matrix, rank=rank)
        error = np.linalg.norm(matrix - found[0] * found[1] @ found[2])
        best = np.linalg.norm(values[rank:])
        assert error <= best * (1 + 1e-6) + 1e-12
    for delta in (1e-2, 1e-7, 1e-11):
        found = truncated_svd(matrix, delta=delta)
        assert len(found[1]) == rank_for_error(values, delta)


@pytest.mark.parametrize("spectrum", ["flat", "decaying"])
def test_the_randomized_error_is_within_one_percent_of_the_best(spectrum):
    matrix = tensor_of((400, 500), 2)
    if spectrum == "decaying":
        matrix = matrix * np.arange(1, 501) ** -0.5
    values = np.linalg.svd(matrix, compute_uv=False)
    for rank in (5, 20, 40):
        left, kept, right = truncated_svd(matrix, rank=rank, randomized=True)
        error = np.linalg.norm(matrix - left * kept @ right)
        assert error <= 1.01 * np.linalg.norm(values[rank:])
        again = truncated_svd(matrix, rank=rank, randomized=True)
        assert np.array_equal(left, again[0])


def test_a_large_matrix_of_small_rank_is_randomized(monkeypatch):
    matrix = tensor_of((1024, 3), 0) @ tensor_of((3, 1100), 1)

    def forbidden(*_, **__):
        raise AssertionError("the full Gram matrix was formed")

    monkeypatch.setattr(np.linalg, "eigh", forbidden)
    left, values, right = truncated_svd(matrix, rank=3)
    assert np.linalg.norm(matrix - left * values @ right) < 1e-12 * np.linalg.norm(matrix)


def test_rank_rules_at_their_edges():
    values = np.sqrt([0.5, 0.3, 0.2, 0.0])
    assert [rank_for_energy(values, e) for e in (0.1, 0.49, 0.51, 0.99, 1.0)] == [1, 1, 2, 3, 3]
    errors = (0.0, np.sqrt(0.2) * 1.0001, np.sqrt(0.5) * 1.0001, 2.0)
    assert [rank_for_error(values, delta) for delta in errors] == [3, 2, 1, 1]
    assert rank_for_energy(np.zeros(3), 0.9) == rank_for_error(np.zeros(3), 0.0) == 1


def test_wrong_arguments_say_so():
    with pytest.raises(ValueError, match=r"exactly one of `rank`, `delta` and `energy`"):
        truncated_svd(np.ones((2, 3)), rank=1, energy=0.5)
    with pytest.raises(ValueError, match=r"must have two axes. Received: shape \(2,\)"):
        truncated_svd(np.ones(2), rank=1)
    with pytest.raises(ValueError, match=r"needs `rank`"):
        truncated_svd(np.ones((2, 3)), energy=0.5, randomized=True)
