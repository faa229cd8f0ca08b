"""Exact search for the likeliest words inside a graph, on every backend.

The search is written with `keras.ops`. All shapes are static where the batch size is, so that XLA
and JAX can compile it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_lightrnn._internal.typing import Tensor, WordIds
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
_LEAST_SHARE = 0.0625
_COST_OF_ORDER = 2
# Cells of each text that are expanded together in order.
_CELLS_AT_ONCE = 1 << 14
# Least log-probability of a row, and of a column given its row, inside the search: impossible words
# stay finite. Cells that are never answered come after them, with minus infinity.
_LEAST = -1e38
# The sum over components may round a word up to above its row.
_ROUNDING = 1e-5


class GraphTable(NamedTuple):
    """The distribution of the next word after some texts, as one table predicts it.

    Attributes:
        row_log_probs: `(B, R)` float32, of each row, with the weights of the table's components.
        num_columns: Integer `C`.
        expand: `rows (B, n) int32 -> (B, n, C)` float32, the log-probabilities of columns given
            these rows of each text. At least -1e38, and minus infinity for cells that are never
            answered.
        expand_alike: `rows (n,) int32 -> (B, n, C)`, likewise for the same rows of all texts.
    """

    row_log_probs: Tensor
    num_columns: int
    expand: Callable[[Any], Any]
    expand_alike: Callable[[Any], Any]


def find_best_words(
    softmax: Any, states: Tensor, k: int, excluded: Tensor = None
) -> tuple[Tensor, Tensor]:
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

    def search(tables: Any, excluded: Tensor) -> list[Any]:
        return list(find_best_of_tables(tables, word_tables, k, excluded))

    word_tables = [layer.word_table for layer in softmax.list_tables()]
    marks, excluded = _read_excluded(softmax, states, excluded)
    words, log_probs = _map_texts(softmax, search, states, [], excluded, ["int32", "float32"])
    return words, log_probs + marks


def find_word_ranks(softmax: Any, states: Tensor, targets: WordIds, excluded: Tensor = None) -> Any:
    """Return the rank of a word after each text among all words, exactly, as a tensor.

    Args:
        softmax: `TwoComponentSoftmax` with a row reader, built.
        states: `(B, H)`.
        targets: `(B,)` integers.
        excluded: `(B, E)` integers, words that do not count, -1 for none; or `None`.

    Returns:
        `(B,)` int32, from 1: how many words are likelier, or as likely with a lesser id, and 1.
        With `mask_zero`, word 0 does not count, and the rank of the target 0 is 0. -1 where the
        log-probability is NaN or an id is out of range.
    """

    def search(tables: Any, targets: WordIds, excluded: Tensor) -> list[Any]:
        ranks, log_probs = _find_ranks_of_tables(tables, word_tables, targets[:, 0], excluded)
        return [ops.expand_dims(ops.where(ops.isnan(log_probs), -1, ranks), 1)]

    word_tables = [layer.word_table for layer in softmax.list_tables()]
    size = softmax.word_table.vocabulary_size
    marks, excluded = _read_excluded(softmax, states, excluded)
    is_valid = ops.logical_and(targets >= 0, targets < size)
    words = ops.expand_dims(ops.cast(ops.clip(targets, 0, size - 1), "int32"), 1)
    [ranks] = _map_texts(softmax, search, states, [words], excluded, ["int32"])
    ranks = ops.where(ops.isnan(marks), -1, ranks)[:, 0]
    if softmax.mask_zero:
        ranks = ops.where(targets == 0, 0, ranks)
    return ops.where(is_valid, ranks, -1)


def _read_excluded(softmax: Any, states: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
    """Return `(B, 1)` marks, NaN where an id is out of range, and the excluded words with padding.

    The words are `(B, E)` int32, or `None`.
    """
    marks: Tensor = ops.zeros((ops.shape(states)[0], 1), "float32")
    if excluded is not None:
        size = softmax.word_table.vocabulary_size
        marks = ops.sum(mark_invalid_ids(excluded + 1, size + 1), axis=1, keepdims=True)
        excluded = ops.cast(ops.clip(excluded, -1, size - 1), "int32")
    if softmax.mask_zero:
        padding = ops.zeros_like(marks, "int32")
        excluded = padding if excluded is None else ops.concatenate([excluded, padding], axis=1)
    return marks, excluded


def _map_texts(
    softmax: Any,
    search: Callable[..., list[Any]],
    states: Tensor,
    others: list[Any],
    excluded: Tensor,
    dtypes: list[str],
) -> list[Any]:
    """Run `search(tables, *others, excluded)` for blocks of texts and join its results.

    Args:
        softmax: `TwoComponentSoftmax` with a row reader, built.
        search: From a `GraphTable` for each table, other tensors and excluded words to matrices.
        states: `(B, H)`.
        others: Tensors `(B, ...)`.
        excluded: `(B, E)` int32, or `None`.
        dtypes: The dtypes of the results.
    """
    layers = softmax.list_tables()
    offsets = list_row_offsets(softmax)
    if len(layers) == 1:
        size = choose_block_size(softmax.word_table.num_columns, softmax.num_components)
    else:  # which hold all words of all texts of a block
        floats = softmax.word_table.vocabulary_size * softmax.num_components
        size = max(1, min(_TEXTS_AT_ONCE, _FLOATS_AT_ONCE // floats))

    def run(states: Tensor, *rest: Tensor) -> list[Any]:
        predicted = predict_all_rows(softmax, states, offsets)
        tables = [_make_table(layer, *x) for layer, x in zip(layers, predicted, strict=True)]
        return search(tables, *rest, *([None] if excluded is None else []))

    tensors = [states, *others, *([] if excluded is None else [excluded])]
    return map_blocks(run, tensors, size, dtypes)


def _make_table(softmax: Any, row_log_probs: Tensor, context: list[Any]) -> GraphTable:
    """Return a table of a softmax with what `predict_rows` returned."""
    queries, *shares = context  # (B, M, H), (B, R, M)
    word_table = softmax.word_table
    has_empty_cells = word_table.vocabulary_size < word_table.num_rows * word_table.num_columns

    def predict(rows: Tensor, of_all: Tensor) -> Any:
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
        log_probs = ops.maximum(log_probs, _LEAST)
        if has_empty_cells:
            is_empty = ops.take(word_table.words, of_all, axis=0) < 0
            log_probs = ops.where(is_empty, -np.inf, log_probs)
        return log_probs

    def expand_alike(rows: Tensor) -> Any:
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
    tables: Sequence[GraphTable], word_tables: Sequence[Any], k: Tensor, excluded: Tensor = None
) -> tuple[Tensor, Tensor]:
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
        excluded = _find_cells(word_table, excluded)
        words = ops.reshape(ops.convert_to_tensor(word_table.words), (-1,))
        cells, log_probs = find_best_cells(table, k, excluded, word_table.words)
        found = ops.take(words, ops.maximum(cells, 0), axis=0)
        return ops.where(cells < 0, -1, found), log_probs
    total = _predict_all_words(tables, word_tables)
    if excluded is not None:
        total = _exclude(total, excluded)
    words = ops.arange(total.shape[1], dtype="int32")
    best, found = select_best(total, k, lambda: ops.broadcast_to(words, ops.shape(total)))
    return _finish(found, best, words, tables[0].row_log_probs)


def _find_ranks_of_tables(
    tables: Sequence[GraphTable], word_tables: Sequence[Any], targets: WordIds, excluded: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the ranks of words `(B,)` and their log-probabilities; see `find_best_of_tables`."""
    if len(tables) == 1:
        [table], [word_table] = tables, word_tables
        cells = ops.take(word_table.cells, targets, axis=0)
        return find_ranks(table, cells, _find_cells(word_table, excluded), word_table.words)
    total = _predict_all_words(tables, word_tables)
    targets = ops.expand_dims(targets, 1)
    log_probs = ops.take_along_axis(total, targets, axis=1)
    if excluded is not None:
        total = _exclude(total, excluded)
    words = ops.arange(total.shape[1], dtype="int32")
    before = _count_before(total, log_probs, lambda: ops.expand_dims(words, 0) < targets)
    return before + 1, log_probs[:, 0]


def _find_cells(word_table: Any, words: WordIds) -> Any:
    """Return the cells of words `(B, E)`, -1 for none; `None` for `None`."""
    if words is None:
        return None
    cells = ops.take(word_table.cells, ops.maximum(words, 0), axis=0)
    return ops.where(words < 0, -1, cells)


def _predict_all_words(tables: Sequence[GraphTable], word_tables: Sequence[Any]) -> Any:
    """Return the log-probabilities of all words, `(B, V)`, by the sum over tables."""
    total = None
    for table, word_table in zip(tables, word_tables, strict=True):
        log_probs = ops.take(_predict_all_cells(table), word_table.cells, axis=1)
        total = log_probs if total is None else ops.logaddexp(total, log_probs)
    return ops.maximum(total, _LEAST)


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
    table: GraphTable, k: Tensor, excluded: Tensor = None, words: WordIds = None
) -> tuple[Tensor, Tensor]:
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
    candidates = _Candidates(table.num_columns, k, words)
    start = candidates.start(table.row_log_probs)

    def list_bounds(state: Any) -> Any:
        return ops.min(state[1], axis=1)

    cells, best = _go_through_rows(table, list_bounds, candidates.add, start, excluded)
    return _finish(cells, best, candidates.words, table.row_log_probs)


def _go_through_rows(
    table: GraphTable,
    list_bounds: Callable[[Any], Any],
    add: Callable[..., Any],
    start: tuple[Any, ...],
    excluded: Tensor,
) -> tuple[Any, ...]:
    """Expand the likeliest rows of each text, or all rows, until none is left that counts.

    Args:
        table: As in `find_best_cells`.
        list_bounds: `state -> (B,)`: rows whose log-probability is lower do not count.
        add: `(state, rows (B, n), joint (B, n, C), exclusion) -> state`, adds the log-probabilities
            of the cells of rows. See `_Exclusion`.
        start: The first state, a tuple of tensors.
        excluded: As in `find_best_cells`.

    Returns:
        The last state.
    """
    row_log_probs, num_columns = table.row_log_probs, table.num_columns
    num_rows = row_log_probs.shape[1]
    at_once = min(_ROWS_AT_ONCE, num_rows)
    falling, order = ops.top_k(row_log_probs, num_rows)
    order = ops.cast(order, "int32")
    excluded_rows = places = columns = None
    if excluded is not None:
        columns = ops.where(excluded < 0, -1, excluded % num_columns)
        excluded_rows = ops.maximum(excluded, 0) // num_columns
        places = ops.take_along_axis(ops.argsort(order), excluded_rows, axis=1)

    def count_needed(state: Any) -> Any:
        """Return how many of the likeliest rows may count for a text."""
        bounds = ops.expand_dims(list_bounds(state), 1) - _ROUNDING
        return ops.max(ops.sum(ops.cast(falling >= bounds, "int32"), axis=1))

    def is_sorted_search(first: Tensor, *state: Any) -> Any:
        needed = count_needed(state)
        is_needed = first < needed
        if table.expand_alike is None:
            return is_needed
        is_cheap = ops.logical_or(
            first < int(_LEAST_SHARE * num_rows), _COST_OF_ORDER * (needed - first) < num_rows
        )
        return ops.logical_and(is_needed, is_cheap)

    def expand(first: Tensor, *state: Any) -> Any:
        here, is_row = _make_range(first, at_once, num_rows)
        rows = ops.take(order, here, axis=1)  # (B, n)
        joint = _join(ops.take(falling, here, axis=1), table.expand(rows), is_row)
        exclusion = None if places is None else _Exclusion(places - first, columns)
        return (first + at_once, *add(state, rows, joint, exclusion))

    zero = ops.zeros((), "int32")
    first, *state = ops.while_loop(is_sorted_search, expand, (zero, *start))
    if table.expand_alike is None:
        return tuple(state)
    is_open = first < count_needed(state)
    block = min(max(_ROWS_AT_ONCE, _CELLS_AT_ONCE // num_columns), num_rows)

    def expand_alike(first: Tensor, *state: Any) -> Any:
        rows, is_row = _make_range(first, block, num_rows)
        joint = _join(ops.take(row_log_probs, rows, axis=1), table.expand_alike(rows), is_row)
        exclusion = None if columns is None else _Exclusion(excluded_rows - first, columns)
        rows = ops.broadcast_to(rows, (ops.shape(joint)[0], block))
        return (first + block, *add(state, rows, joint, exclusion))

    restarted = [ops.where(is_open, x, y) for x, y in zip(start, state, strict=True)]
    _, *state = ops.while_loop(
        lambda first, *_: ops.logical_and(is_open, first < num_rows),
        expand_alike,
        (zero, *restarted),
    )
    return tuple(state)


def find_ranks(
    table: GraphTable, cells: Tensor, excluded: Tensor = None, words: WordIds = None
) -> tuple[Tensor, Tensor]:
    """Return the rank of one cell of each text among all cells, exactly, by one table.

    Args:
        table: As in `find_best_cells`.
        cells: `(B,)` int32.
        excluded: As in `find_best_cells`: these cells do not count.
        words: As in `find_best_cells`: of equally likely cells those with lesser words come first.

    Returns:
        Ranks `(B,)` int32, from 1, and the log-probabilities of the cells, `(B,)` float32.
    """
    num_columns = table.num_columns
    rows = ops.expand_dims(cells // num_columns, 1)  # (B, 1)
    log_probs = ops.take_along_axis(
        table.expand(rows)[:, 0], ops.expand_dims(cells % num_columns, 1), axis=1
    )
    log_probs += ops.take_along_axis(table.row_log_probs, rows, axis=1)  # (B, 1)
    own_cells = ops.expand_dims(cells, 1)  # a cell does not count for itself, however it is rounded
    excluded = own_cells if excluded is None else ops.concatenate([excluded, own_cells], axis=1)
    own = ops.maximum(log_probs, _LEAST)
    flat_words = None if words is None else ops.reshape(words, (-1,))
    own_words = None if words is None else ops.take(flat_words, own_cells, axis=0)

    def add(state: Any, rows: Tensor, joint: Tensor, exclusion: _Exclusion) -> Any:
        joint = ops.reshape(joint, (-1, joint.shape[1] * num_columns))
        joint = exclusion.apply(joint, rows.shape[1])

        def list_words() -> Any:
            of_rows = ops.take(ops.reshape(flat_words, (-1, num_columns)), rows, axis=0)
            return ops.reshape(of_rows, (-1, rows.shape[1] * num_columns))

        before = _count_before(
            joint, own, None if words is None else lambda: list_words() < own_words
        )
        return (state[0] + before,)

    start = (ops.zeros_like(cells),)
    bounds = own[:, 0]
    (before,) = _go_through_rows(table, lambda state: bounds, add, start, excluded)
    return before + 1, log_probs[:, 0]


def _count_before(values: Tensor, own: Tensor, list_is_lesser: Callable[[], Any] | None) -> Any:
    """Return how many values of each text come before its own, `(B, N), (B, 1) -> (B,)`.

    Args:
        values: `(B, N)` float32.
        own: `(B, 1)` float32.
        list_is_lesser: Returns which of the values come before an equal one, `(B, N)`.
    """
    count = _count(values > own)
    if list_is_lesser is None:
        return count
    is_equal = values == own
    equal = ops.cond(
        ops.any(is_equal),
        lambda: _count(ops.logical_and(is_equal, list_is_lesser())),
        lambda: ops.zeros_like(count),
    )
    return count + equal


def _count(is_counted: Any) -> Any:
    return ops.sum(ops.cast(is_counted, "int32"), axis=1)


def _make_range(start: Tensor, size: int, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return `size` numbers from `start`, and which of them are below `num_rows`; `(size,)` each.

    The others are replaced by the last one.
    """
    numbers = start + ops.arange(size, dtype="int32")
    return ops.minimum(numbers, num_rows - 1), numbers < num_rows


def _join(row_log_probs: Tensor, column_log_probs: Any, is_row: Tensor) -> Any:
    """Return the log-probabilities of cells, `(B, n), (B, n, C), (n,) -> (B, n, C)`."""
    row_log_probs = ops.where(is_row, ops.maximum(row_log_probs, _LEAST), -np.inf)
    return ops.expand_dims(row_log_probs, -1) + column_log_probs


class _Candidates:
    """Merges the cells of rows into the best `k` of each text.

    Args:
        num_columns: Integer `C`.
        k: As in `find_best_cells`.
        words: As in `find_best_cells`.
    """

    def __init__(self, num_columns: int, k: Tensor, words: WordIds) -> None:
        self.num_columns = num_columns
        self.k = k
        self.words = None if words is None else ops.reshape(words, (-1,))

    def start(self, row_log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `k` cells that lose against all others, and their log-probabilities."""
        shape = ops.shape(row_log_probs)[0], self.k
        return ops.zeros(shape, "int32"), ops.full(shape, -np.inf, "float32")

    def add(self, state: Any, rows: Tensor, joint: Tensor, exclusion: _Exclusion | None) -> Any:
        """Return the best `k` cells, unordered, and their log-probabilities, `(B, k)` each.

        Args:
            state: The best cells so far, `(B, k)` int32, and their log-probabilities, `(B, k)`.
            rows: `(B, n)` int32.
            joint: `(B, n, C)` float32.
            exclusion: The excluded cells, or `None`.
        """
        cells, best = state
        num_rows, num_columns = rows.shape[1], self.num_columns
        if exclusion is not None:
            flat = exclusion.apply(ops.reshape(joint, (-1, num_rows * num_columns)), num_rows)
            joint = ops.reshape(flat, (-1, num_rows, num_columns))
        new_best, places = self._select_in_rows(joint, rows)
        new_rows = ops.take_along_axis(rows, places // num_columns, axis=1)
        cells = ops.concatenate([cells, new_rows * num_columns + places % num_columns], axis=1)
        values = ops.concatenate([best, new_best], axis=1)
        list_words = None
        if self.words is not None:
            list_words = lambda: ops.take(self.words, cells, axis=0)  # noqa: E731
        best, places = select_best(values, self.k, list_words)
        return ops.take_along_axis(cells, places, axis=1), best

    def _select_in_rows(self, joint: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best values of rows and their places, `(B, n, C) -> (B, k')`, `k'` up to `k`.

        The greatest values lie in the columns with the greatest maxima: only these are sorted.
        """
        num_rows, num_columns = joint.shape[1:]
        size = num_rows * num_columns
        flat = ops.reshape(joint, (-1, size))
        list_words = None
        if self.words is not None:

            def list_words() -> Any:
                of_rows = ops.take(ops.reshape(self.words, (-1, num_columns)), rows, axis=0)
                return ops.reshape(of_rows, (-1, size))

        if not isinstance(self.k, int) or size <= self.k:
            k = self.k if not isinstance(self.k, int) else min(self.k, size)
            return select_best(flat, k, list_words)
        if 4 * self.k > num_columns:
            return select_best(flat, self.k, list_words)
        maxima = ops.max(joint, axis=1)  # (B, C)
        columns = ops.cast(ops.top_k(maxima, self.k)[1], "int32")  # (B, k)
        indices = ops.broadcast_to(
            ops.expand_dims(columns, 1), (ops.shape(columns)[0], num_rows, self.k)
        )
        values = ops.reshape(ops.take_along_axis(joint, indices, axis=2), (-1, num_rows * self.k))
        best, places = ops.top_k(values, self.k)
        places = ops.cast(places, "int32")
        kth = best[:, -1:]
        column = ops.take_along_axis(columns, places % self.k, axis=1)
        places = places // self.k * num_columns + column
        if list_words is None:
            return best, places
        is_tied = ops.logical_or(_count(maxima >= kth) > self.k, _count(values >= kth) > self.k)
        return ops.cond(
            ops.any(ops.logical_and(is_tied, kth[:, 0] > -np.inf)),
            lambda: select_best(flat, self.k, list_words),
            lambda: (best, places),
        )


class _Exclusion(NamedTuple):
    """Cells that are not answered, among those of some rows.

    Attributes:
        places: `(B, E)` int32, places of their rows among the rows, outside if they are not there.
        columns: `(B, E)` int32, their columns, -1 for no cell.
    """

    places: Tensor
    columns: Any

    def apply(self, joint: Tensor, num_rows: int) -> Any:
        """Return `joint`, `(B, n C)` of `n` rows, with minus infinity for these cells."""
        num_columns = joint.shape[1] // num_rows
        is_here = (self.places >= 0) & (self.places < num_rows) & (self.columns >= 0)
        cells = ops.where(is_here, self.places * num_columns + self.columns, -1)
        return _exclude(joint, cells)


def _exclude(values: Tensor, places: Tensor) -> Any:
    """Return `values`, `(B, N)`, with minus infinity at some places of each text.

    Args:
        values: `(B, N)` float32.
        places: `(B, E)` int32, -1 for none.
    """
    num_texts, num_places = ops.shape(places)
    size = values.shape[1]
    padding = [[0, 0], [0, 1]]  # a place for none
    texts = ops.repeat(ops.arange(num_texts, dtype="int32"), num_places)
    flat = ops.reshape(ops.where(places < 0, size, places), (-1,))
    updates = ops.full((num_texts * num_places,), -np.inf, "float32")
    indices = ops.stack([texts, flat], axis=1)
    return ops.scatter_update(ops.pad(values, padding), indices, updates)[:, :size]


def select_best(
    values: Tensor, k: Tensor, list_words: Callable[[], Any] | None
) -> tuple[Tensor, Tensor]:
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


def _finish(
    cells: Tensor, best: Tensor, words: WordIds, row_log_probs: Tensor
) -> tuple[Tensor, Tensor]:
    """Sort the best cells, or words; mark what is missing, what is impossible, and NaN."""
    if words is not None:
        order = ops.argsort(ops.take(words, cells, axis=0))
        cells, best = (ops.take_along_axis(x, order, axis=1) for x in (cells, best))
        order = ops.argsort(-best)
        cells, best = (ops.take_along_axis(x, order, axis=1) for x in (cells, best))
    cells = ops.where(best > -np.inf, cells, -1)
    best = ops.where(best <= _LEAST / 2, -np.inf, best)
    total = ops.sum(row_log_probs, axis=1, keepdims=True)
    return cells, ops.where(ops.isnan(total), total, best)
