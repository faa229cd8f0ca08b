"""Exact search for the likeliest words of several tables, inside a graph.

Functions take `ops`, the namespace of operations, as those of `graph_rows` do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_lightrnn._internal.typing import Tensor, WordIds
from keras_lightrnn.search.graph_rows import (
    LEAST,
    ROUNDING,
    GraphTable,
    exclude,
    find_ranks,
    list_rows,
    mark_best,
    scatter,
    select_best_cells,
    sort_best,
)

# Rows of each table that a search expands at first, by how much more it expands next, and the
# largest share of all rows before it computes all words: these bound the time of the worst case.
_FIRST_ROWS = 24
_GROWTH = 4
_LARGEST_SHARE = 1 / 20
# More rows are expanded only if the last of the best words found so far is, in nats, at most so
# much less likely than the rows that would remain: it becomes likelier with more rows, but little.
_HOPE = 2.0
# Words that are computed exactly, more than are asked for.
_MORE_CANDIDATES = 8
# Rows that are expanded because they hold a candidate, and one more for some words asked for.
_ROWS_OF_CANDIDATES = 8
_WORDS_PER_ROW = 4


def find_best_of_tables(
    ops: Any,
    tables: Sequence[GraphTable],
    word_tables: Sequence[Any],
    k: Tensor,
    excluded: Tensor = None,
    get_order: Callable[[Any], Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the `k` likeliest words of each text by the sum over tables, exactly.

    The log-probabilities of all words of small tables are computed. Of large ones, the likeliest
    rows of each are expanded. If another word may be as likely as the last of the best `k` found
    there, the log-probabilities of all words are computed as well.

    Args:
        ops: Namespace of operations.
        tables: A `GraphTable` for each table, for the same `B` texts.
        word_tables: For each table, an object with `cells`, `(V,)` int32, the cell of each word,
            and `words`, `(R, C)` int32, the word in each cell and -1 in empty cells.
        k: Integer, or on TensorFlow an int32 scalar.
        excluded: `(B, E)` int32, words that are not returned, -1 for none; or `None`.
        get_order: Returns numbers of words, of the same shape: of equally likely words those with
            smaller numbers come first. `None` for the ids. If it is given, words are numbered by
            their cells in the first table.

    Returns:
        Words `(B, k)` int32 and their log-probabilities `(B, k)` float32, best first; ties go to
        the smaller id. -1 and minus infinity where fewer than `k` words may be returned. The
        log-probabilities of a text are NaN if those of its rows are.
    """
    row_log_probs = tables[0].row_log_probs
    if len(tables) == 1:
        get_words = _make_get_words(ops, word_tables[0])
        excluded = _find_cells(ops, word_tables[0], excluded)
        cells, best = select_best_cells(ops, tables[0], k, excluded, get_words)
        return mark_best(ops, get_words(cells), best, row_log_probs)

    def search_all_words() -> list[Any]:
        merged = _merge(ops, tables, word_tables, get_order is not None)
        return list(select_best_cells(ops, merged, k, excluded, get_order or _get_itself))

    def search_rows(rows: list[Any], unseen: Any) -> list[Any]:
        found, bounds = _find_likely_words(ops, tables, word_tables, rows, unseen, k, excluded)
        words, best = (x[:, :k] for x in sort_best(ops, *found, get_order))
        return [words, best, ops.all(best[:, -1] - ROUNDING > bounds)]

    sizes = list_sizes([table.row_log_probs.shape[1] for table in tables])
    if isinstance(k, int):
        sizes = [size for size in sizes if k <= size]
    if not sizes:
        words, best = search_all_words()
        return mark_best(ops, words, best, row_log_probs)
    if isinstance(k, int):
        state = search_rows(*_find_likeliest_rows(ops, tables, sizes.pop(0)))
    else:
        shape = ops.shape(row_log_probs)[0], k
        state = [ops.zeros(shape, "int32"), ops.zeros(shape, "float32"), ops.zeros((), "bool")]
    for size in sizes:
        chosen = _find_likeliest_rows(ops, tables, size)
        is_hopeless = ops.any(state[1][:, -1] + _HOPE < chosen[1])
        is_skipped = ops.logical_or(ops.logical_or(state[2], k > size), is_hopeless)
        state = ops.cond(
            is_skipped, lambda state=state: state, lambda chosen=chosen: search_rows(*chosen)
        )
    words, best = ops.cond(state[2], lambda: state[:2], search_all_words)
    return mark_best(ops, words, best, row_log_probs)


def list_sizes(numbers_of_rows: Sequence[int]) -> list[int]:
    """Return how many rows of each table a search expands in turn before it computes all words.

    >>> list_sizes([20]), list_sizes([100]), list_sizes([246, 250]), list_sizes([3163, 3163])
    ([], [], [], [24, 96])
    """
    most = int(_LARGEST_SHARE * min(numbers_of_rows))
    sizes = []
    size = _FIRST_ROWS
    while size <= most:
        sizes.append(size)
        size *= _GROWTH
    return sizes


def _find_likeliest_rows(
    ops: Any, tables: Sequence[GraphTable], num_rows: int
) -> tuple[list[Tensor], Tensor]:
    """Return the likeliest rows of each table, and the most that words outside of them may have.

    Returns:
        For each table `(B, num_rows)` int32, best first; and `(B,)`.
    """
    rows, unseen = [], None
    for table in tables:
        falling, places = ops.top_k(table.row_log_probs, num_rows + 1)
        rows.append(ops.cast(places[:, :num_rows], "int32"))
        unseen = falling[:, -1] if unseen is None else ops.logaddexp(unseen, falling[:, -1])
    return rows, unseen


def find_ranks_of_tables(
    ops: Any,
    tables: Sequence[GraphTable],
    word_tables: Sequence[Any],
    targets: WordIds,
    excluded: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the ranks of words `(B,)` and their log-probabilities; see `find_best_of_tables`."""
    if len(tables) > 1:
        return find_ranks(ops, _merge(ops, tables, word_tables), targets, excluded, _get_itself)
    [word_table] = word_tables
    cells = ops.take(word_table.cells, targets, axis=0)
    excluded = _find_cells(ops, word_table, excluded)
    return find_ranks(ops, tables[0], cells, excluded, _make_get_words(ops, word_table))


def _find_cells(ops: Any, word_table: Any, words: WordIds) -> Any:
    """Return the cells of words `(B, E)`, -1 for none; `None` for `None`."""
    if words is None:
        return None
    cells = ops.take(word_table.cells, ops.maximum(words, 0), axis=0)
    return ops.where(words < 0, -1, cells)


def _make_get_words(ops: Any, word_table: Any) -> Callable[[Any], Any]:
    words = ops.reshape(ops.convert_to_tensor(word_table.words), (-1,))
    return lambda cells: ops.take(words, ops.maximum(cells, 0), axis=0)


def _get_itself(word: Any) -> Any:
    return word


def _merge(
    ops: Any,
    tables: Sequence[GraphTable],
    word_tables: Sequence[Any],
    is_by_cell: bool = False,
) -> GraphTable:
    """Return one table of the shape of the first, whose cell `w` has the sum over tables of `w`.

    Args:
        ops: As in `find_best_of_tables`.
        tables: As in `find_best_of_tables`.
        word_tables: As in `find_best_of_tables`.
        is_by_cell: Boolean, whether words are cells of the first table already.
    """
    row_log_probs, num_columns = tables[0].row_log_probs, tables[0].num_columns
    num_cells = row_log_probs.shape[1] * num_columns

    def expand_all() -> Any:
        total = None
        for table, word_table in zip(tables, word_tables, strict=True):
            # Words of all texts together, which takes a third of the time of one text after the
            # other.
            log_probs = ops.transpose(_compute_all_cells(ops, table))  # (R C, B)
            if total is not None or not is_by_cell:
                log_probs = ops.take(log_probs, word_table.cells, axis=0)  # (V, B)
            total = log_probs if total is None else ops.logaddexp(total, log_probs)
        total = ops.maximum(total, LEAST)  # NaN stays NaN
        if is_by_cell:
            is_empty = ops.reshape(word_tables[0].words, (-1, 1)) < 0
            total = ops.where(is_empty, -np.inf, total)
        elif total.shape[0] < num_cells:
            missing = num_cells - total.shape[0]
            total = ops.pad(total, [[0, missing], [0, 0]], constant_values=-np.inf)
        return ops.reshape(ops.transpose(total), (-1, row_log_probs.shape[1], num_columns))

    return GraphTable(row_log_probs, num_columns, None, expand_all, None)


def _compute_all_cells(ops: Any, table: GraphTable) -> Any:
    """Return the log-probabilities of all cells, `(B, R C)`, anything in empty ones."""
    assert table.expand_all is not None  # several tables have row readers
    num_cells = table.row_log_probs.shape[1] * table.num_columns
    return ops.reshape(table.expand_all(), (-1, num_cells))


def _find_likely_words(
    ops: Any,
    tables: Sequence[GraphTable],
    word_tables: Sequence[Any],
    rows: Sequence[Tensor],
    unseen: Tensor,
    k: Tensor,
    excluded: Tensor,
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return likely words of each text, and a bound of all other words.

    The likeliest rows of each table are expanded, which gives their words the share of that table.
    From another table a word gets its share if its row is expanded there, and at most the
    probability of its row if it is not. Of the words that come first by this bound, the other rows
    are expanded as well.

    Args:
        ops: Namespace of operations.
        tables: As in `find_best_of_tables`.
        word_tables: As in `find_best_of_tables`.
        rows: For each table `(B, n)`, the likeliest rows, which are expanded.
        unseen: `(B,)`, the most that words outside of these rows may have.
        k: As in `find_best_of_tables`.
        excluded: As in `find_best_of_tables`.

    Returns:
        Some more than `k` words `(B, n)` int32 and their log-probabilities, in any order, of minus
        infinity where there are fewer words; and `(B,)`, the most that another word may have.
    """
    expanded = [
        _ExpandedTable(ops, table, word_table)
        for table, word_table in zip(tables, word_tables, strict=True)
    ]
    words = []
    for table, chosen in zip(expanded, rows, strict=True):
        table.expand(chosen)
        words.append(ops.reshape(ops.take(table.words, chosen, axis=0), (-1, table.num_expanded)))
    bounds = [_bound_words(ops, expanded, words[index], index) for index in range(len(expanded))]
    if excluded is not None:
        bounds = [_leave_out(ops, expanded, bounds, excluded)]
    bounds, places = ops.top_k(ops.concatenate(bounds, axis=1), k + _MORE_CANDIDATES + 1)
    others, bounds = bounds[:, -1], bounds[:, :-1]
    places = ops.cast(places[:, :-1], "int32")
    words = ops.take_along_axis(ops.concatenate(words, axis=1), places, axis=1)
    words = ops.maximum(words, 0)  # of fewer words than that, any
    log_probs, is_known = None, None
    for table in expanded:
        cells = ops.take(table.cells, words, axis=0)
        table.expand_rows_of(cells, _ROWS_OF_CANDIDATES + k // _WORDS_PER_ROW)
        share, is_here, _ = table.look_up(cells)
        log_probs = share if log_probs is None else ops.logaddexp(log_probs, share)
        is_known = is_here if is_known is None else ops.logical_and(is_known, is_here)
    is_found = ops.logical_and(is_known, bounds > -np.inf)
    log_probs = ops.where(is_found, ops.maximum(log_probs, LEAST), -np.inf)
    unknown = ops.max(ops.where(is_known, -np.inf, bounds), axis=1)
    bounds = ops.maximum(ops.maximum(unknown, others), unseen)
    return (words, log_probs), bounds


class _ExpandedTable:
    """What one table says of words after each text, once some of its rows are expanded.

    Args:
        ops: Namespace of operations.
        table: `GraphTable`.
        word_table: As in `find_best_of_tables`.

    Attributes:
        values: `(B, R + n C)` float32, the log-probabilities of all rows, and those of the cells of
            `n` expanded rows.
        starts: `(B, R)` int32, where the cells of each row start in `values`; of a row that is not
            expanded, where its own log-probability is.
    """

    def __init__(self, ops: Any, table: GraphTable, word_table: Any) -> None:
        self.ops = ops
        self.row_log_probs = table.row_log_probs
        self.num_rows, self.num_columns = table.row_log_probs.shape[1], table.num_columns
        assert table.expand is not None
        self.compute_columns = table.expand
        self.cells, self.words = word_table.cells, word_table.words
        self.values = ops.maximum(table.row_log_probs, LEAST)
        self.starts = list_rows(ops, table.row_log_probs)

    @property
    def num_expanded(self) -> int:
        """How many cells the expanded rows have."""
        return self.values.shape[1] - self.num_rows

    def expand(self, rows: Tensor) -> None:
        """Expand rows, `(B, n)`."""
        ops, num_rows = self.ops, self.ops.shape(rows)[1]
        row_log_probs = ops.take_along_axis(self.values, rows, axis=1)
        joint = ops.expand_dims(row_log_probs, -1) + self.compute_columns(rows)  # (B, n, C)
        joint = ops.reshape(joint, (-1, num_rows * self.num_columns))
        starts = self.values.shape[1] + self.num_columns * ops.arange(num_rows, dtype="int32")
        self.starts = scatter(ops, self.starts, rows, ops.zeros_like(rows) + starts)
        self.values = ops.concatenate([self.values, joint], axis=1)

    def expand_rows_of(self, cells: Tensor, num_rows: Tensor) -> None:
        """Expand `num_rows` of the rows of cells `(B, n)`, first those that are not expanded."""
        ops = self.ops
        _, is_here, _ = self.look_up(cells)
        nothing = ops.zeros_like(self.row_log_probs)
        is_missing = ops.where(is_here, 0.0, 1.0)
        is_wanted = scatter(ops, nothing, cells // self.num_columns, is_missing)
        self.expand(ops.cast(ops.top_k(is_wanted, num_rows)[1], "int32"))

    def look_up(self, cells: Tensor) -> tuple[Any, Any, Any]:
        """Return what the table says of cells, `(B, n)`.

        Returns:
            The log-probabilities of the cells, or those of their rows, which are not lower, where
            the row is not expanded; where it is expanded; and the places of these numbers in
            `values`.
        """
        ops = self.ops
        rows = cells // self.num_columns
        starts = ops.take_along_axis(self.starts, rows, axis=1)
        is_here = starts >= self.num_rows
        places = ops.where(is_here, starts + cells - rows * self.num_columns, starts)
        return ops.take_along_axis(self.values, places, axis=1), is_here, places


def _bound_words(ops: Any, expanded: Sequence[_ExpandedTable], words: WordIds, index: int) -> Any:
    """Return the most that the words in the expanded rows of one table may have, `(B, n C)`.

    It is minus infinity in empty cells, and for words in expanded rows of a table before, so that
    a word is listed once.
    """
    is_listed = words >= 0
    words = ops.maximum(words, 0)
    bounds = expanded[index].values[:, expanded[index].num_rows :]
    for other, table in enumerate(expanded):
        if other == index:
            continue
        most, is_here, _ = table.look_up(ops.take(table.cells, words, axis=0))
        bounds = ops.logaddexp(bounds, most)
        if other < index:
            is_listed = ops.logical_and(is_listed, ops.logical_not(is_here))
    return ops.where(is_listed, ops.maximum(bounds, LEAST), -np.inf)


def _leave_out(
    ops: Any, expanded: Sequence[_ExpandedTable], bounds: Sequence[Tensor], excluded: Tensor
) -> Any:
    """Return the bounds of all tables, with minus infinity for excluded words."""
    start, all_places = 0, []
    for table in expanded:
        cells = ops.take(table.cells, ops.maximum(excluded, 0), axis=0)
        _, is_here, places = table.look_up(cells)
        is_here = ops.logical_and(is_here, excluded >= 0)
        all_places.append(ops.where(is_here, start + places - table.num_rows, -1))
        start += table.num_expanded
    places = ops.concatenate(all_places, axis=1)  # (B, tables E)
    return exclude(ops, ops.concatenate(bounds, axis=1), places)
