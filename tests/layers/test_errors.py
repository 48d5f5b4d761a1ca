"""Bad input says what was wrong, the rule, the value and the way out; nothing is half built."""

import keras
import numpy as np
import pytest

from keras_tensornet import Network
from keras_tensornet import layers as tensor_layers
from tests import formats_table as table
from tests.layers.support import BACKEND, predictions

DENSE = {"units": 10, "rank": 2}
CONV = {"filters": 6, "kernel_size": 3, "rank": 2}

# layer, arguments, error, words
BAD_ARGUMENTS = [
    ("TRDense", {"rank": 0}, ValueError, r"`rank` must be at least 1. Received: rank=0"),
    ("TRDense", {"rank": -2}, ValueError, r"`rank` must be at least 1. Received: rank=-2"),
    ("TRDense", {"rank": None}, TypeError, r"`rank` must be an integer. Received: rank=None"),
    ("TRDense", {"rank": 2.0}, TypeError, r"`rank` must be an integer. .* Use a whole number"),
    ("TRDense", {"rank": True}, TypeError, r"`rank` must be an integer. Received: rank=True"),
    ("TRDense", {"rank": "2"}, TypeError, r"`rank` must be an integer. Received: rank='2'"),
    ("TRDense", {"rank": (2, 2.5)}, TypeError, r"`rank\[1\]` must be an integer"),
    ("TRDense", {"rank": (2, 0)}, ValueError, r"`rank\[1\]` must be at least 1"),
    ("TRDense", {"units": 0}, ValueError, r"`units` must be at least 1. Received: units=0"),
    ("TRDense", {"units": 3.5}, TypeError, r"`units` must be an integer. .* of type float"),
    ("TRDense", {"in_modes": (3, 0)}, ValueError, r"`in_modes\[1\]` must be at least 1"),
    ("TRDense", {"in_modes": 2.0}, TypeError, r"`in_modes` must be an integer"),
    ("TRDense", {"out_modes": "25"}, TypeError, r"`out_modes` must be an integer. Received: out"),
    (
        "TRDense",
        {"implementation": "fast"},
        ValueError,
        r"`implementation` must be one of 'auto', 'factorized', 'reconstructed'.*='fast'",
    ),
    (
        "TRDense",
        {"implementation": "factorized", "kernel_constraint": "unit_norm"},
        ValueError,
        r"`kernel_constraint` acts on the merged kernel.*Use implementation='auto'",
    ),
    (
        "FactorizedDense",
        {"format": "rt"},
        ValueError,
        r"`format` must be one of .*'tr'.*Received: format='rt'",
    ),
    (
        "FactorizedDense",
        {"network": Network.parse("i0 a, a o0", {"i0": 4, "o0": 10, "a": 2})},
        ValueError,
        r"A `network` of your own has its sizes already; leave `rank` out",
    ),
    (
        "FactorizedDense",
        {"network": Network.parse("i0 a, a o0", {"i0": 4, "o0": 10, "a": 2}), "format": "tr"},
        ValueError,
        r"Give either `format` or a `network` of your own, not both",
    ),
    ("FactorizedDense", {"network": "i0 a"}, TypeError, r"Build one with `Network.parse`"),
    ("TRConv2D", {"filters": 2.0}, TypeError, r"`filters` must be an integer"),
    ("TRConv2D", {"kernel_size": 0}, ValueError, r"`kernel_size` must be at least 1"),
    ("TRConv2D", {"kernel_size": (3, 3, 3)}, ValueError, r"`kernel_size` must be .* a tuple of 2"),
    ("TRConv2D", {"strides": (1, -1)}, ValueError, r"`strides\[1\]` must be at least 1"),
    ("TRConv2D", {"padding": "full"}, ValueError, r"`padding` must be one of 'valid', 'same'. Rec"),
    ("TRConv2D", {"padding": "causal"}, ValueError, r"`padding` must be one of 'valid', 'same'."),
    ("TRConv2D", {"data_format": "nhwc"}, ValueError, r"`data_format` must be one of"),
    ("TRConv2D", {"spatial": "both"}, ValueError, r"`spatial` must be one of 'joint', 'separate'"),
    ("TRConv2D", {"groups": 4}, ValueError, r"`groups` must divide `filters`. Received: groups=4"),
    (
        "TRConv2D",
        {"strides": 2, "dilation_rate": 2},
        ValueError,
        r"`strides` and `dilation_rate` cannot both be above 1",
    ),
]

# layer, arguments, input shape, words
BAD_SHAPES = [
    (
        "TRDense",
        {"in_modes": (3, 3)},
        (None, 12),
        r"`in_modes` must multiply to the number of inputs. Received: in_modes=\(3, 3\), which "
        r"multiplies to 9, for a size of 12. Use in_modes=\(3, 4\) or leave it None",
    ),
    ("TRDense", {"out_modes": (4, 4)}, (None, 12), r"`out_modes` must multiply to `units`"),
    ("TRDense", {}, (None, None), r"The last axis of the inputs must be known"),
    (
        "TRDense",
        {"rank": (2, 2), "in_modes": (3, 4), "out_modes": (2, 5)},
        (None, 12),
        r"`rank` of a tr network .* a tuple of 4 integers .*Received: rank=\(2, 2\), which has 2",
    ),
    (
        "TTDense",
        {"rank": (1, 2, 1), "in_modes": (3, 4), "out_modes": (2, 5)},
        (None, 12),
        r"`rank` of a ttm network .* a tuple of 1 integers \(r1 to r1\)",
    ),
    ("TRConv2D", {"out_modes": (4, 4)}, (None, 9, 9, 4), r"`out_modes` must multiply to `filters`"),
    ("TRConv2D", {}, (None, 9, 9, None), r"The channels of the inputs must be known"),
    ("TRConv2D", {"groups": 3}, (None, 9, 9, 4), r"`groups` must divide the input channels"),
    ("TRConv2D", {}, (None, 2, 9, 4), r"The kernel does not fit into the inputs"),
    (
        "FactorizedDense",
        {"rank": None, "network": Network.parse("i0 a, a o0", {"i0": 4, "o0": 10, "a": 2})},
        (None, 12),
        r"input modes of the network must multiply to 12 .*to 10. Received .* 4 and 10",
    ),
    (
        "FactorizedConv2D",
        {
            "rank": None,
            "network": Network.parse("i0 a, a o0", {"i0": 4, "o0": 6, "a": 2}),
        },
        (None, 9, 9, 4),
        r"network's spatial modes must have the extents of `kernel_size`.*kernel_size=\(3, 3\)",
    ),
]


def arguments_for(layer: str, bad: dict) -> dict:
    """Good arguments of a layer with some bad ones put in."""
    return (CONV if "Conv" in layer else DENSE) | bad


@pytest.mark.parametrize("layer, bad, error, words", BAD_ARGUMENTS)
def test_bad_arguments_raise_at_once(layer, bad, error, words):
    with pytest.raises(error, match=words):
        getattr(tensor_layers, layer)(**arguments_for(layer, bad))


@pytest.mark.parametrize("layer, bad, shape, words", BAD_SHAPES)
def test_bad_shapes_raise_at_build_and_leave_nothing(layer, bad, shape, words):
    built = getattr(tensor_layers, layer)(**arguments_for(layer, bad))
    config = built.get_config()
    with pytest.raises(ValueError, match=words):
        built.build(shape)
    assert_not_built(built)
    assert built.get_config() == config


def assert_not_built(layer):
    """Nothing is left of a build that failed."""
    assert not layer.built
    assert not layer.variables
    assert not list(layer._flatten_layers(include_self=False))
    # A property that raises AttributeError is looked up again, in vain, by PyTorch's modules.
    words = r"no attribute" if BACKEND == "torch" else r"no cores yet. Call it on data or `build`"
    for name in ("cores", "kernel", "plan", "network", "modes"):
        with pytest.raises(AttributeError, match=words):
            getattr(layer, name)


class Broken(keras.initializers.Initializer):
    """Fails until it is mended, as an initializer of a bias or a core."""

    mended = False

    def __call__(self, shape, dtype=None):
        if not self.mended:
            raise RuntimeError("broken initializer")
        return keras.ops.ones(shape, dtype)


@pytest.mark.parametrize("row", table.rows("refusals"))
@pytest.mark.parametrize("argument", ["bias_initializer", "kernel_initializer"])
def test_a_failed_build_can_be_tried_again(row, argument):
    broken = Broken()
    layer = row.make(**{argument: broken})
    if not hasattr(layer, argument):
        pytest.skip(f"the layer has no {argument}")
    with pytest.raises(RuntimeError, match="broken initializer"):
        layer.build((None, *row.plain.input_shape))
    assert_not_built(layer)
    broken.mended = True
    layer.build((None, *row.plain.input_shape))
    assert len(layer.variables) == len(row.built().variables)
    assert np.all(np.isfinite(predictions(layer, row.inputs())))


@pytest.mark.parametrize("row", table.rows("refusals"))
def test_inputs_of_another_size_are_refused(row):
    layer = row.built()
    inputs = np.concatenate([row.inputs(), row.inputs()], axis=-1)
    with pytest.raises(ValueError, match="expected axis -1 of input shape to have value"):
        layer(inputs)


@pytest.mark.parametrize("row", table.rows("refusals"))
def test_kernels_of_another_shape_are_refused(row):
    layer = row.built()
    before = layer.get_weights()
    shape = layer.modes.kernel_shape
    words = r"A kernel must have the shape of the dense kernel in Keras layout, \(.*Received: shape"
    with pytest.raises(ValueError, match=words):
        layer.assign_kernel(np.ones((*shape, 1), "float32"))
    with pytest.raises(ValueError, match=r"(?i)finite|nan"):
        layer.assign_kernel(np.full(shape, np.nan, "float32"))
    for found, kept in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize("row", table.rows("refusals"))
def test_quantisation_and_lora_say_what_to_do_instead(row):
    layer = row.built()
    words = r"is a tensor network and cannot be quantised in place. Received: mode='int8'.*to_dense"
    with pytest.raises(ValueError, match=words):
        layer.quantize("int8")
    with pytest.raises(NotImplementedError, match=r"no dense kernel to add a low-rank update to"):
        layer.enable_lora(4)
    model = keras.Sequential([layer])
    before = predictions(model, row.inputs())
    # Of a NotImplementedError Keras makes a warning, and leaves the layer in float.
    for mode in ("int8", "int4", "float8"):
        with pytest.raises(ValueError, match=words.replace("int8", mode)):
            model.quantize(mode)
    np.testing.assert_array_equal(predictions(model, row.inputs()), before)


@pytest.mark.parametrize("row", table.rows("refusals"))
def test_ranks_above_what_the_modes_allow_are_cut_with_a_warning(row):
    layer = row.make(rank=1000)
    with pytest.warns(UserWarning, match=r"ranks of the .* are above what the modes allow") as seen:
        layer.build((None, *row.plain.input_shape))
    assert seen[0].filename == __file__  # the user's line, not ours or Keras'
    rank = layer.get_config()["rank"]
    assert max([rank] if isinstance(rank, int) else rank) < 1000
    assert layer.network.num_params < 1000**2


def test_a_single_core_has_no_rank_and_says_so():
    layer = tensor_layers.TTDense(30, rank=4, in_modes=1, out_modes=1)
    with pytest.warns(UserWarning, match=r"a single core, as large as the dense kernel.*84, 30"):
        layer.build((None, 84))
    assert layer.network.num_params == 84 * 30


def test_numpy_integers_and_lists_are_integers_and_tuples():
    layer = tensor_layers.TRDense(
        np.int64(10), rank=[np.int32(2), 3, 2, 3], in_modes=[3, np.int64(4)], out_modes=np.int64(2)
    )
    layer.build((None, 12))
    config = layer.get_config()
    assert config["units"] == 10 and type(config["units"]) is int
    assert config["rank"] == (2, 3, 2, 3) and {type(rank) for rank in config["rank"]} == {int}
    assert config["in_modes"] == (3, 4) and config["out_modes"] == 2
    assert layer.network.rank == (2, 3, 2, 3)


def test_no_modes_mean_one_input():
    layer = tensor_layers.TRDense(6, rank=2, in_modes=(), out_modes=(2, 3))
    layer.build((None, 1))
    assert len(layer.cores) == 2
    with pytest.raises(ValueError, match=r"in_modes=\(\), which multiplies to 1, for a size of 4"):
        tensor_layers.TRDense(6, rank=2, in_modes=()).build((None, 4))


def test_a_kernel_larger_than_the_hint_takes_unknown_extents():
    layer = tensor_layers.TRConv2D(2, 41, rank=2)
    outputs = layer(keras.Input((None, None, 4)))
    assert outputs.shape == (None, None, None, 2)
