from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.metrics import Perplexity


def test_is_the_mean_of_the_negative_log_probabilities(rng):
    log_probs = -rng.random((3, 4)).astype("float32")
    targets = rng.integers(9, size=(3, 4))
    loss = NegativeLogLikelihood()
    assert float(loss(targets, log_probs)) == pytest.approx(-log_probs.mean(), rel=1e-6)
    assert float(loss(targets + 1, log_probs)) == float(loss(targets, log_probs))


def test_padding_does_not_dilute_the_mean(rng):
    log_probs = -rng.random((3, 4)).astype("float32")
    weights = rng.integers(3, size=(3, 4)).astype("float32")
    expected = -(log_probs * weights).sum() / weights.sum()
    loss = NegativeLogLikelihood()(log_probs, log_probs, sample_weight=weights)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("length", [4, 3])  # of three, weights could be taken for those of places
def test_one_weight_for_each_window(rng, shape, length):
    log_probs = -rng.random((3, length)).astype("float32")
    weights = rng.random(3).astype("float32")
    expected = -(log_probs * weights[:, None]).sum() / (length * weights.sum())
    loss = NegativeLogLikelihood()(log_probs, log_probs, sample_weight=weights.reshape(shape))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_mask_counts_as_weight_zero():
    log_probs = keras.ops.convert_to_tensor([[-1.0, -3.0, -50.0]])
    log_probs._keras_mask = keras.ops.convert_to_tensor([[True, True, False]])
    assert float(NegativeLogLikelihood()([[1, 2, 0]], log_probs)) == pytest.approx(2.0)


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_what_weighs_nothing_may_be_anything(value):
    log_probs = np.float32([[-2.0, value]])
    loss = NegativeLogLikelihood()(np.int32([[3, 4]]), log_probs, np.float32([[1.0, 0.0]]))
    assert float(loss) == pytest.approx(2.0)
    masked = keras.ops.convert_to_tensor(log_probs)
    masked._keras_mask = keras.ops.convert_to_tensor([[True, False]])
    assert float(NegativeLogLikelihood()(None, masked)) == pytest.approx(2.0)
    weights = np.float32([[0.5, 3.0]])
    assert float(NegativeLogLikelihood()(None, masked, weights)) == pytest.approx(2.0)


def test_reductions():
    log_probs = np.float32([[-1, -3], [-5, -7]])
    assert float(NegativeLogLikelihood(reduction="sum")(log_probs, log_probs)) == 16.0
    each = NegativeLogLikelihood(reduction=None)(log_probs, log_probs)
    assert np.array_equal(each, -log_probs)


def make_model():
    words = keras.Input((None,), dtype="int32")
    x = TwoComponentEmbedding(20, 4, combine="interleave")(words)
    x = keras.layers.SimpleRNN(4, return_sequences=True)(x)
    model = keras.Model(words, TwoComponentSoftmax(20, row_reader=None)(x, words[:, 1:]))
    model.compile("sgd", NegativeLogLikelihood(), weighted_metrics=[Perplexity()])
    return model


def test_fits_and_evaluates_without_y(rng):
    windows = rng.integers(20, size=(8, 6)).astype("int32")
    model = make_model()
    expected = model.evaluate(windows, windows[:, 1:], verbose=0)
    assert model.evaluate(windows, verbose=0) == expected
    history = model.fit(windows, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    assert np.isfinite(history["perplexity"]).all()


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x[:, 1:, None], lambda x: x[:, 0]])
def test_refuses_targets_of_another_shape(rng, make):
    windows = rng.integers(20, size=(8, 6)).astype("int32")
    with pytest.raises(ValueError, match=r"one word for each log-probability.*leave `y` out"):
        make_model().evaluate(windows, make(windows), verbose=0)


def test_targets_with_a_last_axis_of_one(rng):
    with pytest.raises(ValueError, match=r"y of shape \(3, 1\).*with `y\[..., 0\]`, or leave"):
        NegativeLogLikelihood()(rng.integers(9, size=(3, 1)), np.zeros(3, "float32"))


def test_refuses_targets_that_are_not_numbers():
    with pytest.raises(TypeError, match="must be integers"):
        NegativeLogLikelihood()(np.array([[True, False]]), np.float32([[-1, -2]]))


@pytest.mark.parametrize("floatx", ["bfloat16", "float16", "float32", "float64"])
def test_sums_hold_many_words_under_every_floatx(floatx):
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        loss = NegativeLogLikelihood()
    finally:
        keras.config.set_floatx(before)
    assert loss.dtype == ("float64" if floatx == "float64" else "float32")
    targets = np.full((1, 20_000), 60_001)  # more than float16 holds
    log_probs = np.full((1, 20_000), -6.0, "float32")
    assert float(loss(targets, log_probs)) == pytest.approx(6.0, rel=1e-6)
    copy = NegativeLogLikelihood.from_config(loss.get_config())
    assert copy.dtype == loss.dtype
