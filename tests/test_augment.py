"""Laws of augmentation: what comes out is made of what went in, and tokens are never mixed."""

import numpy as np
import pytest

from keras_tensornet.augment import can_mix, chained, mixed, shifted

IMAGES = np.random.default_rng(0).standard_normal((6, 8, 5, 3)).astype("float32")


def random():
    return np.random.default_rng(1)


def test_shifted_images_are_windows_of_the_padded_ones():
    found = shifted(0.25)(IMAGES, random())
    assert found.dtype == IMAGES.dtype and (found != IMAGES).any()
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (1, 1), (0, 0)))
    turned = 0
    for place, image in enumerate(found):
        windows = {
            flip: [
                padded[place, row : row + 8, column : column + 5][:, ::flip]
                for row in range(5)
                for column in range(3)
            ]
            for flip in (1, -1)
        }
        hits = {flip: any((image == w).all() for w in each) for flip, each in windows.items()}
        assert any(hits.values())
        turned += hits[-1]
    assert 0 < turned < 6
    still = shifted(0.0, mirrored=False)(IMAGES, random())
    np.testing.assert_array_equal(still, IMAGES)


def test_mixed_examples_are_means_of_two_or_have_a_box_of_another():
    kinds = set()
    for seed in range(12):
        found = mixed(1.0)(IMAGES, np.random.default_rng(seed))
        of_one = np.stack([(found == IMAGES[place]).all(-1) for place in range(6)])
        if of_one.any(0).all():  # every pixel is one of some image
            kinds.add("box")
            continue
        kinds.add("mean")
        for image, base in zip(found, IMAGES, strict=True):
            differences = IMAGES - base  # image = base + (1 - weight) (another - base)
            shares = [np.vdot(image - base, d) / max(np.vdot(d, d), 1e-9) for d in differences]
            gaps = [
                np.abs(image - base - s * d).max() for s, d in zip(shares, differences, strict=True)
            ]
            best = int(np.argmin(gaps))
            assert gaps[best] < 1e-5 and -1e-6 <= shares[best] <= 0.5 + 1e-6
    assert kinds == {"box", "mean"}


def test_a_share_of_batches_is_mixed_and_none_at_nought():
    changed = [(mixed(0.5)(IMAGES, np.random.default_rng(s)) != IMAGES).any() for s in range(40)]
    assert 10 < sum(changed) < 30
    np.testing.assert_array_equal(mixed(0.0)(IMAGES, random()), IMAGES)


def test_tokens_masks_and_categories_are_never_mixed():
    tokens = np.arange(12).reshape(4, 3)
    for other in (tokens, tokens.astype("float32"), {"ids": tokens, "values": tokens * 0.3}):
        assert not can_mix(other)
        assert mixed(1.0)(other, random()) is other
    assert can_mix(np.round(100 * IMAGES)) and can_mix(IMAGES[:, 0, 0])


def test_several_inputs_are_mixed_in_the_same_pairs():
    values = np.random.default_rng(0).standard_normal((5, 4))
    found = mixed(1.0)({"a": values, "b": 2 * values}, random())
    np.testing.assert_allclose(found["b"], 2 * found["a"])
    assert (found["a"] != values).any()


def test_a_chain_is_one_after_another_and_wrong_arguments_are_named():
    found = chained(lambda x, random: x + 1, lambda x, random: 2 * x)(IMAGES, random())
    np.testing.assert_array_equal(found, 2 * (IMAGES + 1))
    with pytest.raises(TypeError, match="must be a function"):
        chained(3)
    with pytest.raises(ValueError, match="`most` must lie"):
        shifted(1.0)
    with pytest.raises(ValueError, match="`share` must lie"):
        mixed(2.0)
    with pytest.raises(ValueError, match="one array of images"):
        shifted()(IMAGES[0], random())
