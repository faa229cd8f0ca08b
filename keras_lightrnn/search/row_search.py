"""Exact search for words, row by row, for any network (NumPy only)."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

# No more rows of all texts together are held at a time.
ROWS_AT_ONCE = 256
# Rows of a text that a search for the best words expands first: of one text, which waits for each
# call, and of several, for which what is expanded in vain counts.
_FIRST_ROWS, _FIRST_ROWS_OF_SEVERAL = 16, 4
# Above all word ids: words of several texts are told apart by text * this + word.
_MOST_WORDS = 2**31


class RowSearch(abc.ABC):
    """The distributions of the next word after some texts.

    The log-probabilities of all rows are known from the start; rows are expanded into words on
    demand. Log-probabilities of words are float64: a float32 of a row and one of a column given
    the row, added.

    Args:
        row_log_probs: `(B, R)`, of the next word's row.
        num_columns: Integer `C`.
        padding: Integer, a word that is never answered, or `None`.

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
        _check_numbers(self.row_log_probs)

    @property
    def num_texts(self) -> int:
        """How many texts there are."""
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
        """Never answer these words.

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

    def compute_word_log_probs(self, texts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return the log-probability of words after texts, `(n,)`, excluded words included."""
        rows = self.find_rows(words)
        parts = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            here = slice(start, start + ROWS_AT_ONCE)
            of_rows, log_probs = self.compute_columns(texts[here], rows[here])
            picked = log_probs[of_rows == words[here, None]]
            parts.append(self.row_log_probs[texts[here], rows[here]] + picked)
        return np.concatenate(parts)

    def expand(self, texts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the words in rows after texts and their log-probabilities, `(n, C)` each.

        Empty cells hold the word -1.

        Args:
            texts: `(n,)` indices of texts.
            rows: `(n,)`, of each the row that is looked at.
        """
        words, log_probs = [], []
        for here, of_rows, column_log_probs in self.read_columns(texts, rows):
            words.append(of_rows)
            log_probs.append(self.row_log_probs[texts[here], rows[here], None] + column_log_probs)
        return np.concatenate(words), np.concatenate(log_probs)

    def read_columns(
        self, texts: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield what `compute_columns` returns for some rows at a time, and where these are."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            here = slice(start, start + ROWS_AT_ONCE)
            words, log_probs = self.compute_columns(texts[here], rows[here])
            is_impossible = np.isneginf(self.row_log_probs[texts[here], rows[here]])
            if is_impossible.any():  # whose words may all have a bias of minus infinity
                log_probs = np.where(is_impossible[:, None], np.float32(0), log_probs)
            _check_numbers(log_probs)
            yield here, *self._drop_excluded(texts[here], words, log_probs)

    def best_words(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the `k` likeliest words of each text and their log-probabilities, `(B, k)` each.

        A row is expanded if its own log-probability is not below that of the last of the best `k`
        by then: no word of it can be likelier than its row. Of equal words the lesser ids come
        first.
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
        """Return the rows in falling order and their log-probabilities, `(B, R)` each."""
        order = np.argsort(-self.row_log_probs, axis=1, kind="stable")
        return order, np.take_along_axis(self.row_log_probs, order, axis=1)

    @property
    def _num_first_rows(self) -> int:
        """How many rows of a text to expand at first."""
        return _FIRST_ROWS if len(self.row_log_probs) == 1 else _FIRST_ROWS_OF_SEVERAL

    def _grow(self) -> Iterator[slice]:
        """Yield parts of the rows, each four times as long as the one before."""
        start, size = 0, self._num_first_rows
        while start < self.row_log_probs.shape[1]:
            yield slice(start, start + size)
            start, size = start + size, 4 * size

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
        bounds += max(1 - 1 / temperature, 0) * np.log(self.num_columns)
        order = np.argsort(-bounds, axis=1, kind="stable")
        # At temperature 1 a bound is the weight, and the first row is kept. Elsewhere the likeliest
        # of the others are expanded as well: they cost little more in one call.
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
                # A row that was known is drawn by its weight itself.
                chance = np.exp(chances[text] + bounds[text, row]) if text in chances else 1.0
                if generator.random() < chance:
                    words, log_probs = expanded[text][row]
                    kept[text] = words[words >= 0], log_probs[words >= 0]
        return [kept[text] for text in range(len(bounds))]

    def nuclei(self, top_p: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, for each text, at least the fewest words that reach `top_p` of what is allowed.

        Words and log-probabilities, best first; of equal words the lesser ids.
        """
        num_texts, num_rows = self.row_log_probs.shape
        order, falling = self._sort_rows()
        least = top_p * (1 - self._compute_excluded_mass())
        found = [(np.empty(0, np.int32), np.empty(0))] * num_texts
        is_found = np.zeros(num_texts, bool)
        for here in self._grow():
            # No text has a likelier word in the rows to come.
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
                    # Words above every row to come are in their final order.
                    reached = np.cumsum(np.exp(log_probs[log_probs > bounds[text]]))
                    if len(reached) and reached[-1] >= least[text]:
                        num_kept = int(np.searchsorted(reached, least[text])) + 1
                        found[text] = words[:num_kept], log_probs[:num_kept]
                        is_found[text] = True
            if is_found.all():
                break
        return found


class _BestWords:
    """The `k` likeliest of the words that were added, of each text; the lesser id first if equal.

    Attributes:
        words: `(B, k)`, -1 as long as there are fewer.
        log_probs: `(B, k)`, falling.
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
            column_log_probs: `(n, C)` float32, given the row; the least where a cell is empty.
        """
        num_texts, k = self.words.shape
        bounds = self.log_probs[:, -1].copy()
        if k < words.shape[1]:
            # What is below the `k`-th of one row is not among the best.
            kth = np.partition(column_log_probs, -k, axis=1)[:, -k]
            np.maximum.at(bounds, texts, row_log_probs + kth)
        # In float32, of which there are many: one number below what the bound is rounded to.
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


def _check_numbers(log_probs: np.ndarray) -> None:
    if np.isnan(log_probs).any():
        raise ValueError(
            "Next words are looked for by their probabilities. Received: a model that computes "
            "NaN. Its training has diverged: load weights from before, and train with a lower "
            "learning rate or with `global_clipnorm`."
        )


def _merge(found: Any, more: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return words and log-probabilities of both, without empty cells, best first."""
    is_word = more[0] >= 0
    words, log_probs = (
        np.concatenate([old, new[is_word]]) for old, new in zip(found, more, strict=True)
    )
    return sort_best(words, log_probs, len(words))


def sort_best(words: np.ndarray, log_probs: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` likeliest of some words, best first; of equal words the lesser ids first."""
    falling = np.lexsort((words, -log_probs))[:k]
    return words[falling], log_probs[falling]


def sample(generator: np.random.Generator, weights: np.ndarray) -> int:
    """Draw an index with probability proportional to its weight."""
    return int(generator.choice(len(weights), p=weights / weights.sum()))
