"""Look-ups in tables, and of word vectors in a table that may hold fewer than there are words."""

from __future__ import annotations

import keras
from keras import ops

from keras_lightrnn._internal.keras_internals import is_compiled_by_xla
from keras_lightrnn._internal.typing import Tensor, WordIds


def look_up(table: Tensor, indices: Tensor) -> Tensor:
    """Return the entries of a table, for indices that are never negative.

    On TensorFlow this is one operation, where `ops.take` adds five for negative indices.

    Args:
        table: `(N, ...)`, a tensor or a variable.
        indices: Integers in `[0, N)`, of any shape.

    Example:

    >>> import numpy as np
    >>> np.asarray(look_up(np.float32([5, 7]), np.int32([[1, 1]]))).tolist()
    [[7.0, 7.0]]
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(ops.convert_to_tensor(table), indices)
    return ops.take(table, indices, axis=0)


def order_by_cell(values: Tensor, cells: Tensor, words: WordIds) -> Tensor:
    """Return the entry of the word in each cell of a table; in other cells, anything.

    On TensorFlow outside of XLA, entries are read in order and written to their cells, which takes
    a fifth of the time of a look-up from large tables: a read out of order waits for its memory.

    Args:
        values: `(N, ...)`, the entries of the words `0 .. N - 1`.
        cells: `(V,)` int32, the cell of each word.
        words: `(R, C)` int32, the word in each cell, -1 in empty cells.

    Returns:
        `(R, C, ...)`.

    Example:

    >>> import numpy as np
    >>> values = np.float32([[5], [7]])
    >>> ordered = order_by_cell(values, np.int32([3, 1]), np.int32([[-1, 1], [-1, 0]]))
    >>> np.asarray(ordered)[:, 1].tolist()
    [[7.0], [5.0]]
    """
    size = values.shape[0]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not is_compiled_by_xla():  # which needs to know the cells to do this
            num_cells = words.shape[0] * words.shape[1]
            values = tf.convert_to_tensor(values)
            last = tf.zeros_like(values[:1])  # so that no cell is missing behind the last word
            ordered = tf.dynamic_stitch([[num_cells - 1], cells[:size]], [last, values])
            return tf.reshape(ordered, (*words.shape, *values.shape[1:]))
    return look_up(values, ops.clip(words, 0, size - 1))


def look_up_word_vectors(vectors: Tensor, words: WordIds) -> Tensor:
    """Return the vectors of words, and zeros for words without a vector.

    Args:
        vectors: `(N, K)`, the vectors of the words `0 .. N - 1`.
        words: `(...)` integers; -1 stands for no word.

    Returns:
        `(..., K)`.

    Example:

    >>> import numpy as np
    >>> np.asarray(look_up_word_vectors(np.float32([[5], [7]]), np.int32([1, 2, -1]))).tolist()
    [[7.0], [0.0], [0.0]]
    """
    size = vectors.shape[0]
    found = look_up(vectors, ops.clip(words, 0, size - 1))
    is_found = ops.logical_and(words >= 0, words < size)
    return ops.where(ops.expand_dims(is_found, -1), found, ops.zeros_like(found))
