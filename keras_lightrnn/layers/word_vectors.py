"""Word vectors: small vectors of single words, in addition to those of rows and columns."""

from __future__ import annotations

from typing import Any

import keras

from keras_lightrnn._internal.checks import check_size, is_size
from keras_lightrnn._internal.shared_objects import (
    check_is_stored,
    load_shared,
    serialize_shared,
    serialize_shared_id,
)
from keras_lightrnn._internal.typing import (
    Config,
    Constraint,
    Initializer,
    Regularizer,
    Shape,
    Tensor,
    WordIds,
)
from keras_lightrnn.ops import cast_word_ids, look_up_word_vectors


@keras.saving.register_keras_serializable("keras_lightrnn")
class WordVectors(keras.layers.Layer):
    """Small vectors of words that an embedding and a softmax share.

    When both layers are given the same `WordVectors`, each word has one vector of size `K` for
    input and output, like tied embeddings. This halves the number of parameters, and the input
    benefits from what the output learns. Each layer has a separate projection. After saving and
    loading, the model still has one layer of vectors.

    Args:
        num_words: Integer `N`, the number of words with a vector: the words `0 .. N - 1`.
        dim: Integer `K`, the size of a vector.
        initializer, regularizer, constraint: Those of the vectors. They default to `"uniform"`,
            `None` and `None`.
        **kwargs: `name`, `dtype`, `trainable` as in every Keras layer.

    Call arguments:
        words: Word ids `(...)`, integers.

    Returns:
        Vectors `(..., K)` of the compute dtype, zero for words without one.

    Example:

    >>> import numpy as np
    >>> from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
    >>> vectors = WordVectors(30, 4)
    >>> embedding = TwoComponentEmbedding(30, 8, word_vectors=vectors)
    >>> softmax = TwoComponentSoftmax(
    ...     embedding.word_table, word_vectors=vectors
    ... )
    >>> words = np.array([[3, 1, 4]])
    >>> log_probs = softmax(embedding(words[:, :-1]), words[:, 1:])
    >>> softmax.word_kernel is embedding.word_embeddings
    True
    """

    def __init__(
        self,
        num_words: int,
        dim: int,
        initializer: Initializer = "uniform",
        regularizer: Regularizer = None,
        constraint: Constraint = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.autocast = False  # word ids must never be rounded to a float type
        self.num_words = check_size("num_words", num_words)
        self.dim = check_size("dim", dim)
        self.initializer = keras.initializers.get(initializer)
        self.regularizer = keras.regularizers.get(regularizer)
        self.constraint = keras.constraints.get(constraint)

    def build(self, input_shape: Shape = None) -> None:
        self.vectors = self.add_weight(
            name="vectors",
            shape=(self.num_words, self.dim),
            initializer=self.initializer,
            regularizer=self.regularizer,
            constraint=self.constraint,
            autocast=False,  # cast as they are looked up, and not all
        )
        self.built = True

    def call(self, words: WordIds) -> Tensor:
        vectors = keras.ops.convert_to_tensor(self.vectors)
        return keras.ops.cast(
            look_up_word_vectors(vectors, cast_word_ids(words)), self.compute_dtype
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.dim)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_words": self.num_words,
            "dim": self.dim,
            "initializer": keras.initializers.serialize(self.initializer),
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "constraint": keras.constraints.serialize(self.constraint),
            **serialize_shared_id(self),
        }

    @classmethod
    def from_config(cls, config: Config) -> WordVectors:
        return load_shared(config, lambda config: cls(**config))

    def load_own_variables(self, store: Any) -> None:
        check_is_stored(self, store)
        super().load_own_variables(store)


def _get_word_vectors(
    identifier: Any, word_dim: Any, num_word_vectors: Any, vocabulary_size: int
) -> WordVectors | None:
    """Return the word vectors to share, given the layer or its configuration, or `None`.

    Raises:
        TypeError: if `identifier` is neither.
        ValueError: if more words have vectors than the vocabulary has, or if `word_dim` or
            `num_word_vectors` is given as well.
    """
    if identifier is None:
        return None
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if not isinstance(identifier, WordVectors):
        raise TypeError(
            "`word_vectors` must be a `WordVectors` layer or None. Received: word_vectors="
            f"{identifier!r} (of type {type(identifier).__name__}). Give `word_dim` for vectors "
            "that are not shared."
        )
    if word_dim != 0 or num_word_vectors is not None or identifier.num_words > vocabulary_size:
        raise ValueError(
            "`word_vectors` must have at most one vector for each word of the vocabulary, and "
            f"replaces `word_dim` and `num_word_vectors`. Received: {identifier.num_words} word "
            f"vectors, vocabulary_size={vocabulary_size}, word_dim={word_dim!r}, "
            f"num_word_vectors={num_word_vectors!r}. Give `WordVectors` alone."
        )
    return identifier


def set_word_vectors(
    layer: Any, word_vectors: Any, word_dim: int, num_word_vectors: int | None
) -> int:
    """Set the attributes for word vectors of an embedding or a softmax from its arguments.

    Returns:
        The number of words with a vector.
    """
    size = layer.word_table.vocabulary_size
    layer.word_vectors = _get_word_vectors(word_vectors, word_dim, num_word_vectors, size)
    if layer.word_vectors is not None:
        word_dim, num_word_vectors = layer.word_vectors.dim, layer.word_vectors.num_words
    layer.word_dim = word_dim
    layer.num_word_vectors = num_word_vectors
    return count_word_vectors(word_dim, num_word_vectors, size)


def serialize_word_vectors(layer: Any) -> Config:
    """Return the entries for word vectors in the config of an embedding or a softmax."""
    vectors = layer.word_vectors
    if vectors is not None:  # they replace the other arguments
        return {"word_dim": 0, "num_word_vectors": None, "word_vectors": serialize_shared(vectors)}
    return {
        "word_dim": layer.word_dim,
        "num_word_vectors": layer.num_word_vectors,
        "word_vectors": None,
    }


def count_word_vectors(word_dim: Any, num_word_vectors: Any, vocabulary_size: int) -> int:
    """Return the number of words with a word vector.

    Raises:
        ValueError: if `word_dim` is not an integer of at least 0, or `num_word_vectors` is not in
            `[1, V]` or is given without `word_dim`.
    """
    if word_dim != 0 and not is_size(word_dim):
        raise ValueError(
            f"`word_dim` must be an integer of at least 0. Received: word_dim={word_dim!r}."
        )
    if num_word_vectors is None:
        return vocabulary_size if word_dim else 0
    if not word_dim or not is_size(num_word_vectors) or num_word_vectors > vocabulary_size:
        raise ValueError(
            "`num_word_vectors` must be an integer between 1 and the vocabulary size, and needs a "
            f"`word_dim` above 0. Received: num_word_vectors={num_word_vectors!r}, word_dim="
            f"{word_dim}, vocabulary_size={vocabulary_size}. Leave it at None for all words."
        )
    return int(num_word_vectors)
