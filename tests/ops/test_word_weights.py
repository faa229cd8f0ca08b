from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_lightrnn.ops.word_weights import compute_word_weights


@pytest.mark.parametrize("size", [4, 3])  # with as many windows as words in each, and with more
def test_is_the_product_of_all_factors(rng, size):
    words, of_words = np.zeros((size, 3), "int32"), rng.random((size, 3)).astype("float32")
    of_windows, mask = rng.random(size).astype("float32"), rng.random((size, 3)) < 0.5
    weights = compute_word_weights(words, of_words, None, of_windows, mask)
    expected = of_words * of_windows[:, None] * mask
    np.testing.assert_array_equal(np.asarray(weights), expected)


def test_nothing_given_counts_once():
    weights = np.asarray(compute_word_weights(np.zeros((2, 3), "int32"), None))
    assert weights.dtype == np.float32
    assert weights.tolist() == [[1.0] * 3] * 2


def test_weights_with_an_axis_of_one_and_others():
    words = np.zeros((3, 3))
    weights = np.arange(9.0).reshape(3, 3)
    received = compute_word_weights(words, weights[..., None])
    assert np.array_equal(keras.ops.convert_to_numpy(received), weights)
    with pytest.raises(ValueError, match=r"one weight for each word.*\(3, 3, 3\).*\(3, 3\)"):
        compute_word_weights(words, np.ones((3, 3, 3)))
