"""Log-probabilities of words and the likeliest words after prefixes, with a neural cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from keras import ops

from keras_lightrnn.search.neural_cache import NeuralCache, mix_log_probs
from keras_lightrnn.search.predictor import (
    AnySearch,
    Predictor,
    read_prefixes_with_states,
)
from keras_lightrnn.search.prefixes import Prefixes
from keras_lightrnn.search.row_search import sort_best

# Words of each text that the network reads together.
_WORDS_AT_ONCE = 256


def score_texts(predictor: Predictor, words: np.ndarray, cache: NeuralCache) -> np.ndarray:
    """Return the log-probabilities of the words 1..N-1 of texts `(B, N)`, of any length."""
    texts = [cache.start() for _ in words]
    # Of words after padding only, there is no state to remember.
    is_word = words != 0 if predictor.softmax.mask_zero else np.full(words.shape, True)
    is_word &= np.cumsum(is_word, axis=1) > 1
    carried = predictor.network.stack.make_zero_states(ops.convert_to_tensor(words))
    parts = []
    for start in range(0, words.shape[1] - 1, _WORDS_AT_ONCE):
        window = words[:, start : start + _WORDS_AT_ONCE + 1]
        *found, carried = predictor.run("score_states", ops.convert_to_tensor(window), carried)
        states, log_probs = (ops.convert_to_numpy(x) for x in found)
        here = is_word[:, start + 1 : start + window.shape[1]]
        batch = zip(texts, states, window[:, 1:], log_probs, here, strict=True)
        parts.append(np.stack([text.read(*of_text) for text, *of_text in batch]))
    return np.concatenate(parts, axis=1)


def list_all_words(
    predictor: Predictor, prefixes: Prefixes, cache: NeuralCache
) -> Iterator[np.ndarray]:
    """Yield the log-probabilities of all words, `(V,)`, after each prefix."""
    search, predictions = _read(predictor, prefixes, cache)
    search.padding = None  # padding has a probability, although searches never return it
    for log_probs, (words, probs, odds) in zip(search.all_words(), predictions, strict=True):
        mixed = log_probs - np.log1p(odds)
        mixed[words] = mix_log_probs(log_probs[words], probs, odds)
        yield mixed


def next_words(
    predictor: Predictor,
    prefixes: Prefixes,
    k: int,
    cache: NeuralCache,
    excluded: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` likeliest words after each prefix and their log-probabilities, `(B, k)` each.

    Words that are not remembered keep the order that the network gives them, so the search finds
    the best `k` of them; the words that are remembered compete with these.

    Args:
        predictor: `Predictor` of a `WordNetwork`.
        prefixes: `Prefixes`.
        k: Integer, at most the number of words that may be returned.
        cache: `NeuralCache`.
        excluded: `(B, E)`, words that are not returned, -1 for none; or `None`.
    """
    search, predictions = _read(predictor, prefixes, cache)
    if excluded is None:
        excluded = np.empty((len(predictions), 0), np.int64)
    remembered = [_leave_out(*pair) for pair in zip(predictions, excluded, strict=True)]
    left_out = zip((words for words, _, _ in remembered), excluded, strict=True)
    search.exclude(_pad([np.concatenate(pair) for pair in left_out]))
    others = zip(*search.best_words(k), strict=True)
    numbers = [len(words) for words, _, _ in remembered]
    log_probs = search.compute_word_log_probs(
        np.repeat(np.arange(len(numbers)), numbers),
        np.concatenate([words for words, _, _ in remembered]),
    )
    by_text = np.split(log_probs, np.cumsum(numbers)[:-1])
    found = []
    for (words, best), (cached, probs, odds), own in zip(others, remembered, by_text, strict=True):
        is_found = words >= 0
        candidates = np.concatenate([words[is_found], cached])
        mixed = np.concatenate([best[is_found] - np.log1p(odds), mix_log_probs(own, probs, odds)])
        found.append(sort_best(candidates, mixed, k))
    words, log_probs = (np.stack(parts) for parts in zip(*found, strict=True))
    return words.astype(np.int32), log_probs


def _leave_out(
    prediction: tuple[np.ndarray, np.ndarray, float], excluded: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a prediction of the cache without the words that are not returned."""
    words, probs, odds = prediction
    is_kept = np.isin(words, excluded, invert=True)
    return words[is_kept], probs[is_kept], odds


def _pad(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return vectors of words as one array, filled up with -1."""
    longest = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=-1) for row in rows])


def _read(
    predictor: Predictor, prefixes: Prefixes, cache: NeuralCache
) -> tuple[AnySearch, list[tuple[np.ndarray, np.ndarray, float]]]:
    """Return the search after prefixes, and what `CachedText.predict` returns after each."""
    search, states = read_prefixes_with_states(predictor, prefixes)
    predictions = []
    for words, length, of_text in zip(prefixes.words, prefixes.lengths, states, strict=True):
        text = cache.start()
        last = max(length, 1) - 1
        text.remember(of_text[:last], words[1 : last + 1])
        predictions.append(text.predict(of_text[last]))
    return search, predictions
