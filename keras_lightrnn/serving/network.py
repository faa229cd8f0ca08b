"""A trained `LightRNNModel` in plain TensorFlow, for every format that is exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_lightrnn.models import LightRNNModel
from keras_lightrnn.ops import EMPTY_CELL_LOGIT


class Network(tf.Module):
    """The weights of a `LightRNNModel` as float32 variables, and half-steps on them.

    It knows cells only, no words. Its operations are a matrix product, a gather and
    some arithmetic: every runtime has them, where the kernels that Keras may choose (cuDNN, XLA)
    are missing from some. States are a list of tensors `(n, H)`.

    Args:
        model: `LightRNNModel`, built. Any Keras backend, any dtype policy.
    """

    def __init__(self, model: LightRNNModel) -> None:
        super().__init__()
        table = model.word_table
        self.num_rows, self.num_columns = table.table_shape
        self.units = model.units
        self.row_embeddings = make_variable(model.embedding.row_embeddings)
        self.column_embeddings = make_variable(model.embedding.column_embeddings)
        make_layer = _LAYERS[model.recurrence]
        self.layers = [make_layer(layer.cell) for layer in model.recurrent_layers]
        self.num_states = sum(layer.num_states for layer in self.layers)

        softmax = model.softmax
        self.row_kernel = make_variable(softmax.row_kernel)
        self.column_kernel = make_variable(softmax.column_kernel)
        # The layer says itself what it adds to logits of zero.
        no_units = ops.zeros((1, model.units))
        row_bias = softmax.compute_row_logits(no_units)
        self.row_bias = make_variable(row_bias[0])
        self.column_bias = make_variable(
            np.zeros(self.num_columns) if softmax.column_bias is None else softmax.column_bias
        )
        allocation = table.allocation
        self.word_dim = model.word_dim
        if model.word_dim:
            self._copy_word_vectors(model)
        self.padding_cell = int(allocation.cells[0]) if model.mask_zero else None
        self.word_bias = None
        if softmax.word_bias_values is not None:
            word_bias = np.zeros(allocation.num_cells, np.float32)
            word_bias[allocation.cells] = ops.convert_to_numpy(softmax.word_bias_values)
            self.word_bias = make_variable(word_bias.reshape(allocation.shape))  # (R, C)
        self.empty_cells: Any = None
        if table.vocabulary_size < allocation.num_cells:
            # One bit a cell: a table of ten million words is meant to be small.
            empty = np.packbits(allocation.words < 0, axis=1, bitorder="little")
            self.empty_cells = make_variable(empty, tf.uint8)  # (R, C / 8)

    def _copy_word_vectors(self, model: LightRNNModel) -> None:
        embeddings = ops.convert_to_numpy(model.embedding.word_embeddings)  # (N, K)
        kernel = ops.convert_to_numpy(model.softmax.word_kernel)
        no_vector = np.zeros((1, model.word_dim), np.float32)
        self.word_embeddings = make_variable(np.concatenate([embeddings, no_vector]))
        self.word_kernel = make_variable(np.concatenate([kernel, no_vector]))
        self.input_projection = make_variable(model.embedding.word_projection)  # (K, D)
        self.output_projection = make_variable(model.softmax.word_projection)  # (H, K)
        words = model.word_table.allocation.words
        has_vector = (words >= 0) & (words < len(embeddings))
        indices = np.where(has_vector, words, len(embeddings))
        self.vector_indices = make_variable(indices, tf.int32)  # (R, C)

    def is_read(self, cells: Any) -> Any:
        """Return which cells hold words, and not padding, which leaves the states as they are."""
        if self.padding_cell is None:
            return tf.ones(tf.shape(cells), tf.bool)
        return cells != self.padding_cell

    def make_states(self, size: Any) -> list[Any]:
        """Return the zero state of `size` texts."""
        return [tf.zeros([size, self.units])] * self.num_states

    def read_rows(self, rows: Any, states: list[Any]) -> list[Any]:
        """Return the states after the row half-step that reads `rows`, `(n,)`."""
        return self._read(tf.gather(self.row_embeddings, rows), states)

    def read_columns(self, cells: Any, states: list[Any]) -> list[Any]:
        """Return the states after the column half-step that reads the words of `cells`, `(n,)`."""
        inputs = tf.gather(self.column_embeddings, cells % self.num_columns)
        if self.word_dim:
            indices = tf.gather(tf.reshape(self.vector_indices, [-1]), cells)
            vectors = tf.gather(self.word_embeddings, indices)  # (n, K)
            inputs += tf.matmul(vectors, self.input_projection)
        return self._read(inputs, states)

    def _read(self, inputs: Any, states: list[Any]) -> list[Any]:
        new_states: list[Any] = []
        for layer in self.layers:
            start = len(new_states)
            state = layer(inputs, states[start : start + layer.num_states])
            inputs = state[0]
            new_states += state
        return new_states

    def compute_row_log_probs(self, states: list[Any]) -> Any:
        """Return the log-probabilities of all rows, `(n, R)`, after a column half-step."""
        logits = tf.matmul(self._hidden(states), self.row_kernel, transpose_b=True)
        return tf.nn.log_softmax(logits + self.row_bias)

    def compute_column_log_probs(self, rows: Any, states: list[Any]) -> Any:
        """Return the log-probabilities of all columns, `(n, C)`, after `rows` were read."""
        logits = tf.matmul(self._hidden(states), self.column_kernel, transpose_b=True)
        logits += self.column_bias
        if self.word_bias is not None:
            logits += tf.gather(self.word_bias, rows)
        if self.word_dim:
            queries = tf.matmul(self._hidden(states), self.output_projection)  # (n, K)
            vectors = tf.gather(self.word_kernel, tf.gather(self.vector_indices, rows))
            logits += tf.reduce_sum(vectors * queries[:, None, :], axis=-1)  # (n, C)
        if self.empty_cells is not None:
            logits += EMPTY_CELL_LOGIT * tf.cast(self.find_empty_cells(rows), tf.float32)
        return tf.nn.log_softmax(logits)

    def find_empty_cells(self, rows: Any) -> Any:
        """Return 1 where a cell of `rows` is empty and 0 elsewhere, `(n, C)` int32."""
        packed = tf.cast(tf.gather(self.empty_cells, rows), tf.int32)  # (n, C / 8)
        bits = packed[:, :, None] // [1, 2, 4, 8, 16, 32, 64, 128] % 2
        bits = tf.reshape(bits, [-1, 8 * self.empty_cells.shape[1]])
        return bits[:, : self.num_columns]

    def _hidden(self, states: list[Any]) -> Any:
        return states[-self.layers[-1].num_states]


class _Recurrence(tf.Module):
    num_states = 1  # the first is what the next layer reads

    def __init__(self, weights: Any) -> None:
        super().__init__()
        self.kernel = make_variable(weights.kernel)
        self.recurrent_kernel = make_variable(weights.recurrent_kernel)
        self.bias = make_variable(weights.bias)


class _LSTM(_Recurrence):
    num_states = 2

    def __call__(self, inputs: Any, states: list[Any]) -> list[Any]:
        hidden, memory = states
        gates = tf.matmul(inputs, self.kernel) + tf.matmul(hidden, self.recurrent_kernel)
        i, f, g, o = tf.split(gates + self.bias, 4, axis=-1)
        memory = tf.sigmoid(f) * memory + tf.sigmoid(i) * tf.tanh(g)
        return [tf.sigmoid(o) * tf.tanh(memory), memory]


class _GRU(_Recurrence):
    def __call__(self, inputs: Any, states: list[Any]) -> list[Any]:
        hidden = states[0]
        xz, xr, xg = tf.split(tf.matmul(inputs, self.kernel) + self.bias[0], 3, axis=-1)
        recurrent = tf.matmul(hidden, self.recurrent_kernel) + self.bias[1]
        hz, hr, hg = tf.split(recurrent, 3, axis=-1)
        z = tf.sigmoid(xz + hz)
        return [z * hidden + (1 - z) * tf.tanh(xg + tf.sigmoid(xr + hr) * hg)]


class _SimpleRNN(_Recurrence):
    def __call__(self, inputs: Any, states: list[Any]) -> list[Any]:
        products = tf.matmul(inputs, self.kernel) + tf.matmul(states[0], self.recurrent_kernel)
        return [tf.tanh(products + self.bias)]


# They make words impossible, which is no error.
_MAY_BE_MINUS_INFINITY = ("row_bias", "column_bias", "word_bias")

_LAYERS = {"lstm": _LSTM, "gru": _GRU, "rnn": _SimpleRNN}


def make_variable(values: Any, dtype: Any = tf.float32) -> tf.Variable:
    """Return a constant of the exported graph, which is saved apart from it."""
    return tf.Variable(ops.convert_to_numpy(values), trainable=False, dtype=dtype)


def check_exportable(model: LightRNNModel) -> None:
    """Raise unless the model is a `LightRNNModel` and has weights that are numbers."""
    if not isinstance(model, LightRNNModel):
        raise TypeError(
            f"What is exported is a `LightRNNModel`. Received: model={model!r}. Other models that "
            "are made of the layers export log-probabilities with `model.export`."
        )
    if not model.built:
        raise ValueError(
            "A model must be built before it is exported. Received: a model without weights. "
            "Train it, load it, or call `model.build`."
        )
    for weight in model.weights:
        values = ops.convert_to_numpy(weight)
        is_number = np.isfinite(values)
        if weight.name in _MAY_BE_MINUS_INFINITY:
            is_number |= values == -np.inf
        if not is_number.all():
            raise ValueError(
                "The weights of what is exported must be finite. Received: a model with "
                f"{np.count_nonzero(~is_number)} numbers in {weight.path} that are not. Its "
                "training has diverged: load weights from before, and train with a lower learning "
                "rate or with `global_clipnorm`."
            )
