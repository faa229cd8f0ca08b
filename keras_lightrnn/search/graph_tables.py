"""Exact search for the likeliest words of several tables, inside a graph.

Functions take `ops`, the namespace of operations, as those of `graph_rows` do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_lightrnn._internal.typing import Tensor, WordIds
from keras_lightrnn.search.graph_rows import (
    LEAST,
    ROUNDING,
    GraphTable,
    count_before,
    exclude,
    find_best_cells,
    find_ranks,
    finish,
    select_best,
)

# Rows of each table that a search expands at first, by how much more it expands next, and the
# largest share of all rows before it computes all words: these bound the time of the worst case.
_FIRST_ROWS = 24
_GROWTH = 4
_LARGEST_SHARE = 1 / 4
# Words that are computed exactly, more than are asked for.
_MORE_CANDIDATES = 8
# Rows that are expanded because they hold a candidate, and one more for some words asked for.
_ROWS_OF_CANDIDATES = 8
_WORDS_PER_ROW = 4


class ServedTable(NamedTuple):
    """Where the words of a table are.

    Attributes:
        cells: `(V,)` int32, the cell of each word.
        words: `(R, C)` int32, the word in each cell, -1 in empty cells.
    """

    cells: Tensor
    words: WordIds


def find_best_of_tables(
    ops: Any,
    tables: Sequence[GraphTable],
    word_tables: Sequence[Any],
    k: Tensor,
    excluded: Tensor = None,
) -> tuple[Tensor, Tensor]:
    """Return the `k` likeliest words of each text by the sum over tables, exactly.

    With several tables, the likeliest rows of each are expanded. If another word may be as likely
    as the last of the best `k` found there, the log-probabilities of all words are computed.

    Args:
        ops: Namespace of operations.
        tables: A `GraphTable` for each table, for the same `B` texts.
        word_tables: For each table, an object with `cells`, `(V,)` int32, the cell of each word,
            and `words`, `(R, C)` int32, the word in each cell and -1 in empty cells.
        k: Integer, or on TensorFlow an int32 scalar.
        excluded: `(B, E)` int32, words that are not answered, -1 for none; or `None`.

    Returns:
        Words `(B, k)` int32 and their log-probabilities `(B, k)` float32, best first, of equal
        words the lesser ids first. -1 and minus infinity where fewer than `k` words may be
        answered. The log-probabilities of a text are NaN if those of its rows are.
    """
    if len(tables) == 1:
        [table], [word_table] = tables, word_tables
        excluded = _find_cells(ops, word_table, excluded)
        get_words = _make_get_words(ops, word_table)
        cells, log_probs = find_best_cells(ops, table, k, excluded, get_words)
        return ops.where(cells < 0, -1, get_words(cells)), log_probs

    def search_all_words() -> list[Any]:
        total = _compute_all_words(ops, tables, word_tables)
        if excluded is not None:
            total = exclude(ops, total, excluded)
        words = ops.arange(total.shape[1], dtype="int32")
        best, places = select_best(ops, total, k, lambda: ops.broadcast_to(words, ops.shape(total)))
        return [places, best]

    def search_rows(sizes: Sequence[int]) -> list[Any]:
        """Return the best words and their log-probabilities, `(B, k)` each, in any order."""
        if not sizes:
            return search_all_words()
        size, *larger = sizes
        if not isinstance(k, int):
            return ops.cond(
                k <= size, lambda: search_likeliest_rows(size, larger), lambda: search_rows(larger)
            )
        return search_likeliest_rows(size, larger) if k <= size else search_rows(larger)

    def search_likeliest_rows(size: int, larger: Sequence[int]) -> list[Any]:
        candidates, log_probs, bounds = _compute_candidates(
            ops, tables, word_tables, size, k, excluded
        )
        best, places = select_best(ops, log_probs, k, lambda: candidates)
        words = ops.take_along_axis(candidates, places, axis=1)
        is_exact = ops.all(ops.min(best, axis=1) - ROUNDING > bounds)
        return ops.cond(is_exact, lambda: [words, best], lambda: search_rows(larger))

    sizes = list_sizes([table.row_log_probs.shape[1] for table in tables])
    words, best = search_rows(sizes)
    return finish(ops, words, best, None, tables[0].row_log_probs)


def list_sizes(numbers_of_rows: Sequence[int]) -> list[int]:
    """Return how many rows of each table a search expands in turn before it computes all words.

    >>> list_sizes([20]), list_sizes([246, 250]), list_sizes([3163, 3163])
    ([], [24, 61], [24, 96, 384, 790])
    """
    most = int(_LARGEST_SHARE * min(numbers_of_rows))
    sizes = []
    size = _FIRST_ROWS
    while size < most:
        sizes.append(size)
        size *= _GROWTH
    return [*sizes, most] if most >= _FIRST_ROWS else []


def find_ranks_of_tables(
    ops: Any,
    tables: Sequence[GraphTable],
    word_tables: Sequence[Any],
    targets: WordIds,
    excluded: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the ranks of words `(B,)` and their log-probabilities; see `find_best_of_tables`."""
    if len(tables) == 1:
        [table], [word_table] = tables, word_tables
        cells = ops.take(word_table.cells, targets, axis=0)
        excluded = _find_cells(ops, word_table, excluded)
        return find_ranks(ops, table, cells, excluded, _make_get_words(ops, word_table))
    total = _compute_all_words(ops, tables, word_tables)
    targets = ops.expand_dims(targets, 1)
    log_probs = ops.take_along_axis(total, targets, axis=1)
    if excluded is not None:
        total = exclude(ops, total, excluded)
    words = ops.arange(total.shape[1], dtype="int32")
    before = count_before(ops, total, log_probs, lambda: ops.expand_dims(words, 0) < targets)
    return before + 1, log_probs[:, 0]


def _find_cells(ops: Any, word_table: Any, words: WordIds) -> Any:
    """Return the cells of words `(B, E)`, -1 for none; `None` for `None`."""
    if words is None:
        return None
    cells = ops.take(word_table.cells, ops.maximum(words, 0), axis=0)
    return ops.where(words < 0, -1, cells)


def _make_get_words(ops: Any, word_table: Any) -> Callable[[Any], Any]:
    words = ops.reshape(ops.convert_to_tensor(word_table.words), (-1,))
    return lambda cells: ops.take(words, ops.maximum(cells, 0), axis=0)


def _compute_all_words(ops: Any, tables: Sequence[GraphTable], word_tables: Sequence[Any]) -> Any:
    """Return the log-probabilities of all words, `(B, V)`."""
    total = None
    for table, word_table in zip(tables, word_tables, strict=True):
        log_probs = ops.take(_compute_all_cells(ops, table), word_table.cells, axis=1)
        total = log_probs if total is None else ops.logaddexp(total, log_probs)
    return ops.maximum(total, LEAST)


def _compute_all_cells(ops: Any, table: GraphTable) -> Any:
    """Return the log-probabilities of all cells, `(B, R C)`."""
    num_rows = table.row_log_probs.shape[1]
    columns = table.expand_alike(ops.arange(num_rows, dtype="int32"))
    joint = ops.expand_dims(ops.maximum(table.row_log_probs, LEAST), -1) + columns  # (B, R, C)
    return ops.reshape(joint, (-1, num_rows * table.num_columns))


class _ExpandedRows(NamedTuple):
    """What one table says of words after each text, once some of its rows are expanded.

    Attributes:
        values: `(B, R + n C)` float32, the log-probabilities of all rows, and those of the cells of
            the expanded ones.
        starts: `(B, R)` int32, where the cells of each row start in `values`; of a row that is not
            expanded, where its own log-probability is.
    """

    values: Tensor
    starts: Tensor


def _compute_candidates(
    ops: Any,
    tables: Sequence[GraphTable],
    word_tables: Sequence[Any],
    num_rows: int,
    k: Tensor,
    excluded: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return likely words of each text, their log-probabilities, and a bound of all other words.

    The likeliest rows of each table are expanded, which gives their words the share of that table.
    From another table a word gets its share if its row is expanded there, and at most the
    probability of its row if it is not. Of the words that come first by this bound, the other rows
    are expanded as well.

    Args:
        ops: Namespace of operations.
        tables: As in `find_best_of_tables`.
        word_tables: As in `find_best_of_tables`.
        num_rows: How many of the likeliest rows are expanded, fewer than all.
        k: As in `find_best_of_tables`.
        excluded: As in `find_best_of_tables`.

    Returns:
        Some more than `k` words `(B, n)` int32 and log-probabilities, float32, in any order, of
        minus infinity where there are fewer words; and `(B,)`, the most that another word may have.
    """
    expanded, words, unseen = [], [], None
    for table, word_table in zip(tables, word_tables, strict=True):
        falling, rows = ops.top_k(table.row_log_probs, num_rows + 1)
        rows = ops.cast(rows[:, :num_rows], "int32")
        expanded.append(_expand(ops, table, rows, _start(ops, table)))
        of_rows = ops.take(word_table.words, rows, axis=0)
        words.append(ops.reshape(of_rows, (-1, num_rows * table.num_columns)))
        unseen = falling[:, -1] if unseen is None else ops.logaddexp(unseen, falling[:, -1])
    bounds = [
        _bound_words(ops, tables, word_tables, expanded, words[index], index, excluded)
        for index in range(len(tables))
    ]
    bounds, places = ops.top_k(ops.concatenate(bounds, axis=1), k + _MORE_CANDIDATES + 1)
    others, bounds = bounds[:, -1], bounds[:, :-1]
    places = ops.cast(places[:, :-1], "int32")
    words = ops.maximum(ops.take_along_axis(ops.concatenate(words, axis=1), places, axis=1), 0)
    log_probs, is_known = None, None
    for table, word_table, rows in zip(tables, word_tables, expanded, strict=True):
        cells = ops.take(word_table.cells, words, axis=0)
        rows = _expand_rows_of(ops, table, cells, rows, _ROWS_OF_CANDIDATES + k // _WORDS_PER_ROW)
        share, is_here, _ = _look_up(ops, table, rows, cells)
        log_probs = share if log_probs is None else ops.logaddexp(log_probs, share)
        is_known = is_here if is_known is None else ops.logical_and(is_known, is_here)
    is_found = ops.logical_and(is_known, bounds > -np.inf)
    log_probs = ops.where(is_found, ops.maximum(log_probs, LEAST), -np.inf)
    unknown = ops.max(ops.where(is_known, -np.inf, bounds), axis=1)
    return words, log_probs, ops.maximum(ops.maximum(unknown, others), unseen)


def _start(ops: Any, table: GraphTable) -> _ExpandedRows:
    """Return the state of a table none of whose rows is expanded."""
    shape = ops.shape(table.row_log_probs)
    starts = ops.broadcast_to(ops.arange(shape[1], dtype="int32"), shape)
    return _ExpandedRows(ops.maximum(table.row_log_probs, LEAST), starts)


def _expand(ops: Any, table: GraphTable, rows: Tensor, expanded: _ExpandedRows) -> _ExpandedRows:
    """Expand rows, `(B, n)`."""
    num_texts, num_rows = ops.shape(rows)
    row_log_probs = ops.take_along_axis(expanded.values, rows, axis=1)
    joint = ops.expand_dims(row_log_probs, -1) + table.expand(rows)  # (B, n, C)
    joint = ops.reshape(joint, (-1, num_rows * table.num_columns))
    starts = expanded.values.shape[1] + table.num_columns * ops.arange(num_rows, dtype="int32")
    starts = ops.reshape(ops.broadcast_to(starts, (num_texts, num_rows)), (-1,))
    return _ExpandedRows(
        ops.concatenate([expanded.values, joint], axis=1),
        ops.scatter_update(expanded.starts, _make_indices(ops, rows), starts),
    )


def _expand_rows_of(
    ops: Any, table: GraphTable, cells: Tensor, expanded: _ExpandedRows, num_rows: Tensor
) -> _ExpandedRows:
    """Expand so many rows of cells `(B, n)`, first those that are not expanded."""
    _, is_here, _ = _look_up(ops, table, expanded, cells)
    is_missing = ops.reshape(ops.where(is_here, 0.0, 1.0), (-1,))
    nothing = ops.zeros(ops.shape(table.row_log_probs), "float32")
    indices = _make_indices(ops, cells // table.num_columns)
    _, rows = ops.top_k(ops.scatter_update(nothing, indices, is_missing), num_rows)
    return _expand(ops, table, ops.cast(rows, "int32"), expanded)


def _make_indices(ops: Any, rows: Tensor) -> Any:
    """Return the indices of rows of texts, `(B, n) -> (B n, 2)`, for `scatter_update`."""
    num_texts, num_rows = ops.shape(rows)
    texts = ops.repeat(ops.arange(num_texts, dtype="int32"), num_rows)
    return ops.stack([texts, ops.reshape(rows, (-1,))], axis=1)


def _look_up(
    ops: Any, table: GraphTable, expanded: _ExpandedRows, cells: Tensor
) -> tuple[Any, Any, Any]:
    """Return what a table says of cells, `(B, n)`.

    Returns:
        The log-probabilities of the cells, or those of their rows, which are not lower, where the
        row is not expanded; where it is expanded; and the places of these numbers in
        `expanded.values`.
    """
    rows = cells // table.num_columns
    starts = ops.take_along_axis(expanded.starts, rows, axis=1)
    is_here = starts >= table.row_log_probs.shape[1]
    places = ops.where(is_here, starts + cells - rows * table.num_columns, starts)
    return ops.take_along_axis(expanded.values, places, axis=1), is_here, places


def _bound_words(
    ops: Any,
    tables: Sequence[GraphTable],
    word_tables: Sequence[Any],
    expanded: list[_ExpandedRows],
    words: WordIds,
    index: int,
    excluded: Tensor,
) -> Any:
    """Return the most that the words in the expanded rows of one table may have, `(B, n C)`.

    It is minus infinity for what is no answer, and for words in expanded rows of a table before,
    so that a word is listed once.
    """
    is_listed = words >= 0
    words = ops.maximum(words, 0)
    num_rows = tables[index].row_log_probs.shape[1]
    bounds = expanded[index].values[:, num_rows:]
    for other, (table, word_table) in enumerate(zip(tables, word_tables, strict=True)):
        if other == index:
            continue
        cells = ops.take(word_table.cells, words, axis=0)  # (B, n C)
        most, is_here, _ = _look_up(ops, table, expanded[other], cells)
        bounds = ops.logaddexp(bounds, most)
        if other < index:
            is_listed = ops.logical_and(is_listed, ops.logical_not(is_here))
    bounds = ops.where(is_listed, ops.maximum(bounds, LEAST), -np.inf)
    if excluded is None:
        return bounds
    cells = ops.take(word_tables[index].cells, ops.maximum(excluded, 0), axis=0)
    _, is_here, places = _look_up(ops, tables[index], expanded[index], cells)
    is_here = ops.logical_and(is_here, excluded >= 0)
    return exclude(ops, bounds, ops.where(is_here, places - num_rows, -1))
