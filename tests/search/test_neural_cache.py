"""The neural cache: its formula, and models that use it."""

import math

import numpy as np
import pytest

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.search import NeuralCache, cached_scoring

V = 30
CACHE = NeuralCache(weight=0.4, sharpness=3.0, horizon=5.0, size=6)


def compute_by_formula(states, words, t, cache):
    """Return the cache's probabilities of all words at place `t`, and its odds."""
    similarities = np.zeros(V)
    for i in range(max(t - cache.size, 0), t):
        norms = np.linalg.norm(states[t]) * np.linalg.norm(states[i])
        cosine = states[t] @ states[i] / norms
        age = (t - i) / cache.horizon
        similarities[words[i]] += math.exp(cache.sharpness * (cosine - 1) - age)
    total = similarities.sum()
    return similarities / max(total, 1e-300), cache.weight * total**0.25


@pytest.mark.parametrize("size", [1, 6, 600])
def test_mix_is_the_formula(size, monkeypatch):
    monkeypatch.setattr("keras_lightrnn.search.neural_cache._WORDS_AT_ONCE", 7)
    cache = NeuralCache(weight=0.4, sharpness=3.0, horizon=5.0, size=size)
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2, 20, 4))
    words = rng.integers(5, size=(2, 20))
    log_probs = np.log(rng.uniform(0.01, 0.9, size=(2, 20)))
    mixed = cache.mix(states, words, log_probs)
    assert mixed.dtype == np.float32
    for text in range(2):
        for t in range(20):
            probs, odds = compute_by_formula(states[text], words[text], t, cache)
            expected = np.exp(log_probs[text, t]) + odds * probs[words[text, t]]
            expected /= 1 + odds
            np.testing.assert_allclose(np.exp(mixed[text, t]), expected, rtol=1e-5)
    np.testing.assert_array_equal(cache.mix(states[1], words[1], log_probs[1]), mixed[1])


def test_masked_words_are_not_remembered():
    rng = np.random.default_rng(1)
    states, words = rng.normal(size=(12, 3)), rng.integers(4, size=12)
    log_probs = np.log(rng.uniform(0.1, 0.9, size=12))
    mask = np.arange(12) % 3 != 1
    mixed = CACHE.mix(states, words, log_probs, mask)
    alone = CACHE.mix(states[mask], words[mask], log_probs[mask])
    np.testing.assert_allclose(mixed[mask], alone, rtol=1e-6)
    np.testing.assert_allclose(mixed[~mask], log_probs[~mask], rtol=1e-6)


def test_without_similar_states_nothing_changes():
    """Similarities that are too small for floats must not lose probability."""
    states, words = np.eye(4, dtype="float32"), np.array([2, 2, 2, 2])
    log_probs = np.log(np.full(4, 0.1, np.float32))
    for cache in (NeuralCache(sharpness=1e4), NeuralCache(horizon=1e-3), NeuralCache(weight=0)):
        np.testing.assert_array_equal(cache.mix(states, words, log_probs), log_probs)
    directionless = NeuralCache(sharpness=1e4).mix(np.zeros((4, 4)), words, log_probs)
    np.testing.assert_array_equal(directionless, log_probs)
    assert (NeuralCache().mix(states, words, log_probs)[1:] > log_probs[1:]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"weight": -0.5},
            r"`weight` must be a finite number of at least 0. Received: weight=-0.5",
        ),
        ({"weight": "all"}, "`weight` must be a finite number"),
        ({"sharpness": -1}, "`sharpness` must be a finite number of at least 0. Received"),
        ({"horizon": 0}, "`horizon` must be a finite number above 0. Received: horizon=0"),
        ({"horizon": math.nan}, "`horizon` must be"),
        ({"size": 0}, "`size` must be a positive integer"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        NeuralCache(**arguments)


def test_shapes_are_checked():
    message = r"one state, .*Received: states.shape=\(3, 2\), words.shape=\(4,\)"
    with pytest.raises(ValueError, match=message):
        NeuralCache().mix(np.zeros((3, 2)), np.zeros(4, int), np.zeros(4))


def test_a_cache_is_asked_for():
    model = LightRNNModel(V, 4, 4)
    message = r"`cache` must be a `keras_lightrnn.search.NeuralCache` or None. Received: cache=True"
    for method in (model.score, model.next_words, model.word_log_probs):
        with pytest.raises(TypeError, match=message):
            method([3, 1, 4], cache=True)


MODELS = {
    "half-steps": {"row_reading": "recurrence"},
    "reader": {"num_layers": 2, "recurrence": "gru"},
    "padding": {"mask_zero": True, "word_bias": "counts"},
    "two tables": {"num_tables": 2},
    "mixed precision": {"dtype": "mixed_bfloat16"},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    options = dict(MODELS[request.param])
    tables = [Allocation.random(V, seed=i) for i in range(options.pop("num_tables", 1))]
    model = LightRNNModel(tables if len(tables) > 1 else tables[0], 6, 5, **options)
    model.build((None, None))
    if options.get("word_bias"):
        model.assign_word_counts(np.arange(1, V + 1))
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:  # so that states depend on words
        weight.assign(rng.normal(scale=0.5, size=weight.shape))
    return model


PREFIXES = [[3, 7, 7, 12, 3, 9, 3], [4, 4], [11]]


def test_scores_are_the_distribution_of_next_words(model):
    """`score` of a continued text and `word_log_probs` of the text are the same function."""
    log_probs = model.word_log_probs(PREFIXES, cache=CACHE)
    assert log_probs.shape == (3, V)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, rtol=1e-5)
    for prefix, expected in zip(PREFIXES, log_probs, strict=True):
        alone = model.word_log_probs(np.array(prefix), cache=CACHE)
        np.testing.assert_allclose(alone, expected, rtol=1e-4)
        words = np.arange(1, V)
        texts = np.array([[*prefix, word] for word in words])
        scores = model.score(texts, batch_size=8, cache=CACHE)[:, -1]
        np.testing.assert_allclose(scores, expected[1:], rtol=1e-4)
    plain = model.word_log_probs(PREFIXES)
    is_repeated = np.isin(np.arange(V), PREFIXES[0][1:])  # the first word has no state before it
    assert (log_probs[0] < plain[0])[~is_repeated].all()
    assert (log_probs[0] > plain[0])[is_repeated].any()


@pytest.mark.parametrize("excluded", [None, [7, 2, -1], [[3, 12, 9], [4, 1, 1], [-1, -1, -1]]])
def test_next_words_are_the_best_of_all_words(model, excluded):
    words, log_probs = model.next_words(PREFIXES, k=4, excluded=excluded, cache=CACHE)
    everything = model.word_log_probs(PREFIXES, cache=CACHE)
    if model.mask_zero:
        everything[:, 0] = -np.inf
    if excluded is not None:
        for log_probs_of_text, left_out in zip(
            everything, np.broadcast_to(excluded, (3, 3)), strict=True
        ):
            log_probs_of_text[left_out[left_out >= 0]] = -np.inf
    np.testing.assert_array_equal(words, np.argsort(-everything, axis=1, kind="stable")[:, :4])
    np.testing.assert_allclose(log_probs, np.take_along_axis(everything, words, 1), rtol=1e-6)


def test_all_words_are_found(model):
    words, _ = model.next_words(np.array(PREFIXES[0]), k=V - model.mask_zero, cache=CACHE)
    assert sorted(words) == list(range(int(model.mask_zero), V))


def test_excluded_words_are_not_returned(model):
    plain, _ = model.next_words(PREFIXES, k=4)
    words, _ = model.next_words(PREFIXES, k=3, excluded=plain[:, :1])
    np.testing.assert_array_equal(words, plain[:, 1:])


def test_padding_is_never_returned_nor_remembered():
    model = LightRNNModel(12, 5, 4, mask_zero=True, word_bias="trainable")
    model.build((None, None))
    bias = np.zeros(12)
    bias[[3, 8]] = -np.inf  # impossible, and still likelier than padding
    model.softmax.word_bias_values.assign(bias)
    words, _ = model.next_words([5, 7, 5], k=11, cache=CACHE)
    assert sorted(words) == list(range(1, 12))
    alone = model.score(np.array([5, 7, 5, 9]), cache=CACHE)
    padded = model.score(np.array([0, 0, 5, 7, 0, 5, 9, 0]), cache=CACHE)
    np.testing.assert_allclose(padded[[2, 4, 5]], alone, rtol=1e-5)
    expected = model.word_log_probs([5, 7, 5], cache=CACHE)[9]
    np.testing.assert_allclose(padded[5], expected, rtol=1e-5)


def test_a_text_is_read_in_parts(model, monkeypatch):
    text = np.random.default_rng(0).integers(1, V, size=(2, 23))
    whole = model.score(text, cache=CACHE)
    assert whole.shape == (2, 22)
    monkeypatch.setattr(cached_scoring, "_WORDS_AT_ONCE", 4)
    np.testing.assert_allclose(model.score(text, cache=CACHE), whole, rtol=1e-4)
    np.testing.assert_allclose(model.score(text[0], cache=CACHE), whole[0], rtol=1e-4)
    nothing = NeuralCache(weight=0)
    np.testing.assert_allclose(model.score(text, cache=nothing), model.score(text), rtol=1e-4)
    by_parts = model.word_log_probs(text, cache=CACHE)
    monkeypatch.undo()
    np.testing.assert_allclose(by_parts, model.word_log_probs(text, cache=CACHE), rtol=1e-4)


def test_a_text_that_repeats_itself_is_likelier(model):
    part = np.random.default_rng(2).integers(1, V, size=40)
    text = np.concatenate([part, part])
    cache = NeuralCache(weight=0.3, sharpness=12.0)
    gain = (model.score(text, cache=cache) - model.score(text))[40:].mean()
    assert gain > 0.05
