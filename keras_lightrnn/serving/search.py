"""Scoring, exact search and sampling of cells with a `Network`, inside the graph."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from keras_lightrnn.ops import EMPTY_CELL_LOGIT
from keras_lightrnn.serving.network import Network

_ROWS_AT_ONCE = 16


def score_cells(network: Network, cells: Any) -> Any:
    """Return the log-probability of every cell but the first, from the zero state.

    Args:
        network: `Network`.
        cells: `(B, N)` int32.

    Returns:
        `(B, N - 1)` float32. Memory does not grow with `N` but for this.
    """
    rows, columns = cells // network.num_columns, cells % network.num_columns
    is_read = network.is_read(cells)
    batch_size, length = tf.unstack(tf.shape(cells))

    def score_one(t: Any, log_probs: Any, *states: Any) -> Any:
        old = list(states)
        old = _keep(is_read[:, t], network.read_columns(cells[:, t], old), old)
        row_log_probs = network.compute_row_log_probs(old)
        row = rows[:, t + 1]
        new = _keep(is_read[:, t + 1], network.read_rows(row, old), old)
        column_log_probs = network.compute_column_log_probs(row, new)
        picked = _pick(row_log_probs, row) + _pick(column_log_probs, columns[:, t + 1])
        return (t + 1, log_probs.write(t, picked), *new)

    log_probs = tf.TensorArray(tf.float32, tf.maximum(length - 1, 0), element_shape=[None])
    _, log_probs, *_ = tf.while_loop(
        lambda t, *_: t < length - 1,
        score_one,
        (tf.constant(0), log_probs, *network.make_states(batch_size)),
    )
    return tf.transpose(log_probs.stack())


def read_prefix(network: Network, cells: Any, lengths: Any) -> list[Any]:
    """Return the states after the first `lengths`, `(B,)`, of `cells`, `(B, N)`; `lengths >= 1`."""
    rows = cells // network.num_columns
    is_read = network.is_read(cells) & tf.sequence_mask(lengths, tf.shape(cells)[1])
    start = network.make_states(tf.shape(cells)[0])
    states = _keep(is_read[:, 0], network.read_columns(cells[:, 0], start), start)

    def read_one(t: Any, *states: Any) -> Any:
        old = list(states)
        new = network.read_columns(cells[:, t], network.read_rows(rows[:, t], old))
        return (t + 1, *_keep(is_read[:, t], new, old))

    _, *states = tf.while_loop(
        lambda t, *_: t < tf.shape(cells)[1], read_one, (tf.constant(1), *states)
    )
    return states


def find_best_cells(network: Network, states: list[Any], k: Any) -> tuple[Any, Any]:
    """Return the `k` likeliest cells after a column half-step and their log-probabilities.

    Rows are expanded in falling order of probability, some at a time, until no further row can
    hold a better cell; each text of the batch goes its own way. Exact.

    Returns:
        `(B, k)` int32 and `(B, k)` float32, best first.
    """
    batch_size = tf.shape(states[0])[0]
    num_columns = network.num_columns
    at_once = min(_ROWS_AT_ONCE, network.num_rows)
    log_probs, order = tf.math.top_k(network.compute_row_log_probs(states), network.num_rows)
    padding = [[0, 0], [0, -network.num_rows % at_once]]
    # Rows past the last are impossible; (B, R'), a whole number of times `at_once`.
    log_probs = tf.pad(log_probs, padding, constant_values=float("-inf"))
    order = tf.pad(order, padding)
    repeated = [tf.repeat(state, at_once, axis=0) for state in states]

    def is_unsure(start: Any, _: Any, best: Any) -> Any:
        bound = log_probs[:, tf.minimum(start, network.num_rows - 1)]
        return (start < network.num_rows) & tf.reduce_any(best[:, -1] < bound)

    def expand(start: Any, best_cells: Any, best: Any) -> Any:
        rows = order[:, start : start + at_once]  # (B, n)
        flat_rows = tf.reshape(rows, [-1])
        columns = network.compute_column_log_probs(
            flat_rows, network.read_rows(flat_rows, repeated)
        )
        columns = tf.reshape(columns, [batch_size, at_once, num_columns])
        joint = log_probs[:, start : start + at_once, None] + columns
        cells = rows[:, :, None] * num_columns + tf.range(num_columns)  # (B, n, C)
        shape = [batch_size, at_once * num_columns]
        joint = tf.concat([best, tf.reshape(joint, shape)], axis=1)
        best, places = tf.math.top_k(joint, k)
        cells = tf.concat([best_cells, tf.reshape(cells, shape)], axis=1)
        return start + at_once, tf.gather(cells, places, batch_dims=1), best

    nothing = tf.zeros([batch_size, k], tf.int32), tf.fill([batch_size, k], float("-inf"))
    _, best_cells, best = tf.while_loop(
        is_unsure,
        expand,
        (tf.constant(0), *nothing),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None, None]),
            tf.TensorShape([None, None]),
        ),
    )
    return best_cells, best


def sample_cells(
    network: Network, states: list[Any], temperature: Any, seed: Any, step: Any
) -> Any:
    """Draw one cell for each text with probability proportional to `P(cell) ** (1 / temperature)`.

    Row by row rejection, exact: a row is drawn by an upper bound of its total weight, then
    expanded, which makes its weight known; it is kept with probability weight / bound, and
    drawn by its weight from then on. At temperature 1 the first row is kept always.

    Args:
        network: `Network`.
        states: After a column half-step, `(B, H)` each.
        temperature: Positive float64 scalar.
        seed: int64 scalar.
        step: int64 scalar; every step has random numbers of its own.

    Returns:
        `(B,)` int32.
    """
    row_logits = _temper(network.compute_row_log_probs(states), temperature)
    # sum_c P(c)^(1/t) is at most 1 for t <= 1, and at most C^(1 - 1/t) above.
    bound = tf.maximum(1 - 1 / temperature, 0) * math.log(network.num_columns)
    batch_size = tf.shape(row_logits)[0]

    def draw(attempt: Any, is_drawn: Any, cells: Any, weights: Any) -> Any:
        def make_seed(purpose: int) -> Any:
            return tf.stack([seed, step * (1 << 32) + 3 * attempt + purpose])

        rows = _sample(weights, make_seed(0))
        column_log_probs = network.compute_column_log_probs(rows, network.read_rows(rows, states))
        column_logits = _temper(column_log_probs, temperature)
        columns = _sample(column_logits, make_seed(1))
        weight = _pick(row_logits, rows) + tf.reduce_logsumexp(column_logits, axis=1)
        uniform = tf.random.stateless_uniform([batch_size], make_seed(2), dtype=tf.float64)
        is_kept = tf.math.log(uniform) < weight - _pick(weights, rows)
        cells = tf.where(is_drawn, cells, rows * network.num_columns + columns)
        places = tf.stack([tf.range(batch_size), rows], axis=1)
        weights = tf.tensor_scatter_nd_update(weights, places, weight)
        return attempt + 1, is_drawn | is_kept, cells, weights

    _, _, cells, _ = tf.while_loop(
        lambda _, is_drawn, *__: ~tf.reduce_all(is_drawn),
        draw,
        (
            tf.constant(0, tf.int64),
            tf.zeros([batch_size], tf.bool),
            tf.zeros([batch_size], tf.int32),
            row_logits + bound,
        ),
    )
    return cells


def generate_cells(
    network: Network, states: list[Any], length: Any, temperature: Any, seed: Any
) -> Any:
    """Sample a continuation of `length` cells for each text, `(B, length)` int32."""

    def generate_one(t: Any, chosen: Any, *states: Any) -> Any:
        old = list(states)
        cells = tf.cond(
            temperature > 0,
            lambda: sample_cells(
                network, old, tf.cast(temperature, tf.float64), seed, tf.cast(t, tf.int64)
            ),
            lambda: find_best_cells(network, old, 1)[0][:, 0],
        )
        rows = cells // network.num_columns
        new = network.read_columns(cells, network.read_rows(rows, old))
        return (t + 1, chosen.write(t, cells), *_keep(network.is_read(cells), new, old))

    chosen = tf.TensorArray(tf.int32, length, element_shape=[None])
    _, chosen, *_ = tf.while_loop(
        lambda t, *_: t < length, generate_one, (tf.constant(0), chosen, *states)
    )
    return tf.transpose(chosen.stack())


def _keep(condition: Any, new: list[Any], old: list[Any]) -> list[Any]:
    """Return the `new` states of the texts for which `condition`, `(B,)`, holds."""
    return [tf.where(condition[:, None], n, o) for n, o in zip(new, old, strict=True)]


def _pick(values: Any, indices: Any) -> Any:
    return tf.gather(values, indices, batch_dims=1)


def _temper(log_probs: Any, temperature: Any) -> Any:
    """Divide log-probabilities by a temperature; what is empty stays so, however high that is."""
    is_occupied = log_probs > EMPTY_CELL_LOGIT / 2
    logits = tf.cast(log_probs, tf.float64) / temperature
    return tf.where(is_occupied, logits, tf.constant(-math.inf, tf.float64))


def _sample(logits: Any, seed: Any) -> Any:
    samples = tf.random.stateless_categorical(logits, 1, seed, dtype=tf.int32)
    return samples[:, 0]
