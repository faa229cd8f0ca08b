"""The recurrent stack of a `LightRNNModel` in training, on the package's own recurrence.

It reads the weights of the Keras layers, which go on saving, scoring and serving the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_lightrnn.ops import gru, lstm, mark_invalid_ids

if TYPE_CHECKING:
    from keras_lightrnn.models.light_rnn_model import LightRNNModel

RECURRENCE_PATHS = ("auto", "fused", "keras")


def is_fused(recurrence_path: str, recurrence: str) -> bool:
    """Return whether training takes this path, checking that it can where it is asked for."""
    if recurrence_path not in RECURRENCE_PATHS:
        raise ValueError(
            f"`recurrence_path` must be one of {RECURRENCE_PATHS}. Received: recurrence_path="
            f"{recurrence_path!r}."
        )
    backend = keras.backend.backend()
    is_possible = backend in ("tensorflow", "jax") and recurrence in ("lstm", "gru")
    if recurrence_path == "fused" and not is_possible:
        raise ValueError(
            'recurrence_path="fused" needs an LSTM or a GRU on the TensorFlow or the JAX backend. '
            f"Received: recurrence={recurrence!r}, backend {backend!r}. Leave it at "
            '"auto", which takes the Keras layers there.'
        )
    if recurrence_path == "auto" and backend == "tensorflow":
        import tensorflow as tf

        # There the Keras layers run on cuDNN.
        return is_possible and not tf.config.list_physical_devices("GPU")
    return is_possible and recurrence_path != "keras"


def run_fused(
    model: LightRNNModel, words: Any, states: list[list[Any]] | None, training: bool
) -> tuple[Any, list[list[Any]]]:
    """Embed windows and run the recurrent layers over their half-steps.

    Args:
        model: The model, built.
        words: `(B, T + 1)`.
        states: By layer, its states `(B, H)`; `None` for zeros.
        training: Boolean, whether dropout is applied.

    Returns:
        Hidden half-steps `(B, 2T, H)`, and the states after the last one.
    """
    mask = model.embedding.compute_mask(words)
    time_first_mask = None if mask is None else ops.transpose(mask)  # (2T, B)
    batch_size = ops.shape(words)[0]
    new_states = []
    x = None
    for index, layer in enumerate(model.recurrent_layers):
        if index == 0:
            inputs = _project_words(model, words, training)
        else:
            x = model.dropout_layers[index](x, training=training)
            inputs = _project(layer.cell, x)
        if states is None:
            first = [ops.zeros((batch_size, model.units), "float32")] * model.num_states
        else:
            first = states[index]
        if index == 0:
            # Compiled code clamps wrong ids in silence.
            invalid = mark_invalid_ids(words, model.word_table.vocabulary_size)
            first = [state + ops.sum(invalid, axis=1, keepdims=True) for state in first]
        x, last = _run_layer(model.recurrence, layer.cell, inputs, first, time_first_mask)
        x = ops.cast(x, model.compute_dtype)
        new_states.append(last)
    x = model.dropout_layers[-1](x, training=training)
    x = ops.transpose(x, (1, 0, 2))  # (B, 2T, H)
    if mask is not None:
        x._keras_mask = mask
    return x, new_states


def _project_words(model: LightRNNModel, words: Any, training: bool) -> Any:
    """Return the projected inputs of the first layer, `(2T, B, 4H)`."""
    embedding, cell = model.embedding, model.recurrent_layers[0].cell
    num_rows, num_columns = model.word_table.table_shape
    cells = model.word_table(words)  # (B, T + 1)
    # The half-steps c_0 r_1 c_1 r_2 ... as indices into the vectors of rows, then columns.
    columns, rows = num_rows + cells[:, :-1] % num_columns, cells[:, 1:] // num_columns
    indices = ops.reshape(ops.stack([columns, rows], axis=2), (ops.shape(words)[0], -1))
    indices = ops.transpose(indices)  # (2T, B)
    vectors = ops.concatenate([embedding.row_embeddings, embedding.column_embeddings])
    if model.dropout and training:
        x = ops.take(ops.cast(vectors, model.compute_dtype), indices, axis=0)  # (2T, B, D)
        return _project(cell, model.dropout_layers[0](x, training=training))
    # R + C products instead of 2T * B.
    return ops.take(_project(cell, vectors), indices, axis=0)


def _project(cell: Any, x: Any) -> Any:
    dtype = cell.compute_dtype
    kernel, bias = ops.cast(cell.kernel, dtype), ops.cast(cell.bias, "float32")
    if len(bias.shape) == 2:  # of a GRU: of the inputs, and of the recurrence
        bias = bias[0]
    return ops.cast(ops.matmul(ops.cast(x, dtype), kernel), "float32") + bias


def _run_layer(recurrence: str, cell: Any, inputs: Any, states: Any, mask: Any) -> Any:
    kernel = ops.cast(cell.recurrent_kernel, cell.compute_dtype)
    if recurrence == "lstm":
        return lstm(inputs, kernel, states, mask)
    return gru(inputs, kernel, ops.cast(cell.bias, "float32")[1], states, mask)
