from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn.ops import cast_word_ids, mark_invalid_ids
from keras_lightrnn.ops.word_ids import check_word_ids


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "float32", "float64"])
def test_ids_of_any_type_become_integers(dtype):
    words = cast_word_ids(np.array([[3, 0, 7]], dtype))
    assert words.dtype in (tf.int32, tf.int64)
    assert np.asarray(words).tolist() == [[3, 0, 7]]


@pytest.mark.parametrize("words", [[True, False], ["the", "end"], [1j]])
def test_what_is_no_id(words):
    with pytest.raises(TypeError, match=r"Word ids must be integers\. Received: .* of dtype "):
        cast_word_ids(np.array(words))


@pytest.mark.parametrize("words", [tf.ragged.constant([[1], [2, 3]]), tf.sparse.from_dense([1])])
def test_word_ids_are_dense(words):
    with pytest.raises(TypeError, match=f"dense tensor. Received: a {type(words).__name__}. Conv"):
        cast_word_ids(words)


def test_marks_exactly_the_ids_outside():
    marks = np.asarray(mark_invalid_ids(tf.constant([-2, -1, 0, 4, 5, 2**31 - 1]), 5))
    assert np.isnan(marks).tolist() == [True, True, False, False, True, True]
    assert (marks[2:4] == 0).all()


def test_check_names_the_first_wrong_id():
    check_word_ids(np.arange(5), 5)
    with pytest.raises(ValueError, match=r"\[0, 5\).*id -1 at position \(1, 0\) \(2 of 4"):
        check_word_ids([[0, 4], [-1, 5]], 5)


@pytest.mark.parametrize("floatx", ["float16", "float32", "float64"])
def test_marks_are_float32_and_no_nan_where_ids_are_valid(floatx):
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    tf.debugging.enable_check_numerics()
    try:
        marks = tf.function(mark_invalid_ids)(tf.constant([0, 4]), 5)
    finally:
        tf.debugging.disable_check_numerics()
        keras.config.set_floatx(before)
    assert marks.dtype == tf.float32
    assert np.asarray(marks).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_marks_wrong_ids(jit_compile):
    marks = tf.function(mark_invalid_ids, jit_compile=jit_compile)(tf.constant([-1, 3, 5]), 5)
    assert np.isnan(marks).tolist() == [True, False, True]
