"""TensorFlow's operations by the names of `keras.ops`, as far as the searches in a graph use them.

Exported models trace TensorFlow from every backend, where `keras.ops` would be another library. On
the TensorFlow backend, the searches use these operations as well, which take fewer steps than
those of `keras.ops`: indices are never negative, and shapes need no broadcasting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_lightrnn._internal.typing import Tensor

argsort = tf.argsort
broadcast_to = tf.broadcast_to
cast = tf.cast
concatenate = tf.concat
cond = tf.cond
convert_to_tensor = tf.convert_to_tensor
expand_dims = tf.expand_dims
isnan = tf.math.is_nan
log_softmax = tf.nn.log_softmax
logical_and = tf.logical_and
logical_not = tf.logical_not
logical_or = tf.logical_or
logsumexp = tf.reduce_logsumexp
max = tf.reduce_max
maximum = tf.maximum
min = tf.reduce_min
minimum = tf.minimum
pad = tf.pad
reshape = tf.reshape
scatter_update = tf.tensor_scatter_nd_update
squeeze = tf.squeeze
sum = tf.reduce_sum
top_k = tf.math.top_k
transpose = tf.transpose
where = tf.where
zeros_like = tf.zeros_like


def all(x: Tensor) -> Any:
    return tf.reduce_all(x)


def any(x: Tensor) -> Any:
    return tf.reduce_any(x)


def arange(size: Tensor, dtype: str = "int32") -> Any:
    return tf.range(size, dtype=dtype)


def full(shape: Sequence[Tensor], value: float, dtype: str) -> Any:
    return tf.fill(shape, tf.constant(value, dtype))


def logaddexp(x: Tensor, y: Tensor) -> Any:
    larger = tf.maximum(x, y)
    difference = tf.minimum(x, y) - tf.maximum(larger, tf.float32.min)  # not NaN for two of -inf
    return larger + tf.math.log1p(tf.exp(difference))


def shape(x: Tensor) -> tuple[Any, ...]:
    """Return the shape as far as it is known, and scalar tensors for the rest."""
    known = x.shape.as_list()
    if None not in known:
        return tuple(known)
    sizes = tf.shape(x)
    return tuple(sizes[i] if size is None else size for i, size in enumerate(known))


def take(x: Tensor, indices: Tensor, axis: int) -> Any:
    if axis == 0:  # by an operation that takes less time for many short entries
        return tf.gather_nd(x, tf.expand_dims(indices, -1))
    return tf.gather(x, indices, axis=axis)


def take_along_axis(x: Tensor, indices: Tensor, axis: int) -> Any:
    """As in `keras.ops`, along the last axis, for tensors whose other axes are the same."""
    return tf.gather(x, indices, batch_dims=axis)


def while_loop(
    cond: Callable[..., Any], body: Callable[..., Any], loop_vars: Sequence[Tensor]
) -> Any:
    return tf.while_loop(cond, body, loop_vars)


def zeros(shape: Sequence[Tensor], dtype: str) -> Any:
    return tf.zeros(shape, dtype)
