"""Laws of the Z step and of one kernel's ADMM, in NumPy."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tensornet import formats
from keras_tensornet.contraction import kernel_plan, to_keras_layout
from keras_tensornet.kernels import decompose_kernel
from keras_tensornet.modes import KernelModes
from keras_tensornet.networks import Network, clip_ranks
from keras_tensornet.training.projection import (
    in_threads,
    norm,
    project_kernel,
    project_to_cores,
)
from keras_tensornet.training.splitting import RANGE, Splitting
from keras_tensornet.training.state import save_state

# Unequal modes, a mode of 1, groups, separate and joint spatial modes.
MODES = {
    "dense": KernelModes(12, 15, (3, 4), (3, 5)),
    "thin": KernelModes(6, 5, (1, 6), (5,)),
    "conv": KernelModes(6, 8, (2, 3), (2, 4), ((3, 3),)),
    "separate": KernelModes(5, 4, (5,), (4,), ((3,), (2,))),
    "groups": KernelModes(3, 4, (3,), (4,), ((3, 3),), 2),
}
PADDED = KernelModes(11, 13, (3, 4), (3, 5))
# Found by alternating least squares: a local optimum, not a function of the tensor alone.
LOCAL = ("tr", "cp", "bt")

every_format = pytest.mark.parametrize("format", list(formats.FORMATS))


def network_for(format, modes, rank=2):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        return clip_ranks(formats.get(format).build(modes, rank))


def kernel_for(modes, seed=0):
    return np.random.default_rng(seed).standard_normal(modes.kernel_shape)


def merged(cores, network, modes):
    return to_keras_layout(kernel_plan(network).run(cores, np), modes, np)


def member(network, modes, seed=0):
    """A kernel that the network represents exactly."""
    random = np.random.default_rng(seed)
    cores = [random.standard_normal(shape) for shape in network.core_shapes]
    return merged(cores, network, modes)


@every_format
@pytest.mark.parametrize("kind", list(MODES))
def test_projection_is_merge_of_decompose(format, kind):
    modes = MODES[kind]
    network = network_for(format, modes)
    kernel = kernel_for(modes)
    expected = merged(decompose_kernel(kernel, network, modes), network, modes)
    np.testing.assert_allclose(project_kernel(kernel, network, modes), expected, atol=1e-12)


@every_format
@pytest.mark.parametrize("kind", list(MODES))
def test_projection_is_idempotent(format, kind):
    modes = MODES[kind]
    network = network_for(format, modes)
    kernel = kernel_for(modes)
    once = project_kernel(kernel, network, modes)
    # From nothing where that is exact, else from the cores that ADMM keeps.
    start = decompose_kernel(kernel, network, modes) if format in LOCAL else None
    twice = merged(project_to_cores(once, network, modes, start), network, modes)
    np.testing.assert_allclose(twice, once, atol=1e-9 * norm(once))


@pytest.mark.parametrize("format", [name for name in formats.FORMATS if name not in LOCAL])
@pytest.mark.parametrize("kind", list(MODES))
def test_a_member_of_the_set_stays(format, kind):
    modes = MODES[kind]
    network = network_for(format, modes)
    kernel = member(network, modes)
    np.testing.assert_allclose(
        project_kernel(kernel, network, modes), kernel, atol=1e-10 * norm(kernel)
    )


@every_format
@pytest.mark.parametrize("kind", ["dense", "groups", "padded"])
def test_a_member_of_the_set_is_found_from_a_near_start(format, kind):
    modes = PADDED if kind == "padded" else MODES[kind]
    network = network_for(format, modes)
    random = np.random.default_rng(0)
    cores = [random.standard_normal(shape) for shape in network.core_shapes]
    kernel = merged(cores, network, modes)
    assert_same = functools.partial(np.testing.assert_allclose, atol=1e-9 * norm(kernel))
    assert_same(merged(project_to_cores(kernel, network, modes, cores), network, modes), kernel)
    near = [core + 0.01 * random.standard_normal(core.shape) for core in cores]
    found = merged(project_to_cores(kernel, network, modes, near), network, modes)
    assert norm(found - kernel) < 0.1 * norm(merged(near, network, modes) - kernel)


@every_format
@settings(max_examples=6)
@given(seed=st.integers(0, 1000))
def test_projection_is_never_farther_than_the_previous_member(format, seed):
    modes = PADDED if seed % 2 else MODES["conv"]
    network = network_for(format, modes)
    start = decompose_kernel(kernel_for(modes, seed + 1), network, modes)
    previous = merged(start, network, modes)
    kernel = previous + 0.01 * kernel_for(modes, seed)
    found = merged(project_to_cores(kernel, network, modes, start), network, modes)
    assert norm(kernel - found) <= norm(kernel - previous) * (1 + 1e-9)


def test_a_network_of_no_format_is_refused():
    network = Network.parse("i0 a, a o0", {"i0": 4, "o0": 3, "a": 2})
    with pytest.raises(ValueError, match="Only networks of a named format"):
        project_kernel(np.ones((4, 3)), network, network.kernel_modes())


def test_threads_keep_the_order():
    assert in_threads(lambda number: number**2, list(range(20)), workers=4) == [
        number**2 for number in range(20)
    ]


def low_rank_problem(noise):
    """loss 1/2 |W - goal|^2 over matrices of rank 2; the solution is the goal's truncated SVD."""
    modes = KernelModes(6, 7, (6,), (7,))
    network = network_for("tt", modes)
    random = np.random.default_rng(3)
    goal = random.standard_normal((6, 2)) @ random.standard_normal((2, 7))
    goal = goal + noise * random.standard_normal((6, 7))
    left, values, right = np.linalg.svd(goal)
    return modes, network, goal, (left[:, :2] * values[:2]) @ right[:2]


def solve(splitting, goal, kernel, steps):
    rows = []
    for _ in range(steps):
        # argmin_W 1/2 |W - goal|^2 + rho/2 |W - target|^2
        kernel = (goal + splitting.rho * splitting.target) / (1 + splitting.rho)
        rows.append(splitting.update(kernel))
    return kernel, rows


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("adaptive", [True, False])
def test_admm_finds_the_low_rank_solution_of_a_convex_loss(noise, warm, adaptive):
    modes, network, goal, solution = low_rank_problem(noise)
    splitting = Splitting("layer", network, modes, 3.0, adaptive)
    start = np.random.default_rng(5).standard_normal((6, 7))
    splitting.start(start, warm)
    kernel, rows = solve(splitting, goal, start, 120)
    np.testing.assert_allclose(kernel, solution, atol=1e-4)
    np.testing.assert_allclose(splitting.z, solution, atol=1e-4)
    for name in ("primal", "dual"):
        residuals = [getattr(row, name) for row in rows]
        assert residuals[-1] < 1e-4 < max(residuals[:5])


def test_the_update_is_the_papers():
    modes = MODES["conv"]
    network = network_for("tt", modes)
    splitting = Splitting("layer", network, modes, 0.5)
    first = member(network, modes) + 0.1 * kernel_for(modes, 1)
    second = first + 0.1 * kernel_for(modes, 2)
    splitting.start(first)
    z0 = project_kernel(first, network, modes)
    np.testing.assert_allclose(splitting.target, z0, atol=1e-12)
    row = splitting.update(second)
    z1 = project_kernel(second, network, modes)  # U = 0 so far
    u1 = second - z1
    np.testing.assert_allclose(splitting.z, z1, atol=1e-12)
    np.testing.assert_allclose(splitting.u, u1, atol=1e-12)
    assert row.penalty == pytest.approx(0.25 * norm(second - z0) ** 2)
    assert row.primal == pytest.approx(norm(second - z1) / norm(second))
    assert row.dual == pytest.approx(norm(z1 - z0) / norm(second))
    splitting.update(first)
    np.testing.assert_allclose(splitting.z, project_kernel(first + u1, network, modes), atol=1e-12)
    np.testing.assert_allclose(splitting.u, u1 + first - splitting.z, atol=1e-12)


def test_the_dual_stays_within_the_kernels_size():
    modes = MODES["conv"]
    splitting = Splitting("layer", network_for("tt", modes), modes, 0.5)
    kernel = kernel_for(modes)  # never moves, as under a learning rate of zero
    splitting.start(kernel)
    for _ in range(10):
        splitting.update(kernel)
    assert norm(splitting.u) == pytest.approx(norm(kernel))


def test_a_cold_start_holds_the_kernel_itself():
    modes = MODES["conv"]
    splitting = Splitting("layer", network_for("tt", modes), modes, 0.5)
    kernel = kernel_for(modes)
    splitting.start(kernel, warm=False)
    np.testing.assert_array_equal(splitting.target, kernel)
    # W itself is nearest to W, but it is not in the set, so Z has to leave it.
    splitting.update(kernel)
    assert norm(splitting.z - kernel) > 0.1 * norm(kernel)


def test_there_is_nothing_to_pull_or_save_before_the_start(tmp_path):
    modes = MODES["conv"]
    splitting = Splitting("layer", network_for("tt", modes), modes, 0.5)
    with pytest.raises(RuntimeError, match=r"'layer' has no Z and U yet\. Call `start`"):
        splitting.update(kernel_for(modes))
    with pytest.raises(RuntimeError, match="Call `start` first"):
        save_state(tmp_path / "state", [splitting], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("gap", "move", "factor"), [(1.0, 1e-3, 2.0), (1e-3, 1.0, 0.5), (1.0, 1.0, 1.0)]
)
def test_balancing_keeps_the_unscaled_dual(gap, move, factor):
    splitting = Splitting("layer", None, None, 0.1, True, np.ones(4), np.full(4, 3.0))
    splitting.rho = 0.4
    splitting._balance(gap, move, norm(splitting.u))  # sizes equal: the residuals decide
    assert splitting.rho == pytest.approx(0.4 * factor)
    np.testing.assert_allclose(splitting.rho * splitting.u, 0.4 * 3.0)
    for _ in range(40):
        splitting._balance(gap, move, norm(splitting.u))
    assert 0.1 <= splitting.rho <= 0.1 * RANGE


def test_kernels_keep_their_dtype():
    modes = MODES["dense"]
    splitting = Splitting("layer", network_for("tt", modes), modes, 0.1, True)
    kernel = kernel_for(modes).astype("float32")
    splitting.start(kernel)
    splitting.update(kernel)
    assert splitting.target.dtype == "float32"
