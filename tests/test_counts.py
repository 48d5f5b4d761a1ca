"""Parameter counts that papers and other libraries published, met exactly."""

import math

import keras
import pytest

from keras_tensornet import formats, layers, models
from keras_tensornet.modes import kernel_modes
from keras_tensornet.tbasis import plan_tbasis

SPATIAL = {None: (), "joint": ((3, 3),), "five": ((5, 5),), "separate": ((3,), (3,))}
# format, in_modes, out_modes, spatial, rank, cores' entries, where it was published
PUBLISHED = [
    ("tr", (28, 28), (64, 16), None, 5, 3400, "tednet TRLinear"),
    ("tr", (5, 5, 5, 10), (5, 8, 8), None, 6, 1656, "tednet TRLinear, LeNet-5"),
    ("tr", (5, 8, 8), (10,), None, 6, 1116, "tednet TRLinear, LeNet-5"),
    ("tr", (1,), (4, 5), "five", 6, 1260, "tednet TRConv2D"),
    ("tr", (4, 5), (5, 10), "five", 6, 1764, "tednet TRConv2D"),
    ("ttm", (4, 5), (2, 5), None, 6, 198, "tednet TTLinear"),
    ("ttm", (1, 1), (4, 5), "joint", 6, 228, "tednet TTConv2D"),
    ("cp", (1,), (20,), "separate", 6, 162, "tednet CPConv2D"),
    ("cp", (4, 5), (2, 5), None, 6, 96, "tednet CPLinear"),
    ("ttm", (4, 7, 4, 7), (5, 5, 5, 5), None, 2, 330, "t3f random_matrix"),
    ("ttm", (7, 4, 7, 4), (5, 5, 5, 5), None, 4, 1725 - 625, "t3f tutorial"),
    ("ttm", (7, 4, 7, 4), (5, 5, 5, 5), None, 16, 15585 - 625, "t3f tutorial"),
    ("ttm", (4, 4, 4), (4, 4, 4), "joint", 16, 8592, "TensorNet-TF conv"),
    ("ttm", (4, 4, 4), (8, 4, 4), "joint", 16, 12688, "TensorNet-TF conv"),
    ("ttm", (8, 4, 4), (8, 4, 4), "joint", 16, 20880, "TensorNet-TF conv"),
    ("ttm", (8, 8, 8, 16), (4, 6, 8, 8), None, 40, 185600, "TensorNet-TF"),
    ("ttm", (4, 6, 8, 8), (4, 4, 4, 8), None, 30, 52800, "TensorNet-TF"),
    ("ttm", (4, 4, 4, 4, 4, 3), (8,) * 6, None, 2, 624, "TensorNet-TF CIFAR"),
    ("ttm", (4, 4, 4, 4, 4, 3), (8,) * 6, None, 10, 13360, "TensorNet-TF CIFAR"),
    ("ttm", (8,) * 6, (4,) * 6, None, 6, 4992, "TensorNet-TF CIFAR"),
    ("ttm", (8,) * 6, (4,) * 6, None, (6, 10, 10, 10, 6), 10624, "TensorNet-TF CIFAR"),
    ("ttm", (4, 8, 8, 4), (4, 8, 8, 4), None, 3, 1248, "TT_RNN MNIST"),
    ("ttm", (8, 8, 8, 6), (10,) * 4, None, 2, 920, "TT_RNN CIFAR"),
    ("ttm", (10,) * 3, (8,) * 3, None, 10, 9600, "TT_RNN Reuters"),
    ("ttm", (8, 20, 20, 18), (16, 4, 4, 4), None, 4, 3360, "TT-LSTM UCF11, 4 gates folded in"),
    (
        *("tr", (4, 2, 5, 8, 6, 5, 3, 2), (16, 4, 2, 4, 2), None, (10, *[5] * 12), 1725),
        "TR-LSTM UCF11, 4 gates folded in",
    ),
    ("ttm", (8, 20, 20, 18), (12, 4, 4, 4), None, 4, 3232, "TT-GRU UCF11, 3 gates folded in"),
]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row[6]}-{row[5]}".replace(" ", "_"))
def test_published_counts(row):
    format, in_modes, out_modes, spatial, rank, wanted, _ = row
    sizes = math.prod(in_modes), math.prod(out_modes)
    modes = kernel_modes(*sizes, in_modes, out_modes, SPATIAL[spatial])
    assert formats.get(format).build(modes, rank).num_params == wanted


def tensor_ring(layer, modes, rank, **fixed):
    """A factory for `keras_tensornet.models` that makes ring layers with a paper's modes."""

    def make(*arguments, **options):
        own = modes[options["name"]]
        return layer(*arguments, rank=rank, **own, **fixed, **options)

    return make


@pytest.mark.parametrize("rank", [2, 15])
def test_lenet_300_100(rank):
    """Tensor Ring Nets, Table 1: 39 r^2 + 31 r^2 + 21 r^2, and 410 biases."""
    modes = models.tensor_ring_modes("lenet300")
    model = models.lenet300(dense=tensor_ring(layers.TRDense, modes, rank))
    counts = [model.get_layer(name).network.num_params for name in ("fc1", "fc2", "fc3")]
    assert counts == [39 * rank**2, 31 * rank**2, 21 * rank**2]
    assert model.count_params() == 91 * rank**2 + 410


@pytest.mark.parametrize("rank", [2, 20])
def test_lenet_5(rank):
    """Table 3: 19 + 34 + 46 + 31 = 130 r^2; spatial modes 5 and 5, no core for one channel."""
    modes = models.tensor_ring_modes("lenet5")
    model = models.lenet5(
        conv=tensor_ring(layers.TRConv2D, modes, rank, spatial="separate"),
        dense=tensor_ring(layers.TRDense, modes, rank),
    )
    names = ("conv1", "conv2", "fc1", "fc2")
    counts = [model.get_layer(name).network.num_params // rank**2 for name in names]
    assert counts == [19, 34, 46, 31]
    assert model.count_params() == 130 * rank**2 + 400
    dense = sum(models.lenet5().get_layer(name).count_params() for name in names) - 400
    assert dense == 428_700


def test_resnet_32():
    """Table 5: 908 r^2, spatial modes joined in one core of 9; norms and biases aside."""
    rank = 3
    modes = models.tensor_ring_modes("resnet_cifar32")
    conv = tensor_ring(layers.TRConv2D, modes, rank, spatial="joint")
    dense = tensor_ring(layers.TRDense, modes, rank)
    model = models.resnet_cifar(32, conv=conv, stem=conv, dense=dense)
    rings = [layer for layer in model.layers if hasattr(layer, "network")]
    assert len(rings) == 32
    assert sum(layer.network.num_params for layer in rings) == 908 * rank**2


def test_wide_resnet_28_10_on_a_basis():
    """T-Basis, Table 1: 0.149 % with the basis, 0.098 % without; biases everywhere, 100 classes."""
    dense = models.wide_resnet(28, 10, num_classes=100, use_bias=True)
    plan = plan_tbasis(dense, size=32, rank=8, mode=9)
    total = sum(math.prod(variable.shape) for variable in dense.trainable_variables)
    assert total == 36_546_980
    biased = sum(layer.filters for layer in dense.layers if isinstance(layer, keras.layers.Conv2D))
    assert biased == 10_096
    without_basis = total - plan.dense_params + plan.core_params
    assert plan.basis_params == 32 * 9 * 8**2
    assert without_basis == 35_900
    assert without_basis + plan.basis_params == 54_332


def test_the_layer_counts_what_it_holds():
    layer = layers.TTDense(625, rank=4, in_modes=(7, 4, 7, 4), out_modes=(5, 5, 5, 5))
    model = keras.Sequential([keras.Input((784,)), layer])
    assert layer.count_params() == model.count_params() == 1725
    assert sum(math.prod(core.shape) for core in layer.cores) == layer.network.num_params == 1100
