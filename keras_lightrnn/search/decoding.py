"""Scoring, exact search and sampling of words."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_k, check_not_negative, check_size
from keras_lightrnn.ops.word_ids import check_word_ids
from keras_lightrnn.search.predictor import Predictor, Search, TablesSearch, read_prefixes
from keras_lightrnn.search.row_search import sample

# Prefixes that are read and searched together.
_TEXTS_AT_ONCE = 64
# Below it the best word alone has any weight, and numbers overflow.
_LEAST_TEMPERATURE = 1e-6
# Whole batches to score from which on it pays to compile the recurrence for their shape.
_MANY_BATCHES = 64


def score(predictor: Predictor, words: Any, batch_size: int) -> np.ndarray:
    check_size("batch_size", batch_size)
    words, is_batch = _prepare(predictor, words, "words", at_least=2)
    is_fused = predictor.network.stack.is_fused and len(words) >= _MANY_BATCHES * batch_size
    log_probs = []
    length = words.shape[1]
    if is_fused:
        # Each shape is compiled and stays in memory: there are to be few. What follows a word
        # does not change its log-probability.
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


def word_log_probs(predictor: Predictor, prefix: Any) -> np.ndarray:
    prefix, is_batch = _prepare(predictor, prefix, "prefix")
    found: list[np.ndarray] = []
    for search in _read(predictor, prefix):
        search.padding = None  # it has a probability, though it is never answered
        found += search.all_words()
    return np.stack(found) if is_batch else found[0]


def next_words(predictor: Predictor, prefix: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    check_k("k", k, _count_words(predictor))
    prefix, is_batch = _prepare(predictor, prefix, "prefix")
    results = [search.best_words(k) for search in _read(predictor, prefix)]
    words, log_probs = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return (words, log_probs) if is_batch else (words[0], log_probs[0])


def _count_words(predictor: Predictor) -> int:
    """Return how many words may be answered."""
    return predictor.softmax.word_table.vocabulary_size - predictor.softmax.mask_zero


def _read(predictor: Predictor, prefixes: np.ndarray) -> Iterator[Search | TablesSearch]:
    for start in range(0, len(prefixes), _TEXTS_AT_ONCE):
        yield read_prefixes(predictor, prefixes[start : start + _TEXTS_AT_ONCE])


def generate(
    predictor: Predictor,
    prefix: Any,
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
) -> np.ndarray:
    if not isinstance(temperature, Real) or not 0 <= temperature < np.inf:
        raise ValueError(
            "`temperature` must be a finite number that is not negative. Received: "
            f"temperature={temperature!r}."
        )
    if top_k is not None:
        check_k("top_k", top_k, _count_words(predictor))
    if top_p is not None and not (isinstance(top_p, Real) and 0 < top_p <= 1):
        raise ValueError(f"`top_p` must be a number in (0, 1]. Received: top_p={top_p!r}.")
    if seed is not None:
        check_not_negative("seed", seed)
    if temperature > 0:
        temperature = max(temperature, _LEAST_TEMPERATURE)
    length = check_size("length", length)
    prefix, is_batch = _prepare(predictor, prefix, "prefix")
    generator = np.random.default_rng(seed)
    sampled = [
        _continue(search, generator, length, temperature, top_k, top_p)
        for search in _read(predictor, prefix)
    ]
    joined = np.concatenate(sampled)
    return joined if is_batch else joined[0]


def _continue(
    search: Search | TablesSearch,
    generator: np.random.Generator,
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> np.ndarray:
    """Sample `length` words after each text of a search, `(B, length)`."""
    most = 1 if temperature == 0 else top_k
    sampled: list[np.ndarray] = []
    while len(sampled) < length:
        if sampled:
            search = search.follow(sampled[-1])
        truncate = top_p
        if most is not None:
            choices: Any = zip(*search.best_words(most), strict=True)
        elif top_p is None:
            choices = search.sample_rows(generator, temperature)
        elif temperature == 1:
            choices = search.nuclei(top_p)
            truncate = None  # they are the nuclei of all words already
        else:
            choices = ((np.arange(len(log_probs)), log_probs) for log_probs in search.all_words())
        chosen = [
            _choose(generator, words, log_probs, temperature, truncate)
            for words, log_probs in choices
        ]
        sampled.append(np.array(chosen, np.int32))
    return np.stack(sampled, axis=1)


def _choose(
    generator: np.random.Generator,
    words: np.ndarray,
    log_probs: np.ndarray,
    temperature: float,
    top_p: float | None,
) -> int:
    weights = np.exp((log_probs - log_probs.max()) / (temperature or 1.0))
    if top_p is not None:
        words, weights = _keep_nucleus(words, weights, top_p)
    return int(words[sample(generator, weights)])


# Small things.


def _prepare(
    predictor: Predictor, words: Any, name: str, at_least: int = 1
) -> tuple[np.ndarray, bool]:
    words = np.asarray(words)
    if words.ndim not in (1, 2) or words.size == 0 or words.shape[-1] < at_least:
        raise ValueError(
            f"`{name}` must hold at least {at_least} word id(s), as (N,) or (B, N). Received: "
            f"{name}.shape={words.shape}."
        )
    if not np.issubdtype(words.dtype, np.integer):
        raise TypeError(
            f"`{name}` must hold integer word ids. Received: {name}.dtype={words.dtype}. Encode "
            "text with `Vocabulary.encode` first."
        )
    check_word_ids(words, predictor.softmax.word_table.vocabulary_size)
    return np.atleast_2d(words).astype(np.int32), words.ndim == 2


def _keep_nucleus(
    words: np.ndarray, weights: np.ndarray, top_p: float
) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-weights, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    kept = order[: int(np.searchsorted(reached, top_p)) + 1]
    return words[kept], weights[kept]
