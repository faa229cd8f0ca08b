"""The protocol by which `generate` reads a network word by word."""

from __future__ import annotations

import abc
from typing import Any

from keras_lightrnn._internal.typing import Tensor, WordIds


class StepNetwork(abc.ABC):
    """Network that reads texts word by word, for `keras_lightrnn.search.generate`.

    Subclass it for a network of your own. `start` reads the prefixes; `step` reads one more word
    of each text. Both return the hidden states from which a `TwoComponentSoftmax` predicts the
    next words, and a cache: whatever `step` needs to know of the words before. That is the state
    of a recurrent network, the keys and values of a Transformer, and of an encoder-decoder the
    encoder's output as well.

    A cache is a tensor, or a list, tuple or dictionary of tensors and of caches. The first axis of
    each tensor is that of the texts: beam search reorders, repeats and drops texts with
    `keras.ops.take` along it.

    `generate` calls the methods as they are. Where they are slow, compile them, for example with
    `tf.function`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras import ops
    >>> from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
    >>> from keras_lightrnn.search import generate
    >>> embedding = TwoComponentEmbedding(50, 8, combine="gate")
    >>> gru = keras.layers.GRU(8, return_sequences=True, return_state=True)
    >>> class GRUSteps(StepNetwork):
    ...     def start(self, words, lengths, max_length, source=None):
    ...         mask = ops.arange(words.shape[1]) < lengths[:, None]
    ...         _, state = gru(embedding(words), mask=mask)
    ...         return state, state
    ...     def step(self, words, cache):
    ...         _, state = gru(embedding(words[:, None]), initial_state=cache)
    ...         return state, state
    >>> softmax = TwoComponentSoftmax(embedding.word_table, row_reader="gated")
    >>> softmax.build((None, None, 8))
    >>> generate(GRUSteps(), softmax, [[3, 1, 4], [1, 5]], length=6, num_beams=3).shape
    (2, 6)
    """

    @abc.abstractmethod
    def start(
        self, words: WordIds, lengths: Tensor, max_length: int, source: Any = None
    ) -> tuple[Tensor, Any]:
        """Read prefixes.

        Args:
            words: `(B, N)` int32, the words of each text from the left, then word 0 up to the
                length of the longest.
            lengths: `(B,)` int32, how many words each text has, at least 1.
            max_length: Integer, the most words that a text may come to have, prefix included: the
                size of a cache that does not grow.
            source: The `source` that `generate` was given, of these texts: for example the
                sentences to translate. `None` without one.

        Returns:
            The hidden states after the last word of each text, `(B, H)`, and the cache.
        """

    @abc.abstractmethod
    def step(self, words: WordIds, cache: Any) -> tuple[Tensor, Any]:
        """Read one more word of each text.

        Args:
            words: `(B,)` int32.
            cache: What `start` or `step` returned of the texts, reordered.

        Returns:
            The hidden states after these words, `(B, H)`, and the new cache.
        """

    def read_rows(self, rows: Tensor, cache: Any) -> Tensor:
        """Read the rows of the next words. Only a softmax without a row reader needs it.

        Args:
            rows: `(n,)` int32.
            cache: The cache of `n` texts, one for each row.

        Returns:
            The row half-steps `(n, H)`, from which the columns in these rows are predicted.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` must define `read_rows(rows, cache)` for a softmax without a "
            'row reader. Received: a network without it. Define it, or give row_reader="gated".'
        )
