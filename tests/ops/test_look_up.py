from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_lightrnn.ops import look_up_word_vectors
from keras_lightrnn.ops.look_up import look_up, order_by_cell


def test_words_without_a_vector_have_zeros(rng):
    vectors = rng.normal(size=(4, 3)).astype("float32")
    words = np.array([[0, 3], [4, 9], [-1, 1]], "int32")
    found = np.asarray(look_up_word_vectors(vectors, words))
    expected = np.zeros((3, 2, 3), "float32")
    expected[0] = vectors[[0, 3]]
    expected[2, 1] = vectors[1]
    assert (found == expected).all()


def test_a_table_may_be_a_variable():
    variable = keras.Variable(np.float32([[1, 2], [3, 4]]))
    assert np.asarray(look_up(variable, np.int32([1, 1, 0]))).tolist() == [[3, 4], [3, 4], [1, 2]]


@pytest.mark.parametrize("num_entries", [7, 4])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_cells_without_an_entry_have_zeros(rng, num_entries, shape):
    cells = rng.permutation(10)[:7].astype("int32")  # of 7 words, in a table of 10 cells
    words = np.full(10, -1, "int32")
    words[cells] = np.arange(7)
    values = rng.normal(size=(num_entries, *shape)).astype("float32")
    expected = np.zeros((10, *shape), "float32")
    expected[cells[:num_entries]] = values
    ordered = order_by_cell(keras.Variable(values), cells, words.reshape(2, 5))
    assert (np.asarray(ordered) == expected.reshape(2, 5, *shape)).all()
