from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn import LightRNNModel
from keras_lightrnn.metrics import Perplexity


def test_is_exp_of_the_mean_over_all_words_not_of_batches(rng):
    batches = [-5 * rng.random(size).astype("float32") for size in ((2, 3), (7, 3), (1, 1))]
    metric = Perplexity()
    for batch in batches:
        metric.update_state(None, batch)
    words = np.concatenate([batch.ravel() for batch in batches])
    assert float(metric.result()) == pytest.approx(np.exp(-words.mean()), rel=1e-6)
    metric.reset_state()
    metric.update_state(None, batches[0])
    assert float(metric.result()) == pytest.approx(np.exp(-batches[0].mean()), rel=1e-6)


def test_splitting_a_batch_changes_nothing(rng):
    log_probs, weights = -rng.random((6, 4)).astype("float32"), rng.random((6, 4))
    whole, parts = Perplexity(), Perplexity()
    whole.update_state(None, log_probs, weights)
    for i in range(6):
        parts.update_state(None, log_probs[i : i + 1], weights[i : i + 1])
    assert float(whole.result()) == pytest.approx(float(parts.result()), rel=1e-6)


def test_weights_and_masks(rng):
    log_probs = -rng.random((3, 4)).astype("float32")
    weights = rng.integers(3, size=(3, 4)).astype("float32")
    mask = rng.random((3, 4)) < 0.7
    y_pred = tf.constant(log_probs)
    y_pred._keras_mask = tf.constant(mask)
    metric = Perplexity()
    metric.update_state(None, y_pred, weights)
    expected = np.exp(-(log_probs * weights * mask).sum() / (weights * mask).sum())
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)

    for of_windows in (weights[:, :1], weights[:, 0]):
        metric.reset_state()
        metric.update_state(None, log_probs, of_windows)
        expected = np.exp(-(log_probs * weights[:, :1]).sum() / (4 * weights[:, 0].sum()))
        assert float(metric.result()) == pytest.approx(expected, rel=1e-6)


def test_negative_weights_count_in_both_totals():
    metric = Perplexity()
    metric.update_state(None, np.float32([-2.0, -1.0]), np.float32([3.0, -1.0]))
    assert float(metric.result()) == pytest.approx(np.exp((3 * 2 - 1) / 2), rel=1e-6)


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_what_weighs_nothing_may_be_anything(value):
    metric = Perplexity()
    metric.update_state(None, np.float32([-2.0, value]), np.float32([1.0, 0.0]))
    assert float(metric.result()) == pytest.approx(np.exp(2.0), rel=1e-6)


def test_an_impossible_word_makes_it_infinite():
    metric = Perplexity()
    for log_probs in ([-np.inf, -1.0], [-1.0, -2.0]):
        metric.update_state(None, np.float32(log_probs))
    assert float(metric.result()) == np.inf


def test_a_wrong_word_that_counts_is_loud():
    metric = Perplexity()
    metric.update_state(None, np.float32([-2.0, np.nan]))
    assert np.isnan(float(metric.result()))


def test_of_no_words_is_nan():
    metric = Perplexity()
    assert np.isnan(float(metric.result()))
    metric.update_state(None, np.float32([-2.0, -np.inf]), np.zeros(2))
    assert np.isnan(float(metric.result()))
    metric.update_state(None, np.float32([-2.0]))
    assert float(metric.result()) == pytest.approx(np.exp(2.0), rel=1e-6)


def test_of_padding_only_is_not_the_best_there_is():
    model = LightRNNModel(20, 4, 4, mask_zero=True)
    model.compile("sgd", run_eagerly=True)
    assert np.isnan(model.evaluate(np.zeros((2, 5), "int32"), verbose=0)[1])


@pytest.mark.parametrize("floatx", ["bfloat16", "float16", "float32", "float64"])
def test_sums_are_exact_under_every_floatx(floatx):
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        metric = Perplexity()
        for _ in range(400):
            metric.update_state(None, np.float32([-6.0, -6.0]))
    finally:
        keras.config.set_floatx(before)
    assert float(metric.words) == 800
    assert float(metric.result()) == pytest.approx(np.exp(6.0), rel=1e-6)


def test_float64():
    metric = Perplexity(dtype="float64")
    assert {str(v.dtype) for v in metric.variables} == {"float64"}
    log_probs = -np.random.default_rng(0).random((50, 1000))
    for batch in log_probs:
        metric.update_state(None, batch)
    assert float(metric.result()) == pytest.approx(np.exp(-log_probs.mean()), rel=1e-14)
    assert Perplexity.from_config(metric.get_config()).dtype == "float64"


@pytest.mark.parametrize("mode", ["eager", "function", "xla"])
def test_exact_where_a_plain_float32_sum_stops(mode):
    # Beside 2**30 words a float32 total does not notice 32 more, 1,500 times over.
    metric = Perplexity()
    update = metric.update_state
    if mode != "eager":
        update = tf.function(update, jit_compile=mode == "xla", autograph=False)
    steps, weight, nats = 1500, 32, 37.0
    update(tf.zeros(1), tf.constant([-1.0]), tf.constant([2.0**30]))
    arguments = tf.zeros(1), tf.constant([-nats]), tf.constant([float(weight)])
    for _ in range(steps):
        update(*arguments)
    words = 2**30 + steps * weight
    total = 2**30 + nats * steps * weight
    assert float(metric.result()) == pytest.approx(np.exp(total / words), rel=1e-6)
    counted = sum(float(v) for v in (metric.words, metric.words_rest))
    assert counted == words
    assert sum(float(v) for v in (metric.nats, metric.nats_rest)) == total
    plain = np.float32(2**30)
    assert plain + np.float32(weight) == plain, "the test asks nothing"


def test_exact_past_two_to_the_24_words_in_real_batches():
    metric = Perplexity()
    update = tf.function(metric.update_state, jit_compile=True, autograph=False)
    many = tf.fill((2**22,), -0.5)
    for _ in range(5):
        update(many, many)
    one = tf.fill((1,), -0.5)
    for _ in range(33):
        update(one, one)
    assert sum(float(v) for v in (metric.words, metric.words_rest)) == 5 * 2**22 + 33
    assert float(metric.result()) == pytest.approx(np.exp(0.5), rel=1e-6)


def test_low_precision_predictions_are_counted_in_float32():
    with_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        metric = Perplexity()
    finally:
        keras.config.set_dtype_policy(with_policy)
    metric.update_state(None, tf.fill((1000,), tf.constant(-1.0, tf.bfloat16)))
    metric.update_state(None, tf.fill((3,), tf.constant(-1.0, tf.bfloat16)))
    assert {str(v.dtype) for v in metric.variables} == {"float32"}
    assert float(metric.words) == 1003


def test_callbacks_know_that_less_is_better():
    model = LightRNNModel(20, 4, 4)
    model.compile("sgd", run_eagerly=True)
    windows = np.random.default_rng(0).integers(20, size=(8, 5))
    stopping = keras.callbacks.EarlyStopping("val_perplexity", patience=3)
    arguments = {"validation_data": (windows,), "callbacks": [stopping], "verbose": 0}
    model.fit(windows, epochs=2, **arguments)
    assert stopping.best == min(model.history.history["val_perplexity"])
