from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn.ops import interleave_components, split_half_steps


@pytest.mark.parametrize("length", [2, 3, 7])
def test_interleaves_word_by_word(rng, length):
    rows, columns = rng.random((2, 3, length, 4)).astype("float32")
    half_steps = np.asarray(interleave_components(rows, columns))
    expected = []
    for t in range(1, length):
        expected += [columns[:, t - 1], rows[:, t]]
    assert np.array_equal(half_steps, np.stack(expected, axis=1))


def test_split_undoes_interleave(rng):
    rows, columns = rng.random((2, 3, 6, 4)).astype("float32")
    column_half_steps, row_half_steps = split_half_steps(interleave_components(rows, columns))
    assert np.array_equal(column_half_steps, columns[:, :-1])
    assert np.array_equal(row_half_steps, rows[:, 1:])


@pytest.mark.parametrize(("length", "expected"), [(5, 8), (None, None)])
def test_interleave_keeps_a_known_length(length, expected):
    vectors = tf.TensorSpec((None, length, 4))
    traced = tf.function(interleave_components).get_concrete_function(vectors, vectors)
    assert traced.structured_outputs.shape.as_list() == [None, expected, 4]
