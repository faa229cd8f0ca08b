"""Weights of words, from sample weights and masks."""

from __future__ import annotations

from keras import ops

from keras_lightrnn._internal.typing import Dtype, Tensor, WordIds


def compute_word_weights(words: WordIds, *factors: Tensor, dtype: Dtype = "float32") -> Tensor:
    """Return the product of sample weights and masks for each word, of the shape of `words`.

    Args:
        words: `(B, T)`, a tensor with one element for each word.
        *factors: Sample weights or masks, one for each word, `(B, T)` or `(B, T, 1)`, or one for
            each window, `(B,)` or `(B, 1)`, or a scalar; `None` stands for ones.
        dtype: Dtype of the weights.

    Raises:
        ValueError: if a factor has another number of axes.

    Example:

    >>> import numpy as np
    >>> words, mask = np.array([[3, 1], [4, 0]]), np.array([[True, True], [True, False]])
    >>> np.asarray(compute_word_weights(words, [2.0, 3.0], None, mask)).tolist()
    [[2.0, 2.0], [3.0, 0.0]]
    """
    weights = ops.ones_like(words, dtype=dtype)
    for factor in factors:
        if factor is not None:
            factor = ops.cast(ops.convert_to_tensor(factor), dtype)
            rank = len(weights.shape)
            if len(factor.shape) == rank - 1:  # one for each window
                factor = ops.expand_dims(factor, -1)
            elif len(factor.shape) == rank + 1 and factor.shape[-1] == 1:
                factor = ops.squeeze(factor, -1)
            elif len(factor.shape) not in (0, rank):
                raise ValueError(
                    "There must be one weight for each word, or one for each window. Received: "
                    f"weights of shape {tuple(factor.shape)} for words of shape "
                    f"{tuple(weights.shape)}. Give weights of shape (B, T) or (B,)."
                )
            weights = weights * factor
    return weights
