"""The recurrent stack of a `LightRNNModel` in steps, on the package's recurrence.

It reads the weights of the Keras layers, which go on saving, searching and serving the model.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_lightrnn._internal.keras_internals import set_mask
from keras_lightrnn.ops import look_up_word_vectors, mark_invalid_ids
from keras_lightrnn.recurrence.fused import gru, lstm, rnn

if TYPE_CHECKING:
    from keras_lightrnn.models.light_rnn_model import LightRNNModel

RECURRENCE_PATHS = ("auto", "fused", "keras")
_RECURRENCES = {"lstm": lstm, "gru": gru, "rnn": rnn}
# Smaller ones are not divided: a product reads its whole matrix, however few rows it is for.
_LEAST_BATCH = 16


def is_fused(recurrence_path: str, recurrence: str) -> bool:
    """Return whether steps take this path; check that they can if asked to."""
    if recurrence_path not in RECURRENCE_PATHS:
        raise ValueError(
            f"`recurrence_path` must be one of {RECURRENCE_PATHS}. Received: recurrence_path="
            f"{recurrence_path!r}."
        )
    backend = keras.backend.backend()
    is_possible = backend in ("tensorflow", "jax")
    if recurrence_path == "fused" and not is_possible:
        raise ValueError(
            'recurrence_path="fused" needs the TensorFlow or the JAX backend. Received: backend '
            f'{backend!r}. Leave it at "auto", which takes the Keras layers there.'
        )
    if recurrence_path == "auto" and backend == "tensorflow" and recurrence in ("lstm", "gru"):
        import tensorflow as tf

        # There the Keras layers run on cuDNN.
        return not tf.config.list_physical_devices("GPU")
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
    if states is None:
        zeros = ops.zeros((ops.shape(words)[0], model.units), "float32")
        states = [[zeros] * model.num_states for _ in model.recurrent_layers]
    states = [[ops.cast(state, "float32") for state in some] for some in states]
    # Compiled code clamps wrong ids in silence.
    invalid = mark_invalid_ids(words, model.word_table.vocabulary_size)
    invalid = ops.sum(invalid, axis=1, keepdims=True)  # (B, 1)
    states = [[state + invalid for state in states[0]], *states[1:]]

    added = (None, None)
    has_dropout = model.dropout and training
    if has_dropout:  # of every half-step on its own: there is no table to project
        x, indices = ops.transpose(model.embedding(words), (1, 0, 2)), None  # (2T, B, D)
    else:
        x, indices = _look_up(model, words)
        if model.word_dim:
            added = _add_word_vectors(model, words)
    num_parts = _choose_num_parts(model, words.shape[0])
    new_states = []
    for layer, dropout, first in zip(
        model.recurrent_layers, model.dropout_layers, states, strict=False
    ):
        if has_dropout:
            x = dropout(x, training=training)
        cell, dtype = layer.cell, layer.compute_dtype
        weights = [ops.cast(kernel, dtype) for kernel in (cell.kernel, cell.recurrent_kernel)]
        weights.append(ops.cast(cell.bias, "float32"))
        run = _RECURRENCES[model.recurrence]
        x, last = run(x, weights, first, time_first_mask, indices, added, num_parts)
        x, indices, added = ops.cast(x, dtype), None, (None, None)
        new_states.append(last)
    x = model.dropout_layers[-1](x, training=training)
    x = ops.transpose(x, (1, 0, 2))  # (B, 2T, H)
    if mask is not None:
        set_mask(x, mask)
    return x, new_states


def _choose_num_parts(model: LightRNNModel, batch_size: int | None) -> int:
    """Return in how many parts TensorFlow is to run a batch at the same time.

    Measured on two cores, where three or four were slower than two. Programs that XLA makes of
    whole steps, and GPUs, run one after the other; replicas on one CPU share its cores already.
    """
    if keras.backend.backend() != "tensorflow" or model.jit_compile:
        return 1
    import tensorflow as tf

    is_busy = tf.distribute.get_strategy().num_replicas_in_sync > 1
    is_small = batch_size is not None and batch_size < _LEAST_BATCH
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    return 1 if is_busy or is_small or has_gpu or _count_cores() == 1 else 2


def _count_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _look_up(model: LightRNNModel, words: Any) -> tuple[Any, Any]:
    """Return the vectors of rows, then columns, and the indices `(2T, B)` of the half-steps."""
    num_rows, num_columns = model.word_table.table_shape
    cells = model.word_table(words)  # (B, T + 1)
    # The half-steps c_0 r_1 c_1 r_2 ... of every window.
    columns, rows = num_rows + cells[:, :-1] % num_columns, cells[:, 1:] // num_columns
    indices = ops.reshape(ops.stack([columns, rows], axis=2), (ops.shape(words)[0], -1))
    embedding = model.embedding
    vectors = ops.concatenate([embedding.row_embeddings, embedding.column_embeddings])
    return ops.cast(vectors, model.compute_dtype), ops.transpose(indices)


def _add_word_vectors(model: LightRNNModel, words: Any) -> tuple[Any, Any]:
    """Return the words' own vectors, `(2T, B, K)`, and what takes them to the gates, `(K, 4H)`.

    The products with the vectors of rows and columns are looked up; these are small.
    """
    projection, kernel = (
        ops.cast(weight, model.compute_dtype)
        for weight in (model.embedding.word_projection, model.recurrent_layers[0].cell.kernel)
    )
    vectors = ops.convert_to_tensor(model.embedding.word_embeddings)
    vectors = look_up_word_vectors(vectors, words[:, :-1])  # (B, T, K)
    vectors = ops.cast(vectors, model.compute_dtype)
    pairs = ops.stack([vectors, ops.zeros_like(vectors)], axis=2)  # rows are read without
    half_steps = ops.reshape(pairs, (ops.shape(words)[0], -1, model.word_dim))
    return ops.transpose(half_steps, (1, 0, 2)), ops.matmul(projection, kernel)
