from __future__ import annotations

import keras
import numpy as np

from keras_lightrnn.ops import look_up_word_vectors
from keras_lightrnn.ops.look_up import look_up


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
