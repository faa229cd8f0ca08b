"""Log-probabilities of words from logits over rows and columns."""

from __future__ import annotations

from keras import ops

from keras_lightrnn._internal.typing import Tensor, WordIds
from keras_lightrnn.ops.look_up import look_up

# A logit that leaves no probability in float32, finite so that no gradient becomes NaN. Logits of
# words must stay far above it.
EMPTY_CELL_LOGIT = -1e30


def invert_cells(cells: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return the word in each cell, -1 in empty cells.

    Args:
        cells: `(V,)` int32, the cell of each word.
        num_rows: Integer `R`.
        num_columns: Integer `C`.

    Returns:
        `(R, C)` int32.

    Example:

    >>> import numpy as np
    >>> np.asarray(invert_cells(np.int32([2, 0]), num_rows=1, num_columns=3)).tolist()
    [[1, -1, 0]]
    """
    numbers = ops.arange(1, cells.shape[0] + 1, dtype="int32")  # cells without a word stay 0
    words = ops.scatter(ops.expand_dims(cells, 1), numbers, (num_rows * num_columns,)) - 1
    return ops.reshape(words, (num_rows, num_columns))


def compute_bias_table(word_bias: Tensor, words: WordIds) -> Tensor:
    """Return the bias of the word in each cell, and `EMPTY_CELL_LOGIT` in empty cells.

    Args:
        word_bias: `(V,)` float32; or `None` for zeros.
        words: `(..., C)` int32, the result of `invert_cells` or rows of it.

    Returns:
        `(..., C)` float32.

    Example:

    >>> import numpy as np
    >>> table = compute_bias_table(np.float32([1.0, 2.0]), np.int32([[1, -1, 0]]))
    >>> [[float(f"{x:.3g}") for x in row] for row in np.asarray(table)]
    [[2.0, -1e+30, 1.0]]
    """
    if word_bias is None:
        bias = ops.zeros_like(words, "float32")
    else:
        bias = ops.cast(look_up(word_bias, ops.maximum(words, 0)), "float32")
    return ops.where(words < 0, EMPTY_CELL_LOGIT, bias)


def compute_row_offsets(word_bias: Tensor, words: WordIds) -> Tensor:
    """Return the contribution of the words of each row to the logit of the row.

    It is the log-sum-exp of their biases. Without biases it is 0 for every row that has words:
    the number of words does not count.

    Args:
        word_bias: `(V,)` float32; or `None`.
        words: `(R, C)` int32, the result of `invert_cells`.

    Returns:
        `(R,)` float32, `EMPTY_CELL_LOGIT` (about) for empty rows.

    Example:

    >>> import numpy as np
    >>> words = np.int32([[0, -1], [-1, -1]])
    >>> [float(f"{x:.3g}") for x in np.asarray(compute_row_offsets(np.float32([2.0]), words))]
    [2.0, -1e+30]
    """
    table = compute_bias_table(word_bias, words)
    return ops.max(table, axis=1) if word_bias is None else ops.logsumexp(table, axis=1)


def compute_word_log_probs(row_logits: Tensor, column_logits: Tensor, cells: Tensor) -> Tensor:
    """Return `log P(row) + log P(column | row)` of the words in `cells`.

    Args:
        row_logits: `(..., R)` float32, from the column half-steps.
        column_logits: `(..., C)` float32, from the row half-steps.
        cells: `(...)` int32, the cells of the predicted words.

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


def _pick_log_softmax(logits: Tensor, indices: Tensor) -> Tensor:
    picked = ops.take_along_axis(logits, ops.expand_dims(indices, -1), axis=-1)
    return ops.squeeze(picked, -1) - ops.logsumexp(logits, axis=-1)
