"""Exact search for the likeliest words of a softmax layer inside a graph, on every backend.

All shapes are static where the batch size is, so that XLA and JAX can compile the search.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.typing import Tensor, WordIds
from keras_lightrnn.ops.look_up import look_up
from keras_lightrnn.ops.loops import map_blocks
from keras_lightrnn.ops.word_ids import mark_invalid_ids
from keras_lightrnn.search.graph_rows import (
    LEAST,
    GraphTable,
    choose_block_size,
    join,
    list_rows,
)
from keras_lightrnn.search.graph_tables import find_best_of_tables, find_ranks_of_tables
from keras_lightrnn.search.layer_search import list_row_offsets, predict_all_rows


def find_best_words(
    softmax: Any, states: Tensor, k: int, excluded: Tensor = None
) -> tuple[Tensor, Tensor]:
    """Return the `k` likeliest words after some texts, exactly, as tensors.

    Args:
        softmax: `TwoComponentSoftmax` with a row reader, built.
        states: `(B, H)`.
        k: Integer.
        excluded: `(B, E)` integers, words that are not returned, -1 for none; or `None`.

    Returns:
        Words `(B, k)` int32 and their log-probabilities `(B, k)` float32, best first; ties go to
        the smaller id. -1 and minus infinity where fewer than `k` words can be returned. The
        log-probabilities of a text are NaN if an id in `excluded` is out of range.
    """

    def search(tables: Any, excluded: Tensor) -> list[Any]:
        return list(find_best_of_tables(_get_operations(), tables, word_tables, k, excluded))

    word_tables = softmax.word_tables
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
        `(B,)` int32: 1 plus the number of words that are likelier, or as likely with a smaller id.
        With `mask_zero`, word 0 does not count, and the rank of the target 0 is 0. The rank is -1
        if the log-probability is NaN or an id is out of range.
    """

    def search(tables: Any, targets: WordIds, excluded: Tensor) -> list[Any]:
        ranks, log_probs = find_ranks_of_tables(
            _get_operations(), tables, word_tables, targets[:, 0], excluded
        )
        return [ops.expand_dims(ops.where(ops.isnan(log_probs), -1, ranks), 1)]

    word_tables = softmax.word_tables
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
    word_tables = softmax.word_tables
    size = choose_block_size(word_tables, softmax.num_components, softmax.word_dim)

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
    operations, dtype = _get_operations(), keras.backend.standardize_dtype(queries.dtype)

    def read(rows: Tensor) -> Any:
        num_rows = operations.shape(rows)[1]
        # (B, 1, M, H) is read once for each row.
        repeated = ops.expand_dims(queries, 1) + operations.zeros((1, num_rows, 1, 1), dtype)
        return softmax.read_rows(repeated, rows)

    def add_components(log_probs: Tensor, rows: Tensor = None) -> Any:
        """Return the sum over components of rows `(B, n)`, `None` for all; `(B, n, C)`."""
        if not shares:
            return ops.squeeze(log_probs, 2)
        of_rows = shares[0]  # (B, R, M)
        if rows is not None:
            indices = ops.broadcast_to(ops.expand_dims(rows, -1), ops.shape(log_probs)[:-1])
            of_rows = ops.take_along_axis(of_rows, indices, axis=1)  # (B, n, M)
        return ops.logsumexp(ops.expand_dims(of_rows, -1) + log_probs, axis=2)

    def finish(log_probs: Tensor, rows: Tensor = None) -> Any:
        """Mark empty cells of rows, `None` for all, among log-probabilities `(B, n, C)`."""
        log_probs = ops.maximum(log_probs, LEAST)
        if not has_empty_cells:
            return log_probs
        words = ops.convert_to_tensor(word_table.words)
        words = words if rows is None else look_up(words, rows)
        return ops.where(words < 0, -np.inf, log_probs)

    def expand(rows: Tensor, of_all: Tensor, cell_logits: Tensor = None) -> Any:
        logits = softmax.compute_column_logits(read(rows), of_all, cell_logits)
        # (B, n, M, C) -> (B, n, C)
        return finish(add_components(ops.log_softmax(logits), rows), of_all)

    def expand_all() -> Any:
        of_all = read(list_rows(operations, row_log_probs))
        log_probs = ops.log_softmax(softmax.compute_all_column_logits(of_all))  # (B, R, M, C)
        return join(operations, row_log_probs, add_components(log_probs))

    def order() -> Callable[[Any], Any]:
        cell_logits = softmax.compute_cell_logits()

        def expand_alike(rows: Tensor) -> Any:
            rows = ops.expand_dims(rows, 0)  # (1, n): words are looked up once for all texts
            of_texts = ops.broadcast_to(rows, (ops.shape(row_log_probs)[0], rows.shape[1]))
            return expand(of_texts, rows, cell_logits)

        return expand_alike

    return GraphTable(
        row_log_probs,
        word_table.num_columns,
        lambda rows: expand(rows, rows),
        expand_all,
        order,
        finish,
    )


def _get_operations() -> Any:
    """Return the operations of a search on the current backend."""
    if keras.backend.backend() == "tensorflow":
        from keras_lightrnn.search import tensorflow_operations

        return tensorflow_operations
    return ops
