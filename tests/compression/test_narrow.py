"""Laws of narrow layers: where whole sides would leave a dense layer a rank of 1 or 2, they are cut
into modes, the plan says so, and nothing that was asked for by name is touched.
"""

import keras
import numpy as np
import pytest
from keras import layers

from keras_tensornet import compress_model, formats, plan_compression
from keras_tensornet.compression.choosing import budgets
from keras_tensornet.compression.choosing.subjects import merged_kernel
from keras_tensornet.modes import kernel_modes
from keras_tensornet.networks import matrix_rank

SIDES = "sides cut into modes, whole ones would leave it a rank below 4"
MODES = ("in_modes", "out_modes")


def trained_like(rows, columns, seed=0):
    random = np.random.default_rng(seed)
    left, _, right = np.linalg.svd(random.standard_normal((rows, columns)), full_matrices=False)
    return (left / np.arange(1, len(right) + 1)) @ right


def two_layers():
    inputs = layers.Input((96,))
    x = layers.Dense(80, name="first")(inputs)
    x = layers.Dense(64, name="second")(x)
    model = keras.Model(inputs, layers.Dense(4, name="classifier")(x))
    for number, name in enumerate(("first", "second")):
        kernel = model.get_layer(name).kernel
        kernel.assign(trained_like(*kernel.shape, seed=number))
    return model


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("modes", [((2, 3), (4, 2)), ((6,), (8,))], ids=str)
def test_no_kernel_has_a_higher_rank_than_its_network_allows(name, modes):
    random = np.random.default_rng(0)
    modes = kernel_modes(6, 8, *modes)
    for rank in (1, 2, 3):
        _, network = formats.get(name).fit(modes, formats.get(name).trial_rank(rank))
        cores = [random.standard_normal(shape) for shape in network.core_shapes]
        found = np.linalg.matrix_rank(merged_kernel(network, modes, cores))
        assert found == matrix_rank(network)


@pytest.mark.parametrize("rule", [{"params": 0.12}, {"share": 0.06}], ids=str)
@pytest.mark.parametrize("format", ["tt", "cp", "tucker", "ttm", "auto"])
def test_a_small_budget_leaves_no_dense_layer_narrow(format, rule):
    model = two_layers()
    plan = plan_compression(model, format, **rule)
    small = compress_model(model, plan=plan)
    for name in ("first", "second"):
        assert matrix_rank(small.get_layer(name).network) >= 4, plan[name]
    notes = [plan[name].note for name in ("first", "second")]
    if format in ("tt", "cp", "tucker"):
        assert any(SIDES in note for note in notes)
    assert small.count_params() == plan.params
    if "params" in rule:
        assert plan.params <= 0.12 * plan.model_params


def test_where_every_network_is_narrow_the_widest_is_taken():
    plan = plan_compression(two_layers(), "tt", share=0.05)
    ranks = [matrix_rank(network_of(plan[name])) for name in ("first", "second")]
    assert ranks == [4, 3] and SIDES in plan["second"].note


def network_of(choice):
    modes = kernel_modes(*choice.kernel_shape, *(choice.arguments[n] for n in MODES))
    return formats.get(choice.format).build(modes, choice.rank)


def test_sides_stay_whole_where_they_are_not_narrow_and_where_that_is_asked_for():
    model = two_layers()
    assert not any(
        choice.note.startswith("sides") for choice in plan_compression(model, params=0.5)
    )
    by_rank = plan_compression(model, rank=1)
    assert by_rank["first"].rank == (1,) and not by_rank["first"].note
    whole = {"share": 0.05, "in_modes": 1, "out_modes": 1}
    asked = plan_compression(model, share=0.05, overrides={"first": whole})
    assert asked["first"].arguments["in_modes"] == 1


def test_a_budget_that_pays_for_narrow_layers_only_is_met_all_the_same():
    model = two_layers()
    fixed = model.count_params() - 96 * 80 - 80 * 64
    least = fixed + (96 + 80) + (80 + 64)
    assert budgets.NARROW > 1
    plan = plan_compression(model, "tt", params=(least + 1) / model.count_params())
    assert plan.params <= least + 1
