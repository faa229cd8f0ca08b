"""The interface through which `generate` reads texts word by word."""

from __future__ import annotations

import abc
from typing import Any

from keras_lightrnn._internal.typing import Cache, Tensor, WordIds


class StepNetwork(abc.ABC):
    """Network that reads texts word by word, for `keras_lightrnn.search.generate`.

    Subclass it for a custom network. `start` reads the prefixes; `step` reads one more word of each
    text. Both return the hidden states from which a `TwoComponentSoftmax` predicts the next words,
    and a cache, which holds everything that `step` needs about earlier words: the state of a
    recurrent network, the keys and values of a Transformer, or, in an encoder-decoder, also the
    output of the encoder.

    A cache is a tensor, or a nested structure of lists, tuples and dictionaries of tensors. The
    first axis of each tensor indexes the texts, which beam search reorders, repeats and drops.

    `generate` does not compile the methods. If they are slow, compile them, for example with
    `tf.function`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras import ops
    >>> from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
    >>> from keras_lightrnn.search import generate
    >>> embedding = TwoComponentEmbedding(50, 8)
    >>> gru = keras.layers.GRU(8, return_sequences=True, return_state=True)
    >>> class GRUSteps(StepNetwork):
    ...     def start(self, words, lengths, max_length, source=None):
    ...         mask = ops.arange(words.shape[1]) < lengths[:, None]
    ...         _, state = gru(embedding(words), mask=mask)
    ...         return state, state
    ...     def step(self, words, cache):
    ...         _, state = gru(embedding(words[:, None]), initial_state=cache)
    ...         return state, state
    >>> softmax = TwoComponentSoftmax(embedding.word_table)
    >>> softmax.build((None, None, 8))
    >>> generate(GRUSteps(), softmax, [[3, 1, 4], [1, 5]], length=6, num_beams=3).shape
    (2, 6)
    """

    @abc.abstractmethod
    def start(
        self, words: WordIds, lengths: Tensor, max_length: int, source: Any = None
    ) -> tuple[Tensor, Cache]:
        """Read prefixes.

        Args:
            words: `(B, N)` int32, the words of each text, padded on the right with word 0.
            lengths: `(B,)` int32, the number of words of each text, at least 1.
            max_length: Integer, the largest number of words that a text can reach, including its
                prefix. It is the size of a cache that does not grow.
            source: The `source` argument of `generate` for these texts, for example the sentences
                to translate; or `None`.

        Returns:
            The hidden states after the last word of each text, `(B, H)`, and the cache.
        """

    @abc.abstractmethod
    def step(self, words: WordIds, cache: Cache) -> tuple[Tensor, Cache]:
        """Read one more word of each text.

        Args:
            words: `(B,)` int32.
            cache: The cache that `start` or `step` returned, reordered by text.

        Returns:
            The hidden states after these words, `(B, H)`, and the new cache.
        """

    def read_rows(self, rows: Tensor, cache: Cache) -> Tensor:
        """Read the rows of the next words. Only needed for a softmax without a row reader.

        Args:
            rows: `(n,)` int32.
            cache: The cache of `n` texts, one for each row.

        Returns:
            The row half-steps `(n, H)`, from which the softmax predicts the columns.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` must define `read_rows(rows, cache)` for a softmax without a "
            'row reader. Received: a network without it. Define it, or give row_reader="gated".'
        )
