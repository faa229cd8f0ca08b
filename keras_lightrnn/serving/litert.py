"""LiteRT (TensorFlow Lite) export, for phones."""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_lightrnn._internal.files import replace_file
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.models import LightRNNModel
from keras_lightrnn.serving.network import make_network
from keras_lightrnn.serving.served_vocabulary import check_vocabulary, iter_words_by_cell
from keras_lightrnn.serving.versions import check_readable
from keras_lightrnn.serving.weights import (
    check_light_rnn_model,
    check_row_reader,
    check_weights,
    gather,
)
from keras_lightrnn.table.allocation import Allocation

_QUANTIZE = (None, "float16", "int8")
_LINES_AT_ONCE = 10_000


def export_litert(
    model: LightRNNModel,
    path: str | os.PathLike[str],
    quantize: str | None = None,
    vocabulary: Vocabulary | None = None,
) -> Path:
    """Write the two steps of a word as a LiteRT file that uses built-in operations only.

    The model in the file computes with rows and cells instead of words: the word in row `i` and
    column `j` is in cell `i * C + j`. It has these signatures, for any number `n` of texts:

    | signature | inputs | outputs |
    |---|---|---|
    | `column_half_step` | `cells` (n,) int32, `states` (n, S, H) | `row_log_probs` (n, R), \
`states` |
    | `row_half_step` | `rows` (n,) int32, `states` (n, S, H) | `column_log_probs` (n, C), \
`states` |

    A text starts from states of zeros. To read a word, run the row half-step of its row, then the
    column half-step of its cell; for the first word, run only the column half-step. (In a model
    with `row_reading="reader"`, the column half-step reads the whole word and the row half-step
    returns the states unchanged, so that the same decoder works for both kinds of models.) The
    log-probability of a word is that of its row after the previous word, plus that of its column
    after its row was read. To find the likeliest next words, read rows in descending order of
    probability, many in one batch, until the next row is less probable than the last word wanted.
    The log-probability of an empty cell or row is at most -65,504, so that its probability is 0. A
    row or a cell outside the table is an error of the interpreter.

    A file with several word tables has further outputs and signatures, where `t` is the index of a
    further table, from 1. Cells are those of the first table unless stated otherwise:

    | signature | inputs | outputs |
    |---|---|---|
    | `column_half_step` | as above | `row_log_probs_t` (n, R_t) as well |
    | `row_half_step_t` | as `row_half_step`, rows of table `t` | `column_log_probs` (n, C_t), \
`states` |
    | `further_cells` | `cells` (n,) int32 | `cells_t` (n,) int32, the cells of the same words in \
table `t` |

    The probabilities of the rows of all tables add up to 1. The probability of a word is the sum,
    over the tables, of the probability of its row times that of its column. A word found in a row
    of one table gets its other shares from its rows in the other tables. The search can stop when
    the sum of the next rows' probabilities, one row for each table, is below that of the last word
    wanted.

    With a vocabulary, the words are appended to the file as a ZIP archive (the format of associated
    files in TensorFlow Lite metadata; interpreters ignore the archive, and ZIP readers ignore the
    model). Line `k` (from 0) of its member `words.txt` is the word in cell `k`; the line of an
    empty cell starts with a space. Members `words_t.txt` are those of further tables. Because model
    and words are one file, a crash cannot leave a model with the words of another one.

    Args:
        model: `LightRNNModel`, built, on any Keras backend.
        path: File to write, by convention `.tflite`. An existing file is replaced when the new
            file is complete. Missing parent directories are created.
        quantize: `None` (float32), `"float16"` (half the size), or `"int8"`: 8-bit weights, a
            quarter of the size; the matrix products of the recurrent layers and the softmax
            quantize their inputs to 8 bits as well.
        vocabulary: `Vocabulary` of the model, or `None` to leave the words out.

    Returns:
        `path`.

    Raises:
        TypeError: if the model is not a `LightRNNModel`, its row reader is not a `GatedRowReader`,
            or the vocabulary is not a `Vocabulary`.
        ValueError: if the model is not built, its weights are not finite or above 1e12, the
            vocabulary is not that of the model, `quantize` is unknown, or the path of the
            directory for temporary files contains one of the characters `*?[\\`, which
            TensorFlow reads as patterns.

    Example:

    >>> words = ["<eos>", "<unk>", "the", "cat", "sat"]
    >>> model = LightRNNModel(5, embedding_dim=8, units=8)
    >>> model.build((None, None))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "model.tflite")
    ...     path = export_litert(model, path, vocabulary=Vocabulary(words))
    ...     with zipfile.ZipFile(path) as archive:
    ...         by_cell = archive.read("words.txt").decode().split("\\n")
    >>> by_cell[model.word_table.allocation.cells[3]]
    'cat'
    """
    check_light_rnn_model(model)
    check_row_reader(model.softmax)
    check_weights(model)
    if quantize not in _QUANTIZE:
        raise ValueError(f"`quantize` must be one of {_QUANTIZE}. Received: quantize={quantize!r}.")
    path = Path(path)
    allocations = [table.allocation for table in model.word_tables]
    if vocabulary is not None:
        check_vocabulary(vocabulary, allocations[0])
    with tempfile.TemporaryDirectory() as directory:
        check_readable(directory)
        half_steps = _HalfSteps(model)
        signatures = half_steps.functions
        # The converter finds signatures and all weights only in a SavedModel.
        tf.saved_model.save(half_steps, directory, signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            directory, signature_keys=list(signatures)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    with replace_file(path) as temporary:
        Path(temporary).write_bytes(content)
        if vocabulary is not None:
            _append_words(vocabulary, allocations, temporary)
    return path


def _append_words(vocabulary: Vocabulary, allocations: list[Allocation], path: str) -> None:
    """Append a ZIP archive of the words by cell, of each table, to a file."""
    with zipfile.ZipFile(path, "a") as archive:
        for index, allocation in enumerate(allocations):
            # Dated 1980, so that equal exports are equal files.
            member = zipfile.ZipInfo(f"words_{index}.txt" if index else "words.txt")
            member.compress_type = zipfile.ZIP_DEFLATED
            lines = iter_words_by_cell(vocabulary, allocation)
            with archive.open(member, "w") as file:
                while chunk := "".join(itertools.islice(lines, _LINES_AT_ONCE)):
                    file.write(chunk.encode())


class _HalfSteps(tf.Module):
    """The exported signatures. Their states are one tensor `(n, S, H)`.

    Attributes:
        functions: Dictionary of the signatures by name. (SavedModels reserve `signatures`.)
    """

    def __init__(self, model: LightRNNModel) -> None:
        super().__init__()
        self._network = make_network(model)
        self._num_tables = len(model.word_tables)
        states = tf.TensorSpec((None, self._network.num_states, model.units), tf.float32, "states")
        cells = tf.TensorSpec((None,), tf.int32, "cells")
        rows = tf.TensorSpec((None,), tf.int32, "rows")
        functions: dict[str, Any] = {"column_half_step": (self._column_half_step, cells, states)}
        for table in range(self._num_tables):
            read_rows = functools.partial(self._row_half_step, table)
            functions[_name("row_half_step", table)] = read_rows, rows, states
        if self._num_tables > 1:
            functions["further_cells"] = self._further_cells, cells
        self.functions = {
            name: tf.function(function, input_signature=specs, autograph=False)
            for name, (function, *specs) in functions.items()
        }

    def _column_half_step(self, cells: tf.Tensor, states: tf.Tensor) -> dict[str, tf.Tensor]:
        new = self._network.read_columns(cells, tf.unstack(states, axis=1))
        log_probs = {
            _name("row_log_probs", table): of_table
            for table, (of_table, _) in enumerate(self._predict_tables(new))
        }
        return {**log_probs, "states": tf.stack(new, axis=1)}

    def _row_half_step(
        self, table: int, rows: tf.Tensor, states: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        _, context = self._predict_tables(tf.unstack(states, axis=1))[table]
        new: list[tf.Tensor] = []
        if self._num_tables > 1:
            log_probs = self._network.softmax.tables[table].expand_rows(None, rows, context)
        else:
            log_probs, new = self._network.expand_rows(None, rows, context)
        # With a row reader, the network does not read rows.
        states = tf.stack(new, axis=1) if new else tf.identity(states)
        return {"column_log_probs": log_probs, "states": states}

    def _further_cells(self, cells: tf.Tensor) -> dict[str, tf.Tensor]:
        tables = self._network.softmax.cells
        return {f"cells_{t}": gather(tables[t], cells) for t in range(1, self._num_tables)}

    def _predict_tables(self, states: list[tf.Tensor]) -> list[tuple[tf.Tensor, list[tf.Tensor]]]:
        if self._num_tables > 1:
            return self._network.predict_tables(states)
        return [self._network.predict_rows(states)]


def _name(name: str, table: int) -> str:
    """Return the name of a signature or an output for a table; the first has no number."""
    return f"{name}_{table}" if table else name
