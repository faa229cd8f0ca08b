"""Conversion between windows of words and sequences of half-steps."""

from __future__ import annotations

from keras import ops

from keras_lightrnn._internal.typing import Tensor


def interleave_components(row_vectors: Tensor, column_vectors: Tensor) -> Tensor:
    """Order the components of a window as half-steps `c_0 r_1 c_1 r_2 ... c_{T-1} r_T`.

    Args:
        row_vectors: Row components of the words `0..T`, `(B, T + 1, D)`.
        column_vectors: Column components of the same words, `(B, T + 1, D)`.

    Returns:
        Half-steps `(B, 2T, D)`.

    Example:

    >>> import numpy as np
    >>> rows, columns = np.array([[[0], [2], [4]]]), np.array([[[1], [3], [5]]])
    >>> [int(x) for x in np.asarray(interleave_components(rows, columns)).ravel()]
    [1, 2, 3, 4]
    """
    pairs = ops.stack([column_vectors[:, :-1], row_vectors[:, 1:]], axis=2)  # (B, T, 2, D)
    batch_size, _, _, dim = ops.shape(pairs)
    length = row_vectors.shape[1]
    # A length that is known stays known, so that a softmax can check it against the targets.
    num_half_steps = -1 if length is None else 2 * (length - 1)
    return ops.reshape(pairs, (batch_size, num_half_steps, dim))  # (B, 2T, D)


def split_half_steps(half_steps: Tensor) -> tuple[Tensor, Tensor]:
    """Split half-steps `(B, 2T, H)` into column half-steps and row half-steps, `(B, T, H)` each.

    The column half-steps (even) predict rows, the row half-steps (odd) predict columns.

    Example:

    >>> import numpy as np
    >>> columns, rows = split_half_steps(np.arange(6).reshape(1, 6, 1))
    >>> [int(x) for x in np.ravel(columns)], [int(x) for x in np.ravel(rows)]
    ([0, 2, 4], [1, 3, 5])
    """
    shape = ops.shape(half_steps)
    # About twenty times as fast on TensorFlow as strided slices, `half_steps[:, ::2]`.
    pairs = ops.reshape(half_steps, (shape[0], -1, 2, *shape[2:]))
    column_half_steps, row_half_steps = ops.unstack(pairs, 2, axis=2)
    return column_half_steps, row_half_steps
