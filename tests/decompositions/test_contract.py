"""What every decomposition promises: dtype, untouched input, one answer per seed, clear errors."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

from keras_tensornet import decompositions
from keras_tensornet.decompositions import (
    block_term,
    cp_als,
    grouped_tt_svd,
    hierarchical_tucker,
    hooi,
    hosvd,
    tr_als,
    tr_svd,
    tt_round,
    tt_svd,
    ttm_svd,
)

from .references import tensor_of

SHAPE = (3, 4, 1, 5)

FIXED = {
    "tt_svd": lambda x: tt_svd(x, ranks=2, pad=True),
    "ttm_svd": lambda x: ttm_svd(x, (3, 4), (1, 5), ranks=2),
    "grouped_tt_svd": lambda x: grouped_tt_svd(x, ((1, 0), (2, 3)), ranks=2),
    "tr_svd": lambda x: tr_svd(x, ranks=2),
    "tr_als": lambda x: tr_als(x, ranks=2, num_iter=3),
    "cp_als": lambda x: cp_als(x, rank=2),
    "cp_als exact": lambda x: cp_als(x, rank=15),
    "hosvd": lambda x: hosvd(x, ranks=2, pad=True),
    "hooi": lambda x: hooi(x, ranks=2, axes=(0, 3)),
    "block_term": lambda x: block_term(x, ranks=2, num_blocks=2, pad=True),
    "hierarchical_tucker": lambda x: hierarchical_tucker(x, ranks=2, pad=True),
}
BY_RULE = {
    "tt_svd": tt_svd,
    "ttm_svd": lambda x, **rule: ttm_svd(x, (3, 4), (1, 5), **rule),
    "grouped_tt_svd": lambda x, **rule: grouped_tt_svd(x, ((0, 1), (2, 3)), **rule),
    "tr_svd": tr_svd,
    "cp_als": cp_als,
    "hosvd": hosvd,
    "hooi": hooi,
    "hierarchical_tucker": hierarchical_tucker,
    "tt_round": lambda x, **rule: tt_round(tt_svd(np.ones((2, 3)), ranks=1), **rule),
}
fixed = pytest.mark.parametrize("decompose", FIXED.values(), ids=FIXED)
by_rule = pytest.mark.parametrize("decompose", BY_RULE.values(), ids=BY_RULE)


@fixed
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_comes_back(decompose, dtype):
    cores = decompose(tensor_of(SHAPE).astype(dtype))
    assert {core.dtype for core in cores} == {np.dtype(dtype)}
    assert all(core.flags.c_contiguous and np.isfinite(core).all() for core in cores)


@fixed
def test_other_array_likes(decompose):
    assert {core.dtype.name for core in decompose(np.arange(60).reshape(SHAPE))} == {"float64"}
    assert {core.dtype.name for core in decompose(tensor_of(SHAPE).tolist())} == {"float64"}


def test_bfloat16_comes_back():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    cores = tt_svd(tensor_of(SHAPE).astype(ml_dtypes.bfloat16), ranks=1)
    assert {core.dtype.name for core in cores} == {"bfloat16"}


@fixed
def test_the_input_stays_as_it_was(decompose):
    tensor = tensor_of(SHAPE)
    before = tensor.copy()
    cores = decompose(tensor)
    for core in cores:
        core += 1.0  # no core is a view of the input, or of another core
    assert np.array_equal(tensor, before)


@fixed
def test_the_same_seed_gives_the_same_cores(decompose):
    tensor = tensor_of(SHAPE)
    for first, second in zip(decompose(tensor), decompose(tensor), strict=True):
        assert np.array_equal(first, second)


@fixed
def test_a_tensor_of_zeros_has_finite_cores(decompose):
    cores = decompose(np.zeros(SHAPE))
    assert all(np.isfinite(core).all() for core in cores)


@fixed
def test_what_cannot_be_decomposed_says_so(decompose):
    broken = tensor_of(SHAPE)
    broken[0, 1, 0, 2:4] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"must be finite. Received: 2 NaN or infinite entries"):
        decompose(broken)
    with pytest.raises(ValueError, match=r"at least one axis and .* Received: shape \(\)"):
        decompose(3.0)
    with pytest.raises(TypeError, match=r"must hold real numbers. Received: dtype complex128"):
        decompose(tensor_of(SHAPE) + 1j)
    with pytest.raises(TypeError, match=r"must hold real numbers. Received: dtype bool"):
        decompose(tensor_of(SHAPE) > 0)


@by_rule
def test_exactly_one_rule(decompose):
    tensor = tensor_of(SHAPE)
    with pytest.raises(ValueError, match=r"Give exactly one of .* Received: none of them"):
        decompose(tensor)
    with pytest.raises(ValueError, match=r"Give exactly one of .* Received: eps, energy"):
        decompose(tensor, eps=0.1, energy=0.9)
    with pytest.raises(ValueError, match=r"`eps` is a relative error .* Received: eps=1.5"):
        decompose(tensor, eps=1.5)
    with pytest.raises(ValueError, match=r"`energy` is the share .* Received: energy=0"):
        decompose(tensor, energy=0)
    with pytest.raises(TypeError, match=r"`energy` must be a number. Received: 'most'"):
        decompose(tensor, energy="most")


@pytest.mark.parametrize("decompose", [tt_svd, tr_svd, hosvd, hierarchical_tucker])
def test_ranks_are_checked(decompose):
    tensor = tensor_of(SHAPE)
    with pytest.raises(ValueError, match=r"`ranks` must be at least 1. Received: 0"):
        decompose(tensor, ranks=0)
    with pytest.raises(TypeError, match=r"`ranks` must be an int. Received: 2.5"):
        decompose(tensor, ranks=[2.5] * {tt_svd: 3, hierarchical_tucker: 6}.get(decompose, 4))
    with pytest.raises(TypeError, match=r"must be an int or a tuple of ints. Received: 2.5"):
        decompose(tensor, ranks=2.5)
    with pytest.raises(ValueError, match=r"`ranks` must hold \d values, one for each of the"):
        decompose(tensor, ranks=(2, 2, 2, 2, 2))


MODULES = [module.name for module in pkgutil.iter_modules(decompositions.__path__)]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module):
    module = importlib.import_module(f"keras_tensornet.decompositions.{module}")
    assert doctest.testmod(module).failed == 0
