from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn.metrics import NDCG, MeanReciprocalRank, RecallAtK

KINDS = {
    RecallAtK: lambda ranks: np.ones(len(ranks)),
    MeanReciprocalRank: lambda ranks: 1 / ranks,
    NDCG: lambda ranks: 1 / np.log2(1 + ranks),
}


@pytest.mark.parametrize("kind", KINDS)
def test_means_over_all_batches(rng, kind):
    ranks, weights = rng.integers(1, 40, size=50), rng.integers(3, size=50)
    metric = kind(k=10)
    for here in slice(0, 7), slice(7, 50):
        metric.update_state(None, ranks[here], weights[here])
    gains = np.where(ranks <= 10, KINDS[kind](ranks), 0)
    assert float(metric.result()) == pytest.approx(np.average(gains, weights=weights), rel=1e-6)
    if kind is not RecallAtK:
        metric = kind()
        metric.update_state(None, ranks)
        assert float(metric.result()) == pytest.approx(KINDS[kind](ranks).mean(), rel=1e-6)


def test_negative_weights_count_in_both_totals():
    metric = MeanReciprocalRank()
    metric.update_state(None, [1, 2], [3.0, -1.0])
    assert float(metric.result()) == pytest.approx((3 - 0.5) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_masks_and_wrong_ranks(kind):
    metric = kind(k=2)
    ranks = tf.constant([[1, 0], [1, 9]])
    ranks._keras_mask = tf.constant([[True, True], [True, False]])
    metric.update_state(None, ranks)
    assert float(metric.result()) == 1.0
    metric.update_state(None, [5])
    assert float(metric.result()) == pytest.approx(2 / 3)
    metric.update_state(None, [-1], sample_weight=[0.0])
    assert float(metric.result()) == pytest.approx(2 / 3)
    metric.update_state(None, [-1])
    assert np.isnan(metric.result())


def test_agree_with_the_metrics_of_keras(rng):
    scores = rng.normal(size=(30, 12)).astype("float32")
    targets = rng.integers(12, size=30)
    own = np.take_along_axis(scores, targets[:, None], 1)
    ranks = 1 + (scores > own).sum(axis=1)
    expected = keras.metrics.SparseTopKCategoricalAccuracy(k=3)
    expected.update_state(targets, scores)
    metric = RecallAtK(k=3)
    metric.update_state(None, ranks)
    assert float(metric.result()) == pytest.approx(float(expected.result()))


def test_errors():
    with pytest.raises(ValueError, match=r"`k` must be a positive integer.*k=0"):
        RecallAtK(k=0)
