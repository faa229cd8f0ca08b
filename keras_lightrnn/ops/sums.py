"""Scatter-add."""

from __future__ import annotations

import keras

from keras_lightrnn._internal.typing import Tensor


def add_rows(totals: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Return `totals` after `totals[places[i]] += values[i]` for every `i`.

    XLA computes it in the memory of `totals` where nothing else needs that. TensorFlow and JAX
    only.

    Args:
        totals: `(n, ...)`.
        places: `(m,)` int32, with repetitions.
        values: `(m, ...)`.

    Returns:
        `(n, ...)`.

    Example:

    >>> import numpy as np
    >>> added = add_rows(np.float32([1, 2, 3]), np.int32([2, 0, 2]), np.float32([10, 20, 30]))
    >>> np.asarray(added).tolist()
    [21.0, 2.0, 43.0]
    """
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        return jnp.asarray(totals).at[places].add(values)
    import tensorflow as tf

    return tf.tensor_scatter_nd_add(totals, places[:, None], values)
