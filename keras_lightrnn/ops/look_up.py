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


def look_up_many(table: Tensor, indices: Tensor) -> Tensor:
    """Return what `look_up` does, in less time for very many entries of few numbers.

    Args:
        table: `(N, ...)`.
        indices: Integers in `[0, N)`, of any shape.

    Example:

    >>> import numpy as np
    >>> np.asarray(look_up_many(np.float32([5, 7]), np.int32([[1, 1]]))).tolist()
    [[7.0, 7.0]]
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        flat = tf.reshape(indices, (-1, 1))  # of this shape, the gradient is sparse
        found = tf.gather_nd(ops.convert_to_tensor(table), flat)
        return tf.reshape(found, (*ops.shape(indices), *table.shape[1:]))
    return look_up(table, indices)


def order_by_cell(values: Tensor, cells: Tensor, words: WordIds) -> Tensor:
    """Return the entry of the word in each cell of a table, and zeros in other cells.

    On TensorFlow outside of XLA, entries are read in order and written to their cells, which takes
    a fifth of the time of a look-up from large tables: a read out of order waits for its memory.

    Args:
        values: `(N,)` or `(N, K)`, the entries of the words `0 .. N - 1`.
        cells: `(V,)` int32, the cell of each word.
        words: `(R, C)` int32, the word in each cell, -1 in empty cells.

    Returns:
        `(R, C)` or `(R, C, K)`.

    Example:

    >>> import numpy as np
    >>> values = np.float32([[5], [7]])
    >>> ordered = order_by_cell(values, np.int32([3, 1]), np.int32([[-1, 1], [-1, 0]]))
    >>> np.asarray(ordered).tolist()
    [[[0.0], [7.0]], [[0.0], [5.0]]]
    """
    if keras.backend.backend() == "tensorflow" and not is_compiled_by_xla():
        return _write_to_cells(values, cells, words)  # XLA needs to know the cells to do this
    if len(values.shape) == 1:
        return ops.squeeze(look_up_word_vectors(ops.expand_dims(values, 1), words), -1)
    return look_up_word_vectors(values, words)


def _write_to_cells(values: Tensor, cells: Tensor, words: WordIds) -> Tensor:
    import tensorflow as tf

    values = tf.convert_to_tensor(values)
    cells = tf.convert_to_tensor(cells)[: values.shape[0]]
    if values.shape.rank == 1:
        num_cells = words.shape[0] * words.shape[1]
        zero = tf.zeros((), values.dtype)
        ordered = tf.raw_ops.SparseToDense(
            sparse_indices=cells,
            output_shape=[num_cells],
            sparse_values=values,
            default_value=zero,
            validate_indices=False,  # they need not be sorted
        )
    else:
        flat = tf.reshape(words, [-1])
        is_other = tf.logical_or(flat < 0, flat >= values.shape[0])
        others = tf.cast(tf.where(is_other)[:, 0], tf.int32)
        zeros = tf.zeros([tf.shape(others)[0], values.shape[1]], values.dtype)
        ordered = tf.dynamic_stitch([cells, others], [values, zeros])
    return tf.reshape(ordered, (*words.shape, *values.shape[1:]))


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
