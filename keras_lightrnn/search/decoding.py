"""Exact scoring, search and sampling of words with a `LightRNNModel`."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_k, check_not_negative, check_size
from keras_lightrnn.ops.word_ids import check_word_ids
from keras_lightrnn.recurrence.stack import run_fused
from keras_lightrnn.search.recurrent_search import Search
from keras_lightrnn.search.row_search import sample

if TYPE_CHECKING:
    from keras_lightrnn.models.light_rnn_model import LightRNNModel

# Prefixes that are read and searched together.
_TEXTS_AT_ONCE = 64
# Below it the best word alone has any weight, and numbers overflow.
_LEAST_TEMPERATURE = 1e-6
# Whole batches to score from which on it pays to compile the recurrence for their shape.
_MANY_BATCHES = 64


def score(model: LightRNNModel, words: Any, batch_size: int) -> np.ndarray:
    check_size("batch_size", batch_size)
    words, is_batch = _prepare(model, words, "words", at_least=2)
    run = model.compile_inference(score_windows)
    run_whole = model.compile_inference(_score_fused, any_size=False)
    if not model.is_fused or len(words) < _MANY_BATCHES * batch_size:
        run_whole = run
    log_probs = []
    for start in range(0, len(words), batch_size):
        batch = words[start : start + batch_size]
        compiled = run_whole if len(batch) == batch_size else run
        log_probs.append(ops.convert_to_numpy(compiled(ops.convert_to_tensor(batch))))
    joined = np.concatenate(log_probs)
    return joined if is_batch else joined[0]


def word_log_probs(model: LightRNNModel, prefix: Any) -> np.ndarray:
    prefix, is_batch = _prepare(model, prefix, "prefix")
    log_probs = np.stack([each for search in _read(model, prefix) for each in search.all_words()])
    return log_probs if is_batch else log_probs[0]


def next_words(model: LightRNNModel, prefix: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    check_k("k", k, model.word_table.vocabulary_size)
    prefix, is_batch = _prepare(model, prefix, "prefix")
    results = [search.best_words(k) for search in _read(model, prefix)]
    words, log_probs = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return (words, log_probs) if is_batch else (words[0], log_probs[0])


def _read(model: LightRNNModel, prefixes: np.ndarray) -> Iterator[Search]:
    for start in range(0, len(prefixes), _TEXTS_AT_ONCE):
        yield Search.read(model, prefixes[start : start + _TEXTS_AT_ONCE])


def generate(
    model: LightRNNModel,
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
        check_k("top_k", top_k, model.word_table.vocabulary_size)
    if top_p is not None and not (isinstance(top_p, Real) and 0 < top_p <= 1):
        raise ValueError(f"`top_p` must be a number in (0, 1]. Received: top_p={top_p!r}.")
    if seed is not None:
        check_not_negative("seed", seed)
    if temperature > 0:
        temperature = max(temperature, _LEAST_TEMPERATURE)
    length = check_size("length", length)
    prefix, is_batch = _prepare(model, prefix, "prefix")
    generator = np.random.default_rng(seed)
    sampled = [
        _continue(search, generator, length, temperature, top_k, top_p)
        for search in _read(model, prefix)
    ]
    joined = np.concatenate(sampled)
    return joined if is_batch else joined[0]


def _continue(
    search: Search,
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
            words = np.arange(search.model.word_table.vocabulary_size)
            choices = ((words, log_probs) for log_probs in search.all_words())
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


# Compiled functions of a model and tensors.


def score_windows(model: LightRNNModel, words: Any) -> Any:
    """Return the log-probabilities of the words 1..N-1 of sequences, from the zero state."""
    half_steps, _ = model.run_recurrence(model.embedding(words), training=False)
    return model.softmax(half_steps, words[:, 1:], training=False)


def _score_fused(model: LightRNNModel, words: Any) -> Any:
    """Return what `score_windows` does, sooner, once it is compiled for the shape of `words`."""
    half_steps, _ = run_fused(model, words, None, training=False)
    return model.softmax(half_steps, words[:, 1:], training=False, fused=True)


# Small things.


def _prepare(
    model: LightRNNModel, words: Any, name: str, at_least: int = 1
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
    check_word_ids(words, model.word_table.vocabulary_size)
    if not model.built:
        if model.stateful:
            raise ValueError(
                "A stateful model must be built, by `fit` or `model.build((batch_size, "
                "sequence_length + 1))`, before it is used. Received: a model that is not built."
            )
        model.build((None, None))
    return np.atleast_2d(words).astype(np.int32), words.ndim == 2


def _keep_nucleus(
    words: np.ndarray, weights: np.ndarray, top_p: float
) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-weights, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    kept = order[: int(np.searchsorted(reached, top_p)) + 1]
    return words[kept], weights[kept]
