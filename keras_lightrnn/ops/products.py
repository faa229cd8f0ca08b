"""Matrix products with float32 sums for factors of any dtype."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.typing import Tensor
from keras_lightrnn.ops.compiled_op import uses_xla


def project(x: Tensor, kernel: Tensor) -> Tensor:
    """Return `x · kernel` as one product of two matrices, whatever the axes of `x` are.

    TensorFlow 2.18 corrupts memory in products of a tensor of more axes with a matrix on CPUs, and
    one product is faster.

    Args:
        x: `(..., k)`.
        kernel: `(k, m)`, of the same dtype.

    Returns:
        `(..., m)`, of the same dtype.

    Example:

    >>> import numpy as np
    >>> tuple(project(np.ones((2, 3, 4), "float32"), np.ones((4, 5), "float32")).shape)
    (2, 3, 5)
    """
    product = ops.matmul(ops.reshape(x, (-1, kernel.shape[0])), kernel)
    return ops.reshape(product, (*ops.shape(x)[:-1], kernel.shape[1]))


def multiply_by_row(ops: Any, queries: Any, vectors: Any) -> Any:
    """Return the products of queries of each row with the vectors of its cells.

    One product for each row, of all texts together, takes less time than `einsum` on TensorFlow.

    Args:
        ops: Namespace of operations, `keras.ops` or `tf`.
        queries: `(B, R, M, K)`.
        vectors: `(R, C, K)`.

    Returns:
        `(B, R, M, C)`.

    Example:

    >>> import numpy as np
    >>> queries, vectors = np.ones((2, 3, 1, 4), "float32"), np.ones((3, 5, 4), "float32")
    >>> tuple(multiply_by_row(ops, queries, vectors).shape)
    (2, 3, 1, 5)
    """
    num_rows, num_components, size = queries.shape[1:]
    queries = ops.reshape(ops.transpose(queries, (1, 0, 2, 3)), (num_rows, -1, size))
    products = ops.matmul(queries, ops.transpose(vectors, (0, 2, 1)))  # (R, B M, C)
    products = ops.reshape(products, (num_rows, -1, num_components, vectors.shape[1]))
    return ops.transpose(products, (1, 0, 2, 3))


def multiply(x: Tensor, kernel: Tensor) -> Tensor:
    """Return `x · kernel` as float32, with `x` cast to the dtype of `kernel` for the product.

    TensorFlow has a product of low-precision factors with float32 sums in XLA only. The graph of
    such a product must therefore be part of a function that `compile_op` compiles.

    Args:
        x: `(..., n, k)`.
        kernel: `(..., k, m)`, of any float dtype.

    Returns:
        `(..., n, m)` float32.

    Example:

    >>> import numpy as np
    >>> np.asarray(multiply(np.float32([[1, 2]]), np.float32([[3], [4]]))).tolist()
    [[11.0]]
    """
    dtype = keras.backend.standardize_dtype(kernel.dtype)
    x = ops.cast(x, dtype)
    if dtype in ("float32", "float64"):
        return ops.cast(ops.matmul(x, kernel), "float32")
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        return jnp.matmul(x, kernel, preferred_element_type="float32")
    import tensorflow as tf

    if tf.executing_eagerly() or not uses_xla():
        return tf.matmul(tf.cast(x, tf.float32), tf.cast(kernel, tf.float32))
    return tf.raw_ops.BatchMatMulV3(x=x, y=kernel, Tout=tf.float32)
