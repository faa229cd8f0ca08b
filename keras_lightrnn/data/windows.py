"""Windows of word ids: batches for language models."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_lightrnn._internal.checks import check_ids, check_not_negative, check_size
from keras_lightrnn.data.epochs import Epochs, make_dataset
from keras_lightrnn.data.permutation import make_permutation
from keras_lightrnn.data.token_shards import TokenShards

if TYPE_CHECKING:
    import tensorflow as tf

_MOST_IDS = int(np.iinfo(np.int32).max)
_PART_SIZE = 1 << 24  # ids checked or searched at a time
_Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
# Sentences are padded to a multiple of this, so few shapes are compiled.
_LENGTH_STEP = 8


class _Batches(Sequence):
    """A sequence of batches `(window, targets, sample_weight)`, made on access."""

    def __init__(
        self, num_batches: int, make: Callable[[int], tuple[np.ndarray, np.ndarray]]
    ) -> None:
        self._num_batches = num_batches
        self._make = make

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: Any) -> Any:
        places = range(self._num_batches)[index]
        if isinstance(places, range):
            return _Batches(len(places), lambda place: self._make(places[place]))
        window, weight = self._make(places)
        return window, window[:, 1:], weight


def contiguous_windows(
    words: Any,
    batch_size: int,
    sequence_length: int,
    *,
    num_processes: int = 1,
    process_id: int = 0,
) -> Sequence[_Batch]:
    """Cut a stream of word ids into consecutive windows.

    Row `b` of all batches reads one part of the stream, which starts at `b * K * T`, where `K` is
    the number of windows. Its window `k` is the `T + 1` words that start at `b * K * T + k * T`.
    The last word of a window is the first word of the next, from which the next predicts its first
    target. So every word of the stream except the first is a target exactly once. Positions after
    the end of the stream repeat its last word, with weight zero.

    With several processes, each process reads `B` of the `num_processes * B` rows of a common
    batch. So all make the same number of steps, and every word except the first is a target in
    exactly one process.

    Args:
        words: Word ids `(N,)`, integers, `N >= 2`: an array, a memory map, or `TokenShards`.
        batch_size: Integer `B`, rows per batch of this process.
        sequence_length: Integer `T`, words predicted in each window.
        num_processes: Integer `P`, the number of processes that share the stream. Defaults to 1.
        process_id: Integer in `[0, P)`, the number of this process. Defaults to 0.

    Returns:
        A sequence of `K = ceil((N - 1) / (P * B * T))` tuples `(window, targets,
        sample_weight)`: `(B, T + 1)` int32, `(B, T)` int32 and `(B, T)` float32.

    Raises:
        TypeError: if the ids are not integers.
        ValueError: if there are fewer than two words, or a size is out of range.

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
    rows = _choose_rows(batch_size, num_processes, process_id)  # (B,)
    num_windows = -(-(words.size - 1) // (num_processes * batch_size * sequence_length))
    row_starts = rows * (num_windows * sequence_length)  # (B,)

    def make(index: int) -> tuple[np.ndarray, np.ndarray]:
        return _read_windows(words, row_starts + index * sequence_length, sequence_length)

    return _Batches(num_windows, make)


def shuffled_windows(
    words: Any,
    batch_size: int,
    sequence_length: int,
    *,
    seed: int,
    epoch: int = 0,
    num_processes: int = 1,
    process_id: int = 0,
) -> Sequence[_Batch]:
    """Cut a stream of word ids into windows, in random order.

    Window `k` is the `T + 1` words that start at `k * T`, so every word of the stream except the
    first is a target exactly once. The order depends on `seed` and `epoch` only. It is computed
    window by window: neither the stream nor the order is held in memory, and every batch of every
    epoch can be read directly. The rows of a batch do not continue those of the previous batch;
    models with carried state need `contiguous_windows`.

    Positions after the end of the stream repeat its last word, with weight zero.

    Args:
        words: Word ids `(N,)`, integers, `N >= 2`: an array, a memory map, or `TokenShards`.
        batch_size: Integer `B`, rows per batch of this process.
        sequence_length: Integer `T`, words predicted in each window.
        seed: Integer, at least 0.
        epoch: Integer, at least 0, the number of the epoch. Defaults to 0.
        num_processes: Integer `P`, the number of processes that share the stream. All must use
            the same seed and epoch. Defaults to 1.
        process_id: Integer in `[0, P)`, the number of this process. Defaults to 0.

    Returns:
        A sequence of `ceil(ceil((N - 1) / T) / (P * B))` tuples `(window, targets,
        sample_weight)`: `(B, T + 1)` int32, `(B, T)` int32 and `(B, T)` float32.

    Raises:
        TypeError: if the ids are not integers.
        ValueError: if there are fewer than two words, or a size or the seed is out of range.

    Example:

    >>> windows = shuffled_windows(np.arange(10, 19), batch_size=2, sequence_length=2, seed=0)
    >>> sorted(row.tolist() for window, _, _ in windows for row in window)
    [[10, 11, 12], [12, 13, 14], [14, 15, 16], [16, 17, 18]]
    """
    words = _check_stream(words)
    check_size("batch_size", batch_size)
    check_size("sequence_length", sequence_length)
    check_not_negative("seed", seed)
    check_not_negative("epoch", epoch)
    rows = _choose_rows(batch_size, num_processes, process_id)  # (B,)
    num_windows = -(-(words.size - 1) // sequence_length)
    permute = make_permutation(num_windows, seed, epoch)

    def make(index: int) -> tuple[np.ndarray, np.ndarray]:
        places = index * (num_processes * batch_size) + rows  # (B,)
        # The last batch may lack rows, which are windows after the end of the stream.
        order = np.where(places < num_windows, permute(places % num_windows), num_windows)
        return _read_windows(words, order * sequence_length, sequence_length)

    return _Batches(-(-num_windows // (num_processes * batch_size)), make)


def _read_windows(
    words: np.ndarray | TokenShards, starts: np.ndarray, sequence_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows `(B, T + 1)` at `starts` and the weights `(B, T)` of targets."""
    last = words.size - 1
    positions = starts[:, None] + np.arange(sequence_length + 1)  # (B, T+1)
    window = words[np.minimum(positions, last)]
    if window.min() < 0 or window.max() >= _MOST_IDS:
        raise ValueError(
            f"Every word id must be in [0, {_MOST_IDS}). Received: ids from {window.min()} to "
            f"{window.max()} in a batch. Encode the text with the vocabulary of the model."
        )
    return window.astype(np.int32), (positions[:, 1:] <= last).astype(np.float32)


def _choose_rows(batch_size: int, num_processes: int, process_id: int) -> np.ndarray:
    """Return the rows of this process in a batch of all processes."""
    check_size("num_processes", num_processes)
    check_not_negative("process_id", process_id)
    if process_id >= num_processes:
        raise ValueError(
            "`process_id` must be less than `num_processes`. Received: "
            f"process_id={process_id}, num_processes={num_processes}. Count processes from 0."
        )
    return process_id * batch_size + np.arange(batch_size)


def _sentence_windows(
    words: Any,
    batch_size: int,
    sequence_length: int,
    end_id: int,
    seed: int | None,
    num_processes: int,
    process_id: int,
) -> Sequence[_Batch]:
    """Cut a stream into sentences, and batch sentences of similar length.

    The first word of a window is the end word of the previous sentence. A seed shuffles sentences
    of equal length.
    """
    words = _check_stream(words, least=1)
    check_size("batch_size", batch_size)
    check_size("sequence_length", sequence_length)
    rows = _choose_rows(batch_size, num_processes, process_id)  # (B,)
    ends = np.concatenate(
        [start + np.flatnonzero(part == end_id) for start, part in _iterate_parts(words)]
    )
    if not ends.size or ends[-1] != words.size - 1:
        raise ValueError(
            "Every sentence must end with the end word. Received: a stream of "
            f"{words.size} words, the last of which is {words[-1]}, and end_id={end_id}. Use "
            "`Vocabulary.encode` and `end_id=vocabulary.end_id`."
        )
    # The first word of a sentence is predicted from the end of the previous sentence. Longer
    # sentences are cut into pieces of T targets, each after the last word of the previous piece.
    starts = np.concatenate([[-1], ends[:-1]])  # (S,) positions of the first context
    num_pieces = -(-(ends - starts) // sequence_length)
    sentence = np.repeat(np.arange(starts.size), num_pieces)  # (P,)
    piece = np.arange(sentence.size) - (np.cumsum(num_pieces) - num_pieces)[sentence]
    starts = starts[sentence] + piece * sequence_length  # (P,)
    lengths = np.minimum(ends[sentence] - starts, sequence_length)  # (P,) targets
    if seed is not None:
        order = np.random.default_rng(seed).permutation(starts.size)
        starts, lengths = starts[order], lengths[order]
    order = np.argsort(lengths, kind="stable")
    starts, lengths = starts[order], lengths[order]

    def make(index: int) -> tuple[np.ndarray, np.ndarray]:
        first = index * (num_processes * batch_size)
        places = first + rows
        last = starts.size - 1  # rows of the last batch may lack a sentence
        row_starts = starts[np.minimum(places, last)][:, None]  # (B, 1)
        row_lengths = np.where(places <= last, lengths[np.minimum(places, last)], 0)[:, None]
        # The longest of all processes, so that their batches have equal shapes.
        longest = int(lengths[min(first + num_processes * batch_size - 1, last)])
        padded = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
        offsets = np.arange(min(padded, sequence_length) + 1)
        positions = row_starts + offsets  # (B, L+1), -1 for the end before the first sentence
        inside = (offsets <= row_lengths) & (row_lengths > 0) & (positions >= 0)
        window = np.where(inside, words[np.where(inside, positions, 0)], end_id)
        return window.astype(np.int32), (offsets[1:] <= row_lengths).astype(np.float32)

    return _Batches(-(-starts.size // (num_processes * batch_size)), make)


def _shuffle_batches(batches: Sequence[_Batch], seed: int, epoch: int) -> Sequence[_Batch]:
    permute = make_permutation(len(batches), seed, epoch)

    def make(index: int) -> tuple[np.ndarray, np.ndarray]:
        window, _, weight = batches[int(permute(index))]
        return window, weight

    return _Batches(len(batches), make)


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
    initial_epoch: int = 0,
    num_processes: int = 1,
    process_id: int = 0,
) -> tf.data.Dataset:
    """Make a data set of windows of word ids for `model.fit`.

    Every element is a tuple `(window, targets, sample_weight)` with `targets = window[:, 1:]`.
    No word is lost: incomplete windows are padded, and padding has weight zero. All elements have
    `B` rows, so a stateful model can be trained.

    With `contiguous=True`, row `b` of a window continues row `b` of the previous one, for training
    with carried state; see `contiguous_windows`. All windows have `T + 1` words.

    With `contiguous=False` and `shuffle=True`, windows of `T + 1` words come from the whole
    stream, in another random order in every epoch; see `shuffled_windows`.

    With `contiguous=False` and `end_id`, every row is one sentence, after the end word of the
    previous sentence. Sentences of similar length are batched, and padded with the end word to the
    longest of them, rounded up to a multiple of 8. The windows of a batch have `L + 1` words,
    `L <= T`. Sentences of more than `T` words are cut into several rows.

    Args:
        words: Word ids `(N,)`, integers: an array, or `TokenShards` or a memory map, which are
            read as needed. Or an iterable of vectors, read once: parts of the stream, or
            sentences.
        batch_size: Integer `B`, rows per batch of this process.
        sequence_length: Integer `T`, words predicted in each window; of sentences, at most.
        contiguous: Boolean, whether windows continue each other. Defaults to `True`.
        end_id: Integer, the id that ends every sentence, to read sentence by sentence. Defaults
            to `None`.
        vocabulary_size: Integer `V`. If given, all ids must be in `[0, V)`; otherwise they must
            not be negative. `TokenShards` know their vocabulary size.
        shuffle: Boolean, whether to shuffle windows, or with `end_id` sentences of equal length
            and, in every epoch, the batches. Only if `contiguous=False`. Defaults to `False`.
        seed: Integer seed of `shuffle`, or `None` to draw one.
        initial_epoch: Integer, the epoch that the first iteration reads, which determines the
            order together with the seed. Every complete iteration advances the epoch by one, so
            evaluate on another data set. To resume, pass the `initial_epoch` of `fit`. Under a
            `tf.distribute` strategy, `fit` reads up to five batches in advance to build the model.
            If an epoch has no more batches, this counts as an iteration, and every `fit` skips
            the order of one epoch. Defaults to 0.
        num_processes: Integer `P`, the number of processes that share the stream; see
            `contiguous_windows`. All other arguments except `process_id` must be equal in all of
            them. Defaults to 1.
        process_id: Integer in `[0, P)`, the number of this process. Defaults to 0.

    Returns:
        A `tf.data.Dataset` of `(B, T + 1)` int32, `(B, T)` int32, `(B, T)` float32, of known
        cardinality. It can be iterated any number of times.

    Raises:
        TypeError: if the ids are not integers.
        ValueError: if there are too few words, an id is not in the vocabulary (the message names
            value and position), or arguments contradict each other.

    Example:

    >>> dataset = token_windows(np.arange(100), batch_size=4, sequence_length=5)
    >>> len(dataset)
    5
    >>> window, targets, sample_weight = next(iter(dataset))
    >>> window.shape, targets.shape
    (TensorShape([4, 6]), TensorShape([4, 5]))
    """
    words = _join(words)
    check_not_negative("initial_epoch", initial_epoch)
    if vocabulary_size is not None:
        check_size("vocabulary_size", vocabulary_size)
    if contiguous and shuffle:
        raise ValueError(
            "Contiguous windows cannot be shuffled. Received: contiguous=True, shuffle=True. "
            "Use `contiguous=False` to read windows or sentences in random order."
        )
    if contiguous and end_id is not None:
        raise ValueError(
            "Contiguous windows do not stop at the ends of sentences. Received: contiguous=True, "
            f"end_id={end_id}. Use `contiguous=False` to read sentence by sentence, or leave out "
            "`end_id`."
        )
    if not (contiguous or shuffle) and end_id is None:
        raise ValueError(
            "Reading sentence by sentence needs the id that ends a sentence. Received: "
            "contiguous=False, end_id=None. Use `end_id=vocabulary.end_id`, or `shuffle=True` to "
            "read windows of equal length in random order."
        )
    if seed is not None:
        check_not_negative("seed", seed)
    elif shuffle:
        if num_processes > 1:
            raise ValueError(
                "Processes that share a stream must shuffle it in the same way. Received: "
                f"shuffle=True, seed=None, num_processes={num_processes}. Pass the same seed in "
                "all of them."
            )
        seed = random.randrange(1 << 31)  # `keras.utils.set_random_seed` determines it
    order_seed = seed if shuffle else None

    sizes = (words, batch_size, sequence_length)
    shared = {"num_processes": num_processes, "process_id": process_id}
    if contiguous:
        batches = contiguous_windows(*sizes, **shared)
    elif end_id is not None:
        batches = _sentence_windows(*sizes, end_id, order_seed, **shared)

    def read_epoch(epoch: int) -> Sequence[_Batch]:
        if order_seed is None:
            return batches
        if end_id is not None:
            return _shuffle_batches(batches, order_seed, epoch)
        return shuffled_windows(*sizes, seed=order_seed, epoch=epoch, **shared)

    _check_range(words, vocabulary_size)
    length = sequence_length if contiguous or end_id is None else None
    return make_dataset(Epochs(read_epoch, initial_epoch), batch_size, length)


def _join(words: Any) -> Any:
    """Return one vector of ids, given a vector or an iterable of vectors."""
    if isinstance(words, TokenShards):
        return words
    if hasattr(words, "__array__") or not isinstance(words, Iterable):
        return np.asarray(words)  # an array, a memory map (not read), a tensor, or a mistake
    parts = [np.asarray(part) for part in words]
    if not parts:
        return np.empty(0, np.int32)
    if parts[0].ndim == 0:  # a list of ids
        return np.array(parts)
    parts = [part for part in parts if part.size]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def _check_stream(words: Any, least: int = 2) -> Any:
    words = words if isinstance(words, (np.ndarray, TokenShards)) else np.asarray(words)
    if words.ndim != 1:
        raise ValueError(
            "`words` must be a vector of word ids, or an iterable of such vectors. Received: "
            f"words.shape={words.shape}. Flatten it with `words.reshape(-1)`."
        )
    if words.size < least:
        reason = "s, because a window is a word and the next word that it predicts"
        raise ValueError(
            f"There must be at least {least} word{reason if least > 1 else ''}. Received: "
            f"{words.size} words. Check that the text is not empty."
        )
    if not np.issubdtype(words.dtype, np.integer):
        raise TypeError(
            f"`words` must be integers, the ids of words. Received: words.dtype={words.dtype}. "
            "Encode text with `Vocabulary.encode_lines`."
        )
    return words


def _check_range(words: Any, vocabulary_size: int | None) -> None:
    if isinstance(words, TokenShards):  # `TokenShards.write` has checked them
        if vocabulary_size is not None and vocabulary_size < words.vocabulary_size:
            raise ValueError(
                f"Every word id must be in [0, {vocabulary_size}). Received: {words!r}. Use the "
                "vocabulary that the stream was encoded with."
            )
        return
    for start, part in _iterate_parts(words):
        check_ids(part, start, _MOST_IDS if vocabulary_size is None else vocabulary_size)


def _iterate_parts(words: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the stream in vectors of limited size, each with the position of its first word."""
    for start in range(0, words.size, _PART_SIZE):
        yield start, words[start : start + _PART_SIZE]
