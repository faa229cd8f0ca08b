"""From logits over rows and columns to the log-probabilities of words."""

from __future__ import annotations

from typing import Any

from keras import ops

# A logit that leaves no probability in float32, finite so that no gradient becomes NaN.
EMPTY_CELL_LOGIT = -1e9


def compute_bias_table(word_bias: Any, cells: Any, num_rows: int, num_columns: int) -> Any:
    """Lay one bias a word out in the table, with `EMPTY_CELL_LOGIT` in empty cells.

    Args:
        word_bias: `(V,)` float32.
        cells: `(V,)` int32, the cell of each word.
        num_rows: Integer `R`.
        num_columns: Integer `C`.

    Returns:
        `(R, C)` float32.

    Example:

    >>> import numpy as np
    >>> table = compute_bias_table(np.float32([1.0, 2.0]), np.int32([2, 0]), 1, 3)
    >>> np.asarray(table).tolist()
    [[2.0, -1000000000.0, 1.0]]
    """
    num_cells = num_rows * num_columns
    # Words keep their bias exactly: it is scattered into zeros, and the empty cells are filled
    # afterwards.
    indices = ops.expand_dims(cells, 1)
    bias = ops.scatter(indices, word_bias, (num_cells,))
    if cells.shape[0] < num_cells:
        occupied = ops.scatter(indices, ops.ones_like(word_bias), (num_cells,))
        bias = ops.where(occupied > 0, bias, EMPTY_CELL_LOGIT)
    return ops.reshape(bias, (num_rows, num_columns))


def compute_word_log_probs(row_logits: Any, column_logits: Any, cells: Any) -> Any:
    """Return `log P(row) + log P(column | row)` of the words in `cells`.

    Args:
        row_logits: `(..., R)` float32, from the column half-steps.
        column_logits: `(..., C)` float32, from the row half-steps.
        cells: `(...)` int32, the cells of the words predicted.

    Returns:
        `(...)` float32, in nats.

    Example:

    >>> import numpy as np
    >>> log_probs = compute_word_log_probs(np.zeros((1, 4)), np.zeros((1, 5)), np.int32([7]))
    >>> round(float(np.exp(-log_probs[0])))
    20
    """
    num_columns = column_logits.shape[-1]
    return _pick_log_softmax(row_logits, cells // num_columns) + _pick_log_softmax(
        column_logits, cells % num_columns
    )


def _pick_log_softmax(logits: Any, indices: Any) -> Any:
    picked = ops.take_along_axis(logits, ops.expand_dims(indices, -1), axis=-1)
    return ops.squeeze(picked, -1) - ops.logsumexp(logits, axis=-1)
