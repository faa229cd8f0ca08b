from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_lightrnn.callbacks import HalfStepStatistics


def draw(rng, batch_size):
    shape = (batch_size, 4, 3)
    return rng.normal(size=shape), rng.normal(size=shape), rng.integers(6, size=shape[:2])


def sum_slowly(column, row, targets, vocabulary_size):
    sums = [np.zeros((vocabulary_size, 3)), np.zeros((vocabulary_size, 3))]
    counts = np.zeros(vocabulary_size)
    for index in np.ndindex(targets.shape):
        word = targets[index]
        sums[0][word] += column[index]
        sums[1][word] += row[index]
        counts[word] += 1
    return *sums, counts


def test_sums_equal_a_loop_over_occurrences():
    column, row, targets = draw(np.random.default_rng(0), 5)
    statistics = HalfStepStatistics(6, 3)
    statistics(column, row, targets)
    for got, expected in zip(statistics.read(), sum_slowly(column, row, targets, 6), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_splitting_a_batch_leaves_the_sums_unchanged():
    column, row, targets = draw(np.random.default_rng(1), 6)
    whole, parts = HalfStepStatistics(6, 3), HalfStepStatistics(6, 3)
    whole(column, row, targets)
    for part in (slice(0, 2), slice(2, 6)):
        parts(column[part], row[part], targets[part])
    for a, b in zip(whole.read(), parts.read(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_reset_and_half_precision_input():
    column, row, targets = draw(np.random.default_rng(2), 2)
    statistics = HalfStepStatistics(6, 3)
    statistics(keras.ops.cast(column, "bfloat16"), keras.ops.cast(row, "bfloat16"), targets)
    assert statistics.read()[0].dtype == np.float32
    assert statistics.read()[2].sum() == targets.size
    statistics.reset()
    assert all(not values.any() for values in statistics.read())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA of TensorFlow")
def test_compiled_by_xla():
    import tensorflow as tf

    column, row, targets = draw(np.random.default_rng(3), 2)
    statistics = HalfStepStatistics(6, 3)
    tf.function(statistics, jit_compile=True)(
        column.astype("float32"), row.astype("float32"), targets
    )
    np.testing.assert_allclose(
        statistics.read()[0], sum_slowly(column, row, targets, 6)[0], atol=1e-5
    )
