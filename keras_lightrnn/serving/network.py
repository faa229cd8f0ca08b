"""A trained `LightRNNModel` in plain TensorFlow, for every format that is exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_lightrnn.models import LightRNNModel
from keras_lightrnn.table.allocation import Allocation

# Weights above it could overflow float32 in a product of three.
_MAX_WEIGHT = 1e12
_LEAST = float(np.finfo(np.float32).min)


class Network(tf.Module):
    """The weights of a `LightRNNModel` as float32 variables, and half-steps on them.

    It knows cells and no words. It uses matrix products, gathers and arithmetic only, which every
    runtime has; some runtimes lack the kernels that Keras may choose (cuDNN, XLA). States are a
    list of tensors `(n, H)`.

    Empty cells, and words whose bias is minus infinity, have the log-probability minus infinity.

    Args:
        model: `LightRNNModel`, built. Any Keras backend, any dtype policy.

    Attributes:
        empty_cells: `(R, ceil(C / 8))` uint8, one bit for each cell without a word; `None` for a
            full table.
        has_impossible_words: Boolean, whether a word has the probability 0 by its biases.
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
        self.column_bias = make_variable(
            np.zeros(self.num_columns) if softmax.column_bias is None else softmax.column_bias
        )
        allocation = table.allocation
        self.word_dim = model.word_dim
        if model.word_dim:
            self._copy_word_vectors(model)
        self.padding_cell = int(allocation.cells[0]) if model.mask_zero else None
        self._copy_biases(softmax, allocation)
        # A gather from it raises for a cell outside of the table, where arithmetic would not.
        self._row_starts = make_variable(np.arange(self.num_rows) * self.num_columns, tf.int32)

    def _copy_biases(self, softmax: Any, allocation: Allocation) -> None:
        is_impossible = is_empty = allocation.words < 0  # (R, C)
        if softmax.word_bias_values is None:
            row_bias = np.where(is_empty.all(axis=1), -np.inf, 0.0)
            self.word_bias = None
        else:
            word_bias = np.full(allocation.num_cells, -np.inf, np.float32)
            word_bias[allocation.cells] = ops.convert_to_numpy(softmax.word_bias_values)
            word_bias = word_bias.reshape(allocation.shape)
            row_bias = np.logaddexp.reduce(word_bias, axis=1, dtype=np.float64)
            is_impossible = np.isneginf(word_bias)
            # Finite numbers only: quantization to int8 scales by the largest one.
            self.word_bias = make_variable(np.where(is_impossible, 0, word_bias))  # (R, C)
        if softmax.row_bias is not None:
            row_bias = row_bias + ops.convert_to_numpy(softmax.row_bias)
        self.row_bias = make_variable(row_bias)  # (R,)
        self.empty_cells = _pack(is_empty) if is_empty.any() else None
        self._impossible_cells = self.empty_cells
        if (is_impossible != is_empty).any():
            self._impossible_cells = _pack(is_impossible)
        self.has_impossible_words = self._impossible_cells is not self.empty_cells or any(
            np.isneginf(ops.convert_to_numpy(bias)).any()
            for bias in (softmax.row_bias, softmax.column_bias)
            if bias is not None
        )

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

    def split_cells(self, cells: Any) -> tuple[Any, Any]:
        """Return the rows and the columns of cells. A cell outside of the table is an error."""
        rows = cells // self.num_columns
        return rows, cells - tf.gather(self._row_starts, rows)

    def is_read(self, cells: Any) -> Any:
        """Return which cells hold words other than padding. Padding does not change the states."""
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
        _, columns = self.split_cells(cells)
        inputs = tf.gather(self.column_embeddings, columns)
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
        """Return the log-probabilities of all columns, `(n, C)`, after a row half-step of `rows`.

        They are minus infinity for every column of a row without possible words.
        """
        logits = tf.matmul(self._hidden(states), self.column_kernel, transpose_b=True)
        logits += self.column_bias
        if self.word_bias is not None:
            logits += tf.gather(self.word_bias, rows)
        if self.word_dim:
            queries = tf.matmul(self._hidden(states), self.output_projection)  # (n, K)
            vectors = tf.gather(self.word_kernel, tf.gather(self.vector_indices, rows))
            logits += tf.reduce_sum(vectors * queries[:, None, :], axis=-1)  # (n, C)
        if self._impossible_cells is None:
            return tf.nn.log_softmax(logits)
        is_impossible = _unpack(self._impossible_cells, rows, self.num_columns)
        log_probs = tf.nn.log_softmax(tf.where(is_impossible, _LEAST, logits))
        return tf.where(is_impossible, float("-inf"), log_probs)

    def find_empty_cells(self, rows: Any) -> Any:
        """Return which cells of `rows` are empty, `(n, C)`; the table must not be full."""
        return _unpack(self.empty_cells, rows, self.num_columns)

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


_MAY_BE_MINUS_INFINITY = ("row_bias", "column_bias", "word_bias")

_LAYERS = {"lstm": _LSTM, "gru": _GRU, "rnn": _SimpleRNN}


def _pack(is_set: np.ndarray) -> tf.Variable:
    """Return booleans `(R, C)` as one bit each: a table of ten million words must be small."""
    return make_variable(np.packbits(is_set, axis=1, bitorder="little"), tf.uint8)


def _unpack(packed: tf.Variable, rows: Any, num_columns: int) -> Any:
    """Return the booleans of `rows`, `(n, C)`."""
    numbers = tf.cast(tf.gather(packed, rows), tf.int32)  # (n, C / 8)
    bits = numbers[:, :, None] // [1, 2, 4, 8, 16, 32, 64, 128] % 2
    return tf.reshape(bits, [-1, 8 * packed.shape[1]])[:, :num_columns] == 1


def make_variable(values: Any, dtype: Any = tf.float32) -> tf.Variable:
    """Return a constant of the exported graph, which is saved apart from it."""
    return tf.Variable(ops.convert_to_numpy(values), trainable=False, dtype=dtype)


def check_exportable(model: LightRNNModel) -> None:
    """Raise unless the model is a built `LightRNNModel` whose weights float32 can compute with."""
    if not isinstance(model, LightRNNModel):
        raise TypeError(
            f"`model` must be a `LightRNNModel`. Received: model={model!r}. Export other models of "
            "these layers with `model.export`, which writes log-probabilities."
        )
    if not model.built:
        raise ValueError(
            "`model` must be built before it is exported. Received: a model without weights. "
            "Train it, load it, or call `model.build`."
        )
    for weight in model.weights:
        values = ops.convert_to_numpy(weight)
        # Minus infinity makes words impossible, which is no error.
        is_allowed = np.isneginf(values) if weight.name in _MAY_BE_MINUS_INFINITY else False
        is_wrong = ~((np.abs(values) <= _MAX_WEIGHT) | is_allowed)
        if is_wrong.any():
            raise ValueError(
                f"Exported weights must be finite and at most {_MAX_WEIGHT:g} in absolute value. "
                f"Received: {np.count_nonzero(is_wrong)} other numbers in {weight.path}. The "
                "training has diverged: load earlier weights, and train with a lower learning rate "
                "or with `global_clipnorm`."
            )
