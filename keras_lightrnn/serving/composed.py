"""A functional model of the layers as a network that reads texts."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from keras_lightrnn.layers import TwoComponentSoftmax
from keras_lightrnn.layers.row_reader import GatedRowReader
from keras_lightrnn.serving.network import Network, Tensors
from keras_lightrnn.serving.softmax import make_reader_softmax
from keras_lightrnn.serving.weights import make_variable

# Word positions that are computed together: attention and activations grow with them.
_WORDS_AT_ONCE = 1 << 14
# Words of the call that shows how many states a model makes of them.
_SAMPLE_LENGTH = 4


class ComposedNetwork(Network):
    """The part of a functional model from word ids to the states of its `TwoComponentSoftmax`.

    The network has no memory of its own: it computes all words of a text again for each word that
    is added. Its states are the last hidden state `(n, H)`, the words `(n, P)` and their
    number `(n,)`.

    Args:
        model: `keras.Model`, functional, on the TensorFlow backend.
    """

    def __init__(self, model: keras.Model) -> None:
        softmax = find_softmax(model)
        allocation = softmax.word_table.allocation
        padding_cell = int(allocation.cells[0]) if softmax.mask_zero else None
        super().__init__(make_reader_softmax(softmax), padding_cell)
        encoder = make_encoder(model, softmax)
        # TensorFlow's own variables: sessions, which servers use, do not restore those of Keras.
        self._variables = [variable.value for variable in encoder.variables]
        self._run_encoder = functools.partial(encoder, training=False)
        sample = self._run_encoder(tf.zeros([1, _SAMPLE_LENGTH], tf.int32))
        # A model of windows (B, T + 1) leaves out the last word, which it only predicts.
        self._num_unread = _SAMPLE_LENGTH - sample.shape[1]
        self.state_kinds = [(tf.float32, [sample.shape[-1]]), (tf.int32, [None]), (tf.int32, [])]
        self._words = make_variable(allocation.words.ravel(), tf.int32)  # (R * C,)

    def choose_block_size(self, length: Any) -> Any:
        return tf.clip_by_value(
            _WORDS_AT_ONCE // (length + 1), 1, super().choose_block_size(length)
        )

    def read_texts(self, cells: Any, lengths: Any, room: Any) -> Tensors:
        words = tf.pad(self._get_words(cells), [[0, 0], [0, room]])
        return [self._read(words, lengths), words, lengths]

    def score_texts(self, cells: Any) -> Any:
        states = self._encode(self._get_words(cells)[:, :-1])  # (n, N - 1, H)
        length = tf.shape(states)[1]

        def score_one(t: Any, log_probs: Any) -> Any:
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

    def read_words(self, cells: Any, states: Tensors) -> Tensors:
        _, words, lengths = states
        places = tf.stack([tf.range(tf.shape(lengths)[0]), lengths], axis=1)
        words = tf.tensor_scatter_nd_update(words, places, self._get_words(cells))
        return [self._read(words, lengths + 1), words, lengths + 1]

    def get_hidden(self, states: Tensors) -> Any:
        return states[0]

    def predict_rows(self, states: Tensors) -> tuple[Any, Tensors]:
        return self.softmax.predict_rows(states[0])

    def expand_rows(self, texts: Any, rows: Any, context: Tensors) -> tuple[Any, Tensors]:
        return self.softmax.expand_rows(texts, rows, context), []

    def _read(self, words: Any, lengths: Any) -> Any:
        """Return the hidden state after the last word of each text, `(n, H)`."""
        states = self._encode(words[:, : tf.reduce_max(lengths)])
        return tf.gather(states, lengths - 1, batch_dims=1)

    def _encode(self, words: Any) -> Any:
        """Return the state after each word, `(n, N) -> (n, N, H)`.

        Words behind the end of a text change no state before it: the network is causal.
        """
        words = tf.pad(words, [[0, 0], [0, self._num_unread]])
        return tf.cast(self._run_encoder(words), tf.float32)

    def _get_words(self, cells: Any) -> Any:
        # Behind the end of a text there may be an empty cell.
        return tf.maximum(tf.gather(self._words, cells), 0)


def find_softmax(model: keras.Model) -> TwoComponentSoftmax:
    """Return the softmax of a functional model that an export can read.

    Raises:
        TypeError: if the model is not functional, or has not one `TwoComponentSoftmax` with a
            `GatedRowReader` behind states `(B, T, H)`.
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
            "A functional model needs a `TwoComponentSoftmax` with a gated row reader to be "
            f'exported. Received: row_reader={softmax.row_reader!r}. Give row_reader="gated"; '
            "half-steps are exported of a `LightRNNModel` only."
        )
    if len(softmax.input[0].shape) != 3:
        raise TypeError(
            "A functional model needs states (B, T, H), one for each word, to be exported. "
            f"Received: states of shape {tuple(softmax.input[0].shape)}. Let the last layer "
            "return sequences."
        )
    return softmax


def make_encoder(model: keras.Model, softmax: TwoComponentSoftmax) -> keras.Model:
    """Return the part of a model from word ids `(B, N)` to the states of its softmax.

    Raises:
        TypeError: if the states do not follow from one input of word ids of any number.
    """
    states = softmax.input[0]
    encoders = []
    for words in model.inputs:
        try:
            encoders.append(keras.Model(words, states))
        except ValueError:  # the states need other inputs, or none of this one
            continue
    if len(encoders) != 1 or tuple(encoders[0].inputs[0].shape) != (None, None):
        shapes = [tuple(words.shape) for words in model.inputs]
        raise TypeError(
            "An exported model must compute its states from one input of word ids, "
            f"`keras.Input((None,))`. Received: inputs of the shapes {shapes}."
        )
    return encoders[0]
