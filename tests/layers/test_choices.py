"""What the planner chooses is pinned where it is plain, and what holds of its rates and norms."""

import numpy as np
import pytest
from keras import ops, regularizers

from keras_tensornet import layers, validation
from keras_tensornet.contraction import cost
from keras_tensornet.contraction.plans import candidate_plans

CHAIN, MERGE = "factorized", "reconstructed"
# Layer, rank, sizes (in, out) or (channels, extent), batch, and what is at least twice as fast.
IN_TRAINING = [
    ("TRDense", 2, (512, 512), 512, CHAIN),
    ("TRDense", 2, (4096, 256), 1, CHAIN),
    ("TRDense", 32, (4096, 256), 1, CHAIN),
    ("TTDense", 2, (1250, 320), 1, CHAIN),
    ("TTDense", 2, (4096, 256), 512, CHAIN),
    ("TTDense", 8, (512, 512), 512, MERGE),
    ("TTDense", 32, (64, 64), 512, MERGE),
    ("TuckerDense", 2, (1250, 320), 1, CHAIN),
    ("TuckerDense", 8, (4096, 256), 32, CHAIN),
    ("CPDense", 2, (1250, 320), 512, CHAIN),
    ("CPDense", 8, (512, 512), 512, CHAIN),
]


@pytest.mark.parametrize("name, rank, sizes, batch, faster", IN_TRAINING)
def test_choices_in_training(name, rank, sizes, batch, faster):
    layer = getattr(layers, name)(sizes[1], rank=rank)
    with validation.quietly():  # of ranks that are cut
        layer.build((None, sizes[0]))
    workload = layer.workload((batch, sizes[0]), training=True)
    seconds = {}
    for plan in candidate_plans(layer.network, workload):
        seconds.setdefault(plan.implementation, plan.seconds)
    other = MERGE if faster == CHAIN else CHAIN
    assert seconds[other] > 2 * seconds[faster], seconds
    assert layer.plan_for(training=True, input_shape=(batch, sizes[0])).implementation == faster


LARGE = {
    "matmul": (4096, 512, 512),
    "narrow matmul": (100_000, 8, 8),
    "conv": (130_000, 130_000, 9, 64, 64),
    "depthwise": (130_000, 130_000, 9, 64, 1),
    "move": (10_000_000,),
    "merge_step": (10_000_000_000, 10_000_000),
}


@pytest.mark.parametrize("operation", LARGE)
def test_a_training_step_takes_two_to_four_times_a_forward_pass(operation):
    # Measured: a dense 3x3 convolution of 64 channels 3.3, three stages of a ring 3.7.
    machine, name = cost.Machine(), operation.split()[-1]
    forward = getattr(machine, name)(*LARGE[operation])
    training = getattr(machine.training(), name)(*LARGE[operation])
    assert 2 < training / forward < 4


def test_a_call_of_nothing_takes_time_and_narrow_channels_cost_as_wide_ones():
    machine = cost.Machine()
    assert machine.matmul(1, 1, 1) > machine.call and machine.conv(1, 1, 1, 1, 1) > 2 * machine.call
    wide, narrow = (machine.conv(10**5, 10**5, 9, filled, filled) for filled in (8, 3))
    assert narrow > 0.6 * wide  # the arithmetic is the same, less is moved
    assert machine.depthwise(10**5, 10**5, 9, 64, 1) < machine.conv(10**5, 10**5, 9, 64, 64)


PENALISED = {
    "padded": (lambda **k: layers.TRDense(41, rank=2, **k), (None, 37)),
    "groups": (lambda **k: layers.TRConv2D(64, 3, rank=2, groups=2, **k), (None, 9, 9, 64)),
    "constraint": (
        lambda **k: layers.TRDense(64, rank=2, kernel_constraint="non_neg", **k),
        (None, 64),
    ),
    "padded groups": (lambda **k: layers.TRConv2D(82, 3, rank=2, groups=2, **k), (None, 9, 9, 74)),
}


@pytest.mark.parametrize("case", PENALISED)
@pytest.mark.parametrize("weights", [{"l2": 0.5}, {"l1": 0.1, "l2": 0.5}], ids=str)
def test_l2_is_of_the_kernel_and_not_of_what_pads_or_precedes_it(case, weights):
    make, shape = PENALISED[case]
    layer = make(kernel_regularizer=regularizers.L1L2(**weights))
    layer.build(shape)
    if "padded" in case:
        assert layer.modes.padding != (0, 0)
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64")
    wanted = weights["l2"] * np.sum(kernel**2) + weights.get("l1", 0) * np.abs(kernel).sum()
    assert float(sum(layer.losses)) == pytest.approx(wanted, rel=1e-4)  # float32 sums
