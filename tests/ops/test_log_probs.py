from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn.ops import (
    EMPTY_CELL_LOGIT,
    compute_bias_table,
    compute_word_log_probs,
    invert_cells,
)


@pytest.mark.parametrize("vocabulary_size", [12, 9])
def test_bias_table_word_by_word(rng, vocabulary_size):
    cells = rng.permutation(12)[:vocabulary_size].astype("int32")
    # Values that a sum with a large number would lose.
    word_bias = rng.normal(size=vocabulary_size).astype("float32") * 1e-3
    words = invert_cells(cells, 3, 4)
    table = np.asarray(compute_bias_table(word_bias, words))
    for word, cell in enumerate(cells):
        assert table[cell // 4, cell % 4] == word_bias[word]
    empty = np.setdiff1d(np.arange(12), cells)
    assert (table.ravel()[empty] == EMPTY_CELL_LOGIT).all()
    without_bias = np.asarray(compute_bias_table(None, words)).ravel()
    assert (without_bias[empty] == EMPTY_CELL_LOGIT).all()
    assert (without_bias[cells] == 0).all()


def test_empty_cells_keep_no_probability_and_finite_gradients():
    with tf.GradientTape() as tape:
        logits = tf.constant([1e4, EMPTY_CELL_LOGIT, -1e4])
        tape.watch(logits)
        log_probs = tf.nn.log_softmax(logits)
    assert float(tf.exp(log_probs[1])) == 0.0
    assert np.isfinite(tape.gradient(log_probs, logits)).all()


def test_word_log_probs_are_two_softmaxes(rng):
    row_logits = rng.normal(size=(2, 5, 3)).astype("float32")
    column_logits = rng.normal(size=(2, 5, 4)).astype("float32")
    cells = rng.integers(12, size=(2, 5)).astype("int32")
    log_probs = np.asarray(compute_word_log_probs(row_logits, column_logits, cells))
    for i in np.ndindex(2, 5):
        rows, columns = (np.exp(x[i].astype("float64")) for x in (row_logits, column_logits))
        row, column = divmod(cells[i], 4)
        expected = rows[row] / rows.sum() * columns[column] / columns.sum()
        assert np.exp(log_probs[i]) == pytest.approx(expected, rel=1e-5)


def test_large_logits_stay_finite():
    log_probs = compute_word_log_probs(
        np.float32([[1e4, 0.0]]), np.float32([[-1e4, 0.0]]), np.int32([1])
    )
    assert np.asarray(log_probs).tolist() == [0.0]
