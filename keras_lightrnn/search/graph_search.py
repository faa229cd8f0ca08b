"""Exact search for the likeliest words inside a graph, on every backend.

The search is written with `keras.ops`. All shapes are static where the batch size is, so that XLA
and JAX can compile it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_lightrnn.ops.loops import map_blocks
from keras_lightrnn.ops.word_ids import mark_invalid_ids
from keras_lightrnn.search.layer_search import list_row_offsets, predict_all_rows

# Rows of each text that one step expands.
_ROWS_AT_ONCE = 16
# Texts that are searched together, and the largest number of floats in one tensor of theirs. A
# text that needs many rows makes only the texts of its block wait.
_TEXTS_AT_ONCE = 64
_FLOATS_AT_ONCE = 1 << 22
# A search that has expanded this share of the rows of a text may give up and expand all rows in
# order, which costs less for each row than to expand the likeliest: by about this factor.
_LEAST_SHARE = 0.125
_COST_OF_ORDER = 2
# Cells of each text that are expanded together in order.
_CELLS_AT_ONCE = 1 << 16
# Log-probability of impossible words inside the search. Cells that are never answered come after
# it, with minus infinity.
_LEAST = float(np.finfo(np.float32).min)
# The sum over components may round a word up to above its row.
_ROUNDING = 1e-5


class GraphTable(NamedTuple):
    """The distribution of the next word after some texts, as one table predicts it.

    Attributes:
        row_log_probs: `(B, R)` float32, of each row, with the weights of the table's components.
        num_columns: Integer `C`.
        expand: `rows (B, n) int32 -> (B, n, C)` float32, the log-probabilities of columns given
            these rows of each text. Minus infinity for cells that are never answered.
        expand_alike: `rows (n,) int32 -> (B, n, C)`, likewise for the same rows of all texts.
    """

    row_log_probs: Any
    num_columns: int
    expand: Callable[[Any], Any]
    expand_alike: Callable[[Any], Any]


def find_best_words(softmax: Any, states: Any, k: int, excluded: Any = None) -> tuple[Any, Any]:
    """Return the `k` likeliest words after some texts, exactly, as tensors.

    Args:
        softmax: `TwoComponentSoftmax` with a row reader, built.
        states: `(B, H)`.
        k: Integer.
        excluded: `(B, E)` integers, words that are not answered, -1 for none; or `None`.

    Returns:
        Words `(B, k)` int32 and their log-probabilities `(B, k)` float32, best first, of equal
        words the lesser ids first. -1 and minus infinity where fewer than `k` words may be
        answered. The log-probabilities of a text are NaN if an id in `excluded` is out of range.
    """
    layers = softmax.list_tables()
    offsets = list_row_offsets(softmax)
    size = min(
        choose_block_size(layer.word_table.num_columns, softmax.num_components) for layer in layers
    )
    if len(layers) > 1:
        floats = softmax.word_table.vocabulary_size * softmax.num_components
        size = max(1, min(_TEXTS_AT_ONCE, _FLOATS_AT_ONCE // floats))

    def search(states: Any, excluded: Any = None) -> list[Any]:
        predicted = predict_all_rows(softmax, states, offsets)
        tables = [_make_table(layer, *x) for layer, x in zip(layers, predicted, strict=True)]
        return list(find_best_of_tables(tables, [x.word_table for x in layers], k, excluded))

    tensors = [states]
    dtypes = ["int32", "float32"]
    marks = 0.0
    if excluded is not None:
        size_of_vocabulary = softmax.word_table.vocabulary_size
        marks = mark_invalid_ids(excluded + 1, size_of_vocabulary + 1)
        marks = ops.sum(marks, axis=1, keepdims=True)
        excluded = ops.cast(ops.clip(excluded, -1, size_of_vocabulary - 1), "int32")
    if softmax.mask_zero:
        padding = ops.zeros((ops.shape(states)[0], 1), "int32")
        excluded = padding if excluded is None else ops.concatenate([excluded, padding], axis=1)
    if excluded is not None:
        tensors.append(excluded)
    words, log_probs = map_blocks(search, tensors, size, dtypes)
    return words, log_probs + marks


def _make_table(softmax: Any, row_log_probs: Any, context: list[Any]) -> GraphTable:
    """Return a table of a softmax with what `predict_rows` returned."""
    queries, *shares = context  # (B, M, H), (B, R, M)
    word_table = softmax.word_table
    has_empty_cells = word_table.vocabulary_size < word_table.num_rows * word_table.num_columns

    def predict(rows: Any, of_all: Any) -> Any:
        shape = (*ops.shape(rows), *queries.shape[1:])
        read = ops.broadcast_to(ops.expand_dims(queries, 1), shape)  # (B, n, M, H)
        read = softmax.read_rows(read, rows)
        log_probs = ops.log_softmax(softmax.compute_column_logits(read, of_all))  # (B, n, M, C)
        if shares:
            indices = ops.broadcast_to(ops.expand_dims(rows, -1), shape[:-1])
            of_rows = ops.take_along_axis(shares[0], indices, axis=1)  # (B, n, M)
            log_probs = ops.logsumexp(ops.expand_dims(of_rows, -1) + log_probs, axis=2)
        else:
            log_probs = ops.squeeze(log_probs, 2)
        if has_empty_cells:
            is_empty = ops.take(word_table.words, of_all, axis=0) < 0
            log_probs = ops.where(is_empty, -np.inf, ops.maximum(log_probs, _LEAST))
        return log_probs

    def expand_alike(rows: Any) -> Any:
        rows = ops.expand_dims(rows, 0)  # (1, n)
        shape = ops.shape(row_log_probs)[0], rows.shape[1]
        return predict(ops.broadcast_to(rows, shape), rows)

    return GraphTable(
        row_log_probs,
        word_table.num_columns,
        lambda rows: predict(rows, rows),
        expand_alike,
    )


def find_best_of_tables(
    tables: Sequence[GraphTable], word_tables: Sequence[Any], k: Any, excluded: Any = None
) -> tuple[Any, Any]:
    """Return the `k` likeliest words of each text by the sum over several tables, exactly.

    Args:
        tables: A `GraphTable` for each table, for the same `B` texts.
        word_tables: For each table, an object with `cells`, `(V,)` int32, the cell of each word,
            and `words`, `(R, C)` int32, the word in each cell and -1 in empty cells.
        k: Integer, or on TensorFlow an int32 scalar.
        excluded: `(B, E)` int32, words that are not answered, -1 for none; or `None`.

    Returns:
        As `find_best_words`.
    """
    if len(tables) == 1:
        [table], [word_table] = tables, word_tables
        if excluded is not None:
            cells = ops.take(word_table.cells, ops.maximum(excluded, 0), axis=0)
            excluded = ops.where(excluded < 0, -1, cells)
        words = ops.reshape(ops.convert_to_tensor(word_table.words), (-1,))
        cells, log_probs = find_best_cells(table, k, excluded, word_table.words)
        found = ops.take(words, ops.maximum(cells, 0), axis=0)
        return ops.where(cells < 0, -1, found), log_probs
    total = None
    for table, word_table in zip(tables, word_tables, strict=True):
        log_probs = _predict_all_cells(table)
        log_probs = ops.take(log_probs, word_table.cells, axis=1)  # (B, V)
        total = log_probs if total is None else ops.logaddexp(total, log_probs)
    total = ops.maximum(total, _LEAST)
    size = total.shape[1]
    if excluded is not None:
        nothing = ops.full((ops.shape(total)[0], 1), -np.inf, "float32")
        places = ops.where(excluded < 0, size, excluded)
        total = _exclude(ops.concatenate([total, nothing], axis=1), places)
    words = ops.arange(total.shape[1], dtype="int32")
    best, found = select_best(total, k, lambda: ops.broadcast_to(words, ops.shape(total)))
    return _finish(found, best, words, tables[0].row_log_probs)


def _predict_all_cells(table: GraphTable) -> Any:
    """Return the log-probabilities of all cells, `(B, R C)`."""
    rows = ops.arange(table.row_log_probs.shape[1], dtype="int32")
    joint = ops.expand_dims(table.row_log_probs, -1) + table.expand_alike(rows)  # (B, R, C)
    return ops.reshape(joint, (-1, rows.shape[0] * table.num_columns))


def choose_block_size(num_columns: int, floats_per_cell: int = 1) -> int:
    """Return how many texts a search for cells may expand together."""
    floats_per_text = _ROWS_AT_ONCE * num_columns * floats_per_cell
    return max(1, min(_TEXTS_AT_ONCE, _FLOATS_AT_ONCE // floats_per_text))


def find_best_cells(
    table: GraphTable, k: Any, excluded: Any = None, words: Any = None
) -> tuple[Any, Any]:
    """Return the `k` likeliest cells of each text by one table, exactly.

    Rows are expanded in falling order of probability, some at a time, until no further row can
    hold a better cell: no word is likelier than its row. If the bound does not exclude most rows,
    all rows are expanded in order, which takes about as long as the whole distribution.

    Args:
        table: `GraphTable` for `B` texts, which are expanded together: see `choose_block_size`.
        k: Integer, or on TensorFlow an int32 scalar.
        excluded: `(B, E)` int32, cells that are not answered, -1 for none; or `None`.
        words: `(R, C)` int32, the word in each cell, -1 in empty cells: of equally likely cells
            those with lesser words are answered. `None` for an arbitrary choice.

    Returns:
        Cells `(B, k)` int32 and their log-probabilities `(B, k)` float32, best first. -1 and minus
        infinity where fewer than `k` cells may be answered.
    """
    num_rows, num_columns = table.row_log_probs.shape[1], table.num_columns
    at_once = min(_ROWS_AT_ONCE, num_rows)
    falling, order = ops.top_k(table.row_log_probs, num_rows)
    order = ops.cast(order, "int32")
    candidates = _Candidates(num_columns, k, words)
    columns = places = None
    if excluded is not None:
        columns = ops.where(excluded < 0, -1, excluded % num_columns)
        excluded_rows = ops.maximum(excluded, 0) // num_columns
        places = ops.take_along_axis(ops.argsort(order), excluded_rows, axis=1)

    def count_needed(best: Any) -> Any:
        """Return how many of the likeliest rows may hold one of the best cells of a text."""
        kth = ops.min(best, axis=1, keepdims=True)
        return ops.max(ops.sum(ops.cast(falling >= kth - _ROUNDING, "int32"), axis=1))

    def is_sorted_search(start: Any, _: Any, best: Any) -> Any:
        needed = count_needed(best)
        is_cheap = ops.logical_or(
            start < int(_LEAST_SHARE * num_rows), _COST_OF_ORDER * (needed - start) < num_rows
        )
        is_needed = start < needed
        return is_needed if table.expand_alike is None else ops.logical_and(is_needed, is_cheap)

    def expand(start: Any, cells: Any, best: Any) -> Any:
        here, is_row = _make_range(start, at_once, num_rows)
        rows = ops.take(order, here, axis=1)  # (B, n)
        joint = _join(ops.take(falling, here, axis=1), table.expand(rows), is_row)
        local = None if places is None else places - start
        return (start + at_once, *candidates.add(rows, joint, local, columns, cells, best))

    start, cells, best = ops.while_loop(
        is_sorted_search, expand, (ops.zeros((), "int32"), *candidates.start(table.row_log_probs))
    )
    if table.expand_alike is not None:
        is_open = start < count_needed(best)
        block = min(max(_ROWS_AT_ONCE, _CELLS_AT_ONCE // num_columns), num_rows)

        def expand_alike(start: Any, cells: Any, best: Any) -> Any:
            rows, is_row = _make_range(start, block, num_rows)
            joint = _join(
                ops.take(table.row_log_probs, rows, axis=1), table.expand_alike(rows), is_row
            )
            local = None if excluded is None else excluded_rows - start
            rows = ops.broadcast_to(rows, (ops.shape(joint)[0], block))
            return (start + block, *candidates.add(rows, joint, local, columns, cells, best))

        _, cells, best = ops.while_loop(
            lambda start, *_: ops.logical_and(is_open, start < num_rows),
            expand_alike,
            (ops.zeros((), "int32"), cells, ops.where(is_open, -np.inf, best)),
        )
    return _finish(cells, best, candidates.words, table.row_log_probs)


def _make_range(start: Any, size: int, num_rows: int) -> tuple[Any, Any]:
    """Return `size` numbers from `start`, and which of them are below `num_rows`; `(size,)` each.

    The others are replaced by the last one.
    """
    numbers = start + ops.arange(size, dtype="int32")
    return ops.minimum(numbers, num_rows - 1), numbers < num_rows


def _join(row_log_probs: Any, column_log_probs: Any, is_row: Any) -> Any:
    """Return the log-probabilities of cells, `(B, n), (B, n, C), (n,) -> (B, n, C)`."""
    joint = ops.expand_dims(row_log_probs, -1) + column_log_probs
    is_cell = ops.logical_and(column_log_probs > -np.inf, ops.reshape(is_row, (1, -1, 1)))
    return ops.where(is_cell, ops.maximum(joint, _LEAST), -np.inf)


class _Candidates:
    """Merges the cells of rows into the best `k` of each text.

    Args:
        num_columns: Integer `C`.
        k: As in `find_best_cells`.
        words: As in `find_best_cells`.
    """

    def __init__(self, num_columns: int, k: Any, words: Any) -> None:
        self.num_columns = num_columns
        self.k = k
        self.words = None if words is None else ops.reshape(words, (-1,))

    def start(self, row_log_probs: Any) -> tuple[Any, Any]:
        """Return `k` cells that lose against all others, and their log-probabilities."""
        shape = ops.shape(row_log_probs)[0], self.k
        return ops.zeros(shape, "int32"), ops.full(shape, -np.inf, "float32")

    def add(
        self, rows: Any, joint: Any, local: Any, columns: Any, cells: Any, best: Any
    ) -> tuple[Any, Any]:
        """Return the best `k` cells, unordered, and their log-probabilities, `(B, k)` each.

        Args:
            rows: `(B, n)` int32.
            joint: `(B, n, C)` float32.
            local: `(B, E)` int32, places in `rows` of the rows of excluded cells; or `None`.
            columns: `(B, E)` int32, their columns, -1 for no cell; or `None`.
            cells: `(B, k)` int32, the best cells so far.
            best: `(B, k)` float32.
        """
        size, num_columns = rows.shape[1] * self.num_columns, self.num_columns
        values = [best, ops.reshape(joint, (-1, size))]
        if local is not None:
            is_here = (local >= 0) & (local < rows.shape[1]) & (columns >= 0)
            places = ops.where(is_here, self.k + local * num_columns + columns, self.k + size)
            values.append(ops.full((ops.shape(rows)[0], 1), -np.inf, "float32"))
            values = _exclude(ops.concatenate(values, axis=1), places)
        else:
            values = ops.concatenate(values, axis=1)

        def list_words() -> Any:
            listed = [
                ops.take(self.words, cells, axis=0),
                ops.reshape(
                    ops.take(ops.reshape(self.words, (-1, num_columns)), rows, axis=0), (-1, size)
                ),
            ]
            return ops.concatenate(listed if local is None else [*listed, listed[0][:, :1]], axis=1)

        best, places = select_best(values, self.k, None if self.words is None else list_words)
        new = ops.clip(places - self.k, 0, size - 1)
        new = (
            ops.take_along_axis(rows, new // num_columns, axis=1) * num_columns + new % num_columns
        )
        old = ops.take_along_axis(cells, ops.minimum(places, self.k - 1), axis=1)
        return ops.where(places < self.k, old, new), best


def _exclude(values: Any, places: Any) -> Any:
    """Return `values`, `(B, N)`, with minus infinity at some places of each text, `(B, E)`."""
    num_texts, num_places = ops.shape(places)
    texts = ops.repeat(ops.arange(num_texts, dtype="int32"), num_places)
    indices = ops.stack([texts, ops.reshape(places, (-1,))], axis=1)
    updates = ops.full((num_texts * num_places,), -np.inf, "float32")
    return ops.scatter_update(values, indices, updates)


def select_best(values: Any, k: Any, list_words: Callable[[], Any] | None) -> tuple[Any, Any]:
    """Return the `k` greatest of some values and their places, `(B, k)` each, in any order.

    Args:
        values: `(B, N)` float32.
        k: As in `find_best_cells`.
        list_words: Returns the words of the values, `(B, N)`: of values that are equal to the
            `k`-th, those with the least words are returned. `None` for an arbitrary choice.
    """
    best, places = ops.top_k(values, k)
    places = ops.cast(places, "int32")
    if list_words is None:
        return best, places
    kth = best[:, -1:]
    count = ops.sum(ops.cast(values >= kth, "int32"), axis=1)
    is_tied = ops.logical_and(count > k, kth[:, 0] > -np.inf)

    def choose_least_words() -> Any:
        order = ops.where(values == kth, -ops.maximum(list_words(), 0), -(2**31))
        chosen = ops.top_k(ops.where(values > kth, 1, order), k)[1]
        return ops.cast(chosen, "int32")

    places = ops.cond(ops.any(is_tied), choose_least_words, lambda: places)
    return ops.take_along_axis(values, places, axis=1), places


def _finish(cells: Any, best: Any, words: Any, row_log_probs: Any) -> tuple[Any, Any]:
    """Sort the best cells, or words; mark what is missing, what is impossible, and NaN."""
    if words is not None:
        order = ops.argsort(ops.take(words, cells, axis=0))
        cells, best = (ops.take_along_axis(x, order, axis=1) for x in (cells, best))
        order = ops.argsort(-best)
        cells, best = (ops.take_along_axis(x, order, axis=1) for x in (cells, best))
    cells = ops.where(best > -np.inf, cells, -1)
    best = ops.where(best <= _LEAST, -np.inf, best)
    total = ops.sum(row_log_probs, axis=1, keepdims=True)
    return cells, ops.where(ops.isnan(total), total, best)
