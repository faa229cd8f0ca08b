"""A trained `TwoComponentSoftmax` in plain TensorFlow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from keras_lightrnn.layers import TwoComponentSoftmax
from keras_lightrnn.ops.products import multiply_by_row
from keras_lightrnn.serving.weights import gather, make_variable
from keras_lightrnn.serving.word_vectors import ServedVectors, make_vectors, share_vectors
from keras_lightrnn.table.allocation import Allocation

_LEAST = float(np.finfo(np.float32).min)


class ServedSoftmax(tf.Module):
    """Log-probabilities of rows, and of columns given their row, in float32.

    Empty cells, and words whose bias is minus infinity, have the log-probability minus infinity.

    Args:
        softmax: `TwoComponentSoftmax`, built, or that of a further table.
        vectors: The `ServedVectors` of a further table. Those of the first are made from the layer.

    Attributes:
        num_rows, num_columns: Integers `R` and `C`.
        num_components: Integer `M`, the components of the prediction.
        word_dim: Integer, the size of word vectors, or 0.
        vectors: `ServedVectors`, if `word_dim` is not 0.
        tables: The softmax of each word table: this one.
        empty_cells: `(R, ceil(C / 8))` uint8, one bit for each cell without a word; `None` for a
            full table.
        has_impossible_words: Boolean, whether the biases give any word the probability 0.
    """

    def __init__(self, softmax: TwoComponentSoftmax, vectors: ServedVectors | None = None) -> None:
        super().__init__()
        allocation = softmax.word_table.allocation
        self.num_rows, self.num_columns = allocation.shape
        self.num_components = softmax.num_components
        self.word_dim = softmax.word_dim
        self.row_kernel = make_variable(softmax.row_kernel)
        self.column_kernel = make_variable(softmax.column_kernel)
        column_bias = softmax.column_bias
        self.column_bias = make_variable(
            np.zeros(self.num_columns) if column_bias is None else column_bias
        )
        self._copy_biases(softmax, allocation)
        if self.word_dim:
            self.vectors = vectors or make_vectors(softmax.word_kernel, allocation)
            self.vectors.keep_in_order()
            self.word_projection = make_variable(softmax.word_projection)  # (H, K)

    @property
    def tables(self) -> list[ServedSoftmax]:
        return [self]

    def _copy_biases(self, softmax: TwoComponentSoftmax, allocation: Allocation) -> None:
        is_impossible = is_empty = allocation.words < 0  # (R, C)
        if softmax.word_bias_values is None:
            row_bias = np.where(is_empty.all(axis=1), -np.inf, 0.0)
            self.word_bias = None
        else:
            by_cell = np.full(allocation.num_cells, -np.inf, np.float32)
            by_cell[allocation.cells] = ops.convert_to_numpy(softmax.word_bias_values)
            word_bias = by_cell.reshape(allocation.shape)
            row_bias = np.asarray(np.logaddexp.reduce(word_bias, axis=1, dtype=np.float64))
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

    def compute_row_log_probs(self, queries: tf.Tensor) -> tf.Tensor:
        """Return the log-probabilities of all rows, `(n, M, H) -> (n, M, R)`."""
        return tf.nn.log_softmax(_project(queries, self.row_kernel, self.row_bias))

    def compute_column_log_probs(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Return the log-probabilities of all columns of rows, `(n, M, H), (n,) -> (n, M, C)`.

        They are minus infinity for every column of a row without possible words.
        """
        logits = _project(queries, self.column_kernel, self.column_bias)
        if self.word_bias is not None:
            logits += tf.expand_dims(gather(self.word_bias, rows), 1)
        if self.word_dim:
            logits += self._compute_vector_terms(queries, rows)
        if self._impossible_cells is None:
            return tf.nn.log_softmax(logits)
        is_impossible = _unpack(self._impossible_cells, rows, self.num_columns)
        return _log_softmax(logits, tf.expand_dims(is_impossible, 1))

    def compute_all_column_log_probs(self, queries: tf.Tensor) -> tf.Tensor:
        """Return the same of all rows, in order, `(n, R, M, H) -> (n, R, M, C)`."""
        num_components, units = queries.shape[2:]
        flat = tf.reshape(queries, [-1, num_components, units])
        logits = _project(flat, self.column_kernel, self.column_bias)
        logits = tf.reshape(logits, [-1, self.num_rows, num_components, self.num_columns])
        if self.word_bias is not None:
            logits += self.word_bias[:, None]
        if self.word_dim:
            queries = tf.matmul(tf.reshape(queries, [-1, units]), self.word_projection)
            queries = tf.reshape(queries, [-1, self.num_rows, num_components, self.word_dim])
            logits += multiply_by_row(tf, queries, self.vectors.read_all())
        if self._impossible_cells is None:
            return tf.nn.log_softmax(logits)
        is_impossible = _unpack_all(self._impossible_cells, self.num_columns)
        return _log_softmax(logits, tf.expand_dims(is_impossible, 1))

    def _compute_vector_terms(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        queries = tf.matmul(tf.reshape(queries, [-1, queries.shape[-1]]), self.word_projection)
        queries = tf.reshape(queries, [tf.shape(rows)[0], -1, self.word_dim])  # (n, M, K)
        return tf.matmul(queries, self.vectors.read_rows(rows), transpose_b=True)

    def find_empty_cells(self, rows: tf.Tensor) -> tf.Tensor:
        """Return which cells of `rows` are empty, `(n, C)`; the table must not be full."""
        return _unpack(self.empty_cells, rows, self.num_columns)


class ServedReaderSoftmax(ServedSoftmax):
    """A softmax with a gated row reader: predicts words from states `(n, H)` of any network.

    Args:
        softmax: `TwoComponentSoftmax` with a `GatedRowReader`, built, or that of a further table.
        vectors: See `ServedSoftmax`.
    """

    def __init__(self, softmax: TwoComponentSoftmax, vectors: ServedVectors | None = None) -> None:
        super().__init__(softmax, vectors)
        reader = softmax.row_reader
        self.query_kernel = make_variable(softmax.query_kernel)  # (H, M H)
        self.query_bias = make_variable(softmax.query_bias)
        self.row_gate = make_variable(reader.row_gate)
        self.row_shift = None if reader.row_shift is None else make_variable(reader.row_shift)
        self.component_kernel = None
        if softmax.component_kernel is not None:
            self.component_kernel = make_variable(softmax.component_kernel)  # (H, tables M)
            self.component_bias = make_variable(softmax.component_bias)

    def compute_component_log_probs(self, states: tf.Tensor) -> tf.Tensor:
        """Return the log-weights of the components of all tables, `(n, H) -> (n, tables M)`."""
        weights = tf.matmul(states, self.component_kernel) + self.component_bias
        return tf.nn.log_softmax(weights)

    def predict_rows(
        self, states: tf.Tensor, log_weights: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return the log-probabilities of the next rows, `(n, R)`, and a context.

        The context is the queries `(n, M, H)` and, for a mixture, the log of the share that each
        component has in each row, `(n, R, M)`.

        Args:
            states: `(n, H)`.
            log_weights: `(n, M)`, the log-weights of this table's components; `None` if it is the
                only table.
        """
        queries = tf.tanh(tf.matmul(states, self.query_kernel) + self.query_bias)
        queries = tf.reshape(queries, [-1, self.num_components, self.row_kernel.shape[1]])
        log_probs = self.compute_row_log_probs(queries)  # (n, M, R)
        if log_weights is None and self.component_kernel is not None:
            log_weights = self.compute_component_log_probs(states)
        joint = log_probs if log_weights is None else log_weights[:, :, None] + log_probs
        if self.num_components == 1:
            return tf.squeeze(joint, 1), [queries]
        row_log_probs = _log_sum_exp(joint)  # (n, R)
        # The shares of an impossible row must not be NaN.
        shares = joint - tf.maximum(row_log_probs, _LEAST)[:, None]
        return row_log_probs, [queries, tf.transpose(shares, [0, 2, 1])]

    def expand_rows(
        self, texts: tf.Tensor | None, rows: tf.Tensor, context: list[tf.Tensor]
    ) -> tf.Tensor:
        """Return the log-probabilities of columns given rows, `(m, C)`.

        Args:
            texts: `(m,)` int32, the text that each row follows; `None` for one row for each text.
            rows: `(m,)` int32.
            context: The second result of `predict_rows`.
        """
        queries, *shares = context
        if texts is not None:
            queries = tf.gather(queries, texts)  # (m, M, H)
        queries *= 1 + tf.expand_dims(gather(self.row_gate, rows), 1)
        if self.row_shift is not None:
            queries += tf.expand_dims(gather(self.row_shift, rows), 1)
        log_probs = self.compute_column_log_probs(queries, rows)  # (m, M, C)
        if self.num_components == 1:
            return tf.squeeze(log_probs, 1)
        texts = tf.range(tf.shape(rows)[0]) if texts is None else texts
        of_rows = tf.gather_nd(shares[0], tf.stack([texts, rows], axis=1))  # (m, M)
        return _log_sum_exp(of_rows[:, :, None] + log_probs)

    def expand_all_rows(self, context: list[tf.Tensor]) -> tf.Tensor:
        """Return the log-probabilities of columns given every row, `(n, R, C)`."""
        queries, *shares = context
        queries = queries[:, None] * (1 + tf.expand_dims(self.row_gate, 1))  # (n, R, M, H)
        if self.row_shift is not None:
            queries += tf.expand_dims(self.row_shift, 1)
        log_probs = self.compute_all_column_log_probs(queries)  # (n, R, M, C)
        if self.num_components == 1:
            return log_probs[:, :, 0]
        return _log_sum_exp(shares[0][..., None] + log_probs, axis=2)

    def score_cells(self, states: tf.Tensor, cells: tf.Tensor) -> tf.Tensor:
        """Return the log-probability of one cell after each state, `(n, H), (n,) -> (n,)`."""
        row_log_probs, context = self.predict_rows(states)
        return self._score_cells(row_log_probs, context, cells)

    def _score_cells(
        self, row_log_probs: tf.Tensor, context: list[tf.Tensor], cells: tf.Tensor
    ) -> tf.Tensor:
        rows, columns = cells // self.num_columns, cells % self.num_columns
        column_log_probs = self.expand_rows(None, rows, context)
        return pick(row_log_probs, rows) + pick(column_log_probs, columns)


class ServedWordTable(NamedTuple):
    """The cell of each word, `(V,)`, and the word in each cell, `(R, C)`, -1 in empty cells."""

    cells: tf.Tensor
    words: tf.Tensor


class ServedTables(ServedReaderSoftmax):
    """A softmax with several word tables. Cells of the first table identify the words.

    This object is also the softmax of the first table: `predict_rows` and `expand_rows` are about
    the rows of that table.

    Args:
        softmax: `TwoComponentSoftmax` with gated row readers and further tables, built.

    Attributes:
        cells: For each table, the cell of the word in each cell of the first table, `(R C,)`
            int32; 0 for empty cells.
        first_cells: For each table, the cell in the first table of the word in each of its cells,
            int32; -1 for empty cells.
    """

    def __init__(self, softmax: TwoComponentSoftmax) -> None:
        super().__init__(softmax)
        allocations = [table.allocation for table in softmax.word_tables]
        words = allocations[0].words.ravel()
        self.cells, self.first_cells = [], []
        self._packed_cells: list[tf.Variable] | None = None
        for allocation in allocations:
            cells = np.where(words >= 0, allocation.cells[words], 0)
            self.cells.append(make_variable(cells, tf.int32))
            first = np.where(
                allocation.words >= 0, allocations[0].cells[allocation.words], -1
            ).ravel()
            self.first_cells.append(make_variable(first, tf.int32))
        self._further = []
        for index, table in enumerate(softmax.further_tables, 1):
            vectors = None
            if self.word_dim:
                vectors = share_vectors(self.vectors, allocations[index], self.first_cells[index])
            self._further.append(ServedReaderSoftmax(table, vectors))

    @property
    def tables(self) -> list[ServedSoftmax]:
        return [self, *self._further]

    def pack_cells(self) -> None:
        """Make `find_cells` read as few bytes for a cell as its number needs, for small files."""
        self._packed_cells = []
        for table, cells in zip(self.tables, self.cells, strict=True):
            num_cells = table.num_rows * table.num_columns
            num_bytes = ((num_cells - 1).bit_length() + 7) // 8
            parts = cells.numpy().astype("<i4").view(np.uint8).reshape(-1, 4)
            self._packed_cells.append(make_variable(parts[:, :num_bytes], tf.uint8))

    def find_cells(self, index: int, cells: tf.Tensor) -> tf.Tensor:
        """Return the cells in a table of the words in cells of the first table, `(n,)`."""
        if self._packed_cells is None:
            return gather(self.cells[index], cells)
        parts = tf.cast(gather(self._packed_cells[index], cells), tf.int32)  # (n, bytes)
        return tf.reduce_sum(parts * [256**place for place in range(parts.shape[1])], axis=1)

    def get_word_table(self, index: int) -> ServedWordTable:
        """Return the word table of a table, with cells of the first table as words."""
        table = self.tables[index]
        words = tf.reshape(self.first_cells[index], [table.num_rows, table.num_columns])
        return ServedWordTable(tf.convert_to_tensor(self.cells[index]), words)

    def predict_tables(self, states: tf.Tensor) -> list[tuple[tf.Tensor, list[tf.Tensor]]]:
        """Return the results of `predict_rows` for each table; all rows together sum to 1."""
        log_weights = tf.split(self.compute_component_log_probs(states), len(self.tables), axis=1)
        return [
            table.predict_rows(states, of_table)
            for table, of_table in zip(self.tables, log_weights, strict=True)
        ]

    def score_cells(self, states: tf.Tensor, cells: tf.Tensor) -> tf.Tensor:
        log_probs = [
            table._score_cells(*predicted, self.find_cells(index, cells))
            for index, (table, predicted) in enumerate(
                zip(self.tables, self.predict_tables(states), strict=True)
            )
        ]
        return _log_sum_exp(tf.stack(log_probs, axis=1))


def make_reader_softmax(softmax: TwoComponentSoftmax) -> ServedReaderSoftmax:
    """Return the served softmax of one table or of several."""
    return ServedTables(softmax) if softmax.further_tables else ServedReaderSoftmax(softmax)


def pick(values: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """Return one entry of each row, `(n, N), (n,) -> (n,)`."""
    return tf.gather(values, indices, batch_dims=1)


def _project(x: tf.Tensor, kernel: tf.Variable, bias: tf.Variable) -> tf.Tensor:
    """Project `(n, M, H) -> (n, M, N)` with a kernel `(N, H)` as one product of two matrices."""
    flat = tf.reshape(x, [-1, x.shape[-1]])
    logits = tf.matmul(flat, kernel, transpose_b=True) + bias
    return tf.reshape(logits, [-1, x.shape[1], kernel.shape[0]])


def _pack(is_set: np.ndarray) -> tf.Variable:
    """Pack booleans `(R, C)` into one bit each, to save memory for large tables."""
    return make_variable(np.packbits(is_set, axis=1, bitorder="little"), tf.uint8)


def _unpack(packed: tf.Variable, rows: tf.Tensor, num_columns: int) -> tf.Tensor:
    """Return the booleans of `rows`, `(n, C)`."""
    numbers = tf.cast(gather(packed, rows), tf.int32)  # (n, C / 8)
    bits = numbers[:, :, None] // [1, 2, 4, 8, 16, 32, 64, 128] % 2
    return tf.reshape(bits, [-1, 8 * packed.shape[1]])[:, :num_columns] == 1


def _unpack_all(packed: tf.Variable, num_columns: int) -> tf.Tensor:
    """Return the booleans of all rows, `(R, C)`, by an operation that LiteRT lacks."""
    masks = tf.constant([1, 2, 4, 8, 16, 32, 64, 128], tf.uint8)
    bits = tf.bitwise.bitwise_and(packed[:, :, None], masks)
    return tf.reshape(bits, [packed.shape[0], -1])[:, :num_columns] > 0


def _log_softmax(logits: tf.Tensor, is_impossible: tf.Tensor) -> tf.Tensor:
    """Return log-probabilities, minus infinity where a column is impossible."""
    log_probs = tf.nn.log_softmax(tf.where(is_impossible, _LEAST, logits))
    return tf.where(is_impossible, float("-inf"), log_probs)


def _log_sum_exp(x: tf.Tensor, axis: int = 1) -> tf.Tensor:
    """Return the log of the sum over an axis; minus infinity if all terms are."""
    largest = tf.maximum(tf.reduce_max(x, axis=axis), _LEAST)
    terms = tf.exp(x - tf.expand_dims(largest, axis))
    return tf.math.log(tf.reduce_sum(terms, axis=axis)) + largest
