"""Log-probabilities of words and the likeliest words after prefixes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_k, check_size
from keras_lightrnn._internal.typing import Tensor, WordIds
from keras_lightrnn.search.predictor import Predictor, Search, TablesSearch, read_prefixes
from keras_lightrnn.search.prefixes import Prefixes, check_texts, prepare_prefixes

# Prefixes that are read and searched together.
_TEXTS_AT_ONCE = 64
# The number of full batches from which on it pays to compile the recurrence for their shape.
_MANY_BATCHES = 64


def score(predictor: Predictor, words: WordIds, batch_size: int) -> np.ndarray:
    check_size("batch_size", batch_size)
    words, is_batch = check_texts(predictor.softmax, "words", words, at_least=2)
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


def word_log_probs(predictor: Predictor, prefix: WordIds, mask: Tensor) -> np.ndarray:
    prefixes = prepare_prefixes(predictor.softmax, prefix, mask)
    found: list[np.ndarray] = []
    for search in _read(predictor, prefixes):
        search.padding = None  # padding has a probability, although searches never return it
        found += search.all_words()
    return np.stack(found) if prefixes.is_batch else found[0]


def next_words(
    predictor: Predictor, prefix: WordIds, k: int, mask: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    softmax = predictor.softmax
    check_k("k", k, softmax.word_table.vocabulary_size - softmax.mask_zero)
    prefixes = prepare_prefixes(softmax, prefix, mask)
    results = [search.best_words(k) for search in _read(predictor, prefixes)]
    words, log_probs = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return (words, log_probs) if prefixes.is_batch else (words[0], log_probs[0])


def _read(predictor: Predictor, prefixes: Prefixes) -> Iterator[Search | TablesSearch]:
    for start in range(0, len(prefixes.words), _TEXTS_AT_ONCE):
        yield read_prefixes(predictor, prefixes.take(slice(start, start + _TEXTS_AT_ONCE)))
