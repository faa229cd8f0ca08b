"""Prefixes of equal or unequal lengths as one array (NumPy only)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from keras_lightrnn._internal.typing import Tensor, WordIds
from keras_lightrnn.ops.word_ids import check_word_ids


class Prefixes(NamedTuple):
    """Texts to continue.

    Attributes:
        words: `(B, N)` int32, the words of each text, padded on the right with 0.
        lengths: `(B,)` int32, the number of words of each text.
        is_batch: Boolean, whether the input was a batch of texts rather than a single text.
    """

    words: np.ndarray
    lengths: np.ndarray
    is_batch: bool

    @property
    def have_one_length(self) -> bool:
        """Whether no text is padded."""
        return bool((self.lengths == self.words.shape[1]).all())

    def take(self, texts: Tensor) -> Prefixes:
        """Return the texts at some indices, or in a slice."""
        lengths = self.lengths[texts]
        return Prefixes(self.words[texts, : max(lengths.max(), 1)], lengths, self.is_batch)


def prepare_prefixes(softmax: Any, prefix: WordIds, mask: Tensor) -> Prefixes:
    """Check prefixes and return them without their padding.

    Args:
        softmax: `TwoComponentSoftmax`. With `mask_zero`, word 0 is padding.
        prefix: Word ids `(N,)` or `(B, N)`, or a list of texts of unequal lengths.
        mask: Boolean, with the shape of `prefix`, false for padding; or `None`.
    """
    joined, joined_mask = _join_unequal(prefix)
    words, is_batch = check_texts(softmax, "prefix", joined)
    if mask is not None:
        mask = _check_mask(mask, joined, joined_mask is not None)
    elif joined_mask is not None:
        mask = joined_mask
        if not mask.any(axis=1).all():
            raise ValueError(
                "Every text of `prefix` must hold at least 1 word. Received: an empty text at "
                f"index {int(np.argmin(mask.any(axis=1)))}."
            )
    if softmax.mask_zero:
        is_word = words != 0
        mask = is_word if mask is None else mask & is_word
    return _pack(words, mask, is_batch)


def check_texts(
    softmax: Any, name: str, words: WordIds, at_least: int = 1
) -> tuple[np.ndarray, bool]:
    """Check texts of one length; return them as `(B, N)` int32, and whether they were a batch."""
    if _join_unequal(words)[1] is not None:
        raise ValueError(
            f"`{name}` must hold texts of one length. Received: texts of the lengths "
            f"{[len(text) for text in words]}. Give one text at a time."
        )
    words = np.asarray(words)
    if words.size and not np.issubdtype(words.dtype, np.integer):
        raise TypeError(
            f"`{name}` must hold integer word ids. Received: {name}.dtype={words.dtype}. Encode "
            "text with `Vocabulary.encode` first."
        )
    if words.ndim not in (1, 2) or words.size == 0 or words.shape[-1] < at_least:
        raise ValueError(
            f"`{name}` must hold at least {at_least} word id(s), as (N,) or (B, N). Received: "
            f"{name}.shape={words.shape}."
        )
    check_word_ids(words, softmax.word_table.vocabulary_size)
    return np.atleast_2d(words).astype(np.int32), words.ndim == 2


def _join_unequal(prefix: WordIds) -> tuple[Any, np.ndarray | None]:
    """Return a list of texts of unequal lengths as an array and its mask.

    Anything else is returned unchanged, with `None` for the mask.

    Example:

    >>> words, mask = _join_unequal([[3, 1, 4], [1]])
    >>> words.tolist(), mask.tolist()
    ([[3, 1, 4], [1, 0, 0]], [[True, True, True], [True, False, False]])
    """
    if not isinstance(prefix, (list, tuple)) or not all(np.iterable(text) for text in prefix):
        return prefix, None
    texts = [np.asarray(text) for text in prefix]
    lengths = np.array([text.size for text in texts])
    if any(text.ndim != 1 for text in texts) or len(set(lengths)) < 2:
        return prefix, None
    mask = np.arange(lengths.max()) < lengths[:, None]  # (B, N)
    joined = np.concatenate([text for text in texts if text.size])
    words = np.zeros(mask.shape, joined.dtype)
    words[mask] = joined
    return words, mask


def _check_mask(mask: Tensor, words: WordIds, is_unequal: bool) -> np.ndarray:
    """Check the mask of texts and return it as `(B, N)` boolean."""
    mask = np.asarray(mask)
    if is_unequal or mask.shape != np.shape(words):
        raise ValueError(
            "`mask` needs a `prefix` that is an array, and must have its shape. Received: "
            f"mask.shape={mask.shape}, "
            + ("a list of unequal lengths." if is_unequal else f"prefix.shape={np.shape(words)}.")
        )
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"`mask` must hold booleans. Received: mask.dtype={mask.dtype}.")
    mask = np.atleast_2d(mask).astype(bool)
    if not mask.any(axis=1).all():
        raise ValueError(
            "Every prefix must have a word that `mask` keeps. Received: a mask without one at "
            f"index {int(np.argmin(mask.any(axis=1)))}."
        )
    return mask


def _pack(words: np.ndarray, mask: np.ndarray | None, is_batch: bool) -> Prefixes:
    """Return prefixes without the words that are masked.

    Example:

    >>> words, mask = np.array([[0, 3, 1], [4, 0, 0]]), np.array([[0, 1, 1], [1, 0, 0]], bool)
    >>> prefixes = _pack(words, mask, is_batch=True)
    >>> prefixes.words.tolist(), prefixes.lengths.tolist()
    ([[3, 1], [4, 0]], [2, 1])
    """
    if mask is None or mask.all():
        lengths = np.full(len(words), words.shape[1], np.int32)
        return Prefixes(words, lengths, is_batch)
    lengths = mask.sum(axis=1, dtype=np.int32)
    longest = max(lengths.max(), 1)
    packed = np.zeros((len(words), longest), np.int32)
    packed[np.arange(longest) < lengths[:, None]] = words[mask]
    return Prefixes(packed, lengths, is_batch)
