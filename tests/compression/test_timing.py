"""Budgets in time: measured, corrected, kept or refused with what can be reached."""

import keras
import pytest
from keras import layers

from keras_tensornet.compression import compress_model, plan_compression, timing
from keras_tensornet.contraction import make_plan
from keras_tensornet.serving import autotuning, measuring
from tests.compression.test_compress import convnet


def predicted_share(dense, small):
    """In the place of a measurement: what plans of layers predict, and a tenth for the rest."""

    def seconds(layer, implementation):
        workload = layer.workload((32, 32, 32, 64), merged=True)
        return make_plan(layer.network, workload, implementation).seconds

    factorized = compress_model(dense, rank=1, exclude=()).layers[1:]
    before = sum(seconds(layer, "reconstructed") for layer in factorized)
    after = sum(
        seconds(layer, "auto") if isinstance(layer, type(twin)) else seconds(twin, "reconstructed")
        for twin, layer in zip(factorized, small.layers[1:], strict=True)
    )
    return 0.1 + 0.9 * after / before, "predicted"


def two_convolutions():
    inputs = layers.Input((32, 32, 64))
    x = layers.Conv2D(64, 3, padding="same", name="first")(inputs)
    return keras.Model(inputs, layers.Conv2D(64, 3, padding="same", name="second")(x))


@pytest.mark.parametrize("share", [0.75, 0.5])
def test_a_latency_budget_is_kept_by_measuring(share, monkeypatch):
    monkeypatch.setattr(timing, "measured_share", predicted_share)
    model = two_convolutions()
    plan = plan_compression(model, latency=share, exclude=())
    measured = predicted_share(model, compress_model(model, plan=plan))[0]
    assert plan.settings["measured"] == round(measured, 3)
    # With a tenth of the time outside of the layers, prediction alone would be above the share.
    assert measured <= 1.05 * share
    assert f"latency: {plan.settings['measured']} of the dense model's, measured" in str(plan)


def test_a_latency_that_cannot_be_kept_says_what_can(monkeypatch):
    monkeypatch.setattr(timing, "measured_share", lambda dense, small: (0.9, "a slow machine"))
    with pytest.raises(ValueError, match=r"fastest takes 0.90 .*\(a slow machine, batch of 32\)"):
        plan_compression(two_convolutions(), latency=0.7, exclude=())


def test_the_share_to_try_next_lies_on_the_line():
    # measured = 0.4 + 0.6 predicted
    assert timing.next_share([(0.5, 0.7)], 0.55) == pytest.approx(0.25)
    assert timing.next_share([(0.5, 0.7), (0.25, 0.55)], 0.58) == pytest.approx(0.3)
    assert 0.25 <= timing.next_share([(0.5, 1.2)], 0.55) < 0.5  # a slower one: go on down
    assert timing.next_share([(0.5, 0.3)], 0.65) == pytest.approx(0.75)


def test_layers_that_are_only_smaller_say_so():
    inputs = layers.Input((2, 2, 16))
    model = keras.Model(inputs, layers.Conv2D(16, 3, padding="same", name="small")(inputs))
    plan = plan_compression(model, rank=4, exclude=())
    assert plan["small"].merges and "smaller, not faster: merged when frozen" in str(plan)
    (layer,) = compress_model(model, plan=plan).layers[1:]
    layer.freeze(32)
    assert layer.plan.implementation == "reconstructed"
    fast = plan_compression(two_convolutions(), rank=4, exclude=())
    assert not any(choice.merges for choice in fast) and "merged when frozen" not in str(fast)


def test_a_latency_budget_is_met_or_refused(monkeypatch):
    monkeypatch.setattr(timing, "measured_share", lambda dense, small: (0.8, "as asked"))
    model = two_convolutions()
    plan = plan_compression(model, latency=0.8, exclude=())
    assert any(choice.format for choice in plan)
    # As the factorized layers themselves predict it, for the same batch.
    everything = compress_model(model, rank=1, exclude=()).layers[1:]
    before = after = 0.0
    for dense, layer in zip(everything, compress_model(model, plan=plan).layers[1:], strict=True):
        workload = dense.workload((32, 32, 32, 64), merged=True)
        seconds = make_plan(dense.network, workload, "reconstructed").seconds
        before += seconds
        factorized = isinstance(layer, type(dense))
        after += make_plan(layer.network, workload, "auto").seconds if factorized else seconds
    assert after <= 0.8 * before


def test_what_prediction_rules_out_is_measured_all_the_same(monkeypatch):
    """The smallest ranks are tried: kept if they are fast enough, else the error says how fast."""
    slow = layers.Input((32, 32, 64))
    x = layers.Conv2D(64, 3, padding="same", name="dense")(slow)
    model = keras.Model(slow, layers.Conv2D(64, 3, padding="same", name="small")(x))
    arguments = {"latency": 0.3, "exclude": ("dense",)}
    monkeypatch.setattr(timing, "measured_share", lambda dense, small: (0.8, "as asked"))
    with pytest.raises(ValueError, match=r"the fastest takes 0.80 of the dense"):
        plan_compression(model, **arguments)
    with pytest.raises(ValueError, match=r"the fastest takes 0.80 of the dense"):
        plan_compression(convnet(), latency=0.6)
    monkeypatch.setattr(timing, "measured_share", lambda dense, small: (0.29, "as asked"))
    plan = plan_compression(model, **arguments)
    assert plan["small"].format and plan.settings["measured"] == 0.29
    smallest = plan_compression(model, rank=1, exclude=("dense",))
    assert plan["small"].params <= 1.01 * smallest["small"].params


def frozen_plans(model):
    """The implementation that each convolution of a compressed model runs frozen."""
    return [layer.plan_for(32, merged=True).implementation for layer in model.layers[1:]]


def test_a_budget_of_parameters_merges_what_is_measured_to_be_slower(monkeypatch):
    """Not its ranks change but what the frozen model runs, in plans from JSON too."""
    model, asked = two_convolutions(), []

    def slower(layer, batch_size, jit_compile):
        asked.append(layer.name)
        return layer.name == "second"

    monkeypatch.setattr(timing, "_SLOWER", {})
    monkeypatch.setattr(timing, "chain_is_slower", slower)
    free = plan_compression(model, params=0.2, exclude=(), allow_slower=True)
    assert not asked and frozen_plans(compress_model(model, plan=free)) == ["factorized"] * 2
    # Kernels of equal shapes and ranks are measured once: here the ranks differ.
    overrides = {"first": {"rank": 4}, "second": {"rank": 5}}
    plan = plan_compression(model, params=0.9, exclude=(), overrides=overrides)
    assert sorted(asked) == ["first", "second"]
    assert [choice.merges for choice in plan] == [False, True]
    assert (
        plan.params
        == plan_compression(
            model, params=0.9, exclude=(), overrides=overrides, allow_slower=True
        ).params
    )
    assert plan.frozen_flops == plan["first"].flops + plan["second"].dense_flops
    assert f"merged where that is faster: {plan.frozen_flops:,}" in str(plan)
    for made in (plan, type(plan).from_json(plan.to_json())):
        small = compress_model(model, plan=made)
        assert frozen_plans(small) == ["factorized", "reconstructed"]
        assert small.layers[2].implementation["training"] == "auto"


def test_the_floor_on_speed_is_measured(monkeypatch):
    """A chain whose every call is held up loses against the dense kernel, and the other way."""
    monkeypatch.setattr(timing, "_SLOWER", {})
    model = two_convolutions()
    small = compress_model(model, rank=4, exclude=())
    layer, found = small.layers[1], []
    for slow in ("factorized", "reconstructed"):

        def fake(calls, slow=slow):
            median = {n: 1.0 + (n.endswith(":dense") == (slow == "reconstructed")) for n in calls}
            return measuring.Timing(median, median, 1, 1)

        monkeypatch.setattr(autotuning, "measure", fake)
        found.append(autotuning.chain_is_slower(layer, 2))
    assert found == [True, False] and layer.implementation == "auto" and not layer.frozen


def test_allow_slower_is_for_budgets_of_parameters():
    with pytest.raises(ValueError, match="`allow_slower` turns off the measurement that `params`"):
        plan_compression(two_convolutions(), rank=4, allow_slower=True)
    plan = plan_compression(two_convolutions(), rank=4)
    with pytest.raises(ValueError, match=r"says everything already.*allow_slower"):
        compress_model(two_convolutions(), plan=plan, allow_slower=True)
