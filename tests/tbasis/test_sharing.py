"""Laws of one matrix basis for several kernels, in NumPy."""

import numpy as np
import pytest

from keras_tensornet.tbasis import share_basis


def gram(random, size, samples=200):
    x = random.standard_normal((samples, size)) * np.geomspace(3.0, 0.1, size)
    x = x @ np.linalg.qr(random.standard_normal((size, size)))[0]
    return x.T @ x / samples


def output_error(kernel, found, gram):
    gap = kernel - found
    return np.sqrt(np.vdot(gap, gram @ gap) / np.vdot(kernel, gram @ kernel))


def test_alone_a_kernel_gets_the_best_approximation_of_its_rank():
    random = np.random.default_rng(0)
    kernel, g = random.standard_normal((9, 7)), gram(random, 9)
    (found,) = share_basis([kernel], [g], share=0.8)
    size = int(0.8 * 63 / 16)
    assert found.basis.shape == (9, size)
    assert found.params == size * 16 <= 0.8 * 63
    values, vectors = np.linalg.eigh(g)
    lost = np.linalg.svd((np.sqrt(values)[:, None] * vectors.T) @ kernel)[1][size:]
    best = np.linalg.norm(lost) / np.sqrt(np.vdot(kernel, g @ kernel))
    # The ridge of 1e-3 of the mean weight moves it a little.
    assert best <= output_error(kernel, found.kernel(0), g) <= 1.02 * best


def test_kernels_of_one_basis_find_each_other():
    random = np.random.default_rng(1)
    bases = [random.standard_normal((12, 3)) for _ in range(2)]
    kernels = [bases[n % 2] @ random.standard_normal((3, 5)) for n in range(4)]
    kernels.append(random.standard_normal((4, 30)))  # another input size
    grams = [gram(random, len(kernel)) for kernel in kernels]
    found = share_basis(kernels, grams, share=0.6)
    groups = {group.members for group in found}
    assert {(0, 2), (1, 3)} <= groups
    for group in found:
        for place, error in zip(group.members, group.errors, strict=True):
            if place < 4:
                assert error < 1e-6
                np.testing.assert_allclose(group.kernel(place), kernels[place], atol=1e-6)


def test_alternation_lowers_the_error_where_inputs_differ():
    random = np.random.default_rng(2)
    base = random.standard_normal((10, 8))
    kernels = [base + 0.3 * random.standard_normal((10, 8)) for _ in range(3)]
    grams = [gram(random, 10) for _ in kernels]
    errors = []
    for sweeps in (0, 1, 4):
        (found,) = share_basis(kernels, grams, 0.5, groups=[(0, 1, 2)], sweeps=sweeps)
        errors.append(sum(error**2 for error in found.errors))
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"share": 0.0}, "`share` must lie in"),
        ({"share": 0.01}, "leaves no basis"),
        ({"groups": [(0,), (0, 1)]}, "exactly once"),
        ({"grams": [np.eye(4)]}, "Each kernel needs the Gram"),
        ({"grams": [np.eye(4), np.eye(3)]}, "at place 1"),
        (
            {
                "groups": [(0, 1)],
                "kernels": [np.eye(4), np.eye(3)],
                "grams": [np.eye(4), np.eye(3)],
            },
            "need one input size",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments, words):
    given = {"kernels": [np.eye(4)] * 2, "grams": [np.eye(4)] * 2, "share": 0.5, **arguments}
    with pytest.raises(ValueError, match=words):
        share_basis(**given)
