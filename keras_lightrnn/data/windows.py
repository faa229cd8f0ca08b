"""Windows of word ids, the input of a language model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_lightrnn.allocation import check_size

if TYPE_CHECKING:
    import tensorflow as tf

_CHECKED_AT_ONCE = 1 << 24  # ids; a memory map is checked piece by piece
# Sentences are padded to a multiple of this, so that few shapes have to be compiled.
_LENGTH_STEP = 8


class _Batches(Sequence):
    """Batches `(window, targets, sample_weight)` made when they are asked for."""

    def __init__(
        self, num_batches: int, make: Callable[[int], tuple[np.ndarray, np.ndarray]]
    ) -> None:
        self._num_batches = num_batches
        self._make = make

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        window, weight = self._make(range(self._num_batches)[index])
        return window, window[:, 1:], weight


def contiguous_windows(
    words: Any, batch_size: int, sequence_length: int
) -> Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cut a stream of word ids into windows that continue one another.

    Row `b` of the batch reads its own part of the stream, from `b * K * T` on, where `K` is
    the number of windows; its window `k` covers the `T + 1` words from `b * K * T + k * T`
    on. Consecutive windows share one word, the last of one being the context from which the
    first target of the next is predicted. So every word but the first of the stream is a
    target exactly once. Positions past the end of the stream repeat its last word, with
    weight zero.

    Args:
        words: Word ids `(N,)`, integers, `N >= 2`; may be a memory map.
        batch_size: Integer `B`.
        sequence_length: Integer `T`, words predicted in each window.

    Returns:
        A sequence of `K = ceil((N - 1) / (B * T))` tuples `(window, targets, sample_weight)`:
        `(B, T + 1)` int32, `(B, T)` int32 and `(B, T)` float32.

    Raises:
        TypeError: if the ids are not integers.
        ValueError: if there are fewer than two words, or a size is not positive.

    Example:

    >>> windows = contiguous_windows(np.arange(10, 18), batch_size=2, sequence_length=2)
    >>> for window, targets, weight in windows:
    ...     print(window.tolist(), weight.tolist())
    [[10, 11, 12], [14, 15, 16]] [[1.0, 1.0], [1.0, 1.0]]
    [[12, 13, 14], [16, 17, 17]] [[1.0, 1.0], [1.0, 0.0]]
    """
    words = _check_stream(words)
    check_size("batch_size", batch_size)
    check_size("sequence_length", sequence_length)
    num_windows = -(-(words.size - 1) // (batch_size * sequence_length))
    row_starts = np.arange(batch_size)[:, None] * (num_windows * sequence_length)  # (B, 1)
    offsets = np.arange(sequence_length + 1)  # (T+1,)
    last = words.size - 1

    def make(index: int) -> tuple[np.ndarray, np.ndarray]:
        positions = row_starts + index * sequence_length + offsets  # (B, T+1)
        window = words[np.minimum(positions, last)].astype(np.int32)
        return window, (positions[:, 1:] <= last).astype(np.float32)

    return _Batches(num_windows, make)


def _sentence_windows(
    words: Any, batch_size: int, sequence_length: int, end_id: int, rng: np.random.Generator | None
) -> Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cut a stream into sentences, each after an end word, batched with others as long."""
    words = _check_stream(words, least=1)
    check_size("batch_size", batch_size)
    check_size("sequence_length", sequence_length)
    ends = np.flatnonzero(words == end_id)
    if not ends.size or ends[-1] != words.size - 1:
        raise ValueError(
            "Every sentence must end with the end word. Received: a stream of "
            f"{words.size} words, the last being {words[-1]}, with end_id={end_id}. Use "
            "`Vocabulary.encode` and `end_id=vocabulary.end_id`."
        )
    # The first word of a sentence is predicted from the end of the sentence before. Longer
    # sentences are cut into pieces of T targets, each after the last word of the one before.
    starts = np.concatenate([[-1], ends[:-1]])  # (S,) positions of the first context
    num_pieces = -(-(ends - starts) // sequence_length)
    sentence = np.repeat(np.arange(starts.size), num_pieces)  # (P,)
    piece = np.arange(sentence.size) - (np.cumsum(num_pieces) - num_pieces)[sentence]
    starts = starts[sentence] + piece * sequence_length  # (P,)
    lengths = np.minimum(ends[sentence] - starts, sequence_length)  # (P,) targets
    if rng is not None:
        order = rng.permutation(starts.size)
        starts, lengths = starts[order], lengths[order]
    order = np.argsort(lengths, kind="stable")
    starts, lengths = starts[order], lengths[order]

    def make(index: int) -> tuple[np.ndarray, np.ndarray]:
        first, past = index * batch_size, (index + 1) * batch_size
        missing = max(0, past - starts.size)  # rows of the last batch without a sentence
        row_starts = np.pad(starts[first:past], (0, missing))[:, None]  # (B, 1)
        row_lengths = np.pad(lengths[first:past], (0, missing))[:, None]  # (B, 1)
        padded = -(-int(row_lengths.max()) // _LENGTH_STEP) * _LENGTH_STEP
        offsets = np.arange(min(padded, sequence_length) + 1)
        positions = row_starts + offsets  # (B, L+1), -1 for the end before the first sentence
        inside = (offsets <= row_lengths) & (row_lengths > 0) & (positions >= 0)
        window = np.where(inside, words[np.where(inside, positions, 0)], end_id)
        return window.astype(np.int32), (offsets[1:] <= row_lengths).astype(np.float32)

    return _Batches(-(-starts.size // batch_size), make)


def token_windows(
    words: Any,
    batch_size: int,
    sequence_length: int,
    contiguous: bool = True,
    *,
    end_id: int | None = None,
    vocabulary_size: int | None = None,
    shuffle: bool = False,
    seed: int | None = None,
) -> tf.data.Dataset:
    """Make a data set of windows of word ids, ready for `model.fit`.

    Every element is a tuple `(window, targets, sample_weight)` with
    `targets = window[:, 1:]`, and no word is lost: what does not fill a window is padded,
    and padding has weight zero. `B` is the same for all elements, so that a stateful model
    can be trained.

    With `contiguous=True` row `b` of each window continues row `b` of the one before, for
    training with carried state; see `contiguous_windows`. All windows are of `T + 1` words.

    With `contiguous=False` every row is one sentence, after the end word of the sentence
    before it. Sentences of like length are batched together and padded with the end word to
    the longest, rounded up to a multiple of 8; the windows of a batch are `L + 1` long with
    `L <= T`. Sentences of more than `T` words are cut into several rows.

    Args:
        words: Word ids `(N,)`, integers (a memory map is read as needed), or an iterable of
            such vectors, read once: parts of the stream, or sentences.
        batch_size: Integer `B`.
        sequence_length: Integer `T`, (most) words predicted in each window.
        contiguous: Boolean.
        end_id: Integer, the id that ends every sentence. Needed if `contiguous=False`.
        vocabulary_size: Integer `V`, to check that all ids lie in `[0, V)`. If `None` they
            are only checked not to be negative.
        shuffle: Boolean, whether to mix sentences of equal length, and the order of the
            batches anew in every epoch. Only if `contiguous=False`.
        seed: Integer seed of `shuffle`, or `None`.

    Returns:
        A `tf.data.Dataset` of `(B, T + 1)` int32, `(B, T)` int32, `(B, T)` float32, of known
        cardinality; it can be iterated any number of times.

    Raises:
        TypeError: if the ids are not integers.
        ValueError: if there are too few words, an id lies outside of the vocabulary (the
            message names value and position), or the arguments contradict each other.

    Example:

    >>> dataset = token_windows(np.arange(100), batch_size=4, sequence_length=5)
    >>> len(dataset)
    5
    >>> window, targets, sample_weight = next(iter(dataset))
    >>> window.shape, targets.shape
    (TensorShape([4, 6]), TensorShape([4, 5]))
    """
    words = _join(words)
    if vocabulary_size is not None:
        check_size("vocabulary_size", vocabulary_size)
    if contiguous:
        if shuffle:
            raise ValueError(
                "Contiguous windows must stay in order. Received: contiguous=True, shuffle=True. "
                "Use `contiguous=False` to read sentences in any order."
            )
        batches = contiguous_windows(words, batch_size, sequence_length)
    else:
        if end_id is None:
            raise ValueError(
                "Reading sentence by sentence needs the id that ends a sentence. Received: "
                "contiguous=False, end_id=None. Use `end_id=vocabulary.end_id`."
            )
        rng = np.random.default_rng(seed) if shuffle else None
        batches = _sentence_windows(words, batch_size, sequence_length, end_id, rng)
    _check_range(words, vocabulary_size)
    return _to_dataset(
        batches,
        batch_size,
        sequence_length if contiguous else None,
        shuffle=shuffle,
        seed=seed,
    )


def _to_dataset(
    batches: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    batch_size: int,
    sequence_length: int | None,
    shuffle: bool,
    seed: int | None,
) -> tf.data.Dataset:
    # Imported here so that the arithmetic above is usable without TensorFlow.
    import tensorflow as tf

    def load(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        window, targets, weight = tf.numpy_function(
            batches.__getitem__, [index], (tf.int32, tf.int32, tf.float32)
        )
        window.set_shape((batch_size, None if sequence_length is None else sequence_length + 1))
        targets.set_shape((batch_size, sequence_length))
        weight.set_shape((batch_size, sequence_length))
        return window, targets, weight

    dataset = tf.data.Dataset.range(len(batches))
    if shuffle:
        dataset = dataset.shuffle(len(batches), seed=seed, reshuffle_each_iteration=True)
    return dataset.map(load).prefetch(tf.data.AUTOTUNE)


def _join(words: Any) -> np.ndarray:
    """Return one vector of ids, given one or an iterable of them."""
    if hasattr(words, "__array__") or not isinstance(words, Iterable):
        return np.asarray(words)  # an array, a memory map (not read) or a tensor; or a mistake
    parts = [np.asarray(part) for part in words]
    if not parts:
        return np.empty(0, np.int32)
    if parts[0].ndim == 0:  # a list of ids
        return np.array(parts)
    parts = [part for part in parts if part.size]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def _check_stream(words: Any, least: int = 2) -> np.ndarray:
    words = words if isinstance(words, np.ndarray) else np.asarray(words)
    if words.ndim != 1:
        raise ValueError(
            "`words` must be a vector of word ids, or an iterable of such vectors. Received: "
            f"words.shape={words.shape}."
        )
    if words.size < least:
        raise ValueError(
            f"There must be at least {least} words (a window is a word and the one that it "
            f"predicts). Received: {words.size} words. Check that the text is not empty."
        )
    if not np.issubdtype(words.dtype, np.integer):
        raise TypeError(
            f"`words` must hold integers, the ids of words. Received: words.dtype={words.dtype}. "
            "Encode text with `Vocabulary.encode_lines`."
        )
    return words


def _check_range(words: np.ndarray, vocabulary_size: int | None) -> None:
    limit = np.iinfo(np.int32).max if vocabulary_size is None else vocabulary_size
    for start in range(0, words.size, _CHECKED_AT_ONCE):
        part = words[start : start + _CHECKED_AT_ONCE]
        if part.min() >= 0 and part.max() < limit:
            continue
        position = int(np.flatnonzero((part < 0) | (part >= limit))[0])
        raise ValueError(
            f"Every word id must lie in [0, {limit}). Received: words[{start + position}]="
            f"{part[position]}. Encode the text with the vocabulary of the model."
        )
