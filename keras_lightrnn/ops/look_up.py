"""Look-ups in tables, and of word vectors in a table that may hold fewer than there are words."""

from __future__ import annotations

import keras
from keras import ops

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
