"""Word vectors: small vectors of single words, in addition to those of rows and columns."""

from __future__ import annotations

from typing import Any

from keras_lightrnn._internal.checks import is_size


def count_word_vectors(word_dim: Any, num_word_vectors: Any, vocabulary_size: int) -> int:
    """Return how many words have a word vector.

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
