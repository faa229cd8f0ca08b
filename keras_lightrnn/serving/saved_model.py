"""SavedModel export, for TensorFlow Serving and other runtimes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lightrnn._internal.files import make_directory
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.models import LightRNNModel
from keras_lightrnn.serving.composed import ComposedNetwork, check_model
from keras_lightrnn.serving.limits import ServingLimits
from keras_lightrnn.serving.network import Network, make_network
from keras_lightrnn.serving.search import (
    find_best_cells,
    generate_cells,
    read_prefixes,
    score_cells,
)
from keras_lightrnn.serving.served_vocabulary import (
    ServedVocabulary,
    check_vocabulary,
    write_words_by_cell,
)
from keras_lightrnn.serving.versions import check_readable, claim_version
from keras_lightrnn.serving.warm_up import write_warm_up_requests
from keras_lightrnn.serving.weights import make_variable
from keras_lightrnn.table.allocation import Allocation


def export_saved_model(
    model: LightRNNModel | keras.Model,
    vocabulary: Vocabulary,
    path: str | os.PathLike[str],
    reorder_vocabulary: bool = False,
    version: int | None = None,
    limits: ServingLimits | None = None,
) -> Path:
    """Write a SavedModel that scores, completes and continues text.

    The SavedModel is written to `path/version`, the layout of TensorFlow Serving (`path` is its
    `--model_base_path`). It is written under a temporary name and renamed, so that a server never
    loads an incomplete model. It contains the vocabulary, runs without this package and Keras, and
    computes in float32 under every dtype policy of the model.

    A text is one line. White space separates its words, as in `Vocabulary.encode`. Words that are
    not in the vocabulary become `<unk>`. A text follows the end word of another line, so that the
    empty text has next words too. The SavedModel has these signatures, for `B` texts of any lengths
    up to the limits:

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

    `score` also scores the end word of a text, and pads shorter texts with `""` and 0.0.
    `generate` draws other random numbers than `model.generate`. Equal seeds give equal words for a
    text at the same index of its batch. Temperature 0 takes the best word at each step. With
    several word tables, a temperature other than 0 and 1 computes the probabilities of all words
    for each word that is drawn. Beam search is not included: a client can implement it with
    requests for `next_words` whose texts are the hypotheses.

    Invalid requests are answered with an `INVALID_ARGUMENT` error: an input of another rank, a
    request above the limits, `k` outside `[1, V]`, `length` below 1, a temperature that is
    negative or not finite, or ids outside the vocabulary.

    Args:
        model: `LightRNNModel`, built, on any Keras backend. Or, on the TensorFlow backend, a
            functional model with causal layers between one input of word ids,
            `keras.Input((None,))`, and a `TwoComponentSoftmax` with a gated row reader. For such a
            model, `generate` computes all words of a text again for each added word.
        vocabulary: `Vocabulary` of the `V` words of the model.
        path: Directory of the versions of the model. It is created if it does not exist.
        reorder_vocabulary: Boolean, whether the SavedModel numbers words by their cells. Then the
            line of a word in the vocabulary file is its cell, no allocation is stored, and the ids
            of `score_ids` are cells. Requests with text are not affected. Defaults to `False`.
        version: Integer. Defaults to the next version after all that exist in `path` or are being
            written there.
        limits: `ServingLimits`, the limits on requests. Defaults to `ServingLimits()`.

    Returns:
        The directory written, `path/version`.

    Raises:
        TypeError: if the model or its row reader is of another kind, or the limits are not
            `ServingLimits`.
        RuntimeError: for a functional model on another backend than TensorFlow.
        ValueError: if the model is not built, its weights are not finite or above 1e12, its states
            depend on later words, the vocabulary is not that of the model, the version is
            negative, or the absolute path contains one of the characters `*?[\\`, which TensorFlow
            reads as patterns.
        FileExistsError: if the version exists, or another export is writing it.

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
    allocation = check_model(model).word_table.allocation
    check_vocabulary(vocabulary, allocation)
    limits = ServingLimits() if limits is None else limits
    if not isinstance(limits, ServingLimits):
        raise TypeError(f"`limits` must be `ServingLimits`. Received: limits={limits!r}.")
    check_readable(path)
    network = make_network(model) if isinstance(model, LightRNNModel) else ComposedNetwork(model)
    # A server that watches the directory ignores names that are not numbers.
    with (
        claim_version(Path(path), version) as target,
        make_directory(target) as directory,
        tempfile.TemporaryDirectory() as assets,
    ):
        words_path = os.path.join(assets, "vocabulary.txt")
        unknown_id, end_id = vocabulary.unknown_id, vocabulary.end_id
        if reorder_vocabulary:
            write_words_by_cell(vocabulary, allocation, words_path)
            unknown_id, end_id = (int(allocation.cells[i]) for i in (unknown_id, end_id))
        else:
            vocabulary.save(words_path)
        served = _ServedModel(
            network,
            allocation,
            ServedVocabulary(words_path, unknown_id, end_id),
            reorder_vocabulary,
            limits,
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
    """The exported signatures: a `Network` between ids or words of text and those of answers."""

    def __init__(
        self,
        network: Network,
        allocation: Allocation,
        vocabulary: ServedVocabulary,
        ids_are_cells: bool,
        limits: ServingLimits,
    ) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self._limits = limits
        self._network = network
        self._size = allocation.vocabulary_size
        self._cells = self._words = None
        self._num_ids = allocation.num_cells
        if not ids_are_cells:
            self._cells = make_variable(allocation.cells, tf.int32)  # (V,)
            self._words = make_variable(allocation.words.ravel(), tf.int32)  # (R * C,)
            self._num_ids = self._size

    @tf.function(input_signature=[_IDS], autograph=False)
    def score_ids(self, words: tf.Tensor) -> dict[str, tf.Tensor]:
        words = _check_shape("words", words, [None, None])
        size, length = tf.unstack(tf.shape(words))
        words = _check(words, size >= 1, "`words` must hold at least one text. Received", size)
        words = self._check_limit("words", words, "texts", size, "max_batch_size")
        words = _check(
            words,
            length >= 2,
            "`words` must hold at least two word ids (B, N). Received words of the shape",
            tf.shape(words),
        )
        # The end words before and after a text are not counted.
        words = self._check_limit("words", words, "words", length - 2, "max_words_per_text")
        is_valid = (words >= 0) & (words < self._num_ids)
        requirement = f"Word ids must lie in [0, {self._num_ids})"
        if self._words is None and self._network.softmax.empty_cells is not None:
            is_valid &= ~self._is_empty(words)
            requirement += " and be cells that hold a word"
        words = _check(
            words,
            tf.reduce_all(is_valid),
            f"{requirement}. Received the ids",
            tf.boolean_mask(words, ~is_valid),
        )
        cells = self._get_cells(words)
        return {"log_probs": score_cells(self._network, cells, tf.fill([size], length))}

    @tf.function(input_signature=[_TEXT], autograph=False)
    def score(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = self._encode(text)  # ragged (B, None)
        num_words = tf.cast(ids.row_lengths(), tf.int32) + 1
        cells = self._get_cells(self._put_between_ends(ids))
        log_probs = score_cells(self._network, cells, num_words + 1)  # (B, N)
        total = tf.reduce_sum(log_probs, axis=1)
        end = self._vocabulary.get_words(tf.constant(self._vocabulary.end_id))
        words = ids.with_flat_values(self._vocabulary.get_words(ids.flat_values)).to_tensor(end)
        words = tf.pad(words, [[0, 0], [0, 1]], constant_values=end)
        return {
            "words": tf.where(tf.sequence_mask(num_words), words, ""),
            "log_probs": log_probs,
            "num_words": num_words,
            "total_log_prob": total,
            "perplexity": tf.exp(-total / tf.cast(num_words, tf.float32)),
        }

    @tf.function(input_signature=[_TEXT, tf.TensorSpec((), tf.int32, "k")], autograph=False)
    def next_words(self, text: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        k = _check_shape("k", k, [])
        num_words = self._size - (self._network.padding_cell is not None)
        most = min(num_words, self._limits.max_k)
        advice = f"The vocabulary has {num_words} words. {_describe(self._limits, 'max_k')}"
        k = _check(
            k, (k >= 1) & (k <= most), f"`k` must lie in [1, {most}]. Received k =", k, advice
        )
        cells, log_probs = find_best_cells(self._network, self._read(text), k, self._get_ids)
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
    def generate(
        self, text: tf.Tensor, length: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        length = _check_shape("length", length, [])
        temperature = _check_shape("temperature", temperature, [])
        seed = _check_shape("seed", seed, [])
        most = self._limits.max_length
        length = _check(
            length,
            (length >= 1) & (length <= most),
            f"`length` must lie in [1, {most}]. Received length =",
            length,
            _describe(self._limits, "max_length"),
        )
        temperature = _check(
            temperature,
            tf.math.is_finite(temperature) & (temperature >= 0),
            "`temperature` must be finite and not negative. Received temperature =",
            temperature,
        )
        states = self._read(text, room=length)
        cells = generate_cells(self._network, states, length, temperature, seed, self._get_ids)
        words = self._get_words(cells)
        return {"words": words, "text": tf.strings.reduce_join(words, axis=1, separator=" ")}

    def _encode(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Return the ids of the words of each text, ragged."""
        text = _check_shape("text", text, [None])
        size = tf.shape(text)[0]
        text = _check(text, size >= 1, "`text` must hold at least one text. Received", size)
        text = self._check_limit("text", text, "texts", size, "max_batch_size")
        # Bytes are counted before words: splitting a text takes many times its memory.
        num_bytes = tf.reduce_max(tf.strings.length(text))
        text = self._check_limit("text", text, "bytes a text", num_bytes, "max_bytes_per_text")
        ids = self._vocabulary.encode(text)
        num_words = tf.cast(tf.reduce_max(ids.row_lengths()), tf.int32)
        return ids.with_flat_values(
            self._check_limit("text", ids.flat_values, "words", num_words, "max_words_per_text")
        )

    def _put_between_ends(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """Return texts `(B, N + 2)` with an end word before each, and end words after it."""
        end_id = self._vocabulary.end_id
        return tf.pad(ids.to_tensor(end_id), [[0, 0], [1, 1]], constant_values=end_id)

    def _check_limit(
        self, name: str, value: tf.Tensor, unit: str, size: tf.Tensor, limit: str
    ) -> tf.Tensor:
        most = getattr(self._limits, limit)
        return _check(
            value,
            size <= most,
            f"`{name}` must hold at most {most} {unit}. Received",
            size,
            _describe(self._limits, limit),
        )

    def _read(self, text: tf.Tensor, room: tf.Tensor | int = 0) -> list[tf.Tensor]:
        ids = self._encode(text)
        cells = self._get_cells(self._put_between_ends(ids)[:, :-1])
        lengths = tf.cast(ids.row_lengths(), tf.int32) + 1
        return read_prefixes(self._network, cells, lengths, room)

    def _is_empty(self, cells: tf.Tensor) -> tf.Tensor:
        """Return whether cells are empty. Numbers outside of the table are clipped."""
        cells = tf.clip_by_value(cells, 0, self._num_ids - 1)
        rows, columns = cells // self._network.num_columns, cells % self._network.num_columns
        empty = self._network.softmax.find_empty_cells(tf.reshape(rows, [-1]))  # (B * N, C)
        empty = tf.gather(empty, tf.reshape(columns, [-1]), batch_dims=1)
        return tf.reshape(empty, tf.shape(cells))

    def _get_cells(self, ids: tf.Tensor) -> tf.Tensor:
        return ids if self._cells is None else tf.gather(self._cells, ids)

    def _get_ids(self, cells: tf.Tensor) -> tf.Tensor:
        return cells if self._words is None else tf.gather(self._words, cells)

    def _get_words(self, cells: tf.Tensor) -> tf.Tensor:
        return self._vocabulary.get_words(self._get_ids(cells))


def _check_shape(name: str, value: tf.Tensor, shape: list[int | None]) -> tf.Tensor:
    """Return `value` after a check of its shape, which servers do not make."""
    kind = {0: "scalar", 1: "vector", 2: "matrix"}[len(shape)]
    return tf.ensure_shape(value, shape, name=f"{name}_must_be_a_{kind}")


def _check(
    value: tf.Tensor, condition: tf.Tensor, requirement: str, received: tf.Tensor, advice: str = ""
) -> tf.Tensor:
    """Return `value`; the operation raises an error unless `condition` holds."""
    check = tf.debugging.Assert(condition, [requirement, received, advice][: 3 if advice else 2])
    with tf.control_dependencies([check]):
        return tf.identity(value)


def _describe(limits: ServingLimits, name: str) -> str:
    return f"The model was exported with ServingLimits({name}={getattr(limits, name)})."


def _make_warm_up_requests(id_: int, word: str) -> list[tuple[str, dict[str, Any]]]:
    """Return requests for all signatures: two for `generate`, one for each branch of its graph."""
    text = np.array([word], object)
    sampling = {"text": text, "length": np.int32(1), "seed": np.int64(0)}
    return [
        ("score_ids", {"words": np.full((1, 2), id_, np.int32)}),
        ("score", {"text": text}),
        ("next_words", {"text": text, "k": np.int32(1)}),
        ("generate", {**sampling, "temperature": np.float32(0)}),
        ("generate", {**sampling, "temperature": np.float32(1)}),
    ]
