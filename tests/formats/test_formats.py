"""What the formats say of themselves: ranks that rebuild, exact full ranks, thresholds kept."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tensornet import formats
from keras_tensornet.contraction import Workload, candidate_plans
from keras_tensornet.kernels import decompose_kernel, network_of_cores
from keras_tensornet.modes import kernel_modes
from keras_tensornet.networks import Network, largest_useful_ranks
from tests.references import merged_kernel

NAMES = tuple(formats.FORMATS)
SPATIAL = ((), ((3, 2),), ((3,), (2,)), ((1, 3),))


@st.composite
def kernels(draw):
    """A format and the modes of a small kernel, with awkward ones among them."""
    sides = [draw(st.lists(st.integers(1, 4), min_size=1, max_size=2)) for _ in range(2)]
    sizes = [int(np.prod(side)) for side in sides]
    groups = draw(st.sampled_from((1, 2)))
    spatial = draw(st.sampled_from(SPATIAL))
    modes = kernel_modes(*sizes, *(tuple(side) for side in sides), spatial, groups)
    return draw(st.sampled_from(NAMES)), modes


def build(name, modes, rank):
    """The network of a rank, cut to what the modes allow, as a layer does it."""
    format = formats.get(name)
    network = format.build(modes, rank)
    useful = network.with_ranks(largest_useful_ranks(network))
    return format.build(modes, format.rank_argument(useful))


def error_of(network, modes, cores, kernel):
    return np.linalg.norm(merged_kernel(network, modes, cores) - kernel) / np.linalg.norm(kernel)


@settings(max_examples=60, deadline=None)
@given(kernels(), st.integers(1, 6))
def test_a_network_is_built_again_from_its_rank(kernel, rank):
    name, modes = kernel
    network = build(name, modes, rank)
    assert formats.get(name).build(modes, formats.get(name).rank_argument(network)) == network
    assert network.kernel_modes().plain_shape == modes.plain_shape


@settings(max_examples=30, deadline=None)
@given(kernels())
def test_full_rank_represents_any_kernel(kernel):
    name, modes = kernel
    network = build(name, modes, 12 if name == "tr" else 500)
    dense = np.random.default_rng(0).standard_normal(modes.plain_shape)
    cores = decompose_kernel(dense, network, modes)
    assert tuple(core.shape for core in cores) == network.core_shapes
    assert error_of(network, modes, cores, dense) < 1e-5  # the decompositions stop at 1e-6


@settings(max_examples=20, deadline=None)
@given(kernels(), st.sampled_from((0.05, 0.4)))
def test_a_relative_error_is_kept(kernel, eps):
    name, modes = kernel
    probe = formats.get(name).build(modes, 1)
    dense = np.random.default_rng(1).standard_normal(modes.plain_shape)
    cores = decompose_kernel(dense, probe, modes, eps=eps)
    network = network_of_cores(probe, cores)
    assert error_of(network, modes, cores, dense) <= eps + 1e-9
    again = formats.get(name).build(modes, formats.get(name).rank_argument(network))
    assert again.num_params <= network.num_params


@pytest.mark.parametrize("name", NAMES)
def test_more_energy_never_has_fewer_parameters(name):
    modes = kernel_modes(6, 5, 1, 1, ((2, 2),))
    dense = np.random.default_rng(2).standard_normal(modes.plain_shape)
    probe = formats.get(name).build(modes, 1)
    counts = [
        network_of_cores(probe, decompose_kernel(dense, probe, modes, energy=energy)).num_params
        for energy in (0.3, 0.6, 0.95)
    ]
    assert counts == sorted(counts) and counts[0] < counts[2]


def test_several_blocks_are_taken_where_they_are_cheaper():
    # Two blocks of rank 2 on different rows and columns: one Tucker of the same kernel has rank 4.
    random = np.random.default_rng(0)
    dense = np.zeros((2, 2, 12, 12))
    for half in (slice(0, 6), slice(6, 12)):
        parts = [random.standard_normal(shape) for shape in ((6, 2), (2, 2, 2, 2), (2, 6))]
        dense[:, :, half, half] = np.einsum("ia,hwab,bo->hwio", *parts)
    modes = kernel_modes(12, 12, 1, 1, ((2, 2),))
    probe = formats.get("bt").build(modes, 1)
    cores = decompose_kernel(dense, probe, modes, eps=1e-3)
    assert [core.shape for core in cores] == [(2, 2, 4, 2), (2, 12, 2), (2, 12, 2)]


@pytest.mark.parametrize(
    "extent, chain",
    [
        (3, "0:matmul | 1,2:depthwise | 3:matmul"),
        (7, "0:matmul | 1:depthwise | 2:depthwise | 3:matmul"),
    ],
)
def test_the_kruskal_convolution_is_among_the_plans_of_cp(extent, chain):
    # Two passes over the activations cost more than nine taps, and less than forty-nine.
    network = formats.get("cp").build(kernel_modes(48, 64, 1, 1, ((extent,), (extent,))), 16)
    extents = (32, 32)
    workload = Workload(rows=8, spatial_in=extents, spatial_out=extents, strides=(1, 1))
    assert chain in [plan.describe() for plan in candidate_plans(network, workload)]


def test_tucker_2_is_a_bottleneck_convolution():
    network = formats.get("tucker").build(kernel_modes(48, 64, 1, 1, ((3, 3),)), (16, 24))
    extents = (32, 32)
    workload = Workload(rows=8, spatial_in=extents, spatial_out=extents, strides=(1, 1))
    plans = [plan.describe() for plan in candidate_plans(network, workload)]
    assert "1:matmul | 0:conv | 2:matmul" in plans


@pytest.mark.parametrize(
    "name, rank, shapes",
    [
        ("tucker", 2, ((2, 9, 2), (4, 2), (6, 2))),
        ("tucker", (2, 3), ((2, 9, 3), (4, 2), (6, 3))),
        ("tucker", (2, 5, 3), ((2, 5, 3), (4, 2), (9, 5), (6, 3))),
        ("tucker", (4, 3), ((4, 9, 3), (6, 3))),
        ("tucker", (4, 6), ((4, 9, 6),)),
        ("bt", (3, 2), ((3, 2, 9, 2), (3, 4, 2), (3, 6, 2))),
        ("bt", (3, 2, 1), ((3, 2, 9, 1), (3, 4, 2), (3, 6, 1))),
        ("bt", 2, ((2, 2, 9, 2), (2, 4, 2), (2, 6, 2))),
        ("ht", 2, ((4, 2), (9, 2), (6, 2), (2, 2, 2), (2, 2))),
        ("ht", (1, 2, 3, 4), ((4, 1), (9, 2), (6, 3), (1, 2, 4), (4, 3))),
        ("cp", 5, ((4, 5), (9, 5), (6, 5))),
    ],
)
def test_what_rank_means(name, rank, shapes):
    network = formats.get(name).build(kernel_modes(4, 6, 1, 1, ((3, 3),)), rank)
    # Tucker and block-term: the core comes first; where a mode is whole in it, it comes in place.
    assert network.core_shapes == shapes


@pytest.mark.parametrize(
    "name, rank, error, words",
    [
        (
            "tucker",
            (2, 2, 2, 2),
            ValueError,
            r"tucker .*a tuple of integers: 2, for \(i0, o0\), or 3, "
            r"for \(i0, s0, o0\). Received: rank=\(2, 2, 2, 2\)",
        ),
        ("tucker", (2, 0), ValueError, r"`rank\[1\]` must be at least 1"),
        ("tucker", 1.5, TypeError, r"`rank` must be an integer"),
        (
            "bt",
            (2, 2, 2, 2, 2),
            ValueError,
            r"bt .* the number of blocks, then 2, .*"
            r"Received: rank=\(2, 2, 2, 2, 2\)",
        ),
        ("bt", (2, True), TypeError, r"`rank\[1\]` must be an integer"),
        ("cp", (2, 2), ValueError, r"cp .* a tuple of 1 integers \(the number of rank-one terms\)"),
        (
            "ht",
            (2, 2),
            ValueError,
            r"ht .* 4 integers \(3 leaves, then the inner nodes of the tree",
        ),
    ],
)
def test_bad_ranks_say_what_a_format_takes(name, rank, error, words):
    with pytest.raises(error, match=words):
        formats.get(name).build(kernel_modes(4, 6, 1, 1, ((3, 3),)), rank)


def test_an_empty_block_rank_is_refused():
    with pytest.raises(ValueError, match=r"bt .* Received: rank=\(\)"):
        formats.get("bt").build(kernel_modes(4, 6, 1, 1), ())


@pytest.mark.parametrize("copies", [1, 3])
def test_bonds_beside_a_block_index_are_limited_as_without_it(copies):
    size = {"i0": 4, "o0": 6, "b": copies, "r": 50, "q": 50}
    network = Network.parse("b r q, b i0 r, b o0 q", size)
    assert largest_useful_ranks(network)[1:] == (4, 4)


def test_a_shared_index_is_limited_by_the_modes_of_its_holders():
    network = Network.parse("b r q, b i0 r, b o0 q", {"i0": 4, "o0": 6, "b": 99, "r": 1, "q": 1})
    assert largest_useful_ranks(network) == (4, 1, 1)


def test_warnings_are_not_given_for_ranks_that_fit():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build("bt", kernel_modes(4, 6, 1, 1, ((3, 3),)), (2, 3))


@pytest.mark.parametrize("name", NAMES)
def test_a_quick_decomposition_has_the_ranks_and_about_the_error_of_the_whole_one(name):
    modes = kernel_modes(24, 32, (4, 6), (4, 8), ((3, 3),))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 24, 32))
    network = build(name, modes, (2, 6) if name == "bt" else 6)
    whole = decompose_kernel(kernel, network, modes)
    quick = decompose_kernel(kernel, network, modes, quick=True)
    assert [core.shape for core in quick] == [core.shape for core in whole]
    found, best = (error_of(network, modes, cores, kernel) for cores in (quick, whole))
    assert best - 1e-9 <= found <= 1.1 * best
    if name in ("tr", "cp", "bt"):  # Tucker is there after two sweeps, the others have none
        assert found > best + 1e-6
