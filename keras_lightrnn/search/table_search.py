"""Exact search for words with several tables (NumPy only)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from keras_lightrnn.search.row_search import (
    ROWS_AT_ONCE,
    check_columns,
    check_numbers,
    sample,
    sort_best,
)

# Rows of each table that a search expands first.
_FIRST_ROWS = 16
# In place of minus infinity, which has no difference with itself.
_LEAST = np.finfo(np.float64).min


class SearchedTable(NamedTuple):
    """One table of a search.

    Attributes:
        row_log_probs: `(B, R)`: of each row, with the weights of the table's components.
        compute_columns: `(texts, rows) -> (words, log-probabilities given the row)`, `(n, C)`
            each, as `RowSearch.compute_columns`.
        cells: `(V,)` int32, the cell of each word.
        num_columns: Integer `C`.
    """

    row_log_probs: np.ndarray
    compute_columns: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    cells: np.ndarray
    num_columns: int


class TablesSearch:
    """The distributions of the next word after some texts, as sums over several tables.

    A row that is expanded gives its words their share from that table. A word found in one table
    gets its other shares from its rows in the others. No word that was not found is likelier than
    the sum, over tables, of the likeliest row not yet expanded.

    Args:
        tables: The tables.
        padding: Integer, a word that is never returned, or `None`.

    Raises:
        ValueError: if the network computes NaN.
    """

    def __init__(self, tables: Sequence[SearchedTable], padding: int | None = None) -> None:
        self.tables = [
            table._replace(row_log_probs=table.row_log_probs.astype(np.float64)) for table in tables
        ]
        for table in self.tables:
            check_numbers(table.row_log_probs)
        self.padding = padding
        self._excluded: list[np.ndarray] | None = None

    @property
    def num_texts(self) -> int:
        """The number of texts."""
        return len(self.tables[0].row_log_probs)

    def exclude(self, words: np.ndarray) -> None:
        """Exclude words from all results.

        Args:
            words: `(B, E)` integers: word ids for each text, -1 for none.
        """
        self._excluded = [of_text[of_text >= 0] for of_text in words]

    def _list_excluded(self, text: int) -> np.ndarray:
        words = [] if self.padding is None else [np.array([self.padding])]
        if self._excluded is not None:
            words.append(self._excluded[text])
        return np.concatenate(words) if words else np.empty(0, int)

    def best_words(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the `k` likeliest words of each text and their log-probabilities, `(B, k)` each.

        Ties go to the smaller id. Where fewer than `k` words are allowed, the rest are -1, with the
        log-probability minus infinity.
        """
        words = np.full((self.num_texts, k), -1, np.int32)
        log_probs = np.full((self.num_texts, k), -np.inf)
        for text in range(self.num_texts):
            found = self._best_of_text(text, k)
            size = len(found[0])
            words[text, :size], log_probs[text, :size] = found
        return words, log_probs

    def _best_of_text(self, text: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        expanded = [_ExpandedRows(table, text) for table in self.tables]
        excluded = self._list_excluded(text)
        num_rows = _FIRST_ROWS
        while True:
            for rows in expanded:
                rows.expand_next(num_rows)
            words, least, most = self._bound_words(expanded, excluded)
            unseen = np.logaddexp.reduce([rows.next_log_prob for rows in expanded])
            kth = np.partition(least, -k)[-k] if len(least) >= k else -np.inf
            if kth > unseen or all(rows.is_complete for rows in expanded):
                break
            num_rows *= 2
        # What is rounded differently must not be left out.
        words = words[most >= kth - 1e-9]
        return sort_best(words, _compute_log_probs(expanded, words), k)

    def _bound_words(
        self, expanded: list[_ExpandedRows], excluded: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the words found, and the least and the most log-probability that each may have."""
        found = []
        for index, rows in enumerate(expanded):
            words, least = rows.words.ravel(), rows.log_probs.ravel().copy()
            is_listed = words >= 0
            most = least
            for other_index, other in enumerate(expanded):
                if other_index == index:
                    continue
                share, known = other.bound(words)
                most = _add(most, share)
                least[known] = _add(least[known], share[known])
                if other_index < index:  # a word is listed once
                    is_listed[known] = False
            found.append((words[is_listed], least[is_listed], most[is_listed]))
        words, least, most = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if len(excluded):
            is_allowed = ~np.isin(words, excluded)
            words, least, most = (x[is_allowed] for x in (words, least, most))
        return words, least, most

    def compute_word_log_probs(self, texts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Return the log-probability of words after texts, `(n,)`, excluded words included."""
        log_probs = np.empty(len(words))
        for text in np.unique(texts):
            here = texts == text
            expanded = [_ExpandedRows(table, text) for table in self.tables]
            log_probs[here] = _compute_log_probs(expanded, words[here])
        return log_probs

    def all_words(self) -> Iterator[np.ndarray]:
        """Yield the log-probabilities of all words, `(V,)`, of one text after the other.

        Excluded words have a log-probability of minus infinity.
        """
        for text in range(self.num_texts):
            expanded = [_ExpandedRows(table, text) for table in self.tables]
            for rows in expanded:
                rows.expand_all()
            log_probs = _add(*(rows.log_probs.ravel()[rows.table.cells] for rows in expanded))
            log_probs[self._list_excluded(text)] = -np.inf
            yield log_probs

    def sample_rows(
        self, generator: np.random.Generator, temperature: float
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, for each text, words and log-probabilities such that a draw among them is exact.

        At temperature 1 a table and a row are drawn, and the words are those of that row with
        their shares from that table. At other temperatures they are all words.
        """
        if temperature != 1:
            words = np.arange(len(self.tables[0].cells))
            return [(words, log_probs) for log_probs in self.all_words()]
        return [self._draw_row(generator, text) for text in range(self.num_texts)]

    def _draw_row(self, generator: np.random.Generator, text: int) -> tuple[np.ndarray, np.ndarray]:
        excluded = self._list_excluded(text)
        starts = np.cumsum([0, *(table.row_log_probs.shape[1] for table in self.tables)])
        # The allowed words of a row are together at most as likely as the row.
        bounds = np.concatenate([table.row_log_probs[text] for table in self.tables])
        while True:
            place = sample(generator, np.exp(bounds - bounds.max()))
            index = int(np.searchsorted(starts, place, side="right")) - 1
            rows = _ExpandedRows(self.tables[index], text)
            rows.expand(np.array([place - starts[index]]))
            words, log_probs = rows.words[0], rows.log_probs[0]
            is_kept = (words >= 0) & ~np.isin(words, excluded)
            words, log_probs = words[is_kept], log_probs[is_kept]
            weight = np.logaddexp.reduce(log_probs)
            if len(words) and generator.random() < np.exp(weight - bounds[place]):
                return words, log_probs
            bounds[place] = weight  # which is known now, so that few draws are rejected

    def nuclei(self, top_p: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, for each text, the fewest words that reach `top_p` of what is allowed."""
        nuclei = []
        for log_probs in self.all_words():
            words, falling = sort_best(np.arange(len(log_probs)), log_probs, len(log_probs))
            reached = np.cumsum(np.exp(falling - falling[0]))
            num_kept = int(np.searchsorted(reached, top_p * reached[-1])) + 1
            nuclei.append((words[:num_kept], falling[:num_kept]))
        return nuclei


class _ExpandedRows:
    """The rows of one table that were expanded after one text."""

    def __init__(self, table: SearchedTable, text: int) -> None:
        self.table = table
        self.text = text
        self.row_log_probs = table.row_log_probs[text]
        num_rows = len(self.row_log_probs)
        self.order = np.argsort(-self.row_log_probs, kind="stable")
        self.next_place = 0
        self.is_expanded = np.zeros(num_rows, bool)
        self.places = np.zeros(num_rows, int)  # of the rows that are expanded
        self.words = np.empty((0, table.num_columns), np.int32)
        self.log_probs = np.empty((0, table.num_columns))

    @property
    def is_complete(self) -> bool:
        return self.next_place >= len(self.order)

    @property
    def next_log_prob(self) -> float:
        """The log-probability of the likeliest row that is not expanded."""
        while not self.is_complete and self.is_expanded[self.order[self.next_place]]:
            self.next_place += 1
        if self.is_complete:
            return -np.inf
        return self.row_log_probs[self.order[self.next_place]]

    def bound(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the log of the most that words may have from this table, and where they have it.

        Args:
            words: `(n,)`. Anything is returned for the word -1.

        Returns:
            `(n,)`, and the indices of the words whose rows are expanded.
        """
        rows, columns = self._locate(words)
        most = self.row_log_probs[rows]
        known = np.flatnonzero(self.is_expanded[rows])
        most[known] = self.log_probs[self.places[rows[known]], columns[known]]
        return most, known

    def get_log_probs(self, words: np.ndarray) -> np.ndarray:
        """Return the log of what words, `(n,)`, whose rows are expanded, have from this table."""
        rows, columns = self._locate(words)
        return self.log_probs[self.places[rows], columns]

    def _locate(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows and the columns of words."""
        cells = self.table.cells[words]
        rows = cells // self.table.num_columns
        return rows, cells - rows * self.table.num_columns

    def expand_next(self, size: int) -> None:
        """Expand the likeliest rows that are not expanded."""
        rows = self.order[self.next_place :]
        self.expand(rows[~self.is_expanded[rows]][:size])

    def expand_rows_of(self, words: np.ndarray) -> None:
        """Expand the rows of words that are not expanded."""
        rows = np.unique(self._locate(words)[0])
        self.expand(rows[~self.is_expanded[rows]])

    def expand_all(self) -> None:
        """Expand all rows, in order."""
        self.expand(np.arange(len(self.order)))

    def expand(self, rows: np.ndarray) -> None:
        words, log_probs = [self.words], [self.log_probs]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            found = self.table.compute_columns(np.full(len(some), self.text), some)
            of_rows = self.row_log_probs[some]
            words.append(found[0])
            log_probs.append(of_rows[:, None] + check_columns(of_rows, found[1]))
        self.places[rows] = len(self.words) + np.arange(len(rows))
        self.is_expanded[rows] = True
        self.words, self.log_probs = np.concatenate(words), np.concatenate(log_probs)


def _compute_log_probs(expanded: list[_ExpandedRows], words: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of words of a text, `(n,)`, and expand their rows."""
    for rows in expanded:
        rows.expand_rows_of(words)
    return _add(*(rows.get_log_probs(words) for rows in expanded))


def _add(*log_probs: np.ndarray) -> np.ndarray:
    """Return the log of the sum of probabilities, of which some may be too small for a float.

    It takes a third of the time of `np.logaddexp`.
    """
    total, *others = log_probs
    for other in others:
        most = np.maximum(total, other)
        rest = np.minimum(total, other) - np.maximum(most, _LEAST)
        total = most + np.log(1 + np.exp(rest))
    return total
