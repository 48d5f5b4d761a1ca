"""Tucker, block-term and hierarchical Tucker: exactness, bounds, partial axes and padding."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tensornet.decompositions import (
    block_term,
    dimension_tree,
    hierarchical_tucker,
    hooi,
    hosvd,
)

from .references import (
    hilbert,
    merge_blocks,
    merge_tree,
    merge_tucker,
    relative_error,
    shapes,
    tensor_of,
)

EXACT = 1e-12  # a few float64 SVDs in a row


def merge_ht(cores):
    return merge_tree(cores, dimension_tree((len(cores) + 1) // 2))


CASES = {"hosvd": (hosvd, merge_tucker), "hooi": (hooi, merge_tucker)}
CASES["hierarchical_tucker"] = (hierarchical_tucker, merge_ht)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 99), eps=st.floats(0.0, 0.9))
def test_error_stays_below_eps(name, shape, seed, eps):
    decompose, merge = CASES[name]
    tensor = tensor_of(shape, seed)
    assert relative_error(tensor, merge(decompose(tensor, eps=eps))) <= eps + EXACT


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 99), extra=st.integers(0, 2))
def test_padded_full_ranks_are_exact(name, shape, seed, extra):
    """A rank as large as any node can need, and beyond."""
    decompose, merge = CASES[name]
    tensor, rank = tensor_of(shape, seed), math.prod(shape) + extra
    cores = decompose(tensor, ranks=min(rank, 26), pad=True)
    assert relative_error(tensor, merge(cores)) < EXACT
    if len(shape) > 1 or decompose is not hierarchical_tucker:
        leaf = cores[0] if decompose is hierarchical_tucker else cores[1]
        assert leaf.shape == (shape[0], min(rank, 26))


@pytest.mark.parametrize("name", CASES)
def test_error_falls_with_rank(name):
    decompose, merge = CASES[name]
    tensor = tensor_of((4, 5, 3, 4), 2)
    errors = [relative_error(tensor, merge(decompose(tensor, r, pad=True))) for r in range(1, 7)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("decompose", [hosvd, hooi])
def test_partial_axes_leave_the_others_whole(decompose):
    kernel = tensor_of((3, 3, 5, 7), 0)
    parts = decompose(kernel, ranks=(4, 2), axes=(3, 2))
    assert [part.shape for part in parts] == [(3, 3, 2, 4), (7, 4), (5, 2)]
    expected = np.einsum(
        "hwio,oO,Oa,iI,Ib->hwba", kernel, parts[1], parts[1].T, parts[2], parts[2].T
    )
    assert relative_error(expected, merge_tucker(parts, (3, 2))) < EXACT


def test_hooi_on_hilbert():
    parts = hooi(hilbert(), ranks=2, num_iter=200, tol=0)
    # The published figure has eleven digits.
    assert relative_error(hilbert(), merge_tucker(parts)) == pytest.approx(
        5.9247760554e-03, rel=1e-9
    )


def test_hooi_improves_on_hosvd():
    tensor = tensor_of((5, 6, 7), 1)
    plain, refined = (relative_error(tensor, merge_tucker(f(tensor, 2))) for f in (hosvd, hooi))
    assert refined < 0.99 * plain


def test_energy_of_each_axis():
    tensor = tensor_of((4, 5, 6), 3)
    rest = tensor
    for axis, factor in enumerate(hosvd(tensor, energy=0.6)[1:]):
        values = np.linalg.svd(np.moveaxis(rest, axis, 0).reshape(len(factor), -1))[1]
        share = np.cumsum(values**2) / np.sum(values**2)
        assert factor.shape[1] == np.argmax(share > 0.6) + 1
        rest = np.moveaxis(np.tensordot(factor.T, rest, (1, axis)), 0, axis)


@settings(max_examples=20, deadline=None)
@given(shape=shapes(least=2), seed=st.integers(0, 99), num_blocks=st.integers(1, 3))
def test_block_term_at_full_rank_is_exact(shape, seed, num_blocks):
    tensor = tensor_of(shape, seed)
    parts = block_term(tensor, ranks=shape, num_blocks=num_blocks, pad=True)
    assert parts[0].shape == (num_blocks, *shape)
    assert relative_error(tensor, merge_blocks(parts)) < EXACT
    # Factors of an idle block are not zero, so its core receives a gradient.
    assert all(np.linalg.norm(factor, axis=(1, 2)).min() > 0.1 for factor in parts[1:])


def test_more_blocks_have_less_error_than_one():
    kernel = tensor_of((3, 3, 8, 10), 1)
    errors = [
        relative_error(kernel, merge_blocks(block_term(kernel, 3, b, axes=(2, 3)), (2, 3)))
        for b in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2]
    one = hooi(kernel, 3, axes=(2, 3))
    # One block is a Tucker decomposition; its last sweeps on the full tensor are few.
    assert errors[0] == pytest.approx(relative_error(kernel, merge_tucker(one, (2, 3))), rel=0.02)


def test_refining_the_blocks_lowers_the_error():
    tensor = tensor_of((5, 6, 7), 2)
    start, refined = (
        relative_error(tensor, merge_blocks(block_term(tensor, 2, 3, num_iter=n))) for n in (0, 30)
    )
    assert refined < 0.99 * start


@pytest.mark.parametrize("ndim", range(1, 10))
def test_dimension_tree_is_a_balanced_binary_tree_in_core_order(ndim):
    tree = dimension_tree(ndim)
    assert len(tree) == 2 * ndim - 1
    assert tree[:ndim] == ((),) * ndim
    depth = {}
    for node, children in enumerate(tree):
        assert len(children) == (2 if node >= ndim else 0)
        assert all(child < node for child in children)
        depth[node] = max((depth[child] + 1 for child in children), default=0)
    assert depth[len(tree) - 1] == math.ceil(math.log2(ndim))
    used = [child for children in tree for child in children]
    assert sorted(used) == list(range(len(tree) - 1))


def test_hierarchical_tucker_shapes_of_few_modes():
    assert [c.shape for c in hierarchical_tucker(np.ones(4), ranks=3)] == [(4,)]
    pair = hierarchical_tucker(tensor_of((4, 3)), ranks=2)
    assert [core.shape for core in pair] == [(4, 2), (3, 2), (2, 2)]


def test_ranks_that_are_too_high_warn_with_the_rank_used():
    with pytest.warns(
        UserWarning, match=r"rank 9 of factor 1 is above what the modes allow; using 4"
    ):
        hosvd(tensor_of((4, 5, 6)), ranks=(9, 2, 2))
    with pytest.warns(
        UserWarning, match=r"rank 9 of factor 2 is above what the modes allow; using 5"
    ):
        block_term(tensor_of((4, 5, 6)), ranks=(3, 9, 2), num_blocks=2)
    with pytest.warns(UserWarning, match=r"rank 9 of node 0 is above .* using 4"):
        hierarchical_tucker(tensor_of((4, 5, 6)), ranks=(9, 2, 2, 2))


def test_a_node_needs_no_more_than_all_the_others_have():
    with pytest.warns(UserWarning, match=r"rank 9 of node 0 .* using 4"):
        cores = hierarchical_tucker(tensor_of((9, 2, 2)), ranks=(9, 2, 2, 2))
    assert cores[0].shape == (9, 4)
    with pytest.warns(UserWarning, match=r"rank 9 of factor 1 .* using 4"):
        assert hosvd(tensor_of((9, 2, 2)), ranks=(9, 2, 2))[1].shape == (9, 4)


def test_axes_must_be_distinct():
    with pytest.raises(ValueError, match=r"distinct axes of a tensor with 3 axes. Received: axes="):
        hosvd(np.ones((2, 3, 4)), ranks=1, axes=(1, -2))
