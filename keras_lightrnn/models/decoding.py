"""Exact scoring, search and sampling of words with a `LightRNNModel`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn.checks import check_size, is_size
from keras_lightrnn.models.fused_recurrence import run_fused
from keras_lightrnn.ops import interleave_components
from keras_lightrnn.ops.masks import set_mask
from keras_lightrnn.ops.word_ids import check_word_ids

if TYPE_CHECKING:
    from keras_lightrnn.models.light_rnn_model import LightRNNModel

# Rows that a search expands first, and the most that it expands at once later on.
_FIRST_ROWS, _MOST_ROWS = 16, 256
# Below it the best word alone has any weight, and numbers overflow.
_LEAST_TEMPERATURE = 1e-6
# Whole batches to score from which on it pays to compile the recurrence for their shape.
_MANY_BATCHES = 64


def score(model: LightRNNModel, words: Any, batch_size: int) -> np.ndarray:
    check_size("batch_size", batch_size)
    words, is_batch = _prepare(model, words, "words", at_least=2)
    run, run_whole = (model.compile_inference(f) for f in (score_windows, _score_fused))
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
    log_probs = np.stack([_Search(model, words).all_words() for words in prefix])
    return log_probs if is_batch else log_probs[0]


def next_words(model: LightRNNModel, prefix: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    check_k("k", k, model.word_table.vocabulary_size)
    prefix, is_batch = _prepare(model, prefix, "prefix")
    results = [_Search(model, words).best_words(k) for words in prefix]
    words, log_probs = (np.stack(parts) for parts in zip(*results, strict=True))
    return (words, log_probs) if is_batch else (words[0], log_probs[0])


def generate(
    model: LightRNNModel,
    prefix: Any,
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
) -> np.ndarray:
    if not np.isfinite(temperature) or temperature < 0:
        raise ValueError(
            f"`temperature` must be finite and not negative. Received: temperature={temperature}."
        )
    if top_k is not None:
        check_k("top_k", top_k, model.word_table.vocabulary_size)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must lie in (0, 1]. Received: top_p={top_p}.")
    if temperature > 0:
        temperature = max(temperature, _LEAST_TEMPERATURE)
    length = check_size("length", length)
    prefix, is_batch = _prepare(model, prefix, "prefix")
    if is_batch:
        raise ValueError(
            f"`prefix` must be one sequence of word ids. Received: prefix.shape={prefix.shape}. "
            "Call `generate` once for each sequence."
        )
    generator = np.random.default_rng(seed)
    search = _Search(model, prefix[0])
    sampled = []
    for _ in range(length):
        truncate = top_p
        if temperature == 0:
            words, log_probs = search.best_words(1)
        elif top_k is not None:
            words, log_probs = search.best_words(top_k)
        elif top_p is None:
            words, log_probs = search.sample_row(generator, temperature)
        elif temperature == 1:
            words, log_probs = search.nucleus(top_p)
            truncate = None  # it is the nucleus of all words already
        else:
            words, log_probs = np.arange(model.word_table.vocabulary_size), search.all_words()
        weights = np.exp((log_probs - log_probs.max()) / (temperature or 1.0))
        if truncate is not None:
            words, weights = _keep_nucleus(words, weights, truncate)
        word = int(words[_sample(generator, weights)])
        sampled.append(word)
        search = search.follow(word)
    return np.array(sampled, np.int32)


class _Search:
    """The distribution after a prefix: over rows at once, over words row by row."""

    def __init__(self, model: LightRNNModel, prefix: np.ndarray, start: Any = None) -> None:
        self.model = model
        words = ops.convert_to_tensor(prefix)
        if start is None:
            read = model.compile_inference(_read_prefix)(words[None])
        else:
            read = model.compile_inference(_read_word)(words, start.states, start.row_offsets)
        row_log_probs, self.states, self.row_offsets = read
        self.row_log_probs = ops.convert_to_numpy(row_log_probs)[0].astype(np.float64)

    def follow(self, word: int) -> _Search:
        """Return the search after one more word."""
        return _Search(self.model, np.array([word], np.int32), start=self)

    def expand(self, rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the words in some rows, `(n, C)`, -1 in empty cells, and their log-probabilities.

        There are `size` rows at most; one compiled function serves for all of that size.
        """
        padded = np.zeros(size, np.int32)
        padded[: len(rows)] = rows
        run = self.model.compile_inference(_expand_rows)
        words, columns = run(ops.convert_to_tensor(padded), self.states)
        words, columns = (ops.convert_to_numpy(x)[: len(rows)] for x in (words, columns))
        return words, self.row_log_probs[rows][:, None] + columns

    def by_row(self) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        """Yield words, log-probabilities, and a bound on every word still to come."""
        order = np.argsort(-self.row_log_probs, kind="stable")
        start, size = 0, _FIRST_ROWS
        while start < len(order):
            words, log_probs = self.expand(order[start : start + size], size)
            start, size = start + size, min(4 * size, _MOST_ROWS)
            bound = self.row_log_probs[order[start]] if start < len(order) else -np.inf
            yield words[words >= 0], log_probs[words >= 0], bound

    def sample_row(
        self, generator: np.random.Generator, temperature: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a row with the total weight of its words, `sum of P(word) ** (1 / temperature)`.

        By rejection, exactly: a row is drawn with a bound of its weight, expanded, which makes
        its weight known, and kept with probability weight / bound.

        Returns:
            The words of the row and their log-probabilities.
        """
        # Over C columns, sum P(column) ** (1 / t) is at most 1, or for t > 1 C ** (1 - 1 / t).
        bounds = self.row_log_probs / temperature
        bounds += max(1 - 1 / temperature, 0) * np.log(self.model.word_table.num_columns)
        order = np.argsort(-bounds, kind="stable")
        # At temperature 1 a bound is the weight, and the first row is kept. Elsewhere the likeliest
        # of the others are expanded as well: they cost little more in one call.
        size = 1 if temperature == 1 else _FIRST_ROWS
        expanded: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        while True:
            row = _sample(generator, np.exp(bounds - bounds.max()))
            if row not in expanded:
                bound = bounds[row]
                others = (other for other in order if other != row and other not in expanded)
                rows = np.array([row, *itertools.islice(others, size - 1)])
                words, log_probs = self.expand(rows, size)
                tempered = np.where(words >= 0, log_probs / temperature, -np.inf)
                bounds[rows] = np.logaddexp.reduce(tempered, axis=1)
                expanded.update(zip(rows, zip(words, log_probs, strict=True), strict=True))
                if generator.random() >= np.exp(bounds[row] - bound):
                    continue
            words, log_probs = expanded[row]
            return words[words >= 0], log_probs[words >= 0]

    def all_words(self) -> np.ndarray:
        log_probs = np.empty(self.model.word_table.vocabulary_size)
        for words, values, _ in self.by_row():
            log_probs[words] = values
        return log_probs

    def best_words(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        words, log_probs = np.empty(0, np.int32), np.empty(0)
        for more_words, more_log_probs, bound in self.by_row():
            words = np.concatenate([words, more_words])
            log_probs = np.concatenate([log_probs, more_log_probs])
            if len(words) > k:
                is_among = log_probs >= np.partition(log_probs, -k)[-k]
                words, log_probs = words[is_among], log_probs[is_among]
            words, log_probs = _sort(words, log_probs)
            words, log_probs = words[:k], log_probs[:k]
            if len(words) == k and log_probs[-1] >= bound:
                break
        return words, log_probs

    def nucleus(self, top_p: float) -> tuple[np.ndarray, np.ndarray]:
        """Return at least the fewest words that reach `top_p`, best first."""
        words, log_probs = np.empty(0, np.int32), np.empty(0)
        for more_words, more_log_probs, bound in self.by_row():
            words, log_probs = _sort(
                np.concatenate([words, more_words]), np.concatenate([log_probs, more_log_probs])
            )
            # Words above the bound are in their final order.
            sure = np.exp(log_probs[log_probs >= bound])
            if sure.sum() >= top_p:
                size = int(np.searchsorted(np.cumsum(sure), top_p)) + 1
                return words[:size], log_probs[:size]
        return words, log_probs


# Compiled functions of a model and tensors.


def score_windows(model: LightRNNModel, words: Any) -> Any:
    """Return the log-probabilities of the words 1..N-1 of sequences, from the zero state."""
    half_steps, _ = model.run_recurrence(model.embedding(words), training=False)
    return model.softmax(half_steps, words[:, 1:], training=False)


def _score_fused(model: LightRNNModel, words: Any) -> Any:
    """Return what `score_windows` does, sooner, once it is compiled for the shape of `words`."""
    half_steps, _ = run_fused(model, words, None, training=False)
    return model.softmax(half_steps, words[:, 1:], training=False, fused=True)


def _read_prefix(model: LightRNNModel, prefix: Any) -> tuple[Any, Any, Any]:
    rows, columns = model.embedding.embed_components(prefix)  # (1, N, D) each
    half_steps = ops.concatenate(
        [interleave_components(rows, columns), columns[:, -1:]], axis=1
    )  # (1, 2N - 1, D)
    if model.mask_zero:
        set_mask(half_steps, ops.repeat(ops.not_equal(prefix, 0), 2, axis=1)[:, 1:])
    _, states = model.run_recurrence(half_steps, training=False)
    return _predict_rows(model, states, model.softmax.compute_row_offsets())


def _read_word(
    model: LightRNNModel, word: Any, states: Any, row_offsets: Any
) -> tuple[Any, Any, Any]:
    row, column = model.embedding.embed_components(word)  # (1, D) each
    new_states = _run_half_step(model, column, _run_half_step(model, row, states))
    if model.mask_zero:
        is_word = ops.not_equal(word, 0)[:, None]
        new_states = keras.tree.map_structure(
            lambda new, old: ops.where(is_word, new, old), new_states, states
        )
    return _predict_rows(model, new_states, row_offsets)


def _predict_rows(model: LightRNNModel, states: Any, row_offsets: Any) -> tuple[Any, Any, Any]:
    logits = model.softmax.compute_row_logits(_get_hidden(states), row_offsets)  # (1, R)
    return ops.log_softmax(logits), states, row_offsets


def _expand_rows(model: LightRNNModel, rows: Any, states: Any) -> tuple[Any, Any]:
    num_rows = ops.shape(rows)[0]
    vectors = ops.take(model.embedding.row_embeddings, rows, axis=0)  # (n, D)
    states = [[ops.repeat(state, num_rows, axis=0) for state in layer] for layer in states]
    states = _run_half_step(model, ops.cast(vectors, model.compute_dtype), states)
    logits = model.softmax.compute_column_logits(_get_hidden(states), rows)  # (n, C)
    return ops.take(model.word_table.words, rows, axis=0), ops.log_softmax(logits)


def _run_half_step(model: LightRNNModel, vectors: Any, states: Any) -> list[list[Any]]:
    """Return the states after one half-step, in half the time of a loop over one."""
    new_states = []
    for layer, of_layer in zip(model.recurrent_layers, states, strict=True):
        vectors, new = layer.cell(vectors, list(of_layer), training=False)
        new_states.append(list(new))
    return new_states


def _get_hidden(states: Any) -> Any:
    """Return the hidden state of the last layer, `(n, H)`: it is the first of its states."""
    return states[-1][0]


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


def check_k(name: str, k: int, vocabulary_size: int) -> None:
    """Raise `ValueError` unless `k` is an integer in `[1, V]`."""
    if not is_size(k) or k > vocabulary_size:
        raise ValueError(
            f"`{name}` must be an integer in [1, {vocabulary_size}]. Received: {name}={k!r}."
        )


def _sort(words: np.ndarray, log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((words, -log_probs))  # equal log-probabilities: the lesser id first
    return words[order], log_probs[order]


def _keep_nucleus(
    words: np.ndarray, weights: np.ndarray, top_p: float
) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-weights, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    kept = order[: int(np.searchsorted(reached, top_p)) + 1]
    return words[kept], weights[kept]


def _sample(generator: np.random.Generator, weights: np.ndarray) -> int:
    return int(generator.choice(len(weights), p=weights / weights.sum()))
