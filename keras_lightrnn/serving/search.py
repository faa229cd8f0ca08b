"""Scoring, exact search and generation of cells with a `Network`, inside the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_lightrnn.search import graph_rows, tensorflow_operations
from keras_lightrnn.search.graph_rows import LEAST, ROWS_AT_ONCE, GraphTable
from keras_lightrnn.search.graph_tables import find_best_of_tables
from keras_lightrnn.serving.network import Network
from keras_lightrnn.serving.sampling import sample_cells
from keras_lightrnn.serving.softmax import ServedTables

# Texts that are expanded together, and the largest number of floats in one tensor of theirs.
_TEXTS_AT_ONCE = 64
_FLOATS_AT_ONCE = 1 << 22


def score_cells(network: Network, cells: Any, lengths: Any) -> Any:
    """Return the log-probability of every cell but the first, from the zero state.

    Texts are computed in blocks of similar lengths, so that one long text does not slow down
    many short ones.

    Args:
        network: `Network`.
        cells: `(B, N)` int32.
        lengths: `(B,)` int32, cells of each text, from 1 to `N`.

    Returns:
        `(B, N - 1)` float32, with 0 behind the last cell of a text. Memory grows with `N` by this
        tensor only.
    """
    num_log_probs = tf.maximum(tf.shape(cells)[1] - 1, 0)

    def score_block(cells: Any, lengths: Any) -> list[Any]:
        log_probs = network.score_texts(cells[:, : tf.reduce_max(lengths)])
        log_probs = tf.where(tf.sequence_mask(lengths - 1, tf.shape(log_probs)[1]), log_probs, 0.0)
        missing = num_log_probs - tf.shape(log_probs)[1]
        return [tf.pad(log_probs, [[0, 0], [0, missing]])]

    (log_probs,) = _map_by_length(network, score_block, cells, lengths, [(tf.float32, [None])])
    return log_probs


def read_prefixes(network: Network, cells: Any, lengths: Any, room: Any = 0) -> list[Any]:
    """Return the states after texts of different lengths.

    Args:
        network: `Network`.
        cells: `(B, N)` int32.
        lengths: `(B,)` int32, cells of each text, from 1 to `N`.
        room: int32 scalar, how many words may be read after the texts.
    """

    def read_block(cells: Any, lengths: Any) -> list[Any]:
        return network.read_texts(cells, lengths, room)

    return _map_by_length(network, read_block, cells, lengths, network.state_kinds)


def find_best_cells(
    network: Network, states: list[Any], k: Any, get_words: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """Return the `k` likeliest cells to follow texts, and their log-probabilities, exactly.

    The search is that of `keras_lightrnn.search.graph_rows` and `graph_tables`. Empty cells and
    padding are never among the answers.

    Args:
        network: `Network`.
        states: States of the texts.
        k: int32 scalar, from 1 to the number of words without padding.
        get_words: Returns the words in cells: of equally likely cells those with lesser words come
            first.

    Returns:
        `(B, k)` int32 and `(B, k)` float32, best first.
    """

    def find_block(*states: Any) -> list[Any]:
        return list(_find_best_in_block(network, list(states), k, get_words))

    kinds = [(tf.int32, [None]), (tf.float32, [None])]
    cells, log_probs = _map_blocks(find_block, states, kinds, _choose_block_size(network))
    return cells, log_probs


def _find_best_in_block(
    network: Network, states: list[Any], k: Any, get_words: Callable[[Any], Any]
) -> tuple[Any, Any]:
    excluded, softmax = None, network.softmax
    if network.padding_cell is not None:
        excluded = tf.fill([tf.shape(states[0])[0], 1], network.padding_cell)
    if not isinstance(softmax, ServedTables):
        row_log_probs, context = network.predict_rows(states)
        expand = lambda texts, rows: network.expand_rows(texts, rows, context)[0]  # noqa: E731
        table = _make_table(softmax, row_log_probs, expand, network.reads_rows_by_steps)
        return graph_rows.find_best_cells(tensorflow_operations, table, k, excluded, get_words)
    tables, word_tables = [], []
    for index, (of_table, predicted) in enumerate(
        zip(softmax.tables, network.predict_tables(states), strict=True)
    ):
        tables.append(_make_reader_table(of_table, *predicted))
        word_tables.append(softmax.get_word_table(index))
    # A word is known by its cell in the first table.
    is_word = softmax.first_cells[0] >= 0
    return find_best_of_tables(
        tensorflow_operations, tables, word_tables, k, excluded, is_word, get_words
    )


def _make_reader_table(softmax: Any, row_log_probs: Any, context: list[Any]) -> GraphTable:
    expand = lambda texts, rows: softmax.expand_rows(texts, rows, context)  # noqa: E731
    return _make_table(softmax, row_log_probs, expand, False)


def _make_table(
    softmax: Any, row_log_probs: Any, expand_rows: Callable[[Any, Any], Any], is_stepwise: bool
) -> GraphTable:
    """Return a table for the search.

    Args:
        softmax: The softmax of the table.
        row_log_probs: `(B, R)`.
        expand_rows: `texts (m,), rows (m,) -> (m, C)`, the log-probabilities of columns.
        is_stepwise: Whether a row costs a step of a network.
    """
    num_texts, num_columns = tf.shape(row_log_probs)[0], softmax.num_columns

    def expand(rows: Any) -> Any:
        num_rows = tensorflow_operations.shape(rows)[1]
        flat = tf.reshape(rows, [-1])
        log_probs = expand_rows(tf.repeat(tf.range(num_texts), num_rows), flat)
        if softmax.has_impossible_words:
            # They are answers if `k` asks for all words; empty cells never are.
            log_probs = tf.maximum(log_probs, LEAST)
            if softmax.empty_cells is not None:
                is_empty = softmax.find_empty_cells(flat)
                log_probs = tf.where(is_empty, float("-inf"), log_probs)
        return tf.reshape(log_probs, [-1, num_rows, num_columns])

    def expand_alike(rows: Any) -> Any:
        return expand(tf.broadcast_to(rows, [num_texts, rows.shape[0]]))

    if softmax.has_impossible_words:
        row_log_probs = tf.maximum(row_log_probs, LEAST)
    return GraphTable(row_log_probs, num_columns, expand, None if is_stepwise else expand_alike)


def generate_cells(
    network: Network,
    states: list[Any],
    length: Any,
    temperature: Any,
    seed: Any,
    get_words: Callable[[Any], Any],
) -> Any:
    """Sample a continuation of `length` cells for each text, `(B, length)` int32."""

    def generate_block(first: Any, *states: Any) -> list[Any]:
        # Every block draws different random numbers, whatever the rest of the batch is.
        block_seed = tf.random.experimental.stateless_fold_in(tf.stack([seed, 0]), first[0])

        def generate_one(t: Any, chosen: Any, *states: Any) -> Any:
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
    """Return how many texts the search expands together, by the memory that their rows take."""
    tables = network.softmax.tables
    if len(tables) > 1:  # of which all rows may be expanded
        floats_per_text = sum(table.num_rows * table.num_columns for table in tables)
        return max(1, min(_TEXTS_AT_ONCE, _FLOATS_AT_ONCE // floats_per_text))
    floats_per_cell = max(network.softmax.word_dim, network.softmax.num_components)
    floats_per_text = ROWS_AT_ONCE * network.num_columns * floats_per_cell
    return max(1, min(_TEXTS_AT_ONCE, _FLOATS_AT_ONCE // floats_per_text))


def _map_by_length(
    network: Network,
    function: Callable[..., list[Any]],
    cells: Any,
    lengths: Any,
    kinds: list[Any],
) -> list[Any]:
    """Apply `_map_blocks` to texts sorted by length; results are in the order of the texts."""
    order = tf.argsort(lengths, stable=True)
    size = network.choose_block_size(tf.shape(cells)[1])
    results = _map_blocks(
        function, [tf.gather(cells, order), tf.gather(lengths, order)], kinds, size
    )
    places = tf.math.invert_permutation(order)
    return [tf.gather(result, places) for result in results]


def _map_blocks(
    function: Callable[..., list[Any]], tensors: list[Any], kinds: list[Any], size: Any
) -> list[Any]:
    """Apply a function to blocks of a batch, one after the other, and join the results.

    Args:
        function: From slices of `tensors` to as many results as there are `kinds`.
        tensors: List of tensors `(B, ...)`.
        kinds: For each result, its dtype and its shape without the batch axis.
        size: Integer or int32 scalar, the largest block.
    """
    batch_size = tf.shape(tensors[0])[0]
    num_blocks = -(-batch_size // size)

    def run(block: Any, *arrays: Any) -> Any:
        start = block * size
        results = function(*(tensor[start : start + size] for tensor in tensors))
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
