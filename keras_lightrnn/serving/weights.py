"""Weights of a model as variables of an exported graph."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_lightrnn.layers import GatedRowReader

# A product of three larger weights could overflow float32.
_MAX_WEIGHT = 1e12
# In these, minus infinity makes words impossible, which is allowed.
_MAY_BE_MINUS_INFINITY = ("row_bias", "column_bias", "word_bias")


def make_variable(values: Any, dtype: Any = tf.float32) -> tf.Variable:
    """Return a variable of the exported graph, saved outside of the graph definition."""
    return tf.Variable(ops.convert_to_numpy(values), trainable=False, dtype=dtype)


def gather(variable: tf.Variable, indices: tf.Tensor) -> tf.Tensor:
    """Return entries of a variable that is also read as a whole.

    After `tf.gather` of a variable itself, TensorFlow copies the variable whenever it is read.
    """
    return tf.gather(tf.convert_to_tensor(variable), indices)


def check_row_reader(softmax: Any) -> None:
    """Raise unless exports support the row reader of a softmax."""
    reader = softmax.row_reader
    if reader is not None and type(reader) is not GatedRowReader:
        raise TypeError(
            "Exports need a softmax whose row reader is a `GatedRowReader`. Received: row_reader="
            f"{reader.name!r} (of type {type(reader).__name__}). Export log-probabilities with "
            "`model.export`."
        )


def check_weights(model: keras.Model) -> None:
    """Raise unless the model is built and its weights are suitable for float32."""
    if not model.built:
        raise ValueError(
            "`model` must be built before it is exported. Received: a model without weights. "
            "Train it, load it, or call `model.build`."
        )
    for weight in model.weights:
        values = ops.convert_to_numpy(weight)
        is_allowed = np.isneginf(values) if weight.name in _MAY_BE_MINUS_INFINITY else False
        is_wrong = ~((np.abs(values) <= _MAX_WEIGHT) | is_allowed)
        if is_wrong.any():
            raise ValueError(
                f"Exported weights must be finite and at most {_MAX_WEIGHT:g} in absolute value. "
                f"Received: {np.count_nonzero(is_wrong)} other numbers in {weight.path}. The "
                "training has diverged: load earlier weights, and train with a lower learning rate "
                "or with `global_clipnorm`."
            )
