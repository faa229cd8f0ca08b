"""Exact search for words, row by row, for any network (NumPy only)."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

# The most rows, of all texts together, that are computed at a time.
ROWS_AT_ONCE = 256
# Rows of each text that a search expands first. For one text the number of calls counts, so it
# starts with more rows; for several texts the rows that are expanded without need count.
_FIRST_ROWS, _FIRST_ROWS_OF_SEVERAL = 16, 4
# Above this probability of excluded words, that of the others is summed: one minus it is inexact.
_MOST_EXCLUDED = 0.99
# Larger than any word id, so that `text * _MOST_WORDS + word` identifies a word of a text.
_MOST_WORDS = 2**31


class RowSearch(abc.ABC):
    """The distributions of the next word after some texts.

    The log-probabilities of all rows are known from the start; rows are expanded into words on
    demand. The log-probability of a word is the float64 sum of two float32 numbers: that of its row
    and that of its column given the row.

    Args:
        row_log_probs: `(B, R)`, the log-probabilities of the next word's row.
        num_columns: Integer `C`.
        padding: Integer, a word that is never returned, or `None`.

    Raises:
        ValueError: if the network computes NaN.
    """

    def __init__(
        self, row_log_probs: np.ndarray, num_columns: int, padding: int | None = None
    ) -> None:
        self.row_log_probs = row_log_probs.astype(np.float64)
        self.num_columns = num_columns
        self.padding = padding
        self._excluded: np.ndarray | None = None
        check_numbers(self.row_log_probs)

    @property
    def num_texts(self) -> int:
        """The number of texts."""
        return len(self.row_log_probs)

    @abc.abstractmethod
    def compute_columns(self, texts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the words in rows, `(n, C)`, and their log-probabilities given them, float32.

        Args:
            texts: `(n,)` indices of texts, at most `ROWS_AT_ONCE`.
            rows: `(n,)`, the row to expand after each of the texts.
        """

    @abc.abstractmethod
    def find_rows(self, words: np.ndarray) -> np.ndarray:
        """Return the rows of words."""

    def exclude(self, words: np.ndarray) -> None:
        """Exclude words from all results.

        Args:
            words: `(B, E)` integers: word ids for each text, -1 for none.
        """
        texts = np.arange(len(words))[:, None] * _MOST_WORDS
        self._excluded = np.unique((texts + words)[words >= 0])

    def _drop_excluded(
        self, texts: np.ndarray, words: np.ndarray, log_probs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return words and log-probabilities with -1 and minus infinity for excluded words."""
        is_dropped: Any = False
        if self.padding is not None:
            is_dropped = words == self.padding
        if self._excluded is not None:
            is_dropped |= np.isin(texts[:, None] * _MOST_WORDS + words, self._excluded)
        if not np.any(is_dropped):
            return words, log_probs
        return np.where(is_dropped, -1, words), np.where(is_dropped, -np.inf, log_probs)

    def _compute_excluded_mass(self) -> np.ndarray:
        """Return the probability of the excluded words of each text, `(B,)`."""
        num_texts = len(self.row_log_probs)
        pairs = []
        if self.padding is not None:
            pairs += [(text, self.padding) for text in range(num_texts)]
        if self._excluded is not None:
            pairs += [divmod(int(key), _MOST_WORDS) for key in self._excluded]
        mass = np.zeros(num_texts)
        if pairs:
            texts, words = np.unique(np.array(pairs), axis=0).T
            np.add.at(mass, texts, np.exp(self.compute_word_log_probs(texts, words)))
        return mass

    def _compute_allowed_log_mass(self) -> np.ndarray:
        """Return the log-probability of the words of each text that are not excluded, `(B,)`."""
        excluded = self._compute_excluded_mass()
        allowed = np.log1p(-np.minimum(excluded, _MOST_EXCLUDED))
        rows = np.arange(self.row_log_probs.shape[1])
        for text in np.flatnonzero(excluded > _MOST_EXCLUDED):
            words, log_probs = self.expand(np.full(len(rows), text), rows)
            allowed[text] = np.logaddexp.reduce(log_probs[words >= 0])
        return allowed

    def compute_word_log_probs(self, texts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return the log-probability of words after texts, `(n,)`, excluded words included."""
        num_rows = self.row_log_probs.shape[1]
        places, inverse = np.unique(texts * num_rows + self.find_rows(words), return_inverse=True)
        found = np.empty(len(words))
        for start in range(0, len(places), ROWS_AT_ONCE):
            row_texts, rows = np.divmod(places[start : start + ROWS_AT_ONCE], num_rows)
            of_rows, log_probs = self._compute_columns(row_texts, rows)
            here = np.flatnonzero((inverse >= start) & (inverse < start + len(rows)))
            row = inverse[here] - start
            picked = log_probs[row][of_rows[row] == words[here, None]]
            found[here] = self.row_log_probs[row_texts, rows][row] + picked
        return found

    def _compute_columns(
        self, texts: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what `compute_columns` does, checked, with numbers in impossible rows."""
        words, log_probs = self.compute_columns(texts, rows)
        return words, check_columns(self.row_log_probs[texts, rows], log_probs)

    def expand(self, texts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the words in rows after texts and their log-probabilities, `(n, C)` each.

        Empty cells hold the word -1.

        Args:
            texts: `(n,)` indices of texts.
            rows: `(n,)`, the row to expand after each of the texts.
        """
        words, log_probs = [], []
        for here, of_rows, column_log_probs in self.read_columns(texts, rows):
            words.append(of_rows)
            log_probs.append(self.row_log_probs[texts[here], rows[here], None] + column_log_probs)
        return np.concatenate(words), np.concatenate(log_probs)

    def read_columns(
        self, texts: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield slices of the rows, with the words in them and their log-probabilities."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            here = slice(start, start + ROWS_AT_ONCE)
            words, log_probs = self._compute_columns(texts[here], rows[here])
            yield here, *self._drop_excluded(texts[here], words, log_probs)

    def best_words(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the `k` likeliest words of each text and their log-probabilities, `(B, k)` each.

        A row is expanded unless its log-probability is below that of the current `k`-th word,
        because no word is likelier than its row. Ties go to the smaller id.
        """
        best = _BestWords(len(self.row_log_probs), k)
        order, falling = self._sort_rows()
        for here in self._grow():
            texts, places = np.nonzero(falling[:, here] >= best.log_probs[:, -1:])
            if not len(texts):
                break
            rows = order[:, here][texts, places]
            row_log_probs = self.row_log_probs[texts, rows]
            for part, words, column_log_probs in self.read_columns(texts, rows):
                best.add(texts[part], row_log_probs[part], words, column_log_probs)
        return best.words, best.log_probs

    def _sort_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows in descending order and their log-probabilities, `(B, R)` each."""
        order = np.argsort(-self.row_log_probs, axis=1, kind="stable")
        return order, np.take_along_axis(self.row_log_probs, order, axis=1)

    @property
    def _num_first_rows(self) -> int:
        """The number of rows of each text to expand first."""
        return _FIRST_ROWS if len(self.row_log_probs) == 1 else _FIRST_ROWS_OF_SEVERAL

    def _grow(self) -> Iterator[slice]:
        """Yield slices of the rows, each four times as long as the previous one."""
        start, size = 0, self._num_first_rows
        while start < self.row_log_probs.shape[1]:
            yield slice(start, start + size)
            start, size = start + size, 4 * size

    def sample_rows(
        self, generator: np.random.Generator, temperature: float
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Draw a row for each text with probability proportional to `sum of P(word) ** (1 / t)`.

        This is exact rejection sampling: a row is drawn in proportion to an upper bound of its
        weight, expanded, which makes the weight known, and accepted with probability
        weight / bound.

        Returns:
            For each text, the words of its row and their log-probabilities.
        """
        # The sum of P(column) ** (1 / t) over C columns is at most 1 if t <= 1, and at most
        # C ** (1 - 1 / t) if t > 1.
        bounds = self.row_log_probs / temperature
        bounds += max(1 - 1 / temperature, 0) * np.log(self.num_columns)
        order = np.argsort(-bounds, axis=1, kind="stable")
        # At temperature 1 the bound is the weight, so the first row is accepted. At others the
        # likeliest further rows are expanded too, which costs little more in the same call.
        num_others = 0 if temperature == 1 else self._num_first_rows - 1
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
                # The weight of a row that was expanded earlier is known, and is its bound.
                chance = np.exp(chances[text] + bounds[text, row]) if text in chances else 1.0
                if generator.random() < chance:
                    words, log_probs = expanded[text][row]
                    kept[text] = words[words >= 0], log_probs[words >= 0]
        return [kept[text] for text in range(len(bounds))]

    def nuclei(self, top_p: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the fewest words of each text that reach a share `top_p` of the probability.

        Excluded words have no part in it. More words may be returned.

        Returns:
            For each text, words and their log-probabilities, best first; ties go to the smaller
            id.
        """
        num_texts, num_rows = self.row_log_probs.shape
        order, falling = self._sort_rows()
        allowed = self._compute_allowed_log_mass()
        found = [(np.empty(0, np.int32), np.empty(0))] * num_texts
        is_found = np.zeros(num_texts, bool)
        for here in self._grow():
            # No word in the remaining rows is likelier.
            bounds = falling[:, here.stop] if here.stop < num_rows else np.full(num_texts, -np.inf)
            waiting = np.flatnonzero(~is_found)
            rows = order[waiting, here]  # (n, m)
            at_once = max(ROWS_AT_ONCE // rows.shape[1], 1)
            for start in range(0, len(waiting), at_once):
                some = slice(start, start + at_once)
                texts, parts = waiting[some], rows[some]
                expanded = self.expand(np.repeat(texts, parts.shape[1]), parts.ravel())
                more = (x.reshape(len(texts), -1) for x in expanded)
                for text, *of_text in zip(texts, *more, strict=True):
                    words, log_probs = found[text] = _merge(found[text], of_text)
                    # Words above the bound of the remaining rows are in their final order.
                    final = log_probs[log_probs > bounds[text]]
                    reached = np.cumsum(np.exp(final - allowed[text]))
                    if len(reached) and reached[-1] >= top_p:
                        num_kept = int(np.searchsorted(reached, top_p)) + 1
                        found[text] = words[:num_kept], log_probs[:num_kept]
                        is_found[text] = True
            if is_found.all():
                break
        return found


class _BestWords:
    """The `k` likeliest of the words that were added, for each text; ties go to the smaller id.

    Attributes:
        words: `(B, k)`, -1 where fewer words were added.
        log_probs: `(B, k)`, descending.
    """

    def __init__(self, num_texts: int, k: int) -> None:
        self.words = np.full((num_texts, k), -1, np.int32)
        self.log_probs = np.full((num_texts, k), -np.inf)

    def add(
        self,
        texts: np.ndarray,
        row_log_probs: np.ndarray,
        words: np.ndarray,
        column_log_probs: np.ndarray,
    ) -> None:
        """Add the words of rows.

        Args:
            texts: `(n,)`, the text that each row follows.
            row_log_probs: `(n,)` float64.
            words: `(n, C)`, -1 where a cell is empty.
            column_log_probs: `(n, C)` float32, given the row.
        """
        num_texts, k = self.words.shape
        bounds = self.log_probs[:, -1].copy()
        if k < words.shape[1]:
            # A word below the `k`-th of its row is not among the best `k`.
            kth = np.partition(column_log_probs, -k, axis=1)[:, -k]
            np.maximum.at(bounds, texts, row_log_probs + kth)
        # The many columns are compared in float32, with the next number below the rounded bound.
        least = np.full(len(texts), -np.inf, np.float32)
        is_bounded = bounds[texts] > -np.inf
        least[is_bounded] = bounds[texts][is_bounded] - row_log_probs[is_bounded]
        least = np.nextafter(least, np.float32(-np.inf))
        places = np.nonzero((column_log_probs >= least[:, None]) & (words >= 0))
        log_probs = row_log_probs[places[0]] + column_log_probs[places]
        known = np.nonzero(self.words >= 0)
        texts = np.concatenate([known[0], texts[places[0]]])
        words = np.concatenate([self.words[known], words[places]])
        log_probs = np.concatenate([self.log_probs[known], log_probs])
        order = np.lexsort((words, -log_probs, texts))
        texts = texts[order]
        ranks = np.arange(len(texts)) - np.searchsorted(texts, np.arange(num_texts))[texts]
        is_best = ranks < k
        here = texts[is_best], ranks[is_best]
        self.words[here] = words[order][is_best]
        self.log_probs[here] = log_probs[order][is_best]


def check_columns(row_log_probs: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """Return log-probabilities given rows, `(n, C)`, zeros in impossible rows, or raise for NaN.

    Args:
        row_log_probs: `(n,)`, of the rows.
        log_probs: `(n, C)`, given the rows.
    """
    is_impossible = np.isneginf(row_log_probs)
    if is_impossible.any():  # all of its words may have a bias of minus infinity
        log_probs = np.where(is_impossible[:, None], np.float32(0), log_probs)
    check_numbers(log_probs)
    return log_probs


def check_numbers(log_probs: np.ndarray) -> None:
    """Raise `ValueError` if a log-probability is NaN."""
    if np.isnan(log_probs).any():
        raise ValueError(
            "A search needs log-probabilities that are not NaN. Received: a model that computes "
            "NaN. Its training has diverged: load earlier weights, and train with a lower learning "
            "rate or with `global_clipnorm`."
        )


def _merge(found: Any, more: Any) -> tuple[np.ndarray, np.ndarray]:
    """Merge words and log-probabilities, without empty cells, best first."""
    is_word = more[0] >= 0
    words, log_probs = (
        np.concatenate([old, new[is_word]]) for old, new in zip(found, more, strict=True)
    )
    return sort_best(words, log_probs, len(words))


def sort_best(words: np.ndarray, log_probs: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` likeliest of some words, best first; ties go to the smaller id."""
    falling = np.lexsort((words, -log_probs))[:k]
    return words[falling], log_probs[falling]


def sample(generator: np.random.Generator, weights: np.ndarray) -> int:
    """Draw an index with probability proportional to its weight."""
    return int(generator.choice(len(weights), p=weights / weights.sum()))
