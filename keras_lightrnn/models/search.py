"""The distribution of the word after a prefix, as far as it is looked at."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn.ops import interleave_components
from keras_lightrnn.ops.masks import set_mask

if TYPE_CHECKING:
    from keras_lightrnn.models.light_rnn_model import LightRNNModel

# One compiled function serves for so many rows of all texts together.
_SIZES = (1, 4, 16, 64, 256)
# Rows of a text that a search for the best words expands first: of one text, which waits for each
# call, and of several, for which what is expanded in vain counts.
_FIRST_ROWS, _FIRST_ROWS_OF_SEVERAL = 16, 4


class Search:
    """The distributions after some texts: over rows at once, over words row by row.

    Make one with `Search.read`.

    Args:
        model: The model.
        row_log_probs: `(B, R)`, of the next word's row.
        states: By layer, its states `(B, H)` after a column half-step.
        row_offsets: List of what `TwoComponentSoftmax.compute_row_offsets` returned, or empty.

    Raises:
        ValueError: if the model computes no numbers.
    """

    def __init__(
        self, model: LightRNNModel, row_log_probs: Any, states: Any, row_offsets: Any
    ) -> None:
        self.model = model
        self.states, self.row_offsets = states, row_offsets
        self.row_log_probs = ops.convert_to_numpy(row_log_probs).astype(np.float64)  # (B, R)
        _check_numbers(self.row_log_probs)

    @classmethod
    def read(cls, model: LightRNNModel, prefixes: np.ndarray) -> Search:
        """Return the search after prefixes of one length, `(B, N)`."""
        run = model.compile_inference(_read_prefixes)
        return cls(model, *run(ops.convert_to_tensor(prefixes)))

    def follow(self, words: np.ndarray) -> Search:
        """Return the search after one more word of each text, `(B,)`."""
        run = self.model.compile_inference(_read_words)
        results = run(ops.convert_to_tensor(words), self.states, self.row_offsets)
        return Search(self.model, *results)

    def expand(self, texts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the words in rows after texts and their log-probabilities, `(n, C)` each.

        Empty cells hold the word -1.

        Args:
            texts: `(n,)` indices of texts.
            rows: `(n,)`, of each the row that is looked at.
        """
        run = self.model.compile_inference(_expand_rows)
        places = np.stack([texts, rows]).astype(np.int32)  # (2, n)
        words, log_probs = [], []
        for start in range(0, len(rows), _SIZES[-1]):
            some = places[:, start : start + _SIZES[-1]]
            num_rows = some.shape[1]
            size = next(size for size in _SIZES if size >= num_rows)
            padded = np.pad(some, [(0, 0), (0, size - num_rows)])
            results = run(ops.convert_to_tensor(padded), self.states)
            of_rows, columns = (ops.convert_to_numpy(x)[:num_rows] for x in results)
            _check_numbers(columns)
            words.append(of_rows)
            log_probs.append(self.row_log_probs[tuple(some)][:, None] + columns)
        return np.concatenate(words), np.concatenate(log_probs)

    def best_words(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the `k` likeliest words of each text and their log-probabilities, `(B, k)` each.

        A row is expanded if its own log-probability is above that of the last of the best `k` by
        then: no word of it can be likelier than its row.
        """
        num_texts, num_rows = self.row_log_probs.shape
        order = np.argsort(-self.row_log_probs, axis=1, kind="stable")
        falling = np.take_along_axis(self.row_log_probs, order, axis=1)
        best = [(np.empty(0, np.int32), np.empty(0))] * num_texts
        least = np.full(num_texts, -np.inf)  # of the best `k`
        start, size = 0, _FIRST_ROWS if num_texts == 1 else _FIRST_ROWS_OF_SEVERAL
        while start < num_rows:
            here = slice(start, start + size)
            texts, places = np.nonzero(falling[:, here] > least[:, None])
            if not len(texts):
                break
            rows = order[:, here][texts, places]
            for at in range(0, len(texts), _SIZES[-1]):  # no more is held at a time
                some = texts[at : at + _SIZES[-1]]
                found = self.expand(some, rows[at : at + _SIZES[-1]])
                for text, first, last in _find_runs(some):
                    more_words, more_log_probs = (x[first:last] for x in found)
                    best[text] = _keep_best(*best[text], more_words, more_log_probs, k)
                    if len(best[text][0]) == k:
                        least[text] = best[text][1][-1]
            start, size = start + size, 4 * size
        words, log_probs = (np.stack(parts) for parts in zip(*best, strict=True))
        return words, log_probs

    def all_words(self) -> Iterator[np.ndarray]:
        """Yield the log-probabilities of all words, `(V,)`, of one text after the other."""
        num_texts, num_rows = self.row_log_probs.shape
        cells = self.model.word_table.allocation.cells
        for text in range(num_texts):
            _, log_probs = self.expand(np.full(num_rows, text), np.arange(num_rows))
            yield log_probs.ravel()[cells]

    def sample_rows(
        self, generator: np.random.Generator, temperature: float
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Draw a row for each text with the weight of its words, `sum of P(word) ** (1 / t)`.

        By rejection, exactly: a row is drawn with a bound of its weight, expanded, which makes
        its weight known, and kept with probability weight / bound.

        Returns:
            For each text, the words of its row and their log-probabilities.
        """
        # Over C columns, sum P(column) ** (1 / t) is at most 1, or for t > 1 C ** (1 - 1 / t).
        bounds = self.row_log_probs / temperature
        bounds += max(1 - 1 / temperature, 0) * np.log(self.model.word_table.num_columns)
        order = np.argsort(-bounds, axis=1, kind="stable")
        # At temperature 1 a bound is the weight, and the first row is kept. Elsewhere the likeliest
        # of the others are expanded as well: they cost little more in one call.
        num_others = 0 if temperature == 1 else _FIRST_ROWS - 1
        expanded: list[dict[int, tuple[np.ndarray, np.ndarray]]] = [{} for _ in bounds]
        kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        while len(kept) < len(bounds):
            drawn = [
                (text, sample(generator, np.exp(bounds[text] - bounds[text].max())))
                for text in range(len(bounds))
                if text not in kept
            ]
            places, chances = [], {}
            for text, row in drawn:
                if row not in expanded[text]:
                    chances[text] = -bounds[text, row]
                    unseen = (r for r in order[text] if r != row and r not in expanded[text])
                    places += [(text, r) for r in (row, *itertools.islice(unseen, num_others))]
            if places:
                texts, rows = np.array(places).T
                words, log_probs = self.expand(texts, rows)
                tempered = np.where(words >= 0, log_probs / temperature, -np.inf)
                bounds[texts, rows] = np.logaddexp.reduce(tempered, axis=1)
                for (text, row), *found in zip(places, words, log_probs, strict=True):
                    expanded[text][row] = tuple(found)
            for text, row in drawn:
                # A row that was known is drawn by its weight itself.
                chance = np.exp(chances[text] + bounds[text, row]) if text in chances else 1.0
                if generator.random() < chance:
                    words, log_probs = expanded[text][row]
                    kept[text] = words[words >= 0], log_probs[words >= 0]
        return [kept[text] for text in range(len(bounds))]

    def nuclei(self, top_p: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield, of one text after the other, at least the fewest words that reach `top_p`.

        Words and log-probabilities, best first.
        """
        for text in range(len(self.row_log_probs)):
            yield self._find_nucleus(text, top_p)

    def _find_nucleus(self, text: int, top_p: float) -> tuple[np.ndarray, np.ndarray]:
        row_log_probs = self.row_log_probs[text]
        order = np.argsort(-row_log_probs, kind="stable")
        all_words = self.model.word_table.vocabulary_size
        words, log_probs = np.empty(0, np.int32), np.empty(0)
        start, size = 0, _FIRST_ROWS
        while start < len(order):
            rows = order[start : start + size]
            found = self.expand(np.full_like(rows, text), rows)
            words, log_probs = _keep_best(words, log_probs, *found, all_words)
            start, size = start + size, 4 * size
            # Words above every row to come are in their final order.
            bound = row_log_probs[order[start]] if start < len(order) else -np.inf
            sure = np.exp(log_probs[log_probs >= bound])
            if sure.sum() >= top_p:
                num_kept = int(np.searchsorted(np.cumsum(sure), top_p)) + 1
                return words[:num_kept], log_probs[:num_kept]
        return words, log_probs


# Compiled functions of a model and tensors.


def _read_prefixes(model: LightRNNModel, prefixes: Any) -> tuple[Any, Any, Any]:
    rows, columns = model.embedding.embed_components(prefixes)  # (B, N, D) each
    half_steps = ops.concatenate(
        [interleave_components(rows, columns), columns[:, -1:]], axis=1
    )  # (B, 2N - 1, D)
    if model.mask_zero:
        set_mask(half_steps, ops.repeat(ops.not_equal(prefixes, 0), 2, axis=1)[:, 1:])
    _, states = model.run_recurrence(half_steps, training=False)
    offsets = model.softmax.compute_row_offsets()
    return _predict_rows(model, states, [] if offsets is None else [offsets])


def _read_words(
    model: LightRNNModel, words: Any, states: Any, row_offsets: Any
) -> tuple[Any, Any, Any]:
    rows, columns = model.embedding.embed_components(words)  # (B, D) each
    new_states = _run_half_step(model, columns, _run_half_step(model, rows, states))
    if model.mask_zero:
        is_word = ops.not_equal(words, 0)[:, None]
        new_states = keras.tree.map_structure(
            lambda new, old: ops.where(is_word, new, old), new_states, states
        )
    return _predict_rows(model, new_states, row_offsets)


def _predict_rows(model: LightRNNModel, states: Any, row_offsets: Any) -> tuple[Any, Any, Any]:
    logits = model.softmax.compute_row_logits(_get_hidden(states), *row_offsets)  # (B, R)
    return ops.log_softmax(logits), states, row_offsets


def _expand_rows(model: LightRNNModel, places: Any, states: Any) -> tuple[Any, Any]:
    texts, rows = places[0], places[1]  # (n,) each
    vectors = ops.take(model.embedding.row_embeddings, rows, axis=0)  # (n, D)
    states = [[ops.take(state, texts, axis=0) for state in layer] for layer in states]
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


def _check_numbers(log_probs: np.ndarray) -> None:
    if np.isnan(log_probs).any():
        raise ValueError(
            "Next words are looked for by their probabilities. Received: a model that computes "
            "NaN. Its training has diverged: load weights from before, and train with a lower "
            "learning rate or with `global_clipnorm`."
        )


def _find_runs(values: np.ndarray) -> list[tuple[int, int, int]]:
    """Return the value, first place and end of each run of equal values."""
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1)]
    return list(zip(values[starts], starts, [*starts[1:], len(values)], strict=True))


def _keep_best(
    words: np.ndarray,
    log_probs: np.ndarray,
    more_words: np.ndarray,
    more_log_probs: np.ndarray,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best `k` of what was kept and of more, best first."""
    is_word = more_words >= 0
    words = np.concatenate([words, more_words[is_word]])
    log_probs = np.concatenate([log_probs, more_log_probs[is_word]])
    if len(words) > k:
        is_among = log_probs >= np.partition(log_probs, -k)[-k]
        words, log_probs = words[is_among], log_probs[is_among]
    words, log_probs = _sort(words, log_probs)
    return words[:k], log_probs[:k]


def _sort(words: np.ndarray, log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((words, -log_probs))  # equal log-probabilities: the lesser id first
    return words[order], log_probs[order]


def sample(generator: np.random.Generator, weights: np.ndarray) -> int:
    """Draw an index with probability proportional to its weight."""
    return int(generator.choice(len(weights), p=weights / weights.sum()))
