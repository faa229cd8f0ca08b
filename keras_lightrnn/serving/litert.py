"""LiteRT (TensorFlow Lite) export, for phones."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_lightrnn._internal.files import write_file
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.models import LightRNNModel
from keras_lightrnn.serving.network import Network, check_exportable
from keras_lightrnn.serving.served_vocabulary import check_vocabulary, write_words_by_cell

_QUANTIZE = (None, "float16", "int8")


def export_litert(
    model: LightRNNModel,
    path: str | os.PathLike[str],
    quantize: str | None = None,
    vocabulary: Vocabulary | None = None,
) -> Path:
    """Write the two half-steps of a word as a LiteRT file of built-in operations.

    The file knows cells, no words, so that it holds neither words nor allocation:
    the word in row `i` and column `j` is line `i * C + j` (from 0) of a file of words by cell,
    which is written too when a vocabulary is given. Signatures, for any number `n` of texts:

    | signature | inputs | outputs |
    |---|---|---|
    | `column_half_step` | `cells` (n,) int32, `states` (n, S, H) | `row_log_probs` (n, R), \
`states` |
    | `row_half_step` | `rows` (n,) int32, `states` (n, S, H) | `column_log_probs` (n, C), \
`states` |

    A text starts from states of zeros; reading a word is the row half-step of its row, then
    the column half-step of its cell (the first word has that one alone). The
    log-probability of a word is that of its row after the word before, plus that of its column
    after its own row is read. For the likeliest next words read rows in falling order of
    probability, many at a time as one batch, until the next row is less probable than the
    last word wanted.

    Args:
        model: `LightRNNModel`, built, on any Keras backend.
        path: File to write, `.tflite` by custom; folders above it are made where they are
            missing. One that exists is replaced in the end.
        quantize: `None` (float32), `"float16"` (half the size), or `"int8"`: weights of 8 bits,
            a quarter of the size; products of the recurrent layers and the softmax are
            computed with inputs of 8 bits.
        vocabulary: `Vocabulary` of the model; with it, `path` with the suffix `.txt` receives
            one word a line, by cell. An empty cell has a line that starts with a blank.

    Returns:
        `path`.

    Raises:
        ValueError: if the model is not built or its weights are not finite, the vocabulary is not
            that of the model, its file would be that of the model, or for an unknown `quantize`.

    Example:

    >>> model = LightRNNModel(50, embedding_dim=8, units=8)
    >>> model.build((None, None))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = export_litert(model, os.path.join(directory, "model.tflite"))
    ...     path.stat().st_size > 1_000
    True
    """
    check_exportable(model)
    if quantize not in _QUANTIZE:
        raise ValueError(f"`quantize` must be one of {_QUANTIZE}. Received: quantize={quantize!r}.")
    path = Path(path)
    allocation = model.word_table.allocation
    if vocabulary is not None:
        check_vocabulary(vocabulary, allocation)
        if path.suffix == ".txt":
            raise ValueError(
                "The words are written to `path` with the suffix .txt, so the model must have "
                f"another. Received: path={str(path)!r}. Name it .tflite."
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        half_steps = _HalfSteps(model)
        names = ["column_half_step", "row_half_step"]
        signatures = {name: getattr(half_steps, name) for name in names}
        # By a SavedModel, because only there the converter sees signatures and every weight.
        tf.saved_model.save(half_steps, directory, signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=names)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    write_file(path, content)
    if vocabulary is not None:
        write_words_by_cell(vocabulary, allocation, path.with_suffix(".txt"))
    return path


class _HalfSteps(tf.Module):
    """The signatures; states are one tensor `(n, S, H)` outside."""

    def __init__(self, model: LightRNNModel) -> None:
        super().__init__()
        self._network = Network(model)
        states = tf.TensorSpec((None, self._network.num_states, model.units), tf.float32, "states")
        for name, component in ("column_half_step", "cells"), ("row_half_step", "rows"):
            specs = [tf.TensorSpec((None,), tf.int32, component), states]
            function = getattr(self, f"_{name}")
            setattr(self, name, tf.function(function, input_signature=specs, autograph=False))

    def _column_half_step(self, cells: Any, states: Any) -> dict[str, Any]:
        new = self._network.read_columns(cells, tf.unstack(states, axis=1))
        log_probs = self._network.compute_row_log_probs(new)
        return {"row_log_probs": log_probs, "states": tf.stack(new, axis=1)}

    def _row_half_step(self, rows: Any, states: Any) -> dict[str, Any]:
        new = self._network.read_rows(rows, tf.unstack(states, axis=1))
        log_probs = self._network.compute_column_log_probs(rows, new)
        return {"column_log_probs": log_probs, "states": tf.stack(new, axis=1)}
