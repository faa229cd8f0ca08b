"""Log-probabilities of words and the likeliest words after prefixes, with a neural cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from keras import ops

from keras_lightrnn.search.neural_cache import CachedText, NeuralCache, mix_log_probs
from keras_lightrnn.search.predictor import Predictor, read_prefixes
from keras_lightrnn.search.prefixes import Prefixes
from keras_lightrnn.search.row_search import sort_best

# Words of each text that the network reads together.
_WORDS_AT_ONCE = 256


def score_texts(predictor: Predictor, words: np.ndarray, cache: NeuralCache) -> np.ndarray:
    """Return the log-probabilities of the words 1..N-1 of texts `(B, N)`, of any length."""
    texts = [cache.start() for _ in words]
    parts = []
    for targets, is_word, states, log_probs in _read(predictor, "score_states", words):
        batch = zip(texts, states, targets, log_probs, is_word, strict=True)
        parts.append(np.stack([text.read(*of_text) for text, *of_text in batch]))
    return np.concatenate(parts, axis=1)


def list_all_words(
    predictor: Predictor, prefixes: Prefixes, cache: NeuralCache
) -> Iterator[np.ndarray]:
    """Yield the log-probabilities of all words, `(V,)`, after each prefix."""
    search = read_prefixes(predictor, prefixes)
    search.padding = None  # padding has a probability, although searches never return it
    predictions = _predict(predictor, prefixes, cache)
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
    search = read_prefixes(predictor, prefixes)
    remembered = [
        _leave_out(prediction, None if excluded is None else excluded[text])
        for text, prediction in enumerate(_predict(predictor, prefixes, cache))
    ]
    left_out = [words for words, _, _ in remembered]
    if excluded is not None:
        left_out = [np.concatenate(pair) for pair in zip(left_out, excluded, strict=True)]
    search.exclude(_pad(left_out))
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
    prediction: tuple[np.ndarray, np.ndarray, float], excluded: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a prediction of the cache without the words that are not returned."""
    words, probs, odds = prediction
    is_kept = np.isin(words, [] if excluded is None else excluded, invert=True)
    return words[is_kept], probs[is_kept], odds


def _pad(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return vectors of words as one array, filled up with -1."""
    longest = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=-1) for row in rows])


def _predict(
    predictor: Predictor, prefixes: Prefixes, cache: NeuralCache
) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Return for each prefix what `CachedText.predict` returns after it."""
    texts: list[CachedText] = [cache.start() for _ in prefixes.words]
    last = np.zeros((len(texts), predictor.network.stack.units), np.float32)
    # The states before one word more are needed, whatever it is.
    words = np.pad(prefixes.words, [(0, 0), (0, 1)])
    start = 1
    for targets, is_word, states in _read(predictor, "read_states", words):
        places = start + np.arange(targets.shape[1])
        is_word &= places < prefixes.lengths[:, None]
        for text, of_text, of_targets, here in zip(texts, states, targets, is_word, strict=True):
            text.remember(of_text[here], of_targets[here])
        of_text, place = np.nonzero(places == prefixes.lengths[:, None])
        last[of_text] = states[of_text, place]
        start += targets.shape[1]
    return [text.predict(state) for text, state in zip(texts, last, strict=True)]


def _read(predictor: Predictor, method: str, words: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Read texts `(B, N)` part by part, so that they can be of any length.

    Args:
        predictor: `Predictor` of a `WordNetwork`.
        method: `"read_states"` or `"score_states"`.
        words: `(B, N)`.

    Yields:
        `n` words of each text after the first, `(B, n)`; which of them a cache remembers, `(B, n)`:
        those that are not padding and follow another word; and what the method returns of them.
    """
    states = predictor.network.stack.make_zero_states(ops.convert_to_tensor(words))
    is_word = np.full(words.shape, True)
    if predictor.softmax.mask_zero:
        is_word = words != 0
    is_word &= np.cumsum(is_word, axis=1) > 1
    for start in range(0, words.shape[1] - 1, _WORDS_AT_ONCE):
        window = words[:, start : start + _WORDS_AT_ONCE + 1]
        *found, states = predictor.run(method, ops.convert_to_tensor(window), states)
        here = slice(start + 1, start + window.shape[1])
        yield [words[:, here], is_word[:, here], *(ops.convert_to_numpy(x) for x in found)]
