"""Parameter counts that others have published, exact.

tednet's tables come from running that package (0.1), TensorNet-TF's and t3f's from their sources;
how tednet splits the channels of its ResNets into modes is inferred from its totals, which fix it.
"""

import itertools
import math

import pytest

from keras_tensornet import formats
from keras_tensornet.modes import kernel_modes

THREE = ((3, 3),)
APART = ((3,), (3,))


def count(format, rank, in_modes, out_modes, spatial=()):
    """Entries of all cores; the network is not cut to what its modes allow."""
    modes = kernel_modes(
        math.prod(in_modes), math.prod(out_modes), tuple(in_modes), tuple(out_modes), spatial
    )
    return formats.get(format).build(modes, rank).num_params


TEDNET_LAYERS = [
    ("tr", 5, (28, 28), (64, 16), (), 3400),
    ("tr", 6, (5, 5, 5, 10), (5, 8, 8), (), 1656),
    ("tr", 6, (5, 8, 8), (10,), (), 1116),
    ("tr", 6, (1,), (4, 5), ((5, 5),), 1260),
    ("tr", 6, (4, 5), (5, 10), ((5, 5),), 1764),
    ("ttm", 6, (4, 5), (2, 5), (), 198),
    ("ttm", 6, (1, 1), (4, 5), THREE, 228),
    ("cp", 6, (1,), (20,), APART, 162),
    ("cp", 6, (4, 5), (2, 5), (), 96),
    ("tucker", (6, 6), (1,), (20,), THREE, 450),
    # Factors for the first input mode and for the output; the two other modes stay in the core.
    ("tucker", (6, 2, 5, 6), (2, 2, 5), (10,), (), 432),
    ("bt", (3, 6, 6, 6, 6), (1, 1), (4, 5), ((2,), (2,)), 4122),
    ("bt", (2, 6), (4, 5), (2, 5), (), 468),
    # The input kernels of its LSTMs on UCF11, where the dense kernel has 16,777,216.
    ("tr", 20, (64, 32), (128, 64), (), 115200),
    ("bt", (2, 5), (64, 32), (128, 64), (), 102450),
    ("tucker", (10, 16, 8, 10), (16, 16, 8), (8192,), (), 94880),
]
TENSORNET_TF_AND_T3F = [
    ("ttm", 16, (4, 4, 4), (4, 4, 4), THREE, 8592),
    ("ttm", 16, (4, 4, 4), (4, 8, 4), THREE, 12688),
    ("ttm", 16, (4, 8, 4), (4, 8, 4), THREE, 20880),
    ("ttm", (22, 20, 20), (4, 4, 4), (4, 4, 4), THREE, 13958),
    ("ttm", (27, 22, 22), (4, 4, 4), (4, 8, 4), THREE, 25587),
    ("ttm", (23, 23, 23), (4, 8, 4), (4, 8, 4), THREE, 42895),
    ("ttm", 40, (8, 8, 8, 16), (4, 6, 8, 8), (), 185600),
    ("ttm", 30, (4, 6, 8, 8), (4, 4, 4, 8), (), 52800),
    ("ttm", 2, (4, 4, 4, 4, 4, 3), (8,) * 6, (), 624),
    ("ttm", (6, 10, 10, 10, 6), (4, 4, 4, 4, 4, 3), (8,) * 6, (), 10576),
    ("ttm", 4, (7, 4, 7, 4), (5, 5, 5, 5), (), 1725 - 625),
    ("ttm", 2, (4, 7, 4, 7), (5, 5, 5, 5), (), 330),
]


@pytest.mark.parametrize(
    "format, rank, in_modes, out_modes, spatial, wanted", TEDNET_LAYERS + TENSORNET_TF_AND_T3F
)
def test_published_layer_counts(format, rank, in_modes, out_modes, spatial, wanted):
    assert count(format, rank, in_modes, out_modes, spatial) == wanted


# How each format of tednet splits channels and classes.
SPLITS = {
    "tr": {3: (3,), 16: (4, 4), 32: (2, 4, 4), 64: (4, 4, 4), 10: (10,), 100: (10, 10)},
    "ttm": {3: (3, 1, 1), 16: (4, 2, 2), 32: (4, 4, 2), 64: (4, 4, 4), 10: (1, 1, 10)},
    "cp": {10: (1, 1, 10), 100: (1, 10, 10)},
    "tucker": {},
}
SPLITS["ttm"][100] = (1, 10, 10)
SPLITS["bt"] = SPLITS["ttm"]


def tednet_resnet(format, rank, blocks, classes):
    """All parameters of a CIFAR ResNet with `blocks` blocks a stage and option-A shortcuts."""
    split = SPLITS[format]
    spatial = APART if format in ("cp", "bt") else THREE
    conv_rank = fc_rank = rank
    if format == "bt":
        conv_rank, fc_rank = (2, *(rank,) * 5), (2, rank)
    if format == "tucker":
        conv_rank, fc_rank = (rank, rank), (rank, 4, 4, rank)
    widths = [3] + [16] * (2 * blocks + 1) + [32] * (2 * blocks) + [64] * (2 * blocks)
    total = sum(4 * width // 2 for width in widths[1:]) + classes  # batch norm, the last bias
    for channels, filters in itertools.pairwise(widths):
        modes = (split.get(channels, (channels,)), split.get(filters, (filters,)))
        total += count(format, conv_rank, *modes, spatial)
    return total + count(format, fc_rank, (4, 4, 4), split.get(classes, (classes,)))


TEDNET_RESNETS = [
    (3, 4, "tr", 10346, 10596),
    (3, 4, "ttm", 11022, 11688),
    (3, 4, "cp", 7198, 7324),
    (3, 4, "tucker", 9694, 10144),
    (3, 4, "bt", 46906, 47284),
    (3, 6, "tr", 21546, 21996),
    (3, 6, "ttm", 22008, 23394),
    (3, 6, "cp", 10104, 10248),
    (3, 6, "tucker", 16092, 16722),
    (3, 6, "bt", 307026, 307548),
    (3, 10, "tr", 57386, 58476),
    (3, 10, "ttm", 56316, 60006),
    (3, 10, "cp", 15916, 16096),
    (3, 10, "tucker", 33376, 34366),
    (3, 10, "bt", 3819586, 3820396),
    (5, 6, "tr", 34970, 35420),
    (5, 6, "ttm", 36224, 37610),
    (5, 6, "cp", 16808, 16952),
    (5, 6, "tucker", 26252, 26882),
    (5, 6, "bt", 500594, 501116),
    (5, 10, "tr", 93082, 94172),
    (5, 10, "ttm", 92852, 96542),
    (5, 10, "cp", 26492, 26672),
    (5, 10, "tucker", 54032, 55022),
    (5, 10, "bt", 6230562, 6231372),
]


# tednet keeps factors that are square (a mode as large as its rank); here the core holds the mode
# itself. (format, rank, classes) -> parameters that this saves: in the last layer, and with two
# blocks of rank 4 for 20 or 19 pairs of modes of size 4.
SAVED = {
    ("tucker", 4, 10): 4**2,
    ("tucker", 4, 100): 4**2,
    ("tucker", 10, 10): 10**2,
    ("bt", 4, 10): 2 * 20 * 4**2,
    ("bt", 4, 100): 2 * 19 * 4**2,
}


@pytest.mark.parametrize("blocks, rank, format, ten, hundred", TEDNET_RESNETS)
def test_tednet_resnet_totals(blocks, rank, format, ten, hundred):
    for classes, wanted in ((10, ten), (100, hundred)):
        saved = SAVED.get((format, rank, classes), 0)
        assert tednet_resnet(format, rank, blocks, classes) == wanted - saved


def test_tr_linears_sum_to_tednets_lenet5():
    layers = [count(*row[:5]) for row in TEDNET_LAYERS[1:5]]
    assert sum(layers) + 20 + 50 + 320 + 10 == 6196
