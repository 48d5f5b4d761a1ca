"""What `energy` is a share of: squared singular values (equation 14), or their sum."""

import json

import keras
import numpy as np
import pytest

from keras_tensornet import decompositions
from keras_tensornet.compression import compress_model, plan_compression
from keras_tensornet.compression.truncation import round_layer
from keras_tensornet.layers import FactorizedDense

VALUES = np.array([4.0, 2.0, 1.0, 1.0])  # sum 8, squares 16 + 4 + 1 + 1 = 22
SEED = np.random.default_rng(0)


def matrix(values=VALUES):
    left, _ = np.linalg.qr(SEED.standard_normal((6, len(values))))
    right, _ = np.linalg.qr(SEED.standard_normal((5, len(values))))
    return left @ np.diag(values) @ right.T


@pytest.mark.parametrize(
    ("share", "norm", "rank"),
    [
        (0.49, "nuclear", 1),  # 4 of 8
        (0.51, "nuclear", 2),
        (0.74, "nuclear", 2),  # 6 of 8
        (0.76, "nuclear", 3),
        (1.0, "nuclear", 4),
        (0.72, "frobenius", 1),  # 16 of 22
        (0.74, "frobenius", 2),
        (0.90, "frobenius", 2),  # 20 of 22
        (0.92, "frobenius", 3),
    ],
)
def test_shares_by_hand(share, norm, rank):
    assert decompositions.rank_for_energy(VALUES, share, norm) == rank
    _, values, _ = decompositions.truncated_svd(matrix(), energy=share, energy_norm=norm)
    assert len(values) == rank
    cores = decompositions.tt_svd(matrix(), energy=share, energy_norm=norm)
    assert cores[0].shape[-1] == rank


@pytest.mark.parametrize(
    "decompose",
    [
        decompositions.tt_svd,
        decompositions.tr_svd,
        decompositions.hosvd,
        decompositions.hooi,
        decompositions.hierarchical_tucker,
        lambda tensor, **rule: decompositions.ttm_svd(
            tensor.reshape(16, 20), (4, 4), (4, 5), **rule
        ),
        lambda tensor, **rule: decompositions.tt_round(
            decompositions.tt_svd(tensor, eps=0.0), **rule
        ),
        lambda tensor, **rule: decompositions.tr_round(
            decompositions.tr_svd(tensor, eps=0.0), **rule
        ),
    ],
)
def test_every_decomposition_keeps_more_by_the_sum(decompose):
    tensor = SEED.standard_normal((4, 4, 4, 5))

    def entries(norm):
        return sum(np.size(core) for core in _flat(decompose(tensor, energy=0.6, energy_norm=norm)))

    assert entries("nuclear") > entries("frobenius")


def _flat(parts):
    for part in parts:
        if isinstance(part, (list, tuple)):
            yield from _flat(part)
        else:
            yield part


def dense_model():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, name="only")])
    model.get_layer("only").kernel.assign(matrix())
    return model


OPTIONS = {"format": "tt", "exclude": (), "energy": 0.51, "energy_norm": "nuclear"}
WHOLE = {"in_modes": (6,), "out_modes": (5,)}


def test_layers_plans_and_models_take_it():
    model = dense_model()
    share = {"energy": 0.51, "energy_norm": "nuclear"}
    layer = FactorizedDense.from_layer(model.get_layer("only"), format="tt", **share, **WHOLE)
    assert max(layer.network.rank) == 2
    assert max(round_layer(layer, energy=0.6, energy_norm="nuclear").network.rank) == 1
    plan = plan_compression(model, **OPTIONS, overrides={"only": {"energy": 0.51, **WHOLE}})
    (row,) = plan
    assert row.rank in (2, (2,))
    assert plan.settings["energy_norm"] == "nuclear"
    json.dumps(plan.settings)
    settings = {"energy": 0.51, "energy_norm": "frobenius", **WHOLE}
    small = compress_model(model, **OPTIONS, overrides={"only": settings})
    assert max(small.get_layer("only").network.rank) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rank": 2, "energy_norm": "nuclear"}, "there is no `energy`"),
        ({"energy": 0.5, "energy_norm": "spectral"}, "`energy_norm` must be one of"),
        ({"energy": 1.5, "energy_norm": "nuclear"}, "must lie in"),
        ({"energy": 0.5, "energy_norm": "nuclear", "format": "bt"}, "A sum of blocks cuts no"),
        ({"energy": 0.5, "energy_norm": "nuclear", "format": "auto"}, "compares errors"),
    ],
)
def test_what_means_nothing_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        plan_compression(dense_model(), **{"format": "tt", "exclude": (), **arguments})


def test_cp_takes_it_where_it_is_an_svd_and_nowhere_else():
    """CP of a matrix is its truncated SVD; of more modes it has no singular values to cut."""
    share = {"energy": 0.51, "energy_norm": "nuclear", "exclude": ()}
    (row,) = plan_compression(
        dense_model(), format="cp", overrides={"only": {"energy": 0.51, **WHOLE}}, **share
    )
    assert row.rank == 2
    inputs = keras.Input((5, 5, 4))
    conv = keras.Model(inputs, keras.layers.Conv2D(6, 3)(inputs))
    with pytest.raises(ValueError, match="CP cuts no singular values"):
        plan_compression(conv, format="cp", **share)
