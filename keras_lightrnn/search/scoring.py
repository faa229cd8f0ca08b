"""Log-probabilities of words and the likeliest words after prefixes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_k, check_size
from keras_lightrnn._internal.typing import Tensor, WordIds
from keras_lightrnn.search.neural_cache import CachedText, NeuralCache
from keras_lightrnn.search.predictor import Predictor, read_prefixes
from keras_lightrnn.search.prefixes import Prefixes, check_texts, prepare_prefixes
from keras_lightrnn.search.row_search import sort_best

# Prefixes that are read and searched together.
_TEXTS_AT_ONCE = 64
# The number of full batches from which on it pays to compile the recurrence for their shape.
_MANY_BATCHES = 64
# Words of each text that a network reads together, to be remembered by a cache.
_WORDS_AT_ONCE = 256


def score(
    predictor: Predictor, words: WordIds, batch_size: int, cache: NeuralCache | None
) -> np.ndarray:
    check_size("batch_size", batch_size)
    words, is_batch = check_texts(predictor.softmax, "words", words, at_least=2)
    if cache is not None:
        batches = np.split(words, range(batch_size, len(words), batch_size))
        lengths = np.full(len(words), words.shape[1])
        scored = np.concatenate(
            [_read_texts(predictor, x, lengths[: len(x)], cache)[0] for x in batches]
        )
        return scored if is_batch else scored[0]
    is_fused = predictor.network.stack.is_fused and len(words) >= _MANY_BATCHES * batch_size
    log_probs = []
    length = words.shape[1]
    if is_fused:
        # Every compiled shape stays in memory, so lengths are rounded up to a few values. Padding
        # after a word does not change its log-probability.
        words = np.pad(words, [(0, 0), (0, _round_up(length) - length)])
    for start in range(0, len(words), batch_size):
        batch = words[start : start + batch_size]
        tensor = ops.convert_to_tensor(batch)
        if is_fused and len(batch) == batch_size:
            scored = predictor.run("score_windows_fused", tensor, any_size=False)
        else:
            scored = predictor.run("score_windows", tensor)
        log_probs.append(ops.convert_to_numpy(scored)[:, : length - 1])
    joined = np.concatenate(log_probs)
    return joined if is_batch else joined[0]


def _round_up(length: int) -> int:
    """Return the next of the lengths 2, 3, ... 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ..."""
    step = 1 << max((length - 1).bit_length() - 3, 0)
    return -(-length // step) * step


def word_log_probs(
    predictor: Predictor, prefix: WordIds, mask: Tensor, cache: NeuralCache | None
) -> np.ndarray:
    prefixes = prepare_prefixes(predictor.softmax, prefix, mask)
    found = list(_list_all_words(predictor, prefixes, cache))
    return np.stack(found) if prefixes.is_batch else found[0]


def next_words(
    predictor: Predictor, prefix: WordIds, k: int, mask: Tensor, cache: NeuralCache | None
) -> tuple[np.ndarray, np.ndarray]:
    softmax = predictor.softmax
    check_k("k", k, softmax.word_table.vocabulary_size - softmax.mask_zero)
    prefixes = prepare_prefixes(softmax, prefix, mask)
    if cache is None:
        searches = (read_prefixes(predictor, part) for part in _split(prefixes))
        results = [search.best_words(k) for search in searches]
    else:
        results = [
            _find_best(log_probs, k, softmax.mask_zero)
            for log_probs in _list_all_words(predictor, prefixes, cache)
        ]
    words, log_probs = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return (words, log_probs) if prefixes.is_batch else (words[0], log_probs[0])


def _split(prefixes: Prefixes) -> Iterator[Prefixes]:
    for start in range(0, len(prefixes.words), _TEXTS_AT_ONCE):
        yield prefixes.take(slice(start, start + _TEXTS_AT_ONCE))


def _find_best(log_probs: np.ndarray, k: int, mask_zero: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` likeliest words of all and their log-probabilities, `(1, k)` each."""
    if mask_zero:
        log_probs[0] = -np.inf
    words = np.flatnonzero(log_probs >= np.partition(log_probs, -k)[-k])
    words, log_probs = sort_best(words, log_probs[words], k)
    return words[None].astype(np.int32), log_probs[None]


def _list_all_words(
    predictor: Predictor, prefixes: Prefixes, cache: NeuralCache | None
) -> Iterator[np.ndarray]:
    """Yield the log-probabilities of all words, `(V,)`, after each prefix."""
    for part in _split(prefixes):
        search = read_prefixes(predictor, part)
        search.padding = None  # padding has a probability, although searches never return it
        if cache is None:
            yield from search.all_words()
            continue
        words = np.pad(part.words, [(0, 0), (0, 1)])  # of which the states before are needed
        _, texts, states = _read_texts(predictor, words, part.lengths, cache)
        for log_probs, text, state in zip(search.all_words(), texts, states, strict=True):
            words, probs, share = text.predict(state)
            mixed = np.log1p(-share) + log_probs
            with np.errstate(divide="ignore"):
                mixed[words] = np.logaddexp(mixed[words], np.log(share * probs))
            yield mixed


def _read_texts(
    predictor: Predictor, words: np.ndarray, lengths: np.ndarray, cache: NeuralCache
) -> tuple[np.ndarray, list[CachedText], np.ndarray]:
    """Read texts with a cache, some words at a time, so that they can be of any length.

    Args:
        predictor: `Predictor` of a `WordNetwork`.
        words: `(B, N)`.
        lengths: `(B,)`, how many words of each text are remembered, from 1 to `N`.
        cache: `NeuralCache`.

    Returns:
        The log-probabilities of the words 1..N-1, `(B, N - 1)`; what is remembered of each text;
        and `(B, H)`, the state before the word that follows it, if `N` is above its length.
    """
    texts = [cache.start() for _ in words]
    states = predictor.network.stack.make_zero_states(ops.convert_to_tensor(words))
    last = np.zeros((len(words), predictor.network.stack.units), np.float32)
    found = []
    for start in range(0, words.shape[1] - 1, _WORDS_AT_ONCE):
        window = words[:, start : start + _WORDS_AT_ONCE + 1]
        *read, states = predictor.run("read_windows", ops.convert_to_tensor(window), states)
        hidden, log_probs = (ops.convert_to_numpy(x) for x in read)
        targets = window[:, 1:]
        places = start + 1 + np.arange(targets.shape[1])
        is_word = places < lengths[:, None]
        if predictor.softmax.mask_zero:
            is_word &= targets != 0
        batch = zip(texts, hidden, targets, log_probs, is_word, strict=True)
        found.append(np.stack([text.read(*of_text) for text, *of_text in batch]))
        of_text, place = np.nonzero(places == lengths[:, None])
        last[of_text] = hidden[of_text, place]
    return np.concatenate(found, axis=1), texts, last
