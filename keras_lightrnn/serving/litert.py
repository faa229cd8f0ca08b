"""LiteRT (TensorFlow Lite) export, for phones."""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.files import replace_file
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.models import LightRNNModel
from keras_lightrnn.serving.composed import ComposedNetwork, check_model
from keras_lightrnn.serving.network import RecurrentNetwork, make_network
from keras_lightrnn.serving.served_vocabulary import check_vocabulary, iter_words_by_cell
from keras_lightrnn.serving.versions import check_readable
from keras_lightrnn.table.allocation import Allocation

_QUANTIZE = (None, "float16", "int8")
_LINES_AT_ONCE = 10_000


def export_litert(
    model: LightRNNModel | keras.Model,
    path: str | os.PathLike[str],
    quantize: str | None = None,
    vocabulary: Vocabulary | None = None,
    text_length: int | None = None,
) -> Path:
    """Write the steps of a search for words as a LiteRT file of built-in operations only.

    The model in the file computes with rows and cells instead of words: the word in row `i` and
    column `j` is in cell `i * C + j`. A `LightRNNModel` has these signatures, for any number `n` of
    texts:

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

    A functional model reads a whole text at once, and one text in a call. Its rows are read by
    `row_half_step` as above, with `S = 1`, which returns the states unchanged:

    | signature | inputs | outputs |
    |---|---|---|
    | `read_text` | `cells` (1, N) int32, `length` (1,) int32 | `row_log_probs` (1, R), \
`states` (1, 1, H) |

    Cells after the first `length` are not part of the text. `N` may be any number, unless
    `text_length` fixes it. The file also holds the word of each cell and the cell of each word, 8
    bytes a word.

    A file with several word tables has further outputs and signatures, where `t` is the index of a
    further table, from 1. Cells are those of the first table unless stated otherwise:

    | signature | inputs | outputs |
    |---|---|---|
    | `column_half_step`, `read_text` | as above | `row_log_probs_t` (n, R_t) as well |
    | `row_half_step_t` | as `row_half_step`, rows of table `t` | `column_log_probs` (n, C_t), \
`states` |
    | `further_cells` | `cells` (n,) int32 | `cells_t` (n,) int32, the cells of the same words in \
table `t` |

    The probabilities of the rows of all tables add up to 1. The probability of a word is the sum,
    over the tables, of the probability of its row times that of its column. A word found in a row
    of one table gets its other shares from its rows in the other tables. The words in the rows of
    table `t` are found by inverting `cells_t` of all cells, once, when the file is opened. The
    search can stop when the sum of the next rows' probabilities, one row for each table, is below
    that of the last word wanted. The cells of a further table take 3 bytes a word in every
    precision (1 or 2 in tables of at most 256 or 65,536 cells).

    With a vocabulary, the words are appended to the file as a ZIP archive (the format of associated
    files in TensorFlow Lite metadata; interpreters ignore the archive, and ZIP readers ignore the
    model). Line `k` (from 0) of its member `words.txt` is the word in cell `k`; the line of an
    empty cell starts with a space. Members `words_t.txt` are those of further tables. Because model
    and words are one file, a crash cannot leave a model with the words of another one.

    Args:
        model: `LightRNNModel`, built, on any Keras backend. Or, on the TensorFlow backend, a
            functional model with causal layers between one input of word ids,
            `keras.Input((None,))`, and a `TwoComponentSoftmax` with a gated row reader.
        path: File to write, by convention `.tflite`. An existing file is replaced when the new
            file is complete. Missing parent directories are created.
        quantize: `None` (float32), `"float16"` (half the size), or `"int8"`: 8-bit weights, a
            quarter of the size; the matrix products of the recurrent layers and the softmax
            quantize their inputs to 8 bits as well.
        vocabulary: `Vocabulary` of the model, or `None` to leave the words out.
        text_length: Integer `N`, the length of all texts of a functional model: shorter ones are
            filled up. LiteRT runs recurrent and convolutional layers over texts of any length, and
            the attention of Keras over texts of a fixed length only. Defaults to `None`, any
            length.

    Returns:
        `path`.

    Raises:
        TypeError: if the model or its row reader is of another kind, or the vocabulary is not a
            `Vocabulary`.
        RuntimeError: for a functional model on another backend than TensorFlow, or with layers that
            LiteRT cannot run.
        ValueError: if the model is not built, its weights are not finite or above 1e12, its states
            depend on later words, the vocabulary is not that of the model, `quantize` is unknown,
            `text_length` is not positive or is given for a `LightRNNModel`, or the path of the
            directory for temporary files contains one of the characters `*?[\\`, which TensorFlow
            reads as patterns.

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
    softmax, is_light_rnn = check_model(model), isinstance(model, LightRNNModel)
    if quantize not in _QUANTIZE:
        raise ValueError(f"`quantize` must be one of {_QUANTIZE}. Received: quantize={quantize!r}.")
    if text_length is not None:
        check_size("text_length", text_length)
        if is_light_rnn:
            raise ValueError(
                "A `LightRNNModel` reads one word at a time, and texts of any length. Received: "
                f"text_length={text_length}. Leave it at None."
            )
    path = Path(path)
    allocations = [table.allocation for table in softmax.word_tables]
    if vocabulary is not None:
        check_vocabulary(vocabulary, allocations[0])
    with tempfile.TemporaryDirectory() as directory:
        check_readable(directory)
        if is_light_rnn:
            steps: _Steps = _HalfSteps(make_network(model))
        else:
            steps = _TextSteps(ComposedNetwork(model), text_length)
        # The converter finds signatures and all weights only in a SavedModel.
        tf.saved_model.save(steps, directory, steps.functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            directory, signature_keys=list(steps.functions)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert() if is_light_rnn else _convert(converter, model, text_length)
    with replace_file(path) as temporary:
        Path(temporary).write_bytes(content)
        if vocabulary is not None:
            _append_words(vocabulary, allocations, temporary)
    return path


def _convert(
    converter: tf.lite.TFLiteConverter, model: keras.Model, text_length: int | None
) -> bytes:
    """Return the content of the file of a functional model.

    Raises:
        RuntimeError: if LiteRT cannot run its layers.
    """
    try:
        return converter.convert()
    except Exception as error:  # TensorFlow does not export the class of the converter's errors
        advice = "Use other layers, or `export_saved_model`."
        if text_length is None:
            advice = f"Give `text_length`, the one length that attention needs. {advice}"
        raise RuntimeError(
            "All layers between the words and the softmax must consist of operations that LiteRT "
            f"has. Received: model={model.name!r}, text_length={text_length}, which the converter "
            f"refuses (see its error above). {advice}"
        ) from error


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


class _Steps(tf.Module):
    """The exported signatures. States are one tensor `(n, S, H)`.

    Args:
        network: `Network`.
        num_states: Integer `S`.

    Attributes:
        functions: Dictionary of the signatures by name. (SavedModels reserve `signatures`.)
    """

    def __init__(self, network: Any, num_states: int) -> None:
        super().__init__()
        self._network = network
        self._num_tables = len(network.softmax.tables)
        if self._num_tables > 1:
            network.softmax.pack_cells()
        self.functions: dict[str, Any] = {}
        rows = tf.TensorSpec((None,), tf.int32, "rows")
        self._states = tf.TensorSpec((None, num_states, network.units), tf.float32, "states")
        for table in range(self._num_tables):
            read_rows = functools.partial(self._row_half_step, table)
            self._add(_name("row_half_step", table), read_rows, rows, self._states)
        if self._num_tables > 1:
            cells = tf.TensorSpec((None,), tf.int32, "cells")
            self._add("further_cells", self._further_cells, cells)

    def _add(self, name: str, function: Any, *specs: tf.TensorSpec) -> None:
        self.functions[name] = tf.function(function, input_signature=specs, autograph=False)

    def _predict(self, states: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return the log-probabilities of the rows of all tables, and the states."""
        log_probs = {
            _name("row_log_probs", table): of_table
            for table, (of_table, _) in enumerate(self._predict_tables(states))
        }
        return {**log_probs, "states": tf.stack(states, axis=1)}

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
        find_cells = self._network.softmax.find_cells
        return {f"cells_{t}": find_cells(t, cells) for t in range(1, self._num_tables)}

    def _predict_tables(self, states: list[tf.Tensor]) -> list[tuple[tf.Tensor, list[tf.Tensor]]]:
        if self._num_tables > 1:
            return self._network.predict_tables(states)
        return [self._network.predict_rows(states)]


class _HalfSteps(_Steps):
    """A network that reads one word at a time."""

    def __init__(self, network: RecurrentNetwork) -> None:
        super().__init__(network, network.num_states)
        cells = tf.TensorSpec((None,), tf.int32, "cells")
        self._add("column_half_step", self._column_half_step, cells, self._states)

    def _column_half_step(self, cells: tf.Tensor, states: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._predict(self._network.read_columns(cells, tf.unstack(states, axis=1)))


class _TextSteps(_Steps):
    """A network that reads whole texts."""

    def __init__(self, network: ComposedNetwork, text_length: int | None) -> None:
        super().__init__(network, num_states=1)
        # Recurrent layers keep their outputs in lists, whose elements have a fixed shape in LiteRT.
        cells = tf.TensorSpec((1, text_length), tf.int32, "cells")
        self._add("read_text", self._read_text, cells, tf.TensorSpec((1,), tf.int32, "length"))

    def _read_text(self, cells: tf.Tensor, length: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._predict([self._network.read_padded_texts(cells, length)])


def _name(name: str, table: int) -> str:
    """Return the name of a signature or an output for a table; the first has no number."""
    return f"{name}_{table}" if table else name
