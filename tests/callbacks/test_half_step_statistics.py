from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_lightrnn.callbacks import HalfStepStatistics

ALL_SUMS = ("column_sums", "row_sums", "following_sums")


def draw(rng, batch_size):
    shape = (batch_size, 4, 3)
    return rng.normal(size=shape), rng.normal(size=shape), rng.integers(6, size=shape[:2])


def sum_slowly(column, row, targets, vocabulary_size, weights=None):
    sums = {name: np.zeros((vocabulary_size, 3)) for name in ALL_SUMS}
    sums |= {name: np.zeros(vocabulary_size) for name in ("counts", "following_counts")}
    for batch, place in np.ndindex(targets.shape):
        word = targets[batch, place]
        weight = 1 if weights is None else weights[batch, place]
        sums["column_sums"][word] += weight * column[batch, place]
        sums["row_sums"][word] += weight * row[batch, place]
        sums["counts"][word] += weight
        if place + 1 < targets.shape[1]:
            sums["following_sums"][word] += weight * column[batch, place + 1]
            sums["following_counts"][word] += weight
    return sums


@pytest.mark.parametrize("weigh", [lambda w: None, lambda w: w, lambda w: w > 0])
def test_sums_equal_a_loop_over_occurrences(weigh):
    rng = np.random.default_rng(0)
    column, row, targets = draw(rng, 5)
    weights = weigh(rng.integers(3, size=targets.shape))
    statistics = HalfStepStatistics(6, 3, ALL_SUMS)
    statistics(column, row, targets, weights)
    got, expected = statistics.read(), sum_slowly(column, row, targets, 6, weights)
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, atol=1e-5)


@pytest.mark.parametrize("sums", [ALL_SUMS[::-1], ALL_SUMS[1:], ALL_SUMS[2:], ALL_SUMS[:1]])
def test_sums_in_any_order_and_any_of_them(sums):
    column, row, targets = draw(np.random.default_rng(1), 5)
    statistics = HalfStepStatistics(6, 3, sums)
    statistics(column, row, targets)
    got, expected = statistics.read(), sum_slowly(column, row, targets, 6)
    assert set(sums) < set(got)
    for name, values in got.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5)


def test_words_count_by_the_share_of_the_table():
    rng = np.random.default_rng(0)
    column, row, targets = draw(rng, 5)
    weights, shares = rng.integers(3, size=targets.shape), rng.random(targets.shape)
    statistics = HalfStepStatistics(6, 3, [*ALL_SUMS, "occurrences"])
    statistics(column, row, targets, weights, shares)
    got, expected = statistics.read(), sum_slowly(column, row, targets, 6, weights * shares)
    expected["occurrences"] = np.bincount(targets.ravel(), weights.ravel(), minlength=6)
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, atol=1e-5)


def test_refuses_sums_that_there_are_not():
    with pytest.raises(ValueError, match=r"unknown sums \['gate_sums'\]"):
        HalfStepStatistics(6, 3, sums=["gate_sums"])


def test_splitting_a_batch_leaves_the_sums_unchanged():
    column, row, targets = draw(np.random.default_rng(1), 6)
    whole, parts = HalfStepStatistics(6, 3, ALL_SUMS), HalfStepStatistics(6, 3, ALL_SUMS)
    whole(column, row, targets)
    for part in (slice(0, 2), slice(2, 6)):
        parts(column[part], row[part], targets[part])
    for name, values in whole.read().items():
        np.testing.assert_allclose(values, parts.read()[name], atol=1e-5)


def test_reset_and_half_precision_input():
    column, row, targets = draw(np.random.default_rng(2), 2)
    statistics = HalfStepStatistics(6, 3)
    statistics(keras.ops.cast(column, "bfloat16"), keras.ops.cast(row, "bfloat16"), targets)
    assert statistics.read()["column_sums"].dtype == np.float32
    assert statistics.read()["counts"].sum() == targets.size
    statistics.reset()
    assert all(not values.any() for values in statistics.read().values())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA of TensorFlow")
def test_compiled_by_xla():
    import tensorflow as tf

    column, row, targets = draw(np.random.default_rng(3), 2)
    statistics = HalfStepStatistics(6, 3, ALL_SUMS)
    tf.function(statistics, jit_compile=True)(
        column.astype("float32"), row.astype("float32"), targets
    )
    for name, values in sum_slowly(column, row, targets, 6).items():
        np.testing.assert_allclose(statistics.read()[name], values, atol=1e-5)


def test_counts_that_float32_cannot_hold():
    most = 2.0**24  # to which adding 1 changes nothing
    rng = np.random.default_rng(3)
    column, row, targets = draw(rng, 5)
    statistics = HalfStepStatistics(6, 3, ALL_SUMS)
    statistics.counts.assign([most, most - 1000, 0, 0, 0, 0])
    statistics.following_counts.assign([0, most, 0, 0, 0, 0])
    statistics(column, row, targets)
    got, expected = statistics.read(), sum_slowly(column, row, targets, 6)
    occurrences = expected["counts"][1]
    assert got["counts"][:2].tolist() == [most, most - 1000 + occurrences]
    for name, full in (("column_sums", 0), ("row_sums", 0), ("following_sums", 1)):
        expected[name][full] = 0
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5)
