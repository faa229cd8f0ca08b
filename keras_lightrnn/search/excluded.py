"""Checks of the words that a search must not return."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_lightrnn._internal.checks import shapes_agree
from keras_lightrnn._internal.typing import Tensor


def check_excluded(
    excluded: Any, num_texts: int, vocabulary_size: int, k: int, has_padding: bool
) -> np.ndarray:
    """Return excluded words as an array `(B, E)`, or raise.

    Args:
        excluded: Word ids, -1 for none: `(B, E)`, or `(E,)` for every text.
        num_texts: Integer `B`.
        vocabulary_size: Integer `V`.
        k: Integer, the number of words to find for each text.
        has_padding: Boolean, whether word 0 is padding, which is never returned.

    Raises:
        TypeError: if the ids are not integers.
        ValueError: if the shape is wrong, an id is outside `[-1, V)`, or a text has fewer than `k`
            words that are not excluded.

    Example:

    >>> check_excluded([[3, -1], [1, 2]], 2, vocabulary_size=4, k=2, has_padding=False).tolist()
    [[3, -1], [1, 2]]
    >>> check_excluded([[3, -1], [1, 2]], 2, vocabulary_size=4, k=3, has_padding=False)
    Traceback (most recent call last):
        ...
    ValueError: `k` must be at most the number of words that are not excluded. Received: k=3, and \
2 words that are not excluded of text 1. Lower `k`, or exclude fewer words.
    """
    words = np.asarray(excluded)
    if words.size and not np.issubdtype(words.dtype, np.integer):
        raise TypeError(
            f"`excluded` must hold integer word ids. Received: excluded.dtype={words.dtype}. "
            "Encode text with `Vocabulary.encode`, and fill up with -1."
        )
    if words.ndim == 1:
        words = np.broadcast_to(words, (num_texts, len(words)))
    if words.ndim != 2 or len(words) != num_texts:
        raise ValueError(
            f"`excluded` must have the shape ({num_texts}, E), or (E,) for every text. "
            f"Received: excluded.shape={np.shape(excluded)}. Fill up with -1."
        )
    words = words.astype(np.int64)
    is_wrong = (words < -1) | (words >= vocabulary_size)
    if is_wrong.any():
        text, place = (int(x) for x in np.argwhere(is_wrong)[0])
        raise ValueError(
            f"Excluded words must lie in [0, {vocabulary_size}), or be -1 for none. Received: the "
            f"id {words[text, place]} at position ({text}, {place}) ({int(is_wrong.sum())} of "
            f"{words.size} ids lie outside). Leave out ids of other vocabularies."
        )
    left = count_allowed(words, vocabulary_size, has_padding)
    if left.size and left.min() < k:
        text = int(left.argmin())
        raise ValueError(
            f"`k` must be at most the number of words that are not excluded. Received: k={k}, and "
            f"{left[text]} words that are not excluded of text {text}. Lower `k`, or exclude fewer "
            "words."
        )
    return words


def count_allowed(words: np.ndarray, vocabulary_size: int, has_padding: bool) -> np.ndarray:
    """Return the number of words that each text may be followed by, `(B,)`.

    Args:
        words: `(B, E)` excluded words, -1 for none.
        vocabulary_size: Integer `V`.
        has_padding: Boolean, whether word 0 is padding.

    Example:

    >>> count_allowed(np.array([[3, 3, -1], [0, 1, 2]]), 5, has_padding=True).tolist()
    [3, 2]
    """
    ordered = np.sort(words, axis=1)
    is_counted = ordered >= int(has_padding)  # padding is subtracted once, below
    is_counted[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]  # repeated ids count once
    return vocabulary_size - has_padding - is_counted.sum(axis=1)


def check_excluded_shape(excluded: Tensor, num_texts: int | None) -> None:
    """Raise `ValueError` unless excluded words in a graph have the shape `(B, E)`.

    Args:
        excluded: Tensor of word ids.
        num_texts: Integer `B`, or `None` if it is not known.
    """
    shape = tuple(excluded.shape)
    number = "B" if num_texts is None else num_texts
    if len(shape) != 2 or not shapes_agree(shape[:1], (num_texts,)):
        raise ValueError(
            f"`excluded` must have the shape ({number}, E). Received: excluded.shape={shape}. Fill "
            "up with -1."
        )
