"""Search for words with a softmax layer behind any network.

The layer is an argument: `search` does not import `layers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_lightrnn._internal.inference import view_values
from keras_lightrnn._internal.keras_internals import check_has_value
from keras_lightrnn._internal.typing import Tensor
from keras_lightrnn.ops.look_up import look_up
from keras_lightrnn.search.row_search import RowSearch
from keras_lightrnn.search.table_search import SearchedTable, TablesSearch


def predict_rows(
    softmax: Any, states: Tensor, row_offsets: Tensor = None, component_log_probs: Tensor = None
) -> tuple[Tensor, list[Tensor]]:
    """Predict the next rows with the components of one table.

    Args:
        softmax: `TwoComponentSoftmax` with a row reader, or that of a further table, built.
        states: `(B, H)`.
        row_offsets: The result of `softmax.compute_row_offsets`, or `None` to compute it.
        component_log_probs: `(B, M)`, the log-weights of its components; `None` for one.

    Returns:
        Log-probabilities of rows `(B, R)`, and a list for `predict_columns`: the queries
        `(B, M, H)` and, with several components, the log of each component's share in each row,
        `(B, R, M)`.
    """
    queries = softmax.compute_queries(states)
    log_probs = ops.log_softmax(softmax.compute_row_logits(queries, row_offsets))  # (B, M, R)
    if component_log_probs is None:
        return log_probs[:, 0], [queries]
    if softmax.num_components == 1:
        return component_log_probs + log_probs[:, 0], [queries]
    joint = ops.expand_dims(component_log_probs, -1) + log_probs  # (B, M, R)
    row_log_probs = ops.logsumexp(joint, axis=1)
    shares = ops.transpose(joint - ops.expand_dims(row_log_probs, 1), (0, 2, 1))
    return row_log_probs, [queries, shares]


def predict_columns(
    softmax: Any, texts: Tensor, rows: Tensor, context: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the words in rows and their log-probabilities given the row, `(n, C)` each.

    Args:
        softmax: As in `predict_rows`.
        texts: `(n,)` int32.
        rows: `(n,)` int32.
        context: The second result of `predict_rows`.
    """
    queries, *shares = context
    queries = softmax.read_rows(look_up(queries, texts), rows)  # (n, M, H)
    log_probs = ops.log_softmax(softmax.compute_column_logits(queries, rows))  # (n, M, C)
    if shares:
        num_rows, num_components = shares[0].shape[1:]  # (B, R, M)
        by_row = ops.reshape(shares[0], (-1, num_components))  # (B R, M)
        of_rows = look_up(by_row, texts * num_rows + rows)  # (n, M)
        log_probs = ops.logsumexp(ops.expand_dims(of_rows, -1) + log_probs, axis=1)
    else:
        log_probs = log_probs[:, 0]
    return look_up(softmax.word_table.words, rows), log_probs


class _LayerSearch(RowSearch):
    """Search with a softmax layer, called eagerly.

    Args:
        softmax: `TwoComponentSoftmax`, built.
        row_log_probs: `(B, R)`.
    """

    def __init__(self, softmax: Any, row_log_probs: Tensor) -> None:
        self.softmax = softmax
        padding = 0 if softmax.mask_zero else None
        num_columns = softmax.word_table.num_columns
        super().__init__(ops.convert_to_numpy(row_log_probs), num_columns, padding)

    def find_rows(self, words: np.ndarray) -> np.ndarray:
        cells = ops.take(self.softmax.word_table.cells, ops.convert_to_tensor(words), axis=0)
        return ops.convert_to_numpy(cells) // self.num_columns


def predict_all_rows(
    softmax: Any, states: Tensor, row_offsets: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Return the results of `predict_rows` for each table.

    Args:
        softmax: `TwoComponentSoftmax` with a row reader, built.
        states: `(B, H)`.
        row_offsets: The result of `compute_row_offsets` for each table; empty if no table has
            offsets.
    """
    weights = None
    if softmax.component_kernel is not None:
        weights = softmax.compute_component_log_probs(states)
    predicted = []
    for index, table in enumerate(softmax.list_tables()):
        start = index * table.num_components
        of_table = None if weights is None else weights[:, start : start + table.num_components]
        offsets = row_offsets[index] if row_offsets else None
        predicted.append(predict_rows(table, states, offsets, of_table))
    return predicted


def list_row_offsets(softmax: Any) -> list[Tensor]:
    """Return the row offsets of each table; an empty list if no table has any."""
    offsets = [table.compute_row_offsets() for table in softmax.list_tables()]
    if any(x is not None for x in offsets):
        return [
            ops.zeros((table.word_table.num_rows,), "float32") if x is None else x
            for x, table in zip(offsets, softmax.list_tables(), strict=True)
        ]
    return []


def search_states(softmax: Any, states: Tensor) -> RowSearch | TablesSearch:
    """Return the search after texts with the states `(B, H)`, for a softmax with a row reader."""
    states = check_states(softmax, "states", states)
    predicted = predict_all_rows(softmax, states, list_row_offsets(softmax))
    searches = [
        StateSearch(table, *of_table)
        for table, of_table in zip(softmax.list_tables(), predicted, strict=True)
    ]
    if len(searches) == 1:
        return searches[0]
    tables = [
        SearchedTable(
            search.row_log_probs,
            search.compute_columns,
            view_values(search.softmax.word_table.cells),
            search.num_columns,
        )
        for search in searches
    ]
    return TablesSearch(tables, searches[0].padding)


class StateSearch(_LayerSearch):
    """Search with one table, from the states of any network.

    Args:
        softmax: `TwoComponentSoftmax` with a row reader, or that of a further table.
        row_log_probs: `(B, R)`, as `predict_rows` returns it.
        context: The second result of `predict_rows`.
    """

    def __init__(self, softmax: Any, row_log_probs: Tensor, context: list[Tensor]) -> None:
        super().__init__(softmax, row_log_probs)
        self.context = context

    def compute_columns(self, texts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        texts, rows = (ops.convert_to_tensor(x.astype(np.int32)) for x in (texts, rows))
        words, log_probs = predict_columns(self.softmax, texts, rows, self.context)
        return ops.convert_to_numpy(words), ops.convert_to_numpy(log_probs)


class HalfStepSearch(_LayerSearch):
    """Search on half-steps, with a function that lets the network read rows.

    Args:
        softmax: `TwoComponentSoftmax` without a row reader, built.
        column_half_steps: `(B, H)`.
        read_rows: See `TwoComponentSoftmax.next_words`.
    """

    def __init__(
        self,
        softmax: Any,
        column_half_steps: Tensor,
        read_rows: Callable[[np.ndarray, np.ndarray], Tensor],
    ) -> None:
        half_steps = check_states(softmax, "states", column_half_steps)
        super().__init__(softmax, ops.log_softmax(softmax.compute_row_logits(half_steps)))
        self.read_rows = read_rows

    def compute_columns(self, texts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        texts, rows = texts.astype(np.int32), rows.astype(np.int32)
        half_steps = self.read_rows(texts, rows)
        half_steps = check_states(self.softmax, "read_rows(texts, rows)", half_steps, len(rows))
        rows = ops.convert_to_tensor(rows)
        logits = self.softmax.compute_column_logits(ops.expand_dims(half_steps, 1), rows)[:, 0]
        words = ops.take(self.softmax.word_table.words, rows, axis=0)
        return ops.convert_to_numpy(words), ops.convert_to_numpy(ops.log_softmax(logits))


def check_built(softmax: Any) -> None:
    """Raise `ValueError` unless the layer has its weights, `RuntimeError` without their values."""
    if not softmax.built:
        raise ValueError(
            "A softmax must be built before it is searched. Received: a layer without weights. "
            "Train it, load it, or call it on a batch."
        )
    check_has_value(softmax.row_kernel)


def check_state_size(softmax: Any, shape: tuple[int | None, ...], received: str) -> None:
    """Raise `ValueError` if states have another size than those that the layer was built with.

    Args:
        softmax: `TwoComponentSoftmax`, built or not.
        shape: `(..., H)`, the shape of the states.
        received: What the message says of the arguments, with a comma and a space at the end.
    """
    if softmax.built and shape[-1:] not in ((None,), softmax.row_kernel.shape[1:]):
        raise ValueError(
            "The states must have the size of those that the layer was built with, "
            f"{softmax.row_kernel.shape[1]}. {received}layer {softmax.name!r}. Make another layer "
            "for states of another size."
        )


def check_states(softmax: Any, name: str, states: Tensor, size: int | None = None) -> Tensor:
    """Return states as a tensor `(B, H)`, with `B` as given, or raise `ValueError`."""
    check_built(softmax)
    states = ops.convert_to_tensor(states)
    units = softmax.row_kernel.shape[-1]
    shape = tuple(states.shape)
    if len(shape) != 2 or shape[1] != units or size not in (None, shape[0]):
        number = "B" if size is None else size
        raise ValueError(
            f"`{name}` must have shape ({number}, {units}), one state for each text. Received: "
            f"shape {shape}. Of a sequence of states (B, T, H), take the last: states[:, -1]."
        )
    return states
