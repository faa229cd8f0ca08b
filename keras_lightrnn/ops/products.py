"""Matrix products whose sums are float32 whatever their factors are."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def multiply(x: Any, kernel: Any) -> Any:
    """Return `x · kernel` as float32, with `x` cast to the type of `kernel` for the product.

    In low precision only inside what `compile_op` compiles: TensorFlow has no such
    product elsewhere.

    Example:

    >>> import numpy as np
    >>> np.asarray(multiply(np.float32([[1, 2]]), np.float32([[3], [4]]))).tolist()
    [[11.0]]
    """
    x = ops.cast(x, kernel.dtype)
    if keras.backend.standardize_dtype(kernel.dtype) == "float32":
        return ops.matmul(x, kernel)
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        return jnp.matmul(x, kernel, preferred_element_type="float32")
    import tensorflow as tf

    return tf.raw_ops.BatchMatMulV3(x=x, y=kernel, Tout=tf.float32)
