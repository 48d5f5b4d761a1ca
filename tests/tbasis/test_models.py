"""Rewriting models: the published accounting, equal outputs, and what is left alone."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_tensornet
from keras_tensornet import models
from keras_tensornet.layers import TBasis, TBasisConv2D, TBasisCores, TBasisDense, TRDense
from keras_tensornet.rewriting.walker import walk_layers
from keras_tensornet.tbasis import (
    find_basis,
    fit_kernels,
    fit_tbasis,
    load_basis,
    plan_tbasis,
    save_basis,
    tbasis_model,
    to_dense_model,
)
from tests.rewriting import hub, objects
from tests.rewriting.objects import Encoder

array = ops.convert_to_numpy
# Obukhov et al. 2020, ResNet-32 on CIFAR-10, the authors' published figures: size, rank, percent of
# parameters and buffers, the same without the basis, percent of parameters.
PUBLISHED = [
    (2, 2, 1.207909, 1.192472, 0.724329),
    (4, 2, 1.285091, 1.254218, 0.801889),
    (2, 4, 1.315964, 1.254218, 0.832913),
    (4, 4, 1.439457, 1.315964, 0.957010),
    (8, 4, 1.686441, 1.439457, 1.205203),
    (4, 8, 1.933426, 1.439457, 1.453397),
    (8, 8, 2.550887, 1.562949, 2.073881),
    (16, 8, 3.785810, 1.809933, 3.314848),
    (16, 16, 9.960422, 2.056918, 9.519685),
    (32, 16, 18.357896, 2.550887, 17.958264),
]


def counts(model) -> tuple[int, int]:
    """Parameters, and parameters with buffers."""
    return sum(int(np.prod(one.shape)) for one in model.trainable_variables), model.count_params()


@pytest.fixture(scope="module")
def resnet():
    return models.resnet_cifar(32)


@pytest.mark.parametrize("size, rank, total, without_basis, params", PUBLISHED)
def test_the_published_percentages(resnet, size, rank, total, without_basis, params):
    dense, buffers = counts(resnet)[0], counts(resnet)[1] - counts(resnet)[0]
    plan = plan_tbasis(resnet, size, rank)
    assert plan.core_params == 144 * (size + rank)
    assert plan.basis_params == 9 * size * rank**2
    left = dense - plan.dense_params
    assert (dense, left, left + buffers) == (464_154, 2_714, 4_986)
    found = left + plan.core_params + plan.basis_params
    shares = (
        (found + buffers) / (dense + buffers),
        (found - plan.basis_params + buffers) / (dense + buffers),
        found / dense,
    )
    assert [round(100 * share, 6) for share in shares] == [total, without_basis, params]


def test_the_rewritten_resnet_has_just_those_variables(resnet):
    small = tbasis_model(resnet, 16, 8, seed=0)
    assert counts(small) == (2_714 + 144 * 24 + 9 * 16 * 64, 17_658)
    assert sum(isinstance(layer, TBasis) for layer in small.layers) == 1
    # basis, coefficients, adapters; then what stays: 31 norms, the first kernel, one bias
    assert len(small.trainable_variables) == 3 + 2 * 31 + 2
    without = tbasis_model(resnet, 16, 8, adapters="none")
    assert counts(without)[0] == 2_714 + 144 * 16 + 9 * 16 * 64


def small_model(**more) -> keras.Model:
    """A network with every kind of thing that has to survive."""
    inner_inputs = keras.Input((8, 8, 6))
    inner = layers.Conv2D(6, 3, padding="same", name="conv")(inner_inputs)
    inner = layers.BatchNormalization(name="norm")(inner)
    inner = keras.Model(inner_inputs, inner, name="block")
    inputs = keras.Input((8, 8, 2), name="image")
    x = layers.Conv2D(6, 3, padding="same", name="stem")(inputs)
    x = inner(x)
    shared = layers.Conv2D(6, 3, padding="same", activation="relu", name="shared")
    x = layers.add([shared(x), shared(shared(x))])
    x = x * 2.0 + 1.0  # bare operations
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    head = keras.Sequential([layers.Flatten(), layers.Dense(12, name="hidden")], name="head")
    x = head(x)
    return keras.Model(inputs, layers.Dense(5, name="logits", **more)(x), name="network")


def test_everything_else_is_kept():
    keras.utils.set_random_seed(0)
    model = small_model()
    rng = np.random.default_rng(0)
    for layer in (model.get_layer("stem"), model.get_layer("shared"), model.get_layer("logits")):
        layer.bias.assign(rng.normal(size=layer.bias.shape))
    for name in ("depthwise", "logits"):
        model.get_layer(name).trainable = False
    before = [array(variable) for variable in model.variables]
    small = tbasis_model(model, 4, 2, seed=0)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(array(variable), value)
    assert (small.name, small.input_shape, small.output_shape) == (
        model.name,
        model.input_shape,
        model.output_shape,
    )
    kinds = {layer.name: type(layer) for layer in small.layers}
    assert kinds["stem"] is layers.Conv2D
    assert kinds["block_conv"] is kinds["shared"] is TBasisConv2D
    assert kinds["head_hidden"] is kinds["logits"] is TBasisDense
    assert kinds["block_norm"] is layers.BatchNormalization
    assert kinds["depthwise"] is layers.DepthwiseConv2D
    for layer in small.layers:
        assert layer.trainable == (layer.name not in ("depthwise", "logits"))
    for name in ("stem", "shared", "logits"):
        np.testing.assert_array_equal(
            array(small.get_layer(name).bias), array(model.get_layer(name).bias)
        )


def test_dense_models_compute_the_same():
    keras.utils.set_random_seed(0)
    small = tbasis_model(small_model(), 4, 2, seed=0)
    dense = to_dense_model(small)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype("float32")
    np.testing.assert_allclose(array(dense(x)), array(small(x)), atol=1e-4, rtol=1e-4)
    assert not any("TBasis" in type(layer).__name__ for layer in dense.layers)
    assert dense.get_layer("shared").activation is keras.activations.relu
    assert [one.name for one in dense.layers if "tbasis" in one.name] == []
    with pytest.raises(ValueError, match="has no TBasis layer"):
        to_dense_model(dense)


def test_a_model_built_by_hand_becomes_dense_too():
    inputs = keras.Input((6,))
    basis = TBasis(3, 2, seed=0)(inputs)
    x = TBasisDense(7, activation="relu", seed=0)(inputs, basis=basis)
    model = keras.Model(inputs, TBasisDense(3, seed=1)(x, basis=basis))
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    np.testing.assert_allclose(array(to_dense_model(model)(x)), array(model(x)), atol=1e-5)


def test_the_general_way_back_takes_a_basis_among_other_formats():
    inputs = keras.Input((6,))
    x = TBasisDense(7, seed=0)(inputs, basis=TBasis(3, 2, seed=0)(inputs))
    model = keras.Model(inputs, TRDense(3, rank=2, name="ring")(x))
    dense = keras_tensornet.to_dense_model(model)
    assert [type(layer) for layer in dense.layers[1:]] == [layers.Dense, layers.Dense]
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    np.testing.assert_allclose(array(dense(x)), array(model(x)), atol=1e-5)


def test_sequential_models_and_compile_arguments():
    model = keras.Sequential([keras.Input((9,)), layers.Dense(20), layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    small = tbasis_model(model, 2, 2)
    assert [type(layer) for layer in small.layers if "dense" in layer.name] == [TBasisDense] * 2
    assert float(array(small.optimizer.learning_rate)) == 0.25
    assert small.loss == "mse"


def test_layers_are_excluded_by_name_pattern_or_function():
    model = small_model(kernel_constraint="non_neg")
    wanted = {"stem", "logits", "depthwise"}  # first, with a constraint, of another kind
    for exclude, more in (
        (None, set()),
        ("shared", {"shared"}),
        (["block/.*", "hidden"], {"block/conv", "head/hidden"}),
        (lambda layer, path: isinstance(layer, layers.Dense), {"head/hidden"}),
    ):
        plan = plan_tbasis(model, 2, 2, exclude=exclude)
        assert {row.path for row in plan.rows if row.reason} == wanted | more
    with pytest.raises(
        ValueError, match=r"layers of model 'network'. Received: 'typo', which matches none"
    ):
        tbasis_model(model, 2, 2, exclude="typo")
    with pytest.raises(ValueError, match="No layer of the model can share a basis"):
        tbasis_model(model, 2, 2, exclude=".*")


def test_no_layer_grows():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(5), layers.Dense(30)])
    plan = plan_tbasis(model, 8, 6)
    # 5x5 has 2 cores of 14 parameters, 25 weights; 5x30 has 4 cores and 150 weights
    assert [row.params for row in plan.rows] == [25, 56]
    assert plan.rows[0].reason == "28 coefficients and adapters are more"
    assert "28 coefficients" in str(plan) and "4 cores" in str(plan)
    assert [type(layer) for layer in tbasis_model(model, 8, 6).layers if "dense" in layer.name] == [
        layers.Dense,
        TBasisDense,
    ]


def test_bad_arguments_of_tbasis_model():
    model = keras.Sequential([keras.Input((9, 9, 2)), layers.Conv2D(2, 3), layers.Conv2D(9, 5)])
    with pytest.raises(ValueError, match=r"Layer 'conv2d.*' cannot share the basis.*Use mode=25"):
        tbasis_model(model, 2, 2)
    with pytest.raises(ValueError, match="Give `size` and `rank`"):
        tbasis_model(model, 2)
    with pytest.raises(ValueError, match="`norm_penalty` must not be negative"):
        tbasis_model(model, 2, 2, 25, norm_penalty=-1.0)
    with pytest.raises(ValueError, match="must be a built TBasis layer"):
        tbasis_model(model, basis=TBasis(2, 2))

    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="is not built, so its layers have no weights yet"):
        tbasis_model(Subclassed(), 2, 2)


def test_the_norm_penalty_is_that_of_all_merged_kernels():
    model = keras.Sequential([keras.Input((9,)), layers.Dense(8), layers.Dense(4)])
    small = tbasis_model(model, 3, 2, norm_penalty=0.01, seed=0)
    x = np.zeros((1, 9), "float32")
    small(x)
    kernels = [array(layer.kernel) for layer in to_dense_model(small).layers if layer.weights]
    wanted = 0.01 * sum(np.sum(kernel**2) for kernel in kernels)
    np.testing.assert_allclose(sum(float(array(loss)) for loss in small.losses), wanted, rtol=1e-5)
    free = tbasis_model(model, 3, 2, norm_penalty=0.0)
    free(x)
    assert free.losses == []


def test_a_basis_moves_to_another_network(tmp_path):
    first = keras.Sequential([keras.Input((9,)), layers.Dense(20), layers.Dense(4)])
    source = tbasis_model(first, 4, 3, seed=5)
    save_basis(source, tmp_path / "basis.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["basis.npz"]
    basis = load_basis(tmp_path / "basis.npz")
    other = keras.Sequential([keras.Input((30,)), layers.Dense(50), layers.Dense(2)])
    small = tbasis_model(other, basis=basis, norm_penalty=0.0)
    np.testing.assert_array_equal(array(find_basis(small).basis), array(find_basis(source).basis))
    names = [variable.name for variable in small.trainable_variables]
    assert names.count("tbasis") == 0 and "tbasis_coefficients" in names
    for kernel in find_cores(small).kernels(find_basis(small).basis):
        assert abs(np.var(array(kernel)) * kernel.shape[0] / 2 - 1) < 0.02
    small.compile("adam", "mse")
    coefficients = array(find_cores(small).coefficients)
    small.fit(np.ones((8, 30)), np.ones((8, 2)), verbose=0)
    np.testing.assert_array_equal(array(find_basis(small).basis), array(basis.basis))
    assert np.any(array(find_cores(small).coefficients) != coefficients)
    # the loaded layer is not part of the new network
    assert find_basis(small) is not basis
    assert load_basis(tmp_path / "basis.npz", trainable=True).trainable
    with pytest.raises(ValueError, match=r'must end in "\.npz"'):
        save_basis(source, tmp_path / "basis.h5")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match="must hold a basis of shape"):
        load_basis(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"exactly one TBasis layer\. It has 0"):
        save_basis(first, tmp_path / "none.npz")
    with pytest.raises(ValueError, match="leave `size` and `rank` out"):
        tbasis_model(other, 4, 3, basis=basis)


def find_cores(model) -> TBasisCores:
    return next(layer for layer in model.layers if isinstance(layer, TBasisCores))


def test_kernels_of_a_basis_are_found_again():
    # kernels that a smaller basis makes exactly
    shapes, made = [(3, 3, 3, 3), (3, 6)], TBasis(2, 2, seed=7)
    made.build()
    teacher = TBasisCores(shapes, seed=8)
    teacher(made(np.zeros(1)))
    kernels = [array(kernel) for kernel in teacher.kernels(made.basis)]
    basis, cores = TBasis(4, 3, seed=0), TBasisCores(shapes, seed=1)
    cores(basis(np.zeros(1)))
    report = fit_kernels(basis, cores, kernels, steps=800, learning_rate=0.03)
    assert min(report.start) > 0.5
    assert max(report.errors) < 0.1
    found = [array(kernel) for kernel in cores.kernels(basis.basis)]
    for error, kernel, wanted in zip(report.errors, found, kernels, strict=True):
        relative = np.linalg.norm(kernel - wanted) / np.linalg.norm(wanted)
        assert abs(relative - error) < 1e-3
    with pytest.raises(ValueError, match="must have the shapes that the cores are for"):
        fit_kernels(basis, cores, kernels[::-1])


def test_a_trained_model_is_fitted_with_or_without_its_basis():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((9,)), layers.Dense(9), layers.Dense(9)])
    before = [array(variable) for variable in model.variables]
    small, report = fit_tbasis(model, 8, 4, steps=150, seed=0)
    assert report.names == tuple(layer.name for layer in model.layers)
    assert np.mean(report.errors) < 0.7 * np.mean(report.start)
    dense = to_dense_model(small)
    for name, error in zip(report.names, report.errors, strict=True):
        wanted = array(model.get_layer(name).kernel)
        gap = np.linalg.norm(array(dense.get_layer(name).kernel) - wanted)
        assert abs(gap / np.linalg.norm(wanted) - error) < 1e-3
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(array(variable), value)
    frozen = load_frozen(find_basis(small))
    again, second = fit_tbasis(model, basis=frozen, steps=100, seed=3)
    np.testing.assert_array_equal(array(find_basis(again).basis), array(frozen.basis))
    assert np.mean(second.errors) < np.mean(second.start)
    assert "mean squared relative error" in str(report)


def load_frozen(basis) -> TBasis:
    layer = TBasis(basis.size, basis.rank, basis.mode, trainable=False, seed=0)
    layer.build()
    layer.basis.assign(array(basis.basis))
    return layer


# Layers that Python code calls, not a graph: they hold the basis themselves.


def _mixed():
    """A graph that calls one layer itself, another in a wrapper, and others in a composite."""
    inputs = keras.Input((6, 16))
    x = layers.TimeDistributed(layers.Dense(16, name="each"), name="steps")(inputs)
    model = keras.Model(inputs, layers.Dense(4, name="head")(Encoder(name="encoder")(x)))
    model(np.zeros((1, 6, 16)))
    return model


HELD = {
    "graph over a composite": (_mixed, ["steps/layer", "encoder/ff/in", "encoder/ff/out", "head"]),
    "subclassed": (
        objects.classifier,
        ["blocks/0/ff/in", "blocks/0/ff/out", "blocks/1/first", "blocks/1/second"]
        + ["inner/within", "head"],
    ),
}


@pytest.mark.parametrize("kind", HELD)
def test_a_basis_is_shared_inside_of_composites(kind, tmp_path):
    keras.utils.set_random_seed(0)
    made, paths = HELD[kind]
    dense = made()
    x = objects.data(dense)
    small = tbasis_model(dense, size=4, rank=2, mode=4, seed=0)
    plan = plan_tbasis(dense, 4, 2, 4)
    assert sorted(row.path.replace("steps/each", "steps/layer") for row in plan.shared) == sorted(
        paths
    )
    saved = plan.dense_params - plan.basis_params - plan.core_params
    assert dense.count_params() - small.count_params() == saved
    assert isinstance(small, type(dense)) or type(small).__name__ == type(dense).__name__
    basis = find_basis(small)
    expected = array(small(x))
    # The one basis reaches every layer, in what is loaded and what is copied too.
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    copied = keras_tensornet.rewrite_model(loaded, lambda layer, path: None)
    for model in (small, loaded, copied):
        np.testing.assert_array_equal(array(model(x)), expected)
        assert model.count_params() == small.count_params()
        one = find_basis(model)
        before = array(one.basis)
        one.basis.assign(2.0 * before)
        assert np.abs(array(model(x)) - expected).max() > 1e-3
        one.basis.assign(before)
    np.testing.assert_allclose(array(to_dense_model(small)(x)), expected, atol=1e-5)
    keras_tensornet.freeze(small)
    np.testing.assert_allclose(array(small(x)), expected, atol=1e-5)
    keras_tensornet.unfreeze(small)
    assert basis is find_basis(small)
    with pytest.raises(ValueError, match="shares its basis"):
        keras.models.clone_model(loaded)


def test_the_seed_decides_wherever_layers_stand():
    """Basis and coefficients, of what a graph calls and of what stands in a composite."""
    inputs = keras.Input((16,))
    chain = [layers.Dense(24, "relu", name="one"), layers.Dense(4, name="two")]
    flat = keras.Model(inputs, chain[1](chain[0](inputs)))
    inputs = keras.Input((16,))
    inside = keras.Model(inputs, layers.Dense(4, name="two")(objects.Residual(16)(inputs)))
    for model in (flat, inside):
        one, two = (tbasis_model(model, size=4, rank=2, mode=4, seed=3) for _ in range(2))
        for a, b in zip(one.variables, two.variables, strict=True):
            np.testing.assert_array_equal(array(a), array(b))


def test_kernels_in_composites_are_fitted():
    keras.utils.set_random_seed(0)
    dense = objects.classifier()
    small, report = fit_tbasis(dense, size=8, rank=4, mode=4, steps=60, seed=0)
    kernels = dict(walk_layers(dense))
    for path, layer in walk_layers(small):
        if isinstance(layer, TBasisDense):
            kernel = array(kernels[path].kernel)
            error = np.linalg.norm(array(layer.merge_kernel()) - kernel) / np.linalg.norm(kernel)
            assert abs(error - report.errors[report.names.index(path)]) < 1e-4
    assert np.mean(report.errors) < 0.8 * np.mean(report.start)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_deeplab_shares_a_basis_inside_of_its_pyramid_pooling(tmp_path):
    pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra `hub`)")
    keras.utils.set_random_seed(0)
    dense = hub.deeplab()
    plan = plan_tbasis(dense, 4, 2)
    small = tbasis_model(dense, 4, 2, seed=0)
    assert type(small).__name__ == type(dense).__name__
    # Every convolution but the first, and those of few weights, whose cores would be more.
    convolutions = [la for _, la in walk_layers(dense) if type(la) is layers.Conv2D]
    dense_rows = [row for row in plan.rows if row.reason]
    assert len(plan.shared) + len(dense_rows) == len(convolutions)
    found = dict(walk_layers(dense))
    (pyramid,) = (la for la in found.values() if type(la).__name__ == "SpatialPyramidPooling")
    inside = {id(layer) for layer in pyramid._flatten_layers()}
    assert any(id(found[row.path]) in inside for row in plan.shared)
    saved = plan.dense_params - plan.core_params - plan.basis_params
    assert dense.count_params() - small.count_params() == saved
    expected = array(small(hub.IMAGES))
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras", compile=False)
    np.testing.assert_array_equal(array(loaded(hub.IMAGES)), expected)
