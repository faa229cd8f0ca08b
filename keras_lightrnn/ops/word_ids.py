"""Word ids as tensors: their dtype, and ids outside the vocabulary."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.typing import Tensor, WordIds


def cast_word_ids(words: WordIds) -> Tensor:
    """Return `words` as int32 or int64, casting when they arrive as floats.

    Keras passes float32 to a layer when it builds a model on the mean of the batches of the
    replicas, or traces a default signature.

    Raises:
        TypeError: for booleans, strings and other values that are not numbers, and for ragged and
            sparse tensors.

    Example:

    >>> np.asarray(cast_word_ids([3.0, 1.0])).tolist()
    [3, 1]
    """
    if type(words).__name__ in ("RaggedTensor", "SparseTensor"):  # TensorFlow's
        raise TypeError(
            f"Word ids must be a dense tensor. Received: a {type(words).__name__}. Convert it with "
            "`RaggedTensor.to_tensor` or `tf.sparse.to_dense`, and give padding the sample weight "
            "0, or use `mask_zero=True`."
        )
    words = ops.convert_to_tensor(words)
    dtype = keras.backend.standardize_dtype(words.dtype)
    if not (keras.backend.is_int_dtype(dtype) or keras.backend.is_float_dtype(dtype)):
        raise TypeError(
            f"Word ids must be integers. Received: word ids of dtype {dtype}. Encode text with "
            "`Vocabulary.encode`."
        )
    if dtype in ("int32", "int64"):
        return words
    # An id that does not fit into int32 would become another word.
    return ops.cast(words, "int64" if dtype in ("uint32", "uint64") else "int32")


def check_word_ids(words: WordIds, vocabulary_size: int) -> None:
    """Raise `ValueError` if a NumPy array or list holds ids outside `[0, V)`.

    Example:

    >>> check_word_ids([[0, 7]], vocabulary_size=5)
    Traceback (most recent call last):
        ...
    ValueError: Word ids must lie in [0, 5). Received: the id 7 at position (0, 1) (1 of 2 ids lie \
outside). Map unknown words to the id of `<unk>`, or make the vocabulary larger.
    """
    words = np.asarray(words)
    outside = (words < 0) | (words >= vocabulary_size)
    if outside.any():
        position = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ValueError(
            f"Word ids must lie in [0, {vocabulary_size}). Received: the id {words[position]} at "
            f"position {position} ({int(outside.sum())} of {words.size} ids lie outside). "
            "Map unknown words to the id of `<unk>`, or make the vocabulary larger."
        )


def mark_invalid_ids(words: WordIds, vocabulary_size: int) -> Tensor:
    """Return 0.0 where an id lies in `[0, V)` and NaN where it does not, as float32.

    Added to what is computed from the ids, it makes a wrong id visible in compiled code, which
    clamps indices instead of raising.

    Example:

    >>> np.asarray(mark_invalid_ids(np.array([-1, 0, 5]), vocabulary_size=5)).tolist()
    [nan, 0.0, nan]
    """
    valid = ops.logical_and(words >= 0, words < vocabulary_size)
    # Computed, because `tf.debugging.enable_check_numerics` and `jax_debug_nans` stop at a constant
    # NaN even where it is not selected.
    return ops.sqrt(ops.cast(valid, "float32") - 1.0)
