"""Networks made from functional models."""

from __future__ import annotations

import functools

import keras
import numpy as np
import tensorflow as tf

from keras_lightrnn.layers import TwoComponentSoftmax
from keras_lightrnn.layers.row_reader import GatedRowReader
from keras_lightrnn.models import LightRNNModel
from keras_lightrnn.serving.network import Network, Tensors
from keras_lightrnn.serving.softmax import make_reader_softmax
from keras_lightrnn.serving.weights import check_row_reader, check_weights, make_variable

# Word positions that are computed together. The memory of activations grows with them.
_WORDS_AT_ONCE = 1 << 14
# Words of two texts that show the number of states of a model and whether it reads ahead, and how
# many of the last ones differ. A model may leave one word unread.
_SAMPLE_LENGTH = 6
_NUM_LATER = 3
# Of the largest number in a state: what rounding may change.
_LEAST_CHANGE = 1e-4


class ComposedNetwork(Network):
    """The part of a functional model from word ids to the states of its `TwoComponentSoftmax`.

    The network keeps no recurrent state, so it computes all words of a text again for each added
    word. Its states are the last hidden state `(n, H)`, the words `(n, P)` and their number `(n,)`.

    Args:
        model: `keras.Model`, functional, on the TensorFlow backend.

    Raises:
        ValueError: if a state depends on words after its own.
    """

    def __init__(self, model: keras.Model) -> None:
        softmax = find_softmax(model)
        allocation = softmax.word_table.allocation
        padding_cell = int(allocation.cells[0]) if softmax.mask_zero else None
        super().__init__(make_reader_softmax(softmax), padding_cell)
        encoder = make_encoder(model, softmax)
        # TensorFlow variables, because servers use sessions, which do not restore Keras variables.
        self._variables = [variable.value for variable in encoder.variables]
        self._run_encoder = functools.partial(encoder, training=False)
        sample = self._run_encoder(_make_sample(softmax.word_table.vocabulary_size))
        _check_causal(sample.numpy(), model)
        self.units = sample.shape[-1]
        # A model of windows (B, T + 1) does not read the last word, which it only predicts.
        self._num_unread = _SAMPLE_LENGTH - sample.shape[1]
        self.state_kinds = [(tf.float32, [self.units]), (tf.int32, [None]), (tf.int32, [])]
        self._words = make_variable(allocation.words.ravel(), tf.int32)  # (R * C,)

    def choose_block_size(self, length: tf.Tensor) -> tf.Tensor | int:
        return tf.clip_by_value(
            _WORDS_AT_ONCE // (length + 1), 1, super().choose_block_size(length)
        )

    def read_texts(self, cells: tf.Tensor, lengths: tf.Tensor, room: tf.Tensor | int) -> Tensors:
        words = tf.pad(self._get_words(cells), [[0, 0], [0, room]])
        return [self._read(words, lengths), words, lengths]

    def score_texts(self, cells: tf.Tensor) -> tf.Tensor:
        states = self._encode(self._get_words(cells)[:, :-1])  # (n, N - 1, H)
        length = tf.shape(states)[1]

        def score_one(t: tf.Tensor, log_probs: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            picked = self.softmax.score_cells(states[:, t], cells[:, t + 1])
            return t + 1, log_probs.write(t, picked)

        log_probs = tf.TensorArray(tf.float32, length, element_shape=[None])
        _, log_probs = tf.while_loop(
            lambda t, _: t < length,
            score_one,
            (tf.constant(0), log_probs),
            parallel_iterations=1,
        )
        return tf.transpose(log_probs.stack())

    def read_words(self, cells: tf.Tensor, states: Tensors) -> Tensors:
        _, words, lengths = states
        places = tf.stack([tf.range(tf.shape(lengths)[0]), lengths], axis=1)
        words = tf.tensor_scatter_nd_update(words, places, self._get_words(cells))
        return [self._read(words, lengths + 1), words, lengths + 1]

    def get_hidden(self, states: Tensors) -> tf.Tensor:
        return states[0]

    def predict_rows(self, states: Tensors) -> tuple[tf.Tensor, Tensors]:
        return self.softmax.predict_rows(states[0])

    def expand_rows(
        self, texts: tf.Tensor | None, rows: tf.Tensor, context: Tensors
    ) -> tuple[tf.Tensor, Tensors]:
        return self.softmax.expand_rows(texts, rows, context), []

    def read_padded_texts(self, cells: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Return the hidden state after the last word of each text, `(n, N), (n,) -> (n, H)`."""
        return self._read_padded(self._get_words(cells), lengths)

    def _read(self, words: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        return self._read_padded(words[:, : tf.reduce_max(lengths)], lengths)

    def _read_padded(self, words: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._encode(words), lengths - 1, batch_dims=1)

    def _encode(self, words: tf.Tensor) -> tf.Tensor:
        """Return the state after each word, `(n, N) -> (n, N, H)`.

        The network is causal, so words after the end of a text do not change its states.
        """
        words = tf.pad(words, [[0, 0], [0, self._num_unread]])
        return tf.cast(self._run_encoder(words), tf.float32)

    def _get_words(self, cells: tf.Tensor) -> tf.Tensor:
        # The padding after a text may be an empty cell.
        return tf.maximum(tf.gather(self._words, cells), 0)


def _make_sample(vocabulary_size: int) -> np.ndarray:
    """Return two texts of words other than 0, of which the last words differ."""
    first = np.arange(_SAMPLE_LENGTH)
    second = np.where(first < _SAMPLE_LENGTH - _NUM_LATER, first, first + 1)
    words = 1 + np.stack([first, second]) % max(1, vocabulary_size - 1)
    return np.minimum(words, vocabulary_size - 1).astype(np.int32)  # the only word is 0


def _check_causal(states: np.ndarray, model: keras.Model) -> None:
    """Raise unless the states after the first words of the sample are the same, `(2, N, H)`."""
    first, second = states[:, : _SAMPLE_LENGTH - _NUM_LATER].astype(np.float64)
    if np.abs(first - second).max() > _LEAST_CHANGE * np.abs(states).max():
        raise ValueError(
            "An exported model must compute the state after a word from that word and those before "
            f"it. Received: {model.name!r}, whose states change with later words. Use layers that "
            "do not read ahead, such as recurrent layers in one direction and attention with "
            "`use_causal_mask=True`; `keras_lightrnn.models.check_causal` names the layer."
        )


def check_model(model: LightRNNModel | keras.Model) -> TwoComponentSoftmax:
    """Return the softmax of a model, or raise unless the model can be exported."""
    softmax = model.softmax if isinstance(model, LightRNNModel) else find_softmax(model)
    check_row_reader(softmax)
    check_weights(model)
    return softmax


def find_softmax(model: keras.Model) -> TwoComponentSoftmax:
    """Return the softmax of a functional model that an export can read.

    Raises:
        TypeError: if the model is not functional, or does not have exactly one
            `TwoComponentSoftmax` with a `GatedRowReader` and states `(B, T, H)`.
        RuntimeError: on another backend than TensorFlow.
    """
    layers = model.layers if isinstance(model, keras.Model) else []
    found = [layer for layer in layers if isinstance(layer, TwoComponentSoftmax)]
    received = f"Received: model={model!r}, with {len(found)} such layers."
    if len(found) != 1 or not hasattr(model, "inputs") or not model.inputs:
        raise TypeError(
            "`model` must be a `LightRNNModel`, or a functional model with one "
            f"`TwoComponentSoftmax`. {received} Export other models with `model.export`, which "
            "writes log-probabilities."
        )
    [softmax] = found
    if not isinstance(softmax.row_reader, GatedRowReader):
        raise TypeError(
            "The export of a functional model needs a `TwoComponentSoftmax` with a gated row "
            f'reader. Received: row_reader={softmax.row_reader!r}. Give row_reader="gated"; '
            "half-steps can be exported from a `LightRNNModel` only."
        )
    if len(softmax.input[0].shape) != 3:
        raise TypeError(
            "The export of a functional model needs states (B, T, H), one for each word. Received: "
            f"states of shape {tuple(softmax.input[0].shape)}. Give the last recurrent layer "
            "`return_sequences=True`."
        )
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "The export of a functional model needs the TensorFlow backend, because it contains "
            f"the layers of the model. Received: backend {keras.backend.backend()!r}. Save the "
            "model, then load and export it with KERAS_BACKEND=tensorflow."
        )
    return softmax


def make_encoder(model: keras.Model, softmax: TwoComponentSoftmax) -> keras.Model:
    """Return the part of a model from word ids `(B, N)` to the states of its softmax.

    Raises:
        TypeError: if the states do not depend on exactly one input of word ids, of any length.
    """
    states = softmax.input[0]
    encoders = []
    for words in model.inputs:
        try:
            encoders.append(keras.Model(words, states))
        except ValueError:  # the states depend on other inputs, or not on this one
            continue
    if len(encoders) != 1 or tuple(encoders[0].inputs[0].shape) != (None, None):
        shapes = [tuple(words.shape) for words in model.inputs]
        raise TypeError(
            "An exported model must compute its states from one input of word ids, "
            f"`keras.Input((None,))`. Received: inputs of the shapes {shapes}."
        )
    return encoders[0]
