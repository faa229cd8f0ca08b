"""Networks of trained models in plain TensorFlow, for all export formats."""

from __future__ import annotations

import abc
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lightrnn.layers import TwoComponentEmbedding
from keras_lightrnn.models import LightRNNModel
from keras_lightrnn.serving.softmax import (
    ServedSoftmax,
    make_reader_softmax,
    pick,
)
from keras_lightrnn.serving.weights import gather, make_variable
from keras_lightrnn.serving.word_vectors import ServedVectors, make_vectors

Tensors = list[tf.Tensor]
Kind = tuple[tf.DType, list[int | None]]  # the dtype of a tensor, its shape without the batch axis

# Texts that are computed together.
_TEXTS_AT_ONCE = 64


class Network(tf.Module, abc.ABC):
    """Reads texts into states, and predicts the next word from states.

    A network takes and returns cells of the first word table instead of words. A batch has `n`
    texts; a state is a tensor with one entry for each text. `read_texts` and `read_words` read
    words into states. `predict_rows` predicts the next row and returns a context for `expand_rows`,
    which predicts the columns in some rows.

    Args:
        softmax: `ServedSoftmax`.
        padding_cell: Integer, the cell of the padding word; `None` without padding.

    Attributes:
        softmax: The softmax.
        padding_cell: The cell of the padding word, or `None`.
        num_rows, num_columns: Integers `R` and `C` of the first table.
        state_kinds: List of the dtypes of the states and their shapes without the batch axis.
        reads_rows_by_steps: Boolean, whether expanding a row takes a step of the network.
    """

    state_kinds: list[Kind]
    reads_rows_by_steps = False

    def __init__(self, softmax: ServedSoftmax, padding_cell: int | None) -> None:
        super().__init__()
        self.softmax: Any = softmax
        self.padding_cell = padding_cell
        self.num_rows, self.num_columns = softmax.num_rows, softmax.num_columns
        # A gather from it raises an error for a cell outside of the table; arithmetic would not.
        self._row_starts = make_variable(np.arange(self.num_rows) * self.num_columns, tf.int32)

    def choose_block_size(self, length: tf.Tensor) -> tf.Tensor | int:
        """Return the number of texts of at most `length` words that are computed together."""
        return _TEXTS_AT_ONCE

    @abc.abstractmethod
    def read_texts(self, cells: tf.Tensor, lengths: tf.Tensor, room: tf.Tensor | int) -> Tensors:
        """Return the states after texts.

        Args:
            cells: `(n, N)` int32.
            lengths: `(n,)` int32, cells of each text, from 1 to `N`.
            room: int32 scalar, the number of words that may be read after the texts.
        """

    @abc.abstractmethod
    def score_texts(self, cells: tf.Tensor) -> tf.Tensor:
        """Return the log-probability of every cell but the first, `(n, N) -> (n, N - 1)`."""

    @abc.abstractmethod
    def read_words(self, cells: tf.Tensor, states: Tensors) -> Tensors:
        """Return the states after one more word of each text, `(n,)`.

        Padding does not change them.
        """

    @abc.abstractmethod
    def predict_rows(self, states: Tensors) -> tuple[tf.Tensor, Tensors]:
        """Return the log-probabilities of the next rows, `(n, R)`, and a context.

        The context is a list of tensors, each with one entry for a text.
        """

    def predict_tables(self, states: Tensors) -> list[tuple[tf.Tensor, Tensors]]:
        """Return the results of `predict_rows` for each table, if there are several."""
        return self.softmax.predict_tables(self.get_hidden(states))

    @abc.abstractmethod
    def get_hidden(self, states: Tensors) -> tf.Tensor:
        """Return the hidden states from which the softmax predicts, `(n, H)`."""

    @abc.abstractmethod
    def expand_rows(
        self, texts: tf.Tensor | None, rows: tf.Tensor, context: Tensors
    ) -> tuple[tf.Tensor, Tensors]:
        """Return the log-probabilities of columns given rows, `(m, C)`, and the row states.

        The row states are the states after the network has read the rows. They are an empty list if
        a row reader reads the rows.

        Args:
            texts: `(m,)` int32, the text that each row follows; `None` for one row for each text,
                in order.
            rows: `(m,)` int32.
            context: The second result of `predict_rows`.
        """

    def split_cells(self, cells: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the rows and the columns of cells. Cells outside of the table raise an error."""
        rows = cells // self.num_columns
        return rows, cells - tf.gather(self._row_starts, rows)


class RecurrentNetwork(Network):
    """The weights of a `LightRNNModel` as float32 variables, and its steps.

    The steps use only matrix products, gathers and arithmetic, which every runtime supports. Some
    runtimes lack the kernels that Keras may choose (cuDNN, XLA). States are `(n, H)` each.

    Args:
        model: `LightRNNModel`, built. Any Keras backend, any dtype policy.
        softmax: `ServedSoftmax` of the model.
    """

    def __init__(self, model: LightRNNModel, softmax: ServedSoftmax) -> None:
        allocation = model.word_table.allocation
        super().__init__(softmax, int(allocation.cells[0]) if model.mask_zero else None)
        stack, embedding = model.recurrent_stack, model.embedding
        self.units = stack.units
        self._layers = [_Layer(stack.kind, layer.cell) for layer in stack.recurrent_layers]
        self.num_states = len(self._layers) * stack.kind.num_states
        self.state_kinds = [(tf.float32, [self.units])] * self.num_states
        self._vectors: ServedVectors | None = None
        if model.word_dim:
            self._vectors = softmax.vectors
            if embedding.word_embeddings is not model.softmax.word_kernel:
                indices = softmax.vectors.indices  # of the same words
                self._vectors = make_vectors(embedding.word_embeddings, allocation, indices)
            self._word_projection = make_variable(embedding.word_projection)  # (K, D)

    def read_texts(self, cells: tf.Tensor, lengths: tf.Tensor, room: tf.Tensor | int) -> Tensors:
        start, first = self._make_states(tf.shape(cells)[0]), cells[:, 0]
        states = self._keep_read(first, self.read_columns(first, start), start)

        def read_one(t: tf.Tensor, *states: tf.Tensor) -> tuple[tf.Tensor, ...]:
            old = list(states)
            return (t + 1, *_keep(t < lengths, self.read_words(cells[:, t], old), old))

        _, *states = tf.while_loop(
            lambda t, *_: t < tf.reduce_max(lengths), read_one, (tf.constant(1), *states)
        )
        return states

    def score_texts(self, cells: tf.Tensor) -> tf.Tensor:
        batch_size, length = tf.unstack(tf.shape(cells))
        start = self._make_states(batch_size)

        def score_one(
            t: tf.Tensor, log_probs: tf.TensorArray, *carried: Tensors
        ) -> tuple[Any, ...]:
            picked, *new = self._score_word(cells[:, t], cells[:, t + 1], *carried)
            return (t + 1, log_probs.write(t, picked), *new)

        log_probs = tf.TensorArray(tf.float32, tf.maximum(length - 1, 0), element_shape=[None])
        _, log_probs, *_ = tf.while_loop(
            lambda t, *_: t < length - 1,
            score_one,
            (tf.constant(0), log_probs, *self._carry(start)),
        )
        return tf.transpose(log_probs.stack())

    @abc.abstractmethod
    def read_columns(self, cells: tf.Tensor, states: Tensors) -> Tensors:
        """Return the states after words whose rows were read, or that begin a text."""

    @abc.abstractmethod
    def _carry(self, states: Tensors) -> list[Tensors]:
        """Return the `carried` arguments of `_score_word` at the start of texts."""

    @abc.abstractmethod
    def _score_word(self, cells: tf.Tensor, next_cells: tf.Tensor, *carried: Tensors) -> list[Any]:
        """Read a word of each text and score the next one.

        Args:
            cells: `(n,)` int32, the words to read.
            next_cells: `(n,)` int32, the words to score.
            *carried: The further results of this method for the previous word.

        Returns:
            The log-probabilities `(n,)`, and the `carried` arguments of the next call.
        """

    def _make_states(self, size: tf.Tensor) -> Tensors:
        return [tf.zeros([size, self.units])] * self.num_states

    def _keep_read(self, cells: tf.Tensor, new: Tensors, old: Tensors) -> Tensors:
        """Return the `new` states of texts that read a word, and the `old` ones for padding."""
        return new if self.padding_cell is None else _keep(cells != self.padding_cell, new, old)

    def _add_word_vectors(self, inputs: tf.Tensor, cells: tf.Tensor) -> tf.Tensor:
        if self._vectors is None:
            return inputs
        return inputs + tf.matmul(self._vectors.read_cells(cells), self._word_projection)

    def _run_layers(self, inputs: tf.Tensor, states: Tensors) -> Tensors:
        new_states: Tensors = []
        for layer in self._layers:
            start = len(new_states)
            new = layer(inputs, states[start : start + layer.num_states])
            inputs = new[0]
            new_states += new
        return new_states

    def get_hidden(self, states: Tensors) -> tf.Tensor:
        """Return the hidden state of the last layer, its first state, `(n, H)`."""
        return states[-self._layers[-1].num_states]


class HalfStepNetwork(RecurrentNetwork):
    """Reads and predicts a word by two half-steps of the recurrence: its row, then its column.

    Context and row states are states of the recurrence.
    """

    reads_rows_by_steps = True

    def __init__(self, model: LightRNNModel) -> None:
        super().__init__(model, ServedSoftmax(model.softmax))
        self.row_embeddings, self.column_embeddings = _make_components(
            model.embedding, self.softmax, model.tie_embeddings
        )

    def read_words(self, cells: tf.Tensor, states: Tensors) -> Tensors:
        rows, _ = self.split_cells(cells)
        return self._finish_words(cells, states, self._read_rows(rows, states))

    def read_columns(self, cells: tf.Tensor, states: Tensors) -> Tensors:
        _, columns = self.split_cells(cells)
        inputs = gather(self.column_embeddings, columns)
        return self._run_layers(self._add_word_vectors(inputs, cells), states)

    def predict_rows(self, states: Tensors) -> tuple[tf.Tensor, Tensors]:
        queries = tf.expand_dims(self.get_hidden(states), 1)
        return tf.squeeze(self.softmax.compute_row_log_probs(queries), 1), states

    def expand_rows(
        self, texts: tf.Tensor | None, rows: tf.Tensor, context: Tensors
    ) -> tuple[tf.Tensor, Tensors]:
        states = self._read_rows(rows, _pick_texts(context, texts))
        queries = tf.expand_dims(self.get_hidden(states), 1)
        return tf.squeeze(self.softmax.compute_column_log_probs(queries, rows), 1), states

    def _finish_words(self, cells: tf.Tensor, states: Tensors, row_states: Tensors) -> Tensors:
        """Do what `read_words` does, for words whose rows were read."""
        if self.padding_cell is not None:
            # The row of a text's first word is not read, also if padding precedes the word.
            has_begun = tf.reduce_any(self.get_hidden(states) != 0, axis=1)
            row_states = _keep(has_begun, row_states, states)
        return self._keep_read(cells, self.read_columns(cells, row_states), states)

    def _carry(self, states: Tensors) -> list[Tensors]:
        return [states, states]  # no row has been read

    def _score_word(self, cells: tf.Tensor, next_cells: tf.Tensor, *carried: Tensors) -> list[Any]:
        states, row_states = carried
        states = self._finish_words(cells, states, row_states)
        row_log_probs, context = self.predict_rows(states)
        rows, columns = self.split_cells(next_cells)
        column_log_probs, row_states = self.expand_rows(None, rows, context)
        return [pick(row_log_probs, rows) + pick(column_log_probs, columns), states, row_states]

    def _read_rows(self, rows: tf.Tensor, states: Tensors) -> Tensors:
        return self._run_layers(gather(self.row_embeddings, rows), states)


class WordStepNetwork(RecurrentNetwork):
    """Reads a word in one step, and predicts its column with a gated row reader.

    The model has one or several word tables. The context is that of `ServedReaderSoftmax`. There
    are no row states.
    """

    def __init__(self, model: LightRNNModel) -> None:
        super().__init__(model, make_reader_softmax(model.softmax))
        tables = zip(model.embedding.list_tables(), self.softmax.tables, strict=True)
        self._embeddings = [_GatedEmbedding(*table, model.tie_embeddings) for table in tables]

    def read_words(self, cells: tf.Tensor, states: Tensors) -> Tensors:
        return self._keep_read(cells, self.read_columns(cells, states), states)

    def read_columns(self, cells: tf.Tensor, states: Tensors) -> Tensors:
        first, *further = self._embeddings
        inputs = first(*self.split_cells(cells))
        for table, embedding in enumerate(further, 1):
            of_table = self.softmax.find_cells(table, cells)
            num_columns = self.softmax.tables[table].num_columns
            inputs += embedding(of_table // num_columns, of_table % num_columns)
        return self._run_layers(self._add_word_vectors(inputs, cells), states)

    def predict_rows(self, states: Tensors) -> tuple[tf.Tensor, Tensors]:
        return self.softmax.predict_rows(self.get_hidden(states))

    def expand_rows(
        self, texts: tf.Tensor | None, rows: tf.Tensor, context: Tensors
    ) -> tuple[tf.Tensor, Tensors]:
        return self.softmax.expand_rows(texts, rows, context), []

    def _carry(self, states: Tensors) -> list[Tensors]:
        return [states]

    def _score_word(self, cells: tf.Tensor, next_cells: tf.Tensor, *carried: Tensors) -> list[Any]:
        states = self.read_words(cells, *carried)
        return [self.softmax.score_cells(self.get_hidden(states), next_cells), states]


class _GatedEmbedding(tf.Module):
    """The input vectors of one table."""

    def __init__(
        self, embedding: TwoComponentEmbedding, softmax: ServedSoftmax, is_tied: bool
    ) -> None:
        super().__init__()
        self.row_embeddings, self.column_embeddings = _make_components(embedding, softmax, is_tied)
        self.input_gate = make_variable(embedding.input_gate)
        self.gated_embeddings = make_variable(embedding.gated_embeddings)
        self.gate_projection = make_variable(embedding.gate_projection)
        self.gate_pool = embedding.gate_pool

    def __call__(self, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        gated = tf.gather(self.gated_embeddings, columns) * tf.gather(self.input_gate, rows)
        pooled = tf.add_n(tf.split(gated, self.gate_pool, axis=-1))
        vectors = tf.matmul(pooled, self.gate_projection)
        vectors += gather(self.column_embeddings, columns)
        return vectors + gather(self.row_embeddings, rows)


def _make_components(
    embedding: TwoComponentEmbedding, softmax: ServedSoftmax, is_tied: bool
) -> tuple[tf.Variable, tf.Variable]:
    """Return the vectors of the rows and the columns of a table: the kernels if these are tied."""
    if is_tied:
        return softmax.row_kernel, softmax.column_kernel
    return make_variable(embedding.row_embeddings), make_variable(embedding.column_embeddings)


def make_network(model: LightRNNModel) -> RecurrentNetwork:
    """Return the network for a model."""
    return HalfStepNetwork(model) if model.softmax.row_reader is None else WordStepNetwork(model)


class _Layer(tf.Module):
    """One recurrent layer."""

    def __init__(self, kind: Any, cell: keras.Layer) -> None:
        super().__init__()
        self._kind = kind
        self.num_states = kind.num_states
        self.kernel = make_variable(cell.kernel)
        self.recurrent_kernel = make_variable(cell.recurrent_kernel)
        self.bias = make_variable(cell.bias)  # (G H,), or (2, G H) of inputs and of states

    def __call__(self, inputs: tf.Tensor, states: Tensors) -> Tensors:
        x, r = tf.matmul(inputs, self.kernel), tf.matmul(states[0], self.recurrent_kernel)
        if len(self.bias.shape) == 1:
            x += self.bias
        else:
            x, r = x + self.bias[0], r + self.bias[1]
        return self._kind.run_step(tf, x, r, states)


def _keep(condition: tf.Tensor, new: Tensors, old: Tensors) -> Tensors:
    """Return the `new` states of the texts for which `condition`, `(n,)`, holds."""
    condition = tf.expand_dims(condition, 1)
    return [tf.where(condition, n, o) for n, o in zip(new, old, strict=True)]


def _pick_texts(context: Tensors, texts: tf.Tensor | None) -> Tensors:
    return context if texts is None else [tf.gather(x, texts) for x in context]
