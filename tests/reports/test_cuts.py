"""Laws of the cuts: a network's own kernel has no singular values beyond what its ranks keep."""

import keras
import numpy as np
import pytest

from keras_tensornet import layers
from keras_tensornet.reports.cuts import cuts_of, whole_matrix
from tests.formats_table import ROWS

# Singular values by a Gram matrix in float64 of a float32 kernel: 1e-7 squared under the root.
NOISE = 1e-3


def shown(layer):
    cores = [np.asarray(core) for core in layer.cores]
    return cuts_of(layer.network, layer.modes, np.asarray(layer.kernel), cores)


@pytest.mark.parametrize("row", [r for r in ROWS if r.kind in ("dense", "conv2d")], ids=str)
def test_a_kernel_of_the_ranks_has_no_values_beyond_them(row):
    keras.utils.set_random_seed(0)
    cuts = shown(row.built())
    assert cuts
    for cut in cuts:
        values = np.asarray(cut.values)
        assert values[0] == 1.0 and (np.diff(values) <= 0).all()
        assert len(values) == cut.total == cut.positions[-1] + 1
        if cut.kept is not None:
            assert (values[: cut.kept] > NOISE).all() and (values[cut.kept :] < NOISE).all()


def test_the_values_are_those_of_the_unfolding():
    layer = layers.TTConv2D(6, kernel_size=3, rank=(2, 3, 2))
    layer.build((None, 8, 8, 4))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 6))
    cuts = cuts_of(layer.network, layer.modes, kernel, [np.asarray(c) for c in layer.cores])
    assert [cut.name for cut in cuts] == [
        "in | space0 space1 out",
        "in space0 | space1 out",
        "in space0 space1 | out",
    ]
    assert [cut.kept for cut in cuts] == [2, 3, 2]
    unfolding = kernel.transpose(2, 0, 1, 3).reshape(4 * 3, -1)
    values = np.linalg.svd(unfolding, compute_uv=False)
    np.testing.assert_allclose(cuts[1].values, values / values[0], atol=1e-7)
    assert whole_matrix(kernel).total == 6


def test_a_ring_keeps_the_product_of_two_ranks():
    layer = layers.TRDense(12, rank=2, in_modes=(3, 4), out_modes=(3, 4))
    layer.build((None, 12))
    assert [(cut.kept, cut.total) for cut in shown(layer)] == [(3, 3), (4, 12), (4, 4)]


def test_cp_shows_how_large_its_components_are():
    layer = layers.CPDense(12, rank=3)
    layer.build((None, 12))
    (cut,) = shown(layer)
    assert (cut.name, cut.kept, cut.total) == ("components of r", None, 3)
    sizes = np.prod([np.linalg.norm(core, axis=0) for core in layer.cores], axis=0)
    np.testing.assert_allclose(cut.values, np.sort(sizes)[::-1] / sizes.max(), rtol=1e-5)


def test_block_terms_show_the_norms_of_their_blocks():
    layer = layers.BTDense(12, rank=(2, 2))
    layer.build((None, 12))
    blocks = shown(layer)[0]
    assert blocks.name == "components of b" and blocks.total == 2
    whole = [np.asarray(core) for core in layer.cores]
    sizes = []
    for block in range(2):  # each block alone: the other one is zero in every core
        alone = [
            np.where(np.arange(2).reshape(-1, *[1] * (core.ndim - 1)) == block, core, 0)
            for core in whole
        ]
        assert all(labels[0] == "b" for labels in layer.network.cores)
        layer.assign_cores(alone)
        sizes.append(np.linalg.norm(layer.kernel))
    np.testing.assert_allclose(blocks.values, np.sort(sizes)[::-1] / max(sizes), rtol=1e-5)
