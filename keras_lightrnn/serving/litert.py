"""LiteRT (TensorFlow Lite) export, for phones."""

from __future__ import annotations

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
from keras_lightrnn.serving.weights import check_light_rnn_model, check_one_table, check_weights
from keras_lightrnn.table.allocation import Allocation

_QUANTIZE = (None, "float16", "int8")
_LINES_AT_ONCE = 10_000


def export_litert(
    model: LightRNNModel,
    path: str | os.PathLike[str],
    quantize: str | None = None,
    vocabulary: Vocabulary | None = None,
) -> Path:
    """Write the two steps of a word as a LiteRT file of built-in operations.

    The model in the file computes with rows and cells, and needs neither words nor an allocation:
    the word in row `i` and column `j` is in cell `i * C + j`. Signatures, for any number `n` of
    texts:

    | signature | inputs | outputs |
    |---|---|---|
    | `column_half_step` | `cells` (n,) int32, `states` (n, S, H) | `row_log_probs` (n, R), \
`states` |
    | `row_half_step` | `rows` (n,) int32, `states` (n, S, H) | `column_log_probs` (n, C), \
`states` |

    A text starts from states of zeros. To read a word, run the row half-step of its row, then
    the column half-step of its cell; for the first word, run the column half-step only. (Of a
    model with `row_reading="reader"`, the column half-step reads the whole word, and the row
    half-step returns the states unchanged: the same decoder serves both kinds of models.) The
    log-probability of a word is that of its row after the previous word, plus that of its column
    after its row is read. To find the likeliest next words, read rows in falling order of
    probability, many at a time as one batch, until the next row is less probable than the
    last word wanted. The log-probability of an empty cell or row is at most -65,504, so that its
    probability is 0. A row or a cell outside the table is an error of the interpreter.

    With a vocabulary, the file also contains the words, as a ZIP archive behind the model (the
    format of associated files in TensorFlow Lite metadata; interpreters ignore the archive, and
    ZIP readers ignore the model). Line `k` (from 0) of its only member, `words.txt`, is the word
    in cell `k`; the line of an empty cell starts with a space. The model and its words are
    one file, so that a crash cannot leave a model with the words of another one. Earlier
    versions of this function wrote the words to a second file with the suffix `.txt`.

    Args:
        model: `LightRNNModel`, built, on any Keras backend.
        path: File to write, by convention `.tflite`. An existing file is replaced when the new
            one is complete. Missing parent directories are created.
        quantize: `None` (float32), `"float16"` (half the size), or `"int8"`: 8-bit weights, a
            quarter of the size; the matrix products of the recurrent layers and the softmax
            quantize their inputs to 8 bits as well.
        vocabulary: `Vocabulary` of the model, or `None` to leave the words out.

    Returns:
        `path`.

    Raises:
        TypeError: if the model is not a `LightRNNModel` or the vocabulary not a `Vocabulary`.
        ValueError: if the model has several word tables or is not built, its weights are not
            finite or above 1e12, the vocabulary is not that of the model, `quantize` is unknown,
            or the path of the directory for temporary files contains one of the characters
            `*?[\\`, which TensorFlow reads as patterns.

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
    check_one_table(model.softmax)
    check_weights(model)
    if quantize not in _QUANTIZE:
        raise ValueError(f"`quantize` must be one of {_QUANTIZE}. Received: quantize={quantize!r}.")
    path = Path(path)
    allocation = model.word_table.allocation
    if vocabulary is not None:
        check_vocabulary(vocabulary, allocation)
    with tempfile.TemporaryDirectory() as directory:
        check_readable(directory)
        half_steps = _HalfSteps(model)
        names = ["column_half_step", "row_half_step"]
        signatures = {name: getattr(half_steps, name) for name in names}
        # The converter sees signatures and all weights only in a SavedModel.
        tf.saved_model.save(half_steps, directory, signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=names)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    with replace_file(path) as temporary:
        Path(temporary).write_bytes(content)
        if vocabulary is not None:
            _append_words(vocabulary, allocation, temporary)
    return path


def _append_words(vocabulary: Vocabulary, allocation: Allocation, path: str) -> None:
    """Append a ZIP archive of the words by cell to a file."""
    member = zipfile.ZipInfo("words.txt")  # dated 1980, so that equal exports are equal files
    member.compress_type = zipfile.ZIP_DEFLATED
    lines = iter_words_by_cell(vocabulary, allocation)
    with zipfile.ZipFile(path, "a") as archive, archive.open(member, "w") as file:
        while chunk := "".join(itertools.islice(lines, _LINES_AT_ONCE)):
            file.write(chunk.encode())


class _HalfSteps(tf.Module):
    """The exported signatures; their states are one tensor `(n, S, H)`."""

    def __init__(self, model: LightRNNModel) -> None:
        super().__init__()
        self._network = make_network(model)
        states = tf.TensorSpec((None, self._network.num_states, model.units), tf.float32, "states")
        for name, component in ("column_half_step", "cells"), ("row_half_step", "rows"):
            specs = [tf.TensorSpec((None,), tf.int32, component), states]
            function = getattr(self, f"_{name}")
            setattr(self, name, tf.function(function, input_signature=specs, autograph=False))

    def _column_half_step(self, cells: Any, states: Any) -> dict[str, Any]:
        new = self._network.read_columns(cells, tf.unstack(states, axis=1))
        log_probs, _ = self._network.predict_rows(new)
        return {"row_log_probs": log_probs, "states": tf.stack(new, axis=1)}

    def _row_half_step(self, rows: Any, states: Any) -> dict[str, Any]:
        _, context = self._network.predict_rows(tf.unstack(states, axis=1))
        log_probs, new = self._network.expand_rows(None, rows, context)
        # With a row reader, the network does not read rows.
        states = tf.stack(new, axis=1) if new else tf.identity(states)
        return {"column_log_probs": log_probs, "states": states}
