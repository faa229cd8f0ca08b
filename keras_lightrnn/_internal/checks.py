"""Checks of arguments, shared by all parts of the package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np


def is_size(value: Any) -> bool:
    """Return whether a value is a positive integer of Python or NumPy."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value > 0)


def check_size(name: str, value: Any) -> int:
    """Return a positive integer as an `int`, or raise `ValueError`.

    Example:

    >>> check_size("units", np.int64(3))
    3
    >>> check_size("units", 0)
    Traceback (most recent call last):
        ...
    ValueError: `units` must be a positive integer. Received: units=0 (of type int).
    """
    if not is_size(value):
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r} "
            f"(of type {type(value).__name__})."
        )
    return int(value)


def check_not_negative(name: str, value: Any) -> int:
    """Return an integer of at least 0 as an `int`, or raise `ValueError`.

    Example:

    >>> check_not_negative("seed", 0)
    0
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(
            f"`{name}` must be an integer that is not negative. Received: {name}={value!r}."
        )
    return int(value)


def check_k(name: str, k: Any, vocabulary_size: int) -> None:
    """Raise `ValueError` unless `k` is an integer in `[1, V]`.

    Example:

    >>> check_k("top_k", 40, vocabulary_size=30)
    Traceback (most recent call last):
        ...
    ValueError: `top_k` must be an integer in [1, 30]. Received: top_k=40.
    """
    if not is_size(k) or k > vocabulary_size:
        raise ValueError(
            f"`{name}` must be an integer in [1, {vocabulary_size}]. Received: {name}={k!r}."
        )


def shapes_agree(shape: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Return whether two shapes are equal as far as they are known.

    Example:

    >>> shapes_agree((None, 3), (2, 3)), shapes_agree((2, 3), (2, 4)), shapes_agree((2,), (2, 3))
    (True, False, False)
    """
    return len(shape) == len(other) and all(
        None in sizes or sizes[0] == sizes[1] for sizes in zip(shape, other, strict=True)
    )


def check_counts(counts: Any, vocabulary_size: int) -> np.ndarray:
    """Return the occurrences of each word as an array, `(V,)`, or raise.

    Args:
        counts: `(V,)` integers or floats, finite and not negative.
        vocabulary_size: Integer `V`.

    Raises:
        TypeError: if the counts are not real numbers.
        ValueError: if they have another shape, or one is negative or not finite.

    Example:

    >>> check_counts([4, -1], vocabulary_size=2)
    Traceback (most recent call last):
        ...
    ValueError: `counts` must be finite and not negative. Received: counts[1]=-1 (1 of 2 are wrong).
    """
    if counts is None:
        raise TypeError(
            "`counts` must be the occurrences of each word. Received: counts=None, as of a "
            "`Vocabulary` that was loaded. Count the words of the text with `np.bincount(words, "
            f"minlength={vocabulary_size})`."
        )
    counts = np.asarray(counts)
    if counts.shape != (vocabulary_size,):
        raise ValueError(
            f"`counts` must have one number for each of {vocabulary_size} words. Received: "
            f"counts.shape={counts.shape}."
        )
    if counts.dtype.kind not in "iuf":
        raise TypeError(f"`counts` must be real numbers. Received: counts.dtype={counts.dtype}.")
    wrong = np.flatnonzero(~(np.isfinite(counts) & (counts >= 0)))
    if wrong.size:
        raise ValueError(
            f"`counts` must be finite and not negative. Received: counts[{wrong[0]}]="
            f"{counts[wrong[0]]} ({wrong.size} of {vocabulary_size} are wrong)."
        )
    return counts


def check_ids(ids: Any, position: int, vocabulary_size: int) -> np.ndarray:
    """Return a piece of a stream of word ids as a vector, or raise.

    Args:
        ids: Word ids `(N,)`; `N` may be 0.
        position: Integer, the position of the piece in the stream, for the message.
        vocabulary_size: Integer `V`.

    Raises:
        TypeError: if the ids are not integers.
        ValueError: if the piece is not a vector, or an id is not in `[0, V)`.

    Example:

    >>> check_ids([3, 7], position=10, vocabulary_size=5)
    Traceback (most recent call last):
        ...
    ValueError: Every word id must be in [0, 5). Received: id 7 at position 11 of the stream. Use \
the vocabulary that the text was encoded with.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ValueError(
            "`words` must be a vector of word ids or an iterable of such vectors. Received: a "
            f"piece of shape {ids.shape} at position {position} of the stream. Flatten it with "
            "`.reshape(-1)` if its rows follow each other in the text."
        )
    if ids.size == 0:
        return np.empty(0, np.int32)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(
            "`words` must be integers, the ids of words. Received: a piece of dtype "
            f"{ids.dtype} at position {position} of the stream. Encode text with "
            "`Vocabulary.encode_lines`."
        )
    if ids.min() < 0 or ids.max() >= vocabulary_size:
        index = int(np.argmax((ids < 0) | (ids >= vocabulary_size)))
        raise ValueError(
            f"Every word id must be in [0, {vocabulary_size}). Received: id {ids[index]} at "
            f"position {position + index} of the stream. Use the vocabulary that the text was "
            "encoded with."
        )
    return ids


def check_stream(words: Any, vocabulary_size: int) -> Iterator[np.ndarray]:
    """Yield a stream of word ids piece by piece, each checked by `check_ids`.

    Args:
        words: A vector of word ids, a list of them, `TokenShards`, or an iterable of vectors.
        vocabulary_size: Integer `V`.

    Example:

    >>> [piece.tolist() for piece in check_stream(iter([[3, 7], [2]]), vocabulary_size=9)]
    [[3, 7], [2]]
    >>> [piece.tolist() for piece in check_stream([3, 7], vocabulary_size=9)]
    [[3, 7]]
    """
    position = 0
    for piece in _iterate_pieces(words):
        ids = check_ids(piece, position, vocabulary_size)
        position += ids.size
        yield ids


def _iterate_pieces(words: Any) -> Iterable[Any]:
    if hasattr(words, "blocks"):  # `TokenShards`
        return words.blocks()
    if hasattr(words, "__array__") or np.isscalar(words):
        return (words,)
    if isinstance(words, (list, tuple)) and words and np.isscalar(words[0]):
        return (words,)
    return words
