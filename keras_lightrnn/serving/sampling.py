"""Exact sampling of cells with a `Network`, inside the graph."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from keras_lightrnn.serving.network import Network
from keras_lightrnn.serving.softmax import ServedTables, pick
from keras_lightrnn.serving.weights import gather


def sample_cells(
    network: Network,
    states: list[tf.Tensor],
    temperature: tf.Tensor,
    seed: tf.Tensor,
    step: tf.Tensor,
) -> tf.Tensor:
    """Draw one cell for each text with probability proportional to `P(cell) ** (1 / temperature)`.

    With several tables, at temperature 1 a row of any table is drawn and then one of its columns.
    At other temperatures the whole distribution is computed.

    Args:
        network: `Network`.
        states: States of the texts.
        temperature: Positive float64 scalar.
        seed: `(2,)` int64.
        step: int64 scalar. Different steps draw different random numbers.

    Returns:
        `(B,)` int32.
    """

    def make_seed(number: tf.Tensor) -> tf.Tensor:
        return tf.stack([seed[0], seed[1] + step * (1 << 32) + number])

    if not isinstance(network.softmax, ServedTables):
        return _sample_from_one_table(network, states, temperature, make_seed)
    return tf.cond(
        tf.equal(temperature, 1),
        lambda: _draw_from_tables(network, states, make_seed),
        lambda: _draw_from_all_words(network, states, temperature, make_seed),
    )


def _sample_from_one_table(
    network: Network,
    states: list[tf.Tensor],
    temperature: tf.Tensor,
    make_seed: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Draw cells of one table.

    This is exact rejection sampling: a row is drawn in proportion to an upper bound of its weight,
    and expanded, which makes the weight known. It is accepted with probability weight / bound. From
    then on its bound is the weight. At temperature 1 the first row is always accepted.
    """
    row_log_probs, context = network.predict_rows(states)
    row_logits = _temper(row_log_probs, temperature)
    # sum_c P(c)^(1/t) is at most 1 for t <= 1, and at most C^(1 - 1/t) above.
    bound = tf.maximum(1 - 1 / temperature, 0) * math.log(network.num_columns)
    batch_size = tf.shape(row_logits)[0]

    def draw(
        attempt: tf.Tensor, is_drawn: tf.Tensor, cells: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        rows = _sample(weights, make_seed(3 * attempt))
        column_log_probs, _ = network.expand_rows(None, rows, context)
        if network.padding_cell is not None:
            cells_of_rows = rows[:, None] * network.num_columns + tf.range(network.num_columns)
            is_padding = cells_of_rows == network.padding_cell
            column_log_probs = tf.where(is_padding, float("-inf"), column_log_probs)
        column_logits = _temper(column_log_probs, temperature)
        columns = _sample(column_logits, make_seed(3 * attempt + 1))
        weight = pick(row_logits, rows) + tf.reduce_logsumexp(column_logits, axis=1)
        uniform_seed = make_seed(3 * attempt + 2)
        uniform = tf.random.stateless_uniform([batch_size], uniform_seed, dtype=tf.float64)
        is_accepted = tf.math.log(uniform) < weight - pick(weights, rows)
        cells = tf.where(is_drawn, cells, rows * network.num_columns + columns)
        places = tf.stack([tf.range(batch_size), rows], axis=1)
        weights = tf.tensor_scatter_nd_update(weights, places, weight)
        return attempt + 1, is_drawn | is_accepted, cells, weights

    _, _, cells, _ = tf.while_loop(
        lambda attempt, is_drawn, *_: ~tf.reduce_all(is_drawn) & (attempt <= network.num_rows),
        draw,
        (
            tf.constant(0, tf.int64),
            tf.zeros([batch_size], tf.bool),
            tf.zeros([batch_size], tf.int32),
            row_logits + bound,
        ),
    )
    return cells


def _draw_from_tables(
    network: Network, states: list[tf.Tensor], make_seed: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Draw a row of any table for each text, and one of its columns."""
    softmax = network.softmax
    predicted = network.predict_tables(states)
    row_logits = [tf.cast(log_probs, tf.float64) for log_probs, _ in predicted]
    if network.padding_cell is not None:
        for index, table in enumerate(softmax.tables):
            share = _compute_padding_share(network, index, predicted[index][1])  # (B,)
            row = softmax.cells[index][network.padding_cell] // table.num_columns
            is_row = tf.range(table.num_rows) == row
            row_logits[index] += tf.where(is_row, tf.math.log1p(-share)[:, None], 0.0)
    places = _sample(tf.concat(row_logits, axis=1), make_seed(0))  # (B,)
    cells, start = tf.zeros_like(places), 0
    for index, table in enumerate(softmax.tables):
        rows = tf.clip_by_value(places - start, 0, table.num_rows - 1)
        column_log_probs = table.expand_rows(None, rows, predicted[index][1])
        of_rows = rows[:, None] * table.num_columns + tf.range(table.num_columns)
        first_cells = gather(softmax.first_cells[index], of_rows)  # (B, C)
        if network.padding_cell is not None:
            is_padding = first_cells == network.padding_cell
            column_log_probs = tf.where(is_padding, float("-inf"), column_log_probs)
        columns = _sample(column_log_probs, make_seed(1 + index))
        is_drawn = (places >= start) & (places < start + table.num_rows)
        # All columns of a row that was not drawn may be impossible.
        columns = tf.minimum(columns, table.num_columns - 1)
        cells = tf.where(is_drawn, pick(first_cells, columns), cells)
        start += table.num_rows
    return cells


def _compute_padding_share(network: Network, index: int, context: list[tf.Tensor]) -> tf.Tensor:
    """Return the probability of padding given its row in a table, `(B,)` float64."""
    table = network.softmax.tables[index]
    cell = network.softmax.cells[index][network.padding_cell]
    rows = tf.fill([tf.shape(context[0])[0]], cell // table.num_columns)
    log_probs = table.expand_rows(None, rows, context)
    share = tf.exp(tf.cast(log_probs[:, cell % table.num_columns], tf.float64))
    return tf.minimum(share, 1.0)  # rounding may exceed 1


def _draw_from_all_words(
    network: Network,
    states: list[tf.Tensor],
    temperature: tf.Tensor,
    make_seed: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    softmax = network.softmax
    batch_size = tf.shape(states[0])[0]
    log_probs = []
    for (row_log_probs, context), table, cells in zip(
        network.predict_tables(states), softmax.tables, softmax.cells, strict=True
    ):
        texts = tf.repeat(tf.range(batch_size), table.num_rows)
        rows = tf.tile(tf.range(table.num_rows), [batch_size])
        columns = table.expand_rows(texts, rows, context)
        columns = tf.reshape(columns, [-1, table.num_rows, table.num_columns])
        joint = tf.reshape(row_log_probs[:, :, None] + columns, [batch_size, -1])
        log_probs.append(tf.cast(tf.gather(joint, cells, axis=1), tf.float64))
    log_probs = tf.reduce_logsumexp(tf.stack(log_probs), axis=0)  # (B, R C)
    is_word = softmax.first_cells[0] >= 0
    if network.padding_cell is not None:
        is_word &= tf.range(tf.shape(is_word)[0]) != network.padding_cell
    log_probs = tf.where(is_word, log_probs, float("-inf"))
    return _sample(_temper(log_probs, temperature), make_seed(0))


def _temper(log_probs: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """Divide log-probabilities by a temperature; minus infinity stays as it is."""
    logits = tf.cast(log_probs, tf.float64) / temperature
    return tf.where(tf.math.is_inf(log_probs), tf.constant(-math.inf, tf.float64), logits)


def _sample(logits: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return tf.squeeze(tf.random.stateless_categorical(logits, 1, seed, dtype=tf.int32), 1)
