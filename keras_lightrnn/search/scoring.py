"""Log-probabilities of words and the likeliest words after prefixes."""

from __future__ import annotations

import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_k, check_size
from keras_lightrnn._internal.typing import Tensor, WordIds
from keras_lightrnn.search import cached_scoring
from keras_lightrnn.search.excluded import check_excluded
from keras_lightrnn.search.neural_cache import NeuralCache, check_cache
from keras_lightrnn.search.predictor import Predictor, read_prefixes
from keras_lightrnn.search.prefixes import check_texts, prepare_prefixes

# Prefixes that are read and searched together.
_TEXTS_AT_ONCE = 64
# The number of full batches from which on it pays to compile the recurrence for their shape.
_MANY_BATCHES = 64


def score(
    predictor: Predictor, words: WordIds, batch_size: int, cache: NeuralCache | None
) -> np.ndarray:
    """Return the log-probabilities of words; see `LightRNNModel.score`."""
    check_size("batch_size", batch_size)
    check_cache(cache)
    words, is_batch = check_texts(predictor.softmax, "words", words, at_least=2)
    has_many = len(words) >= _MANY_BATCHES * batch_size
    is_fused = cache is None and has_many and predictor.network.stack.is_fused
    log_probs = []
    length = words.shape[1]
    if is_fused:
        # Every compiled shape stays in memory, so lengths are rounded up to a few values. Padding
        # after a word does not change its log-probability.
        words = np.pad(words, [(0, 0), (0, _round_up(length) - length)])
    for start in range(0, len(words), batch_size):
        batch = words[start : start + batch_size]
        if cache is not None:
            scored = cached_scoring.score_texts(predictor, batch, cache)
        elif is_fused and len(batch) == batch_size:
            tensor = ops.convert_to_tensor(batch)
            scored = predictor.run("score_windows_fused", tensor, any_size=False)
        else:
            scored = predictor.run("score_windows", ops.convert_to_tensor(batch))
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
    """Return the log-probabilities of all next words; see `LightRNNModel.word_log_probs`."""
    check_cache(cache)
    prefixes = prepare_prefixes(predictor.softmax, prefix, mask)
    found: list[np.ndarray] = []
    for part in map(prefixes.take, _list_blocks(len(prefixes.words))):
        if cache is not None:
            found += cached_scoring.list_all_words(predictor, part, cache)
            continue
        search = read_prefixes(predictor, part)
        search.padding = None  # padding has a probability, although searches never return it
        found += search.all_words()
    return np.stack(found) if prefixes.is_batch else found[0]


def next_words(
    predictor: Predictor,
    prefix: WordIds,
    k: int,
    mask: Tensor,
    excluded: WordIds | None,
    cache: NeuralCache | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest next words; see `LightRNNModel.next_words`."""
    check_cache(cache)
    softmax = predictor.softmax
    size = softmax.word_table.vocabulary_size
    check_k("k", k, size - softmax.mask_zero)
    prefixes = prepare_prefixes(softmax, prefix, mask)
    num_texts = len(prefixes.words)
    if excluded is not None:
        excluded = check_excluded(excluded, num_texts, size, k, softmax.mask_zero)
    results = []
    for here in _list_blocks(num_texts):
        part, left_out = prefixes.take(here), None if excluded is None else excluded[here]
        if cache is not None:
            results.append(cached_scoring.next_words(predictor, part, k, cache, left_out))
            continue
        search = read_prefixes(predictor, part)
        if left_out is not None:
            search.exclude(left_out)
        results.append(search.best_words(k))
    words, log_probs = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return (words, log_probs) if prefixes.is_batch else (words[0], log_probs[0])


def _list_blocks(num_texts: int) -> list[slice]:
    """Return which texts are read and searched together."""
    starts = range(0, num_texts, _TEXTS_AT_ONCE)
    return [slice(start, start + _TEXTS_AT_ONCE) for start in starts]
