"""Scoring, exact search and generation of cells with a `Network`, inside the graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_lightrnn.search import graph_rows, tensorflow_operations
from keras_lightrnn.search.graph_rows import LEAST, GraphTable, choose_block_size
from keras_lightrnn.search.graph_tables import find_best_of_tables
from keras_lightrnn.serving.network import Kind, Network
from keras_lightrnn.serving.sampling import sample_cells
from keras_lightrnn.serving.softmax import ServedReaderSoftmax, ServedSoftmax, ServedTables


def score_cells(network: Network, cells: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Return the log-probability of every cell but the first, from the zero state.

    Texts of similar lengths are computed together, so that one long text does not slow down many
    short ones.

    Args:
        network: `Network`.
        cells: `(B, N)` int32.
        lengths: `(B,)` int32, cells of each text, from 1 to `N`.

    Returns:
        `(B, N - 1)` float32, 0 after the last cell of a text. Only the memory of this tensor grows
        with `N`.
    """
    num_log_probs = tf.maximum(tf.shape(cells)[1] - 1, 0)

    def score_block(cells: tf.Tensor, lengths: tf.Tensor) -> list[tf.Tensor]:
        log_probs = network.score_texts(cells[:, : tf.reduce_max(lengths)])
        log_probs = tf.where(tf.sequence_mask(lengths - 1, tf.shape(log_probs)[1]), log_probs, 0.0)
        missing = num_log_probs - tf.shape(log_probs)[1]
        return [tf.pad(log_probs, [[0, 0], [0, missing]])]

    (log_probs,) = _map_by_length(network, score_block, cells, lengths, [(tf.float32, [None])])
    return log_probs


def read_prefixes(
    network: Network, cells: tf.Tensor, lengths: tf.Tensor, room: tf.Tensor | int = 0
) -> list[tf.Tensor]:
    """Return the states after texts of different lengths.

    Args:
        network: `Network`.
        cells: `(B, N)` int32.
        lengths: `(B,)` int32, cells of each text, from 1 to `N`.
        room: int32 scalar, the number of words that may be read after the texts.
    """

    def read_block(cells: tf.Tensor, lengths: tf.Tensor) -> list[tf.Tensor]:
        return network.read_texts(cells, lengths, room)

    return _map_by_length(network, read_block, cells, lengths, network.state_kinds)


def find_best_cells(
    network: Network,
    states: list[tf.Tensor],
    k: tf.Tensor | int,
    get_words: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the `k` likeliest cells to follow texts, and their log-probabilities, exactly.

    It calls the search of `keras_lightrnn.search.graph_rows` and `graph_tables`. Empty cells and
    padding are never returned.

    Args:
        network: `Network`.
        states: States of the texts.
        k: int32 scalar, from 1 to the number of words without padding.
        get_words: Function that returns the words in cells. Ties go to the smaller word.

    Returns:
        `(B, k)` int32 and `(B, k)` float32, best first.
    """

    def find_block(*states: tf.Tensor) -> list[tf.Tensor]:
        return list(_find_best_in_block(network, list(states), k, get_words))

    kinds: list[Kind] = [(tf.int32, [None]), (tf.float32, [None])]
    cells, log_probs = _map_blocks(find_block, states, kinds, _choose_block_size(network))
    return cells, log_probs


def _find_best_in_block(
    network: Network,
    states: list[tf.Tensor],
    k: tf.Tensor | int,
    get_words: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    excluded, softmax = None, network.softmax
    if network.padding_cell is not None:
        excluded = tf.fill([tf.shape(states[0])[0], 1], network.padding_cell)
    if not isinstance(softmax, ServedTables):
        predicted = network.predict_rows(states)
        if network.reads_rows_by_steps:
            row_log_probs, context = predicted
            expand = lambda texts, rows: network.expand_rows(texts, rows, context)[0]  # noqa: E731
            table = _make_table(softmax, row_log_probs, expand, None)
        else:
            table = _make_reader_table(softmax, *predicted)
        return graph_rows.find_best_cells(tensorflow_operations, table, k, excluded, get_words)
    tables, word_tables = [], []
    for index, (of_table, predicted) in enumerate(
        zip(softmax.tables, network.predict_tables(states), strict=True)
    ):
        tables.append(_make_reader_table(of_table, *predicted))
        word_tables.append(softmax.get_word_table(index))
    # Cells of the first table identify the words.
    return find_best_of_tables(tensorflow_operations, tables, word_tables, k, excluded, get_words)


def _make_reader_table(
    softmax: ServedReaderSoftmax, row_log_probs: tf.Tensor, context: list[tf.Tensor]
) -> GraphTable:
    return _make_table(
        softmax,
        row_log_probs,
        lambda texts, rows: softmax.expand_rows(texts, rows, context),
        lambda: softmax.expand_all_rows(context),
    )


def _make_table(
    softmax: ServedSoftmax,
    row_log_probs: tf.Tensor,
    expand_rows: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    expand_all_rows: Callable[[], tf.Tensor] | None,
) -> GraphTable:
    """Return a table for the search.

    Args:
        softmax: The softmax of the table.
        row_log_probs: `(B, R)`.
        expand_rows: `texts (m,), rows (m,) -> (m, C)`, the log-probabilities of columns.
        expand_all_rows: `() -> (B, R, C)`, likewise of all rows; `None` if each row costs a step of
            a network.
    """
    num_texts, num_columns = tf.shape(row_log_probs)[0], softmax.num_columns

    def mark(log_probs: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Mark empty and impossible cells of rows `(m,)` among `(..., m, C)`."""
        if not softmax.has_impossible_words:
            return log_probs
        # These words are returned if `k` asks for all words; empty cells never are.
        log_probs = tf.maximum(log_probs, LEAST)
        if softmax.empty_cells is None:
            return log_probs
        return tf.where(softmax.find_empty_cells(rows), float("-inf"), log_probs)

    def expand(rows: tf.Tensor) -> tf.Tensor:
        num_rows = tensorflow_operations.shape(rows)[1]
        flat = tf.reshape(rows, [-1])
        log_probs = mark(expand_rows(tf.repeat(tf.range(num_texts), num_rows), flat), flat)
        return tf.reshape(log_probs, [-1, num_rows, num_columns])

    def expand_alike(rows: tf.Tensor) -> tf.Tensor:
        return expand(tf.broadcast_to(rows, [num_texts, rows.shape[0]]))

    def expand_all() -> tf.Tensor:
        assert expand_all_rows is not None
        return graph_rows.join(tensorflow_operations, row_log_probs, expand_all_rows())

    if softmax.has_impossible_words:
        row_log_probs = tf.maximum(row_log_probs, LEAST)
    if expand_all_rows is None:
        return GraphTable(row_log_probs, num_columns, expand, None, None)
    mark_all = functools.partial(mark, rows=tf.range(softmax.num_rows))
    return GraphTable(
        row_log_probs, num_columns, expand, expand_all, lambda: expand_alike, mark_all
    )


def generate_cells(
    network: Network,
    states: list[tf.Tensor],
    length: tf.Tensor,
    temperature: tf.Tensor,
    seed: tf.Tensor,
    get_words: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Sample a continuation of `length` cells for each text, `(B, length)` int32."""

    def generate_block(first: tf.Tensor, *states: tf.Tensor) -> list[tf.Tensor]:
        # Blocks draw different random numbers, which do not depend on the rest of the batch.
        block_seed = tf.random.experimental.stateless_fold_in(tf.stack([seed, 0]), first[0])

        def generate_one(
            t: tf.Tensor, chosen: tf.TensorArray, *states: tf.Tensor
        ) -> tuple[Any, ...]:
            old = list(states)
            cells = tf.cond(
                temperature > 0,
                lambda: sample_cells(
                    network, old, tf.cast(temperature, tf.float64), block_seed, tf.cast(t, tf.int64)
                ),
                lambda: _find_best_in_block(network, old, 1, get_words)[0][:, 0],
            )
            return (t + 1, chosen.write(t, cells), *network.read_words(cells, old))

        chosen = tf.TensorArray(tf.int32, length, element_shape=[None])
        _, chosen, *_ = tf.while_loop(
            lambda t, *_: t < length, generate_one, (tf.constant(0), chosen, *states)
        )
        return [tf.transpose(chosen.stack())]

    places = tf.range(tf.shape(states[0])[0], dtype=tf.int64)
    (cells,) = _map_blocks(
        generate_block, [places, *states], [(tf.int32, [None])], _choose_block_size(network)
    )
    return cells


def _choose_block_size(network: Network) -> int:
    softmax = network.softmax
    return choose_block_size(
        softmax.tables, softmax.num_components, softmax.word_dim, network.reads_rows_by_steps
    )


def _map_by_length(
    network: Network,
    function: Callable[..., list[tf.Tensor]],
    cells: tf.Tensor,
    lengths: tf.Tensor,
    kinds: list[Kind],
) -> list[tf.Tensor]:
    """Apply `_map_blocks` to texts sorted by length, and return results in the original order."""
    order = tf.argsort(lengths, stable=True)
    size = network.choose_block_size(tf.shape(cells)[1])
    results = _map_blocks(
        function, [tf.gather(cells, order), tf.gather(lengths, order)], kinds, size
    )
    places = tf.math.invert_permutation(order)
    return [tf.gather(result, places) for result in results]


def _map_blocks(
    function: Callable[..., list[tf.Tensor]],
    tensors: list[tf.Tensor],
    kinds: list[Kind],
    size: tf.Tensor | int,
) -> list[tf.Tensor]:
    """Apply a function to blocks of a batch, one after the other, and join the results.

    Unlike in `ops.loops.map_blocks`, blocks start at multiples of `size` in every batch, because
    the place of a text determines its random numbers, and results may have any number of axes.

    Args:
        function: From slices of `tensors` to as many results as there are `kinds`.
        tensors: List of tensors `(B, ...)`.
        kinds: For each result, its dtype and its shape without the batch axis.
        size: Integer or int32 scalar, the largest block.
    """
    batch_size = tf.shape(tensors[0])[0]
    num_blocks = -(-batch_size // size)

    def run(block: tf.Tensor, *arrays: tf.TensorArray) -> tuple[Any, ...]:
        start = block * size
        begin, end = tf.stack([start]), tf.stack([start + size])
        results = function(*(tf.strided_slice(tensor, begin, end) for tensor in tensors))
        written = (array.write(block, x) for array, x in zip(arrays, results, strict=True))
        return (block + 1, *written)

    arrays = [
        tf.TensorArray(dtype, num_blocks, infer_shape=False, element_shape=[None, *shape])
        for dtype, shape in kinds
    ]
    _, *arrays = tf.while_loop(
        lambda block, *_: block < num_blocks,
        run,
        (tf.constant(0), *arrays),
        parallel_iterations=1,  # blocks bound the memory
    )
    return [array.concat() for array in arrays]
