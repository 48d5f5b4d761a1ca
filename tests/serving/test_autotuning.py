"""Tuning: measured choices are applied, saved with the model, and read from a file."""

import json
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

import keras_tensornet as kt
from keras_tensornet import layers
from keras_tensornet.serving import autotuning, measuring
from keras_tensornet.serving.autotuning import Tuning, tuned_layers
from tests.formats_table import CROSS_FORMAT, ROWS


@pytest.fixture(autouse=True)
def one_call(monkeypatch):
    """What is measured does not matter here, only that it is kept."""
    monkeypatch.setattr(autotuning, "measure", partial(measuring.measure, repeats=1, seconds=0))


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((None, None, 4)),
            layers.TRConv2D(8, 3, rank=2, padding="same", name="first"),
            layers.TRConv2D(8, 3, rank=2, padding="same", name="second"),
            layers.TRConv2D(8, 3, rank=2, padding="same", name="third"),
            keras.layers.GlobalAveragePooling2D(),
            layers.TTDense(5, rank=2, name="head"),
        ]
    )


@pytest.mark.parametrize("training", [False, True])
def test_the_fastest_measured_chain_is_kept(model, training):
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype("float32")
    before = ops.convert_to_numpy(model(images))
    seen = []
    tuning = kt.autotune(model, 2, training, candidates=2, progress=lambda *step: seen.append(step))
    names = list(dict.fromkeys(found.layer for found in tuning.measurements))
    assert names == ["first", "second", "third", "head"]
    assert seen[-1] == (4, 4, "head")
    by_layer = {}
    for found in tuning.measurements:
        times = [time for _, time in found.milliseconds]
        assert times == sorted(times)
        assert any(chain.endswith(":dense") for chain, _ in found.milliseconds)
        by_layer.setdefault(found.layer, {})[found.phase] = found
    for name, phases in by_layer.items():
        untouched = {"inference": "auto"} if training else {"training": "auto"}
        chosen = {phase: found.chosen for phase, found in phases.items()}
        assert model.get_layer(name).implementation == chosen | untouched
    # layers of equal shapes share their measurement
    for phase, second in by_layer["second"].items():
        assert second.milliseconds == by_layer["third"][phase].milliseconds
    np.testing.assert_allclose(ops.convert_to_numpy(model(images)), before, rtol=1e-4, atol=1e-7)


def test_choices_are_saved_with_the_model(model, tmp_path):
    kt.autotune(model, 2, candidates=1)
    model.save(tmp_path / "tuned.keras")
    loaded = keras.models.load_model(tmp_path / "tuned.keras")
    first = loaded.get_layer("first")
    assert first.implementation == model.get_layer("first").implementation
    assert first.plan.describe() == first.implementation["inference"]


def test_choices_go_to_a_file_and_back(model, tmp_path):
    tuning = kt.autotune(model, 2, candidates=1)
    tuning.save(tmp_path / "tuning.json")
    other = keras.models.clone_model(model)
    other.get_layer("first").implementation = "auto"
    assert kt.apply_tuning(other, tmp_path / "tuning.json") is other
    assert other.get_layer("first").plan.describe() == tuning.measurements[0].chosen
    assert list(tmp_path.iterdir()) == [tmp_path / "tuning.json"]
    assert "chosen" in str(tuning)


def test_a_foreign_file_or_model_is_refused(model, tmp_path):
    path = tmp_path / "tuning.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="no file of tuned choices"):
        kt.apply_tuning(model, path)
    for foreign in ('{"implementation": {"first": "auto"}}', '{"implementation": 3}', "\x00"):
        path.write_text(foreign)
        with pytest.raises(ValueError, match="no file of tuned choices"):
            kt.apply_tuning(model, path)
    stored = {"elsewhere": {"inference": "auto"}}
    path.write_text(json.dumps({"implementation": stored}))
    with pytest.raises(ValueError, match=r"another model. Received layers \['elsewhere'\]"):
        kt.apply_tuning(model, path)
    stored = {"first": {"inference": "reconstructed"}, "head": {"inference": "0:matmul"}}
    path.write_text(json.dumps({"implementation": stored}))
    with pytest.raises(ValueError, match=r"do not fit layer 'head' of this model"):
        kt.apply_tuning(model, path)
    assert model.get_layer("head").implementation == "auto"
    assert model.get_layer("first").implementation == "auto"


def test_a_failed_save_leaves_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Tuning(False).save(tmp_path / "missing" / "tuning.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch_size", [0, -1])
def test_the_batch_size_must_be_positive(model, batch_size):
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        kt.autotune(model, batch_size)


def sequential(shape, *held, **options):
    """A model of some layers in a row."""
    return keras.Sequential([keras.Input(shape, **options), *held])


def attention(**options):
    """Self-attention and attention to a second input in one graph."""
    first, second = keras.Input((5, 6)), keras.Input((4, 6))
    x = layers.FactorizedMultiHeadAttention(2, 3, rank=2, name="self", **options)(first, first)
    x = layers.FactorizedMultiHeadAttention(2, 3, rank=2, name="cross", **options)(x, second)
    return keras.Model([first, second], x)


# Every kind of layer with a plan, those inside wrappers and other layers, and with constraints.
KINDS = {
    **{
        row.name: lambda row=row: sequential(row.plain.input_shape, row.make())
        for row in ROWS
        if row.format == CROSS_FORMAT
    },
    "constrained dense": lambda: sequential(
        (6,), layers.TRDense(4, rank=2, kernel_constraint="non_neg")
    ),
    "constrained conv": lambda: sequential(
        (5, 5, 4), layers.CPConv2D(6, kernel_size=3, rank=2, kernel_constraint="max_norm")
    ),
    "attention": attention,
    "gated": lambda: attention(use_gate=True),
    "constrained attention": lambda: attention(kernel_constraint="unit_norm"),
    "embedding": lambda: sequential((3,), layers.TTEmbedding(20, 6, rank=2), dtype="int32"),
    "constrained embedding": lambda: sequential(
        (3,), layers.TREmbedding(20, 6, rank=2, embeddings_constraint="unit_norm"), dtype="int32"
    ),
    "lstm": lambda: sequential((3, 6), layers.TTLSTM(4, rank=2)),
    "gru of low recurrent rank": lambda: sequential(
        (3, 6), layers.TRGRU(4, rank=2, recurrent_rank=2)
    ),
    "cell in keras.layers.RNN": lambda: sequential(
        (3, 6), keras.layers.RNN(layers.TRLSTMCell(4, rank=2))
    ),
    "both directions": lambda: sequential(
        (3, 6), keras.layers.Bidirectional(layers.TTGRU(4, rank=2))
    ),
    "over time": lambda: sequential(
        (3, 6), keras.layers.TimeDistributed(layers.TTDense(4, rank=2))
    ),
    "nested": lambda: sequential(
        (6,),
        sequential((6,), layers.TRDense(4, rank=2)),
        sequential((4,), layers.TRDense(4, rank=2)),
    ),
    "half precision": lambda: sequential((6,), layers.TRDense(4, rank=2, dtype="mixed_bfloat16")),
}


SLOW = (
    "both directions",
    "gru of low recurrent rank",
    "cell in keras.layers.RNN",
    "gated attention",
)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in KINDS],
)
def test_every_kind_is_tuned_saved_reloaded_and_keeps_its_choice(kind, tmp_path):
    keras.utils.set_random_seed(0)
    keras.backend.clear_session()
    model = KINDS[kind]()
    rng = np.random.default_rng(0)
    shapes = [(2, *tensor.shape[1:]) for tensor in model.inputs]
    integers = model.inputs[0].dtype == "int32"
    batch = [rng.integers(0, 20, s) if integers else rng.normal(size=s) for s in shapes]
    batch = batch if len(batch) > 1 else batch[0]
    before = model.predict(batch, verbose=0)
    # sums of some dozens of products in another order; 8 bits in bfloat16
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-2 if "half" in kind else 1e-5)
    for training in (False, True):
        tuning = kt.autotune(model, 2, training, candidates=2)
        assert {found.layer for found in tuning.measurements} == set(tuned_layers(model))
        assert str(tuning)
    close(model.predict(batch, verbose=0), before)
    model.save(tmp_path / "tuned.keras")
    loaded = keras.models.load_model(tmp_path / "tuned.keras")
    np.testing.assert_array_equal(loaded.predict(batch, verbose=0), model.predict(batch, verbose=0))
    kept = {name: layer.implementation for name, layer in tuned_layers(model).items()}
    assert kept and all(set(c) == {"inference", "training", "frozen"} for c in kept.values())
    other = {name: layer.implementation for name, layer in tuned_layers(loaded).items()}
    assert list(other.values()) == list(kept.values())
    kt.freeze(loaded, 2)
    close(loaded.predict(batch, verbose=0), before)
    # the choices as a file, on the same architecture
    keras.backend.clear_session()
    fresh = KINDS[kind]()
    tuning.save(tmp_path / "tuning.json")
    kt.apply_tuning(fresh, tmp_path / "tuning.json")
    for found in tuning.measurements:
        assert tuned_layers(fresh)[found.layer].implementation["training"] == found.chosen


def test_a_frozen_layer_runs_the_plan_that_was_measured_frozen():
    layer = layers.TRDense(6, rank=2)
    layer.build((None, 6))
    chains = layer.tunable_plans(False, True, (2, 6), 9)
    other = next(chain for chain in chains if chain != layer.plan_for(2, merged=True).describe())
    layer.implementation = {"inference": "auto", "training": "auto", "frozen": other}
    layer.freeze(2)
    assert layer.plan.describe() == other


def test_a_frozen_model_is_not_tuned(model):
    kt.freeze(model)
    with pytest.raises(ValueError, match=r"Received frozen layers: first, second.*unfreeze"):
        kt.autotune(model, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.TRDense(4, rank=2),
        lambda: layers.TTLSTM(4, rank=2),
        lambda: layers.FactorizedMultiHeadAttention(2, 3, rank=2),
        lambda: layers.TREmbedding(20, 6, rank=2),
    ],
)
@pytest.mark.parametrize("built", [False, True])
def test_a_wrong_implementation_is_refused_where_it_is_set(make, built):
    layer = make()
    if built and isinstance(layer, keras.layers.MultiHeadAttention):
        layer.build((None, 5, 6), (None, 5, 6))
    elif built:
        layer.build((None, 5, 6))
    before = layer.implementation
    for wrong in ("fast", {"inference": "auto"}, {"inference": "auto", "training": "fast"}, 3):
        with pytest.raises(ValueError, match="`implementation`"):
            layer.implementation = wrong
    if built:
        with pytest.raises(ValueError, match=r"(?i)cores|must be one of"):
            layer.implementation = "0:matmul"
    assert layer.implementation == before
    constrained = layers.TRDense(4, rank=2, kernel_constraint="non_neg")
    with pytest.raises(ValueError, match="acts on the merged kernel"):
        constrained.implementation = {"inference": "factorized", "training": "auto"}
