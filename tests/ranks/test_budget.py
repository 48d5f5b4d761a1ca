"""The global budget: least error within it, against trying everything."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tensornet.ranks import allocate, budget

# Few distinct values, so that ties and options that others beat turn up often.
OPTIONS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(layers=st.lists(OPTIONS, min_size=0, max_size=4), spare=st.integers(0, 30))
def test_no_choice_within_the_budget_is_better(layers, spare):
    limit = sum(min(cost for cost, _ in options) for options in layers) + spare
    sums = [
        (sum(error for _, error in chosen), sum(cost for cost, _ in chosen))
        for chosen in itertools.product(*layers)
    ]
    best = min(error for error, cost in sums if cost <= limit)
    found = allocate(layers, limit)
    chosen = [options[k] for options, k in zip(layers, found.choices, strict=True)]
    assert found.cost == sum(cost for cost, _ in chosen) <= limit
    assert found.error == sum(error for _, error in chosen) == best


def test_a_thinned_front_stays_close_to_the_exact_one(monkeypatch):
    layers, limit = _network(num_layers=12, num_options=12)
    exact = allocate(layers, limit)
    monkeypatch.setattr(budget, "FRONT", 512)
    thinned = allocate(layers, limit)
    # 12 layers lose at most a slice of 1/512 of the budget each; measured: far less.
    assert exact.error <= thinned.error <= 1.01 * exact.error


def test_a_network_hits_the_budget_within_one_percent_from_below():
    layers, limit = _network(num_layers=50, num_options=30)
    found = allocate(layers, limit)
    assert 0.99 * limit <= found.cost <= limit
    assert found.spent == found.cost / limit
    assert found.error < 0.7 * _uniform_error(layers, limit)


def test_the_order_of_options_does_not_matter():
    layers, limit = _network(num_layers=5, num_options=8)
    assert (
        allocate([options[::-1] for options in layers], limit).error
        == allocate(layers, limit).error
    )


def test_the_cheapest_sum_itself_is_a_budget():
    layers = [[(0.1, 3.0), (0.7, 0.0)]] * 10
    found = allocate(layers, sum(0.1 for _ in range(10)))
    assert found.choices == (0,) * 10


def test_the_cheapest_sum_survives_thinning(monkeypatch):
    monkeypatch.setattr(budget, "FRONT", 2)
    layers, _ = _network(num_layers=6, num_options=5)
    least = sum(options[0][0] for options in layers)
    assert allocate(layers, least).choices == (0,) * 6


def test_impossible_requests_say_so():
    with pytest.raises(ValueError, match=r"at least the sum of the cheapest.*budget=4, .* sum=5"):
        allocate([[(5, 0.0), (9, 0.0)]], 4)
    with pytest.raises(ValueError, match=r"at least one .* Received for layer 1"):
        allocate([[(1, 0.0)], []], 4)
    with pytest.raises(ValueError, match="none negative"):
        allocate([[(1, -0.5)]], 4)


def _network(num_layers, num_options):
    """Layers of very different sizes whose error falls with the share of parameters kept."""
    random = np.random.default_rng(0)
    layers = []
    for size, decay in zip(
        random.integers(1_000, 2_000_000, num_layers), random.uniform(1, 8, num_layers), strict=True
    ):
        shares = np.linspace(0.02, 1, num_options)
        errors = np.exp(-decay * shares) - np.exp(-decay)
        layers.append(list(zip((size * shares).astype(int), errors, strict=True)))
    return layers, 0.25 * sum(options[-1][0] for options in layers)


def _uniform_error(layers, limit):
    share = range(len(layers[0]))
    sums = [np.sum([options[k] for options in layers], axis=0) for k in share]
    return min(error for cost, error in sums if cost <= limit)
