"""SavedModel export, for TensorFlow Serving and whatever else loads one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lightrnn._internal.checks import check_not_negative
from keras_lightrnn._internal.files import make_directory
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.models import LightRNNModel
from keras_lightrnn.serving.network import Network, check_exportable, make_variable
from keras_lightrnn.serving.search import (
    find_best_cells,
    generate_cells,
    read_prefix,
    score_cells,
)
from keras_lightrnn.serving.served_vocabulary import (
    ServedVocabulary,
    check_vocabulary,
    write_words_by_cell,
)
from keras_lightrnn.serving.warm_up import write_warm_up_requests


def export_saved_model(
    model: LightRNNModel,
    vocabulary: Vocabulary,
    path: str | os.PathLike[str],
    reorder_vocabulary: bool = False,
    version: int | None = None,
) -> Path:
    """Write a SavedModel that scores, completes and continues text.

    It goes into `path/version`, as TensorFlow Serving wants it (`path` is its
    `--model_base_path`), under a temporary name first, so that a server never sees half a
    model. It holds the vocabulary, needs nothing of this package or of Keras to run, and
    computes in float32 whatever the dtype policy of the model.

    A text is one line: white space separates its words, as in `Vocabulary.encode`, words that
    are not in the vocabulary are `<unk>`, and what comes before it is the end of another line.
    So the empty text has an answer too. Signatures, for any number `B` of texts, each of any
    length:

    | signature | inputs | outputs | equals |
    |---|---|---|---|
    | `score` | `text` (B,) | `words`, `log_probs` (B, N), `num_words`, `total_log_prob`, \
`perplexity` (B,) | `model.score([end_id, *vocabulary.encode(text)])` |
    | `next_words` | `text` (B,), `k` () | `words`, `log_probs` (B, k), best first | \
`model.next_words([end_id, *vocabulary.encode(text)[:-1]], k)` |
    | `generate` | `text` (B,), `length` (), `temperature` (), `seed` () | `words` (B, length), \
`text` (B,) | `model.generate`, in distribution |
    | `score_ids`, `serving_default` | `words` (B, N) int32 | `log_probs` (B, N - 1) | \
`model.score(words)` |

    The end word of a text is scored as well. Texts shorter than the longest are filled up with
    `""` and 0.0. `generate` draws other random numbers than `model.generate`: a seed gives the
    same words again, for a text at the same place of its batch, and temperature 0 the chain of
    best words. What cannot be answered is an `INVALID_ARGUMENT` error: `k` outside `[1, V]`,
    `length` below 1, a temperature that is negative or not finite, ids outside the vocabulary.

    Args:
        model: `LightRNNModel`, built, on any Keras backend.
        vocabulary: `Vocabulary` of the `V` words of the model.
        path: Directory of the model, into which versions go; made where it is missing.
        reorder_vocabulary: Boolean, whether words are numbered by their cells in the SavedModel,
            so that the line of a word in the vocabulary file is its cell and no allocation is
            stored. Answers to text stay the same; the ids of `score_ids` are cells then.
        version: Integer, or `None` for one more than the greatest in `path`.

    Returns:
        The directory written, `path/version`.

    Raises:
        ValueError: if the model is not built or its weights are not finite, the vocabulary is not
            that of the model, or the version is negative.
        FileExistsError: if the version exists already.

    Example:

    >>> words = ["<eos>", "<unk>", "the", "cat", "sat"]
    >>> model = LightRNNModel(5, embedding_dim=8, units=8)
    >>> model.build((None, None))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     version = export_saved_model(model, Vocabulary(words), directory)
    ...     served = tf.saved_model.load(version)
    ...     next_words = served.signatures["next_words"]
    ...     best = next_words(text=tf.constant(["the cat", ""]), k=tf.constant(3))
    >>> version.name, tuple(best["words"].shape)
    ('1', (2, 3))
    """
    check_exportable(model)
    check_vocabulary(vocabulary, model.word_table.allocation)
    target = _find_version(Path(path), version)
    # A server that watches the directory looks at names that are numbers only.
    with make_directory(target) as directory, tempfile.TemporaryDirectory() as assets:
        words_path = os.path.join(assets, "vocabulary.txt")
        allocation = model.word_table.allocation
        unknown_id, end_id = vocabulary.unknown_id, vocabulary.end_id
        if reorder_vocabulary:
            write_words_by_cell(vocabulary, allocation, words_path)
            unknown_id, end_id = (int(allocation.cells[i]) for i in (unknown_id, end_id))
        else:
            vocabulary.save(words_path)
        served = _ServedModel(
            model, ServedVocabulary(words_path, unknown_id, end_id), reorder_vocabulary
        )
        signatures = {
            # OpenVINO, among others, reads no other signature than the default.
            "serving_default": served.score_ids,
            "score_ids": served.score_ids,
            "score": served.score,
            "next_words": served.next_words,
            "generate": served.generate,
        }
        tf.saved_model.save(served, directory, signatures)
        write_warm_up_requests(directory, _make_warm_up_requests(end_id, vocabulary.unknown))
    return target


_IDS = tf.TensorSpec((None, None), tf.int32, "words")
_TEXT = tf.TensorSpec((None,), tf.string, "text")


class _ServedModel(tf.Module):
    """What is exported: a `Network` between the ids or words of text and those of the answers."""

    def __init__(
        self, model: LightRNNModel, vocabulary: ServedVocabulary, ids_are_cells: bool
    ) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self._network = Network(model)
        allocation = model.word_table.allocation
        self._size = allocation.vocabulary_size
        self._cells = self._words = None
        self._num_ids = allocation.num_cells
        if not ids_are_cells:
            self._cells = make_variable(allocation.cells, tf.int32)  # (V,)
            self._words = make_variable(allocation.words.ravel(), tf.int32)  # (R * C,)
            self._num_ids = self._size

    @tf.function(input_signature=[_IDS], autograph=False)
    def score_ids(self, words: Any) -> dict[str, Any]:
        is_valid = (words >= 0) & (words < self._num_ids)
        requirement = f"Word ids must lie in [0, {self._num_ids})"
        if self._words is None and self._network.empty_cells is not None:
            is_valid &= ~self._is_empty(words)
            requirement += " and be cells that hold a word"
        words = _check(
            words,
            tf.reduce_all(is_valid),
            f"{requirement}. Received the ids",
            tf.boolean_mask(words, ~is_valid),
        )
        words = _check(
            words,
            tf.shape(words)[1] >= 2,
            "`words` must hold at least two word ids (B, N). Received words of the shape",
            tf.shape(words),
        )
        return {"log_probs": self._score(words)}

    @tf.function(input_signature=[_TEXT], autograph=False)
    def score(self, text: Any) -> dict[str, Any]:
        context, words = self._encode(text)
        end = tf.fill([tf.shape(text)[0], 1], self._vocabulary.end_id)
        words = tf.concat([words, end], axis=1)  # ragged (B, None)
        num_words = tf.cast(words.row_lengths(), tf.int32)
        log_probs = self._score(tf.concat([context, words], axis=1).to_tensor())  # (B, N)
        is_word = tf.sequence_mask(num_words, tf.shape(log_probs)[1])
        log_probs = tf.where(is_word, log_probs, 0.0)
        total = tf.reduce_sum(log_probs, axis=1)
        return {
            "words": self._vocabulary.get_words(words).to_tensor(),
            "log_probs": log_probs,
            "num_words": num_words,
            "total_log_prob": total,
            "perplexity": tf.exp(-total / tf.cast(num_words, tf.float32)),
        }

    @tf.function(input_signature=[_TEXT, tf.TensorSpec((), tf.int32, "k")], autograph=False)
    def next_words(self, text: Any, k: Any) -> dict[str, Any]:
        is_valid = (k >= 1) & (k <= self._size)
        k = _check(k, is_valid, f"`k` must lie in [1, {self._size}]. Received k =", k)
        cells, log_probs = find_best_cells(self._network, self._read(text), k)
        return {"words": self._get_words(cells), "log_probs": log_probs}

    @tf.function(
        input_signature=[
            _TEXT,
            tf.TensorSpec((), tf.int32, "length"),
            tf.TensorSpec((), tf.float32, "temperature"),
            tf.TensorSpec((), tf.int64, "seed"),
        ],
        autograph=False,
    )
    def generate(self, text: Any, length: Any, temperature: Any, seed: Any) -> dict[str, Any]:
        length = _check(length, length >= 1, "`length` must be positive. Received length =", length)
        temperature = _check(
            temperature,
            tf.math.is_finite(temperature) & (temperature >= 0),
            "`temperature` must be finite and not negative. Received temperature =",
            temperature,
        )
        cells = generate_cells(self._network, self._read(text), length, temperature, seed)
        words = self._get_words(cells)
        return {"words": words, "text": tf.strings.reduce_join(words, axis=1, separator=" ")}

    def _encode(self, text: Any) -> tuple[Any, Any]:
        """Return the end word that comes before a text, `(B, 1)`, and its words, as ids."""
        size = tf.shape(text)[0]
        text = _check(text, size >= 1, "`text` must hold at least one text. Received", size)
        context = tf.fill([tf.shape(text)[0], 1], self._vocabulary.end_id)
        return context, self._vocabulary.encode(text)

    def _score(self, ids: Any) -> Any:
        return score_cells(self._network, self._get_cells(ids))

    def _read(self, text: Any) -> list[Any]:
        ids = tf.concat(self._encode(text), axis=1)  # ragged (B, None)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        return read_prefix(self._network, self._get_cells(ids.to_tensor()), lengths)

    def _is_empty(self, cells: Any) -> Any:
        """Return whether cells hold no word; what is no cell at all is not asked for."""
        cells = tf.clip_by_value(cells, 0, self._num_ids - 1)
        rows, columns = cells // self._network.num_columns, cells % self._network.num_columns
        empty = self._network.find_empty_cells(tf.reshape(rows, [-1]))  # (B * N, C)
        empty = tf.gather(empty, tf.reshape(columns, [-1]), batch_dims=1)
        return tf.reshape(empty, tf.shape(cells)) == 1

    def _get_cells(self, ids: Any) -> Any:
        return ids if self._cells is None else tf.gather(self._cells, ids)

    def _get_words(self, cells: Any) -> Any:
        ids = cells if self._words is None else tf.gather(self._words, cells)
        return self._vocabulary.get_words(ids)


def _check(value: Any, condition: Any, requirement: str, received: Any) -> Any:
    """Return `value`, which can be computed only where `condition` holds."""
    check = tf.debugging.Assert(condition, [requirement, received])
    with tf.control_dependencies([check]):
        return tf.identity(value)


def _make_warm_up_requests(id_: int, word: str) -> list[tuple[str, dict[str, Any]]]:
    """Return a request for each signature; those that sample take two paths through the graph."""
    text = np.array([word], object)
    sampling = {"text": text, "length": np.int32(1), "seed": np.int64(0)}
    return [
        ("score_ids", {"words": np.full((1, 2), id_, np.int32)}),
        ("score", {"text": text}),
        ("next_words", {"text": text, "k": np.int32(1)}),
        ("generate", {**sampling, "temperature": np.float32(0)}),
        ("generate", {**sampling, "temperature": np.float32(1)}),
    ]


def _find_version(path: Path, version: int | None) -> Path:
    if version is None:
        names = os.listdir(path) if path.exists() else []
        versions = [int(name) for name in names if name.isdecimal()]
        version = max(versions, default=0) + 1
    target = path / str(check_not_negative("version", version))
    if target.exists():
        raise FileExistsError(
            f"A version is written once. Received: version={version}, and {str(target)!r} exists. "
            "Give another version, leave it out for the next one, or remove the directory."
        )
    return target
