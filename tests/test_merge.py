"""`merge`: the three orders agree, in part and in whole, compiled once, bit for bit the same."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_tensornet
from keras_tensornet import Network, compiled
from keras_tensornet.contraction import ORDERS, merge_order, merge_plan
from tests.layers.support import BACKEND, array, tensorflow_only
from tests.references import merge_labels, relative_error


def ring(ranks, modes, seed=0) -> list[np.ndarray]:
    """Cores (r_k, n_k, r_k+1) of a closed chain."""
    random = np.random.default_rng(seed)
    following = [*ranks[1:], ranks[0]]
    return [
        random.standard_normal(shape).astype("float32")
        for shape in zip(ranks, modes, following, strict=True)
    ]


def slow_merge(cores, start, stop) -> np.ndarray:
    """Equation (5) of Tensor Ring Nets by one einsum; the whole ring is closed."""
    total = len(cores)
    labels = [(f"r{k}", f"n{k}", f"r{(k + 1) % total}") for k in range(start, stop)]
    modes = [f"n{k}" for k in range(start, stop)]
    ends = (start, stop) != (0, total)
    wanted = [f"r{start}", *modes, f"r{stop % total}"] if ends else modes
    return merge_labels(cores[start:stop], labels, wanted)


@pytest.mark.parametrize("ranks", [(2, 3, 2, 4, 3), (1, 3, 2, 4, 3), (1, 1, 1, 1, 1)])
def test_all_orders_agree_on_every_part(ranks):
    cores = ring(ranks, (3, 1, 4, 2, 5))
    for start in range(5):
        for stop in range(start + 1, 6):
            wanted = slow_merge(cores, start, stop)
            for order in ORDERS:
                found = array(keras_tensornet.merge(cores, start, stop, order))
                assert relative_error(found, wanted) < 1e-5, (start, stop, order)
    np.testing.assert_array_equal(
        array(keras_tensornet.merge(cores)), array(keras_tensornet.merge(cores, 0, 5))
    )


@given(
    ranks=st.lists(st.integers(1, 4), min_size=2, max_size=6),
    data=st.data(),
)
def test_merge_plans_of_any_ring(ranks, data):
    modes = data.draw(st.lists(st.integers(1, 4), min_size=len(ranks), max_size=len(ranks)))
    cores = ring(ranks, modes)
    bonds = [f"r{k}" for k in range(len(ranks))]
    names = [f"n{k}" for k in range(len(ranks))]
    network = Network(
        cores=tuple(zip(bonds, names, [*bonds[1:], bonds[0]], strict=True)),
        sizes=(*zip(bonds, ranks, strict=True), *zip(names, modes, strict=True)),
        in_labels=tuple(names),
        out_labels=(),
    )
    wanted = slow_merge(cores, 0, len(cores))
    for order in ORDERS:
        plan = merge_plan(network, merge_order(network, order), names)
        wide = [core.astype("float64") for core in cores]
        assert relative_error(plan.run(wide, np), wanted) < 1e-12
        assert plan.flops >= 0 and "FLOPs" in str(plan)


def test_planned_is_never_dearer_than_the_papers_orders():
    cores = ring((4, 4, 4, 4, 4, 4), (2, 7, 3, 5, 4, 6))
    network = compiled._ring_of(tuple(core.shape for core in cores))
    names = network.in_labels
    costs = {}
    for order in ORDERS:
        plan = merge_plan(network, merge_order(network, order), names)
        costs[order] = plan.flops + 4 * plan.moved_elements
    assert costs["planned"] <= 1.2 * min(costs.values())


def test_hierarchical_is_cheaper_than_sequential_for_a_power_of_two():
    """Tensor Ring Nets, theorem in its appendix A: d = 8 modes of 4 and a uniform rank."""
    names = [f"n{k}" for k in range(8)]
    bonds = [f"r{k}" for k in range(9)]
    network = Network(
        cores=tuple(zip(bonds, names, bonds[1:], strict=False)),
        sizes=(*((bond, 5) for bond in bonds), *((name, 4) for name in names)),
        in_labels=(*names, "r0", "r8"),
        out_labels=(),
    )
    flops = {
        order: merge_plan(network, merge_order(network, order), ("r0", *names, "r8")).flops
        for order in ORDERS
    }
    assert flops["hierarchical"] < flops["sequential"]


def test_a_network_of_your_own_is_merged_by_its_labels():
    network = Network.parse(
        "i0 a b, a i1 o0 c, b c o1", {"i0": 3, "i1": 4, "o0": 2, "o1": 5} | {"a": 2, "b": 3, "c": 2}
    )
    random = np.random.default_rng(1)
    cores = [random.standard_normal(shape).astype("float32") for shape in network.core_shapes]
    wanted = merge_labels(cores, network.cores, ("i0", "i1", "o0", "o1"))
    assert relative_error(array(keras_tensornet.merge(cores, network=network)), wanted) < 1e-5
    part = merge_labels(cores[:2], network.cores[:2], ("i0", "b", "i1", "o0", "c"))
    found = array(keras_tensornet.merge(cores, 0, 2, network=network))
    assert relative_error(found, part) < 1e-5


def test_two_runs_give_the_same_bits():
    cores = ring((3, 4, 5, 2), (5, 6, 7, 8))
    for order in ORDERS:
        first = array(keras_tensornet.merge(cores, order=order))
        np.testing.assert_array_equal(array(keras_tensornet.merge(cores, order=order)), first)


def test_gradients_reach_every_core():
    variables = [keras.Variable(core) for core in ring((2, 3, 2), (3, 4, 5))]
    if BACKEND != "tensorflow":
        pytest.skip("written with TensorFlow's tape; layers test gradients on every backend")
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(keras_tensornet.merge([v.value for v in variables]) ** 2)
    assert all(np.any(g) for g in tape.gradient(loss, [v.value for v in variables]))


@tensorflow_only
def test_a_second_call_by_hand_does_not_trace_again(monkeypatch):
    import tensorflow as tf

    traces = []
    original = compiled._compile

    def counting(run):
        def traced(cores):
            traces.append(1)
            return run(cores)

        return original(traced)

    monkeypatch.setattr(compiled, "_compile", counting)
    compiled._merge_range.cache_clear()
    cores = ring((3, 2, 4), (2, 3, 4))
    for scale in (1.0, 2.0, 3.0):
        keras_tensornet.merge([scale * core for core in cores])
    assert len(traces) == 1
    for jit_compile in (False, True):
        inside = tf.function(lambda *c: keras_tensornet.merge(list(c)), jit_compile=jit_compile)
        assert relative_error(array(inside(*cores)), slow_merge(cores, 0, 3)) < 1e-5
    compiled._merge_range.cache_clear()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda c: keras_tensornet.merge(c, 2, 2), r"0 <= start < stop <= 4. Received: start=2, s"),
        (lambda c: keras_tensornet.merge(c, -1), r"must select at least one core"),
        (lambda c: keras_tensornet.merge(c, 0, 5), r"stop <= 4. Received: start=0, stop=5"),
        (lambda c: keras_tensornet.merge([]), r"`cores` must be a list of 3-D tensors"),
        (lambda c: keras_tensornet.merge([c[0][0]]), r"3-D tensors .* Received shapes: \[\(5, 4\)"),
        (lambda c: keras_tensornet.merge(c[:3]), r"last core must close the ring"),
        (lambda c: keras_tensornet.merge([c[0], c[2]]), r"must match the first of the next"),
        (lambda c: keras_tensornet.merge(c, order="best"), r"`order` must be one of 'planned', 'h"),
        (
            lambda c: keras_tensornet.merge(
                c, network=Network.parse("a i, a o", {"a": 2, "i": 3, "o": 4})
            ),
            r"`cores` must have the shapes of the network's cores, \[\(2, 3\), \(2, 4\)\]",
        ),
    ],
)
def test_bad_merges_say_why(call, words):
    with pytest.raises(ValueError, match=words):
        call(ring((3, 4, 5, 2), (5, 6, 7, 8)))


@tensorflow_only
def test_merging_many_networks_is_not_taken_for_retracing(caplog):
    for size in range(8):
        keras_tensornet.merge([np.ones((2, size + 11, 2), "float32")] * 2)
    assert "retracing" not in caplog.text
