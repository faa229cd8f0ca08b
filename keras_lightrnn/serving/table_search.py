"""Exact search for the likeliest words of a softmax of several tables, inside the graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from keras_lightrnn.serving.network import Network

# Rows of each table that are expanded first.
_FIRST_ROWS = 16
# A probability and its bound may be rounded differently by this share.
_ROUNDING = 1e-6


class _ExpandedRows(NamedTuple):
    """The rows of one table that were expanded after each of `B` texts.

    Attributes:
        places: `(B, R)` int32, the index of each row in `rows`; -1 if it is not expanded.
        rows: `(B, S)` int32; -1 where a text needed fewer rows than another one.
        probs: `(B, S, C)` float64, the share of the table in the probability of each word.
    """

    places: Any
    rows: Any
    probs: Any


def find_best_in_tables(network: Network, states: list[Any], k: Any) -> tuple[Any, Any]:
    """Return the `k` likeliest cells to follow texts, and their log-probabilities.

    A row that is expanded gives its words their share from that table. What a word may get from a
    row that is not expanded is at most the probability of that row. The search expands rows until
    no word that was not found can be among the best, and until the shares of the best words in all
    tables are known.

    Args:
        network: `Network` with a softmax of several tables.
        states: States of the texts.
        k: int32 scalar, from 1 to the number of words without padding.

    Returns:
        `(B, k)` int32 cells of the first table and `(B, k)` float32, best first.
    """
    softmax = network.softmax
    tables = list(range(len(softmax.tables)))
    predicted = network.predict_tables(states)
    row_probs = [tf.exp(tf.cast(log_probs, tf.float64)) for log_probs, _ in predicted]
    batch_size = tf.shape(states[0])[0]

    def search(size: Any, priorities: Any, expanded: Any, *_: Any) -> Any:
        expanded = [
            _expand(softmax.tables[t], *predicted[t], expanded[t], priorities[t], size)
            for t in tables
        ]
        found = [_bound_words(network, expanded, row_probs, t) for t in tables]
        cells, least, most = (tf.concat(x, axis=1) for x in zip(*found, strict=True))  # (B, M)
        nothing = tf.fill([batch_size, k], tf.constant(-1.0, tf.float64))
        best, indices = tf.math.top_k(tf.concat([least, nothing], axis=1), k)
        cells_and_nothing = tf.concat([cells, tf.zeros([batch_size, k], tf.int32)], axis=1)
        best_cells = tf.gather(cells_and_nothing, indices, batch_dims=1)
        least_wanted = best[:, -1:] * (1 - _ROUNDING)  # (B, 1)
        # Of each table, the rows that are left, and the most that a word in none of the expanded
        # rows may have.
        left = [tf.where(expanded[t].places < 0, row_probs[t], -1.0) for t in tables]
        most_left = [tf.reduce_max(x, axis=1, keepdims=True) for x in left]
        is_left = tf.reduce_any(tf.concat(most_left, axis=1) >= 0, axis=1, keepdims=True)
        bound = tf.add_n([tf.maximum(x, 0.0) for x in most_left])
        wants_more = is_left & (bound >= least_wanted)
        doubt = tf.where((most > least) & (most >= least_wanted), most, 0.0)  # (B, M)
        priorities = [
            tf.where(wants_more, left[t], _find_rows_in_doubt(softmax, t, cells, doubt, left[t]))
            for t in tables
        ]
        return 2 * size, priorities, expanded, best_cells, best

    nothing_expanded = [
        _ExpandedRows(
            tf.fill([batch_size, table.num_rows], -1),
            tf.zeros([batch_size, 0], tf.int32),
            tf.zeros([batch_size, 0, table.num_columns], tf.float64),
        )
        for table in softmax.tables
    ]
    *_, best_cells, best = tf.while_loop(
        lambda size, priorities, *_: tf.reduce_any(
            [tf.reduce_any(priority >= 0) for priority in priorities]
        ),
        search,
        (
            tf.constant(_FIRST_ROWS),
            row_probs,
            nothing_expanded,
            tf.zeros([batch_size, k], tf.int32),
            tf.zeros([batch_size, k], tf.float64),
        ),
        shape_invariants=(
            tf.TensorShape([]),
            [tf.TensorShape([None, table.num_rows]) for table in softmax.tables],
            [
                _ExpandedRows(
                    tf.TensorShape([None, table.num_rows]),
                    tf.TensorShape([None, None]),
                    tf.TensorShape([None, None, table.num_columns]),
                )
                for table in softmax.tables
            ],
            tf.TensorShape([None, None]),
            tf.TensorShape([None, None]),
        ),
    )
    return best_cells, tf.cast(tf.math.log(best), tf.float32)


def _expand(
    table: Any,
    row_log_probs: Any,
    context: list[Any],
    expanded: _ExpandedRows,
    priorities: Any,
    size: Any,
) -> _ExpandedRows:
    """Expand the rows of a table that have the highest priorities, which must not be negative."""
    batch_size = tf.shape(priorities)[0]
    size = tf.minimum(size, table.num_rows)
    priorities, rows = tf.math.top_k(priorities, size)  # (B, n)
    is_wanted = priorities >= 0
    texts = tf.repeat(tf.range(batch_size), size)
    column_log_probs = table.expand_rows(texts, tf.reshape(rows, [-1]), context)
    column_log_probs = tf.reshape(column_log_probs, [batch_size, size, table.num_columns])
    joint = tf.gather(row_log_probs, rows, batch_dims=1)[:, :, None] + column_log_probs
    places = tf.shape(expanded.rows)[1] + tf.range(size)
    indices = tf.stack([texts, tf.reshape(rows, [-1])], axis=1)
    return _ExpandedRows(
        tf.tensor_scatter_nd_max(
            expanded.places, indices, tf.reshape(tf.where(is_wanted, places, -1), [-1])
        ),
        tf.concat([expanded.rows, tf.where(is_wanted, rows, -1)], axis=1),
        tf.concat([expanded.probs, tf.exp(tf.cast(joint, tf.float64))], axis=1),
    )


def _bound_words(
    network: Network, expanded: list[_ExpandedRows], row_probs: list[Any], index: int
) -> tuple[Any, Any, Any]:
    """Return the words of the expanded rows of one table, and the least and most they may have.

    Words of rows that are expanded in a table before are left out, so that each is listed once.

    Returns:
        Cells of the first table `(B, S C)`, and two probabilities `(B, S C)`, -1 for what is no
        answer.
    """
    softmax = network.softmax
    num_columns = softmax.tables[index].num_columns
    rows = expanded[index].rows  # (B, S)
    batch_size, num_places = tf.unstack(tf.shape(rows))
    shape = [batch_size, num_places * num_columns]
    own_cells = tf.maximum(rows, 0)[:, :, None] * num_columns + tf.range(num_columns)
    cells = tf.gather(softmax.first_cells[index], own_cells)
    cells = tf.reshape(tf.where(rows[:, :, None] >= 0, cells, -1), shape)
    is_answer = cells >= 0
    if network.padding_cell is not None:
        is_answer &= cells != network.padding_cell
    cells = tf.maximum(cells, 0)
    least = most = tf.reshape(expanded[index].probs, shape)
    for other, table in enumerate(softmax.tables):
        if other == index:
            continue
        other_cells = tf.gather(softmax.cells[other], cells)
        rows, columns = other_cells // table.num_columns, other_cells % table.num_columns
        places = tf.gather(expanded[other].places, rows, batch_dims=1)
        is_known = places >= 0
        probs = tf.reshape(expanded[other].probs, [batch_size, -1])
        indices = tf.where(is_known, places * table.num_columns + columns, 0)
        share = tf.gather(probs, indices, batch_dims=1)
        least += tf.where(is_known, share, 0.0)
        most += tf.where(is_known, share, tf.gather(row_probs[other], rows, batch_dims=1))
        if other < index:
            is_answer &= ~is_known
    return cells, tf.where(is_answer, least, -1.0), tf.where(is_answer, most, -1.0)


def _find_rows_in_doubt(softmax: Any, index: int, cells: Any, doubt: Any, left: Any) -> Any:
    """Return the priorities of rows that hold a word whose share in this table must be known.

    Args:
        softmax: `ServedTables`.
        index: Index of the table.
        cells: `(B, M)` int32, words by cells of the first table.
        doubt: `(B, M)` float64, above 0 for words whose share must be known.
        left: `(B, R)` float64, -1 for rows that are expanded.

    Returns:
        `(B, R)` float64, -1 for all other rows.
    """
    rows = tf.gather(softmax.cells[index], cells) // softmax.tables[index].num_columns
    batch_size, num_words = tf.unstack(tf.shape(cells))
    texts = tf.repeat(tf.range(batch_size), num_words)
    indices = tf.stack([texts, tf.reshape(rows, [-1])], axis=1)
    in_doubt = tf.tensor_scatter_nd_max(tf.zeros_like(left), indices, tf.reshape(doubt, [-1]))
    return tf.where((left >= 0) & (in_doubt > 0), in_doubt, -1.0)
