"""Exact search for the likeliest cells of one table, inside a graph.

Functions take `ops`, the namespace of operations to use: `keras.ops`, or `tensorflow_operations`,
with which exported models are traced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_lightrnn._internal.typing import Tensor

# Rows of each text that one step expands in a large table.
ROWS_AT_ONCE = 16
# A search that has expanded this share of the rows of a text may give up and expand all rows in
# order, which costs less for each row than to expand the likeliest: by about this factor.
_LEAST_SHARE = 0.0625
_COST_OF_ORDER = 2
# All cells of a table of at most this size are computed at once, unless the prediction is sharp.
FEW_CELLS = 1 << 17
# Rows of each text that a search of such a table expands first, and again with more rows if these
# were not enough; and how many times as many rows a table must have. Compiled by XLA, 64 of 246
# rows take 0.6 of the time of all.
_FIRST_ROWS = (16, 32, 64)
_LEAST_RATIO = 3
# A prediction is sharp if the likeliest row is likelier by so many nats than the row behind those
# that are expanded. With the network that `examples/recommend_next_item.py` trains for 60,416
# items, 16 rows are enough for the best 20 in 86 of 100 such predictions, and 64 rows in 99.
_SHARP = 4.0
# Cells of each text that are expanded together in order: their word vectors fit into a cache.
_CELLS_AT_ONCE = 1 << 14
# The best of many cells are selected from groups of this size, by the maximum of each group.
_CELLS_OF_GROUP = 64
# Texts that are searched together, and the largest number of floats in one of their tensors. A
# text that needs many rows delays only the texts in its block.
_TEXTS_AT_ONCE = 64
_FLOATS_AT_ONCE = 1 << 22
# Least log-probability of a row, and of a column given its row, inside the search: impossible words
# stay finite. Cells that are never returned come after them, with minus infinity.
LEAST = -1e38
# Sums over components, and products of other shapes, are rounded differently by so much at most.
ROUNDING = 1e-5


class GraphTable(NamedTuple):
    """The distribution of the next word after some texts, as one table predicts it.

    Attributes:
        row_log_probs: `(B, R)` float32, of each row, with the weights of the table's components.
        num_columns: Integer `C`.
        expand: `rows (B, n) int32 -> (B, n, C)` float32, the log-probabilities of columns given
            these rows of each text. At least -1e38, and minus infinity for cells that are never
            returned. `None` if all cells are computed together.
        expand_all: `() -> (B, R, C)` float32, the log-probabilities of all cells; anything in cells
            without a word. `None` if that costs no less for each row than `expand`.
        order: Returns a function `rows (n,) int32 -> (B, n, C)`, as `expand` for the same rows of
            all texts. It is called once where all rows are expanded in order, and may lay out
            weights for that. `None` likewise.
        mark: From a result of `expand_all` to the same with at least -1e38, and minus infinity for
            cells that are never returned. `None` if the result is so already.
    """

    row_log_probs: Tensor
    num_columns: int
    expand: Callable[[Any], Any] | None
    expand_all: Callable[[], Any] | None
    order: Callable[[], Callable[[Any], Any]] | None
    mark: Callable[[Any], Any] | None = None

    def compute_all(self) -> Any:
        """Return the marked log-probabilities of all cells, `(B, R, C)`."""
        assert self.expand_all is not None
        joint = self.expand_all()
        return joint if self.mark is None else self.mark(joint)


def choose_block_size(
    tables: Sequence[Any], num_components: int, word_dim: int, reads_rows_by_steps: bool = False
) -> int:
    """Return how many texts are searched together, from the memory that one text takes.

    Args:
        tables: For each table, an object with `num_rows` and `num_columns`.
        num_components: Integer, the components of each table.
        word_dim: Integer, the size of word vectors, or 0.
        reads_rows_by_steps: Boolean, whether each row costs a step of a network, so that all cells
            are never computed together.
    """
    num_cells = sum(table.num_rows * table.num_columns for table in tables)
    if len(tables) > 1 or (num_cells <= FEW_CELLS and not reads_rows_by_steps):
        floats_per_text = num_cells * num_components  # all may be held at once
    else:
        floats_per_cell = max(word_dim, num_components)
        floats_per_text = ROWS_AT_ONCE * tables[0].num_columns * floats_per_cell
    return max(1, min(_TEXTS_AT_ONCE, _FLOATS_AT_ONCE // floats_per_text))


def find_best_cells(
    ops: Any,
    table: GraphTable,
    k: Tensor,
    excluded: Tensor = None,
    get_words: Callable[[Any], Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the `k` likeliest cells of each text by one table, exactly.

    Rows are expanded in falling order of probability, some at a time, until no further row can hold
    a better cell: no word is likelier than its row. If the bound does not exclude most rows, all
    rows are expanded in order, which takes about as long as the whole distribution. Of a small
    table, all cells are computed at once instead, and rows are expanded only if the prediction of
    rows is sharp.

    Args:
        ops: Namespace of operations.
        table: `GraphTable` for `B` texts, which are expanded together.
        k: Integer, or on TensorFlow an int32 scalar.
        excluded: `(B, E)` int32, cells that are not returned, -1 for none; or `None`.
        get_words: Returns the words in cells, of the same shape: of equally likely cells those with
            smaller words are returned. `None` for an arbitrary choice.

    Returns:
        Cells `(B, k)` int32 and their log-probabilities `(B, k)` float32, best first. -1 and minus
        infinity where fewer than `k` cells may be returned.
    """
    cells, best = select_best_cells(ops, table, k, excluded, get_words)
    return mark_best(ops, cells, best, table.row_log_probs)


def select_best_cells(
    ops: Any,
    table: GraphTable,
    k: Tensor,
    excluded: Tensor = None,
    get_words: Callable[[Any], Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `find_best_cells` does, before it is marked by `mark_best`."""
    candidates = _Candidates(ops, table.num_columns, k, get_words)
    start = candidates.start(table.row_log_probs)

    def list_bounds(state: Any) -> Any:
        return ops.min(state[1], axis=1)

    cells, best = _go_through_rows(ops, table, list_bounds, candidates.add, start, excluded)
    return sort_best(ops, cells, best, get_words)


def _go_through_rows(
    ops: Any,
    table: GraphTable,
    list_bounds: Callable[[Any], Any],
    add: Callable[..., Any],
    start: tuple[Any, ...],
    excluded: Tensor,
) -> tuple[Any, ...]:
    """Expand the likeliest rows of each text, or all rows, until none is left that counts.

    Args:
        ops: As in `find_best_cells`.
        table: As in `find_best_cells`.
        list_bounds: `state -> (B,)`: rows whose log-probability is lower do not count.
        add: `(state, rows (B, n), joint (B, n, C), exclusion) -> state`, adds the log-probabilities
            of the cells of rows. See `Exclusion`.
        start: The first state, a tuple of tensors.
        excluded: As in `find_best_cells`.

    Returns:
        The last state.
    """
    steps = _Steps(ops, table, add, excluded)
    go_through = _go_through_small_table if _is_small(table) else _go_through_large_table
    return go_through(steps, list_bounds, start)


def _go_through_small_table(
    steps: _Steps, list_bounds: Callable[[Any], Any], start: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Expand some of the likeliest rows if these promise to be enough, and all rows otherwise."""
    sizes = [size for size in _FIRST_ROWS if size * _LEAST_RATIO <= steps.num_rows]
    if steps.table.expand is None or not sizes:
        return steps.add_all(start)
    ops = steps.ops
    falling = steps.sort_rows(sizes[-1] + 1)
    expanded, needed, state = ops.zeros((), "int32"), steps.count_needed(list_bounds(start)), start
    for size in sizes:

        def expand(size: int = size) -> list[Any]:
            state = steps.add_likeliest(start, 0, size)
            return [ops.zeros((), "int32") + size, steps.count_needed(list_bounds(state)), *state]

        last = [expanded, needed, *state]
        is_sharp = ops.all(falling[:, 0] - falling[:, size] > _SHARP)
        # After an attempt it is known how many rows are enough: the next one always has them.
        is_promising = ops.where(expanded > 0, needed <= size, is_sharp)
        is_tried = ops.logical_and(expanded < needed, is_promising)
        expanded, needed, *state = ops.cond(is_tried, expand, lambda last=last: last)
    return tuple(
        ops.cond(expanded < needed, lambda: list(steps.add_all(start)), lambda: list(state))
    )


def _go_through_large_table(
    steps: _Steps, list_bounds: Callable[[Any], Any], start: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Expand the likeliest rows, some at a time, or all rows in order where that costs less."""
    ops, order, num_rows = steps.ops, steps.table.order, steps.num_rows
    steps.sort_rows(num_rows)
    at_once = min(ROWS_AT_ONCE, num_rows)
    least = int(_LEAST_SHARE * num_rows)

    def is_sorted_search(first: Tensor, *state: Any) -> Any:
        needed = steps.count_needed(list_bounds(state))
        is_needed = first < needed
        if order is None:
            return is_needed
        is_cheap = ops.logical_or(first < least, _COST_OF_ORDER * (needed - first) < num_rows)
        return ops.logical_and(is_needed, is_cheap)

    def expand(first: Tensor, *state: Any) -> Any:
        return (first + at_once, *steps.add_likeliest(state, first, at_once))

    zero = ops.zeros((), "int32")
    first, *state = ops.while_loop(is_sorted_search, expand, (zero, *start))
    if order is None:
        return tuple(state)
    block = min(max(ROWS_AT_ONCE, _CELLS_AT_ONCE // steps.table.num_columns), num_rows)

    def expand_in_order() -> list[Any]:
        expand_rows = order()

        def expand_alike(first: Tensor, *state: Any) -> Any:
            return (first + block, *steps.add_in_order(state, first, block, expand_rows))

        return list(
            ops.while_loop(lambda first, *_: first < num_rows, expand_alike, (zero, *start))[1:]
        )

    needed = steps.count_needed(list_bounds(state))
    return tuple(ops.cond(first < needed, expand_in_order, lambda: state))


class _Steps:
    """The steps of a search through the rows of a table.

    Args:
        ops: As in `find_best_cells`.
        table: As in `find_best_cells`.
        add: As in `_go_through_rows`.
        excluded: As in `find_best_cells`.

    Attributes:
        num_rows: Integer `R`.
    """

    def __init__(
        self, ops: Any, table: GraphTable, add: Callable[..., Any], excluded: Tensor
    ) -> None:
        self.ops, self.table = ops, table
        self._add = add
        self.num_rows = table.row_log_probs.shape[1]
        self._falling: Tensor = None
        self._order: Tensor = None
        self._rows: Tensor = None  # of excluded cells, `(B, E)`
        self._columns: Tensor = None  # -1 for none
        self._places: Tensor = None  # of these rows among the sorted ones, `R` for others
        if excluded is not None:
            self._columns = ops.where(excluded < 0, -1, excluded % table.num_columns)
            self._rows = ops.maximum(excluded, 0) // table.num_columns

    def sort_rows(self, size: int) -> Tensor:
        """Return the log-probabilities of the `size` likeliest rows, best first, `(B, size)`.

        `add_likeliest` adds these rows.
        """
        ops = self.ops
        self._falling, order = ops.top_k(self.table.row_log_probs, size)
        self._order = ops.cast(order, "int32")
        if self._rows is not None:
            nowhere = ops.zeros_like(self.table.row_log_probs, "int32") + self.num_rows
            places = ops.zeros_like(self._order) + ops.arange(size, dtype="int32")
            places = scatter(ops, nowhere, self._order, places)  # (B, R)
            self._places = ops.take_along_axis(places, self._rows, axis=1)
        return self._falling

    def count_needed(self, bounds: Tensor) -> Tensor:
        """Return how many of the likeliest rows a text needs, given the bounds `(B,)` of all."""
        ops = self.ops
        is_needed = self.table.row_log_probs >= ops.expand_dims(bounds, 1) - ROUNDING
        return ops.max(ops.sum(ops.cast(is_needed, "int32"), axis=1))

    def add_likeliest(self, state: Any, first: Tensor, size: int) -> Any:
        """Return the state after `size` of the likeliest rows, from place `first` on."""
        ops = self.ops
        places, is_row = _make_range(ops, first, size, self.num_rows)
        rows = ops.take(self._order, places, axis=1)  # (B, n)
        assert self.table.expand is not None
        joint = join(ops, ops.take(self._falling, places, axis=1), self.table.expand(rows), is_row)
        return self._add(state, rows, joint, self._exclude(self._places, first))

    def add_in_order(
        self, state: Any, first: Tensor, size: int, expand_rows: Callable[[Any], Any]
    ) -> Any:
        """Return the state after `size` rows, from row `first` on; see `GraphTable.order`."""
        ops = self.ops
        rows, is_row = _make_range(ops, first, size, self.num_rows)
        row_log_probs = ops.take(self.table.row_log_probs, rows, axis=1)
        joint = join(ops, row_log_probs, expand_rows(rows), is_row)
        rows = ops.broadcast_to(rows, (ops.shape(joint)[0], size))
        return self._add(state, rows, joint, self._exclude(self._rows, first))

    def add_all(self, state: Any) -> Any:
        """Return the state after all rows."""
        rows = list_rows(self.ops, self.table.row_log_probs)
        return self._add(state, rows, self.table.compute_all(), self._exclude(self._rows, 0))

    def _exclude(self, places: Tensor, first: Tensor) -> Exclusion | None:
        if self._columns is None:
            return None
        return Exclusion(self.ops, places - first, self._columns)


def find_ranks(
    ops: Any,
    table: GraphTable,
    cells: Tensor,
    excluded: Tensor = None,
    get_words: Callable[[Any], Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the rank of one cell of each text among all cells, exactly, by one table.

    Args:
        ops: As in `find_best_cells`.
        table: As in `find_best_cells`.
        cells: `(B,)` int32.
        excluded: As in `find_best_cells`: these cells do not count.
        get_words: As in `find_best_cells`: of equally likely cells those with smaller words come
            first.

    Returns:
        Ranks `(B,)` int32, from 1, and the log-probabilities of the cells, `(B,)` float32.
    """
    num_columns = table.num_columns
    rows, columns = (ops.expand_dims(x, 1) for x in (cells // num_columns, cells % num_columns))
    if _is_small(table):
        joint = table.compute_all()
        table = table._replace(expand=None, expand_all=lambda: joint, mark=None)
        flat = ops.reshape(joint, (-1, joint.shape[1] * num_columns))
        log_probs = ops.take_along_axis(flat, ops.expand_dims(cells, 1), axis=1)  # (B, 1)
    else:
        assert table.expand is not None
        log_probs = ops.take_along_axis(table.expand(rows)[:, 0], columns, axis=1)
        log_probs += ops.take_along_axis(table.row_log_probs, rows, axis=1)
    own_cells = ops.expand_dims(cells, 1)  # a cell does not count for itself, however it is rounded
    excluded = own_cells if excluded is None else ops.concatenate([excluded, own_cells], axis=1)
    own = ops.maximum(log_probs, LEAST)
    own_words = None if get_words is None else get_words(own_cells)

    def add(state: Any, rows: Tensor, joint: Tensor, exclusion: Exclusion) -> Any:
        joint = ops.reshape(joint, (-1, joint.shape[1] * num_columns))
        joint = exclusion.apply(joint, rows.shape[1])
        list_is_smaller = None
        if get_words is not None:
            list_is_smaller = lambda: get_words(list_cells(ops, rows, num_columns)) < own_words  # noqa: E731
        return (state[0] + count_before(ops, joint, own, list_is_smaller),)

    start = (ops.zeros_like(cells),)
    bounds = own[:, 0]
    (before,) = _go_through_rows(ops, table, lambda state: bounds, add, start, excluded)
    return before + 1, log_probs[:, 0]


def count_before(
    ops: Any, values: Tensor, own: Tensor, list_is_smaller: Callable[[], Any] | None
) -> Any:
    """Return how many values of each text come before its own, `(B, N), (B, 1) -> (B,)`.

    Args:
        ops: Namespace of operations.
        values: `(B, N)` float32.
        own: `(B, 1)` float32.
        list_is_smaller: Returns which of the values come before an equal one, `(B, N)`.
    """
    count = _count(ops, values > own)
    if list_is_smaller is None:
        return count
    is_equal = values == own
    equal = ops.cond(
        ops.any(is_equal),
        lambda: _count(ops, ops.logical_and(is_equal, list_is_smaller())),
        lambda: ops.zeros_like(count),
    )
    return count + equal


def _count(ops: Any, is_counted: Any) -> Any:
    return ops.sum(ops.cast(is_counted, "int32"), axis=1)


def _is_small(table: GraphTable) -> bool:
    """Return whether all cells are computed together."""
    num_cells = table.row_log_probs.shape[1] * table.num_columns
    return table.expand is None or (table.expand_all is not None and num_cells <= FEW_CELLS)


def list_rows(ops: Any, row_log_probs: Tensor) -> Any:
    """Return all rows in order for each text, `(B, R)` int32."""
    rows = ops.arange(row_log_probs.shape[1], dtype="int32")
    return ops.zeros_like(row_log_probs, "int32") + rows


def _make_range(ops: Any, start: Tensor, size: int, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return `size` numbers from `start`, and which of them are below `num_rows`; `(size,)` each.

    The others are replaced by the last one.
    """
    numbers = start + ops.arange(size, dtype="int32")
    return ops.minimum(numbers, num_rows - 1), numbers < num_rows


def join(ops: Any, row_log_probs: Tensor, column_log_probs: Any, is_row: Tensor = None) -> Any:
    """Return the log-probabilities of cells, `(B, n), (B, n, C), (n,) -> (B, n, C)`."""
    row_log_probs = ops.maximum(row_log_probs, LEAST)
    if is_row is not None:
        row_log_probs = ops.where(is_row, row_log_probs, -np.inf)
    return ops.expand_dims(row_log_probs, -1) + column_log_probs


def list_cells(ops: Any, rows: Tensor, num_columns: int) -> Any:
    """Return the cells of rows, `(B, n) -> (B, n C)`."""
    cells = ops.expand_dims(rows * num_columns, -1) + ops.arange(num_columns, dtype="int32")
    return ops.reshape(cells, (-1, rows.shape[1] * num_columns))


class _Candidates:
    """Merges the cells of rows into the best `k` of each text.

    Args:
        ops: As in `find_best_cells`.
        num_columns: Integer `C`.
        k: As in `find_best_cells`.
        get_words: As in `find_best_cells`.
    """

    def __init__(
        self, ops: Any, num_columns: int, k: Tensor, get_words: Callable[[Any], Any] | None
    ) -> None:
        self.ops = ops
        self.num_columns = num_columns
        self.k = k
        self.get_words = get_words

    def start(self, row_log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return `k` cells that lose against all others, and their log-probabilities."""
        ops = self.ops
        shape = ops.shape(row_log_probs)[0], self.k
        return ops.zeros(shape, "int32"), ops.full(shape, -np.inf, "float32")

    def add(self, state: Any, rows: Tensor, joint: Tensor, exclusion: Exclusion | None) -> Any:
        """Return the best `k` cells, unordered, and their log-probabilities, `(B, k)` each.

        Args:
            state: The best cells so far, `(B, k)` int32, and their log-probabilities, `(B, k)`.
            rows: `(B, n)` int32.
            joint: `(B, n, C)` float32.
            exclusion: The excluded cells, or `None`.
        """
        ops = self.ops
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
        if self.get_words is not None:
            list_words = lambda: self.get_words(cells)  # noqa: E731
        best, places = select_best(ops, values, self.k, list_words)
        return ops.take_along_axis(cells, places, axis=1), best

    def _select_in_rows(self, joint: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best values of rows and their places, `(B, n, C) -> (B, k')`, `k'` up to `k`.

        The greatest values lie in the groups with the greatest maxima: only these are sorted.
        """
        ops = self.ops
        num_rows, num_columns = joint.shape[1:]
        size = num_rows * num_columns
        flat = ops.reshape(joint, (-1, size))
        list_words = None
        if self.get_words is not None:
            list_words = lambda: self.get_words(list_cells(ops, rows, num_columns))  # noqa: E731
        k = min(self.k, size) if isinstance(self.k, int) else ops.minimum(self.k, size)
        groups = joint if num_rows > _CELLS_OF_GROUP else _group(ops, flat)
        num_groups, num_cells = groups.shape[1:]
        if isinstance(k, int) and 4 * k > num_groups:
            return select_best(ops, flat, k, list_words)
        width = k if isinstance(k, int) else ops.minimum(k, num_groups)
        maxima = ops.max(groups, axis=2)  # (B, G)
        chosen = ops.cast(ops.top_k(maxima, width)[1], "int32")  # (B, k)
        starts = num_groups * ops.arange(ops.shape(joint)[0], dtype="int32")
        groups = ops.reshape(groups, (-1, num_cells))  # of all texts
        values = ops.take(groups, chosen + ops.expand_dims(starts, 1), axis=0)
        values = ops.reshape(values, (-1, width * num_cells))
        best, places = ops.top_k(values, k)
        places = ops.cast(places, "int32")
        kth = ops.min(best, axis=1, keepdims=True)
        group = ops.take_along_axis(chosen, places // num_cells, axis=1)
        places = ops.minimum(group * num_cells + places % num_cells, size - 1)
        if list_words is None:
            return best, places
        is_tied = ops.logical_or(_count(ops, maxima >= kth) > k, _count(ops, values >= kth) > k)
        return ops.cond(
            ops.any(ops.logical_and(is_tied, kth[:, 0] > -np.inf)),
            lambda: select_best(ops, flat, k, list_words),
            lambda: (best, places),
        )


def _group(ops: Any, values: Tensor) -> Any:
    """Return values `(B, N)` in groups `(B, G, n)`, the last one filled with minus infinity."""
    missing = -values.shape[1] % _CELLS_OF_GROUP
    values = ops.pad(values, [[0, 0], [0, missing]], constant_values=-np.inf)
    return ops.reshape(values, (-1, values.shape[1] // _CELLS_OF_GROUP, _CELLS_OF_GROUP))


class Exclusion(NamedTuple):
    """Cells that are not returned, among those of some rows.

    Attributes:
        ops: Namespace of operations.
        places: `(B, E)` int32, places of their rows among the rows, outside if they are not there.
        columns: `(B, E)` int32, their columns, -1 for no cell.
    """

    ops: Any
    places: Tensor
    columns: Any

    def apply(self, joint: Tensor, num_rows: int) -> Any:
        """Return `joint`, `(B, n C)` of `n` rows, with minus infinity for these cells."""
        num_columns = joint.shape[1] // num_rows
        is_here = (self.places >= 0) & (self.places < num_rows) & (self.columns >= 0)
        cells = self.ops.where(is_here, self.places * num_columns + self.columns, -1)
        return exclude(self.ops, joint, cells)


def exclude(ops: Any, values: Tensor, places: Tensor) -> Any:
    """Return `values`, `(B, N)`, with minus infinity at some places of each text.

    Args:
        ops: Namespace of operations.
        values: `(B, N)` float32.
        places: `(B, E)` int32, -1 for none.
    """
    size = values.shape[1]
    padding = [[0, 0], [0, 1]]  # a place for none
    places = ops.where(places < 0, size, places)
    updates = ops.zeros_like(places, "float32") - np.inf
    return scatter(ops, ops.pad(values, padding), places, updates)[:, :size]


def scatter(ops: Any, values: Tensor, places: Tensor, updates: Tensor) -> Any:
    """Return `values`, `(B, N)`, with updates at some places of each text, `(B, n)` each."""
    num_texts, size = ops.shape(values)
    starts = ops.expand_dims(ops.arange(num_texts, dtype="int32") * size, 1)
    indices = ops.reshape(places + starts, (-1, 1))
    flat = ops.scatter_update(ops.reshape(values, (-1,)), indices, ops.reshape(updates, (-1,)))
    return ops.reshape(flat, (-1, size))


def select_best(
    ops: Any, values: Tensor, k: Tensor, list_words: Callable[[], Any] | None
) -> tuple[Tensor, Tensor]:
    """Return the `k` greatest of some values and their places, `(B, k)` each, in any order.

    Args:
        ops: Namespace of operations.
        values: `(B, N)` float32.
        k: As in `find_best_cells`.
        list_words: Returns the words of the values, `(B, N)`: of values that are equal to the
            `k`-th, those with the least words are returned. `None` for an arbitrary choice.
    """
    best, places = ops.top_k(values, k)
    places = ops.cast(places, "int32")
    if list_words is None:
        return best, places
    kth = ops.min(best, axis=1, keepdims=True)
    count = ops.sum(ops.cast(values >= kth, "int32"), axis=1)
    is_tied = ops.logical_and(count > k, kth[:, 0] > -np.inf)

    def choose_least_words() -> Any:
        order = ops.where(values == kth, -ops.maximum(list_words(), 0), -(2**31))
        chosen = ops.top_k(ops.where(values > kth, 1, order), k)[1]
        return ops.cast(chosen, "int32")

    places = ops.cond(ops.any(is_tied), choose_least_words, lambda: places)
    places = ops.reshape(places, (-1, k))  # TensorFlow may have lost its rank
    return ops.take_along_axis(values, places, axis=1), places


def sort_best(
    ops: Any, cells: Tensor, log_probs: Tensor, get_words: Callable[[Any], Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Return cells, or words, and log-probabilities, `(B, n)` each, best first.

    Of equally likely cells those with smaller words come first; `None` stands for the cells.
    """
    order = ops.argsort(cells if get_words is None else get_words(cells))
    cells, log_probs = (ops.take_along_axis(x, order, axis=1) for x in (cells, log_probs))
    order = ops.argsort(-log_probs)  # keeps equal ones in order, unlike `top_k` of PyTorch
    return ops.take_along_axis(cells, order, axis=1), ops.take_along_axis(log_probs, order, axis=1)


def mark_best(
    ops: Any, cells: Tensor, log_probs: Tensor, row_log_probs: Tensor
) -> tuple[Tensor, Tensor]:
    """Mark what is missing, what is impossible, and NaN."""
    cells = ops.where(log_probs > -np.inf, cells, -1)
    log_probs = ops.where(log_probs <= LEAST / 2, -np.inf, log_probs)
    total = ops.sum(row_log_probs, axis=1, keepdims=True)
    return cells, ops.where(ops.isnan(total), total, log_probs)
