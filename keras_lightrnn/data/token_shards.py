"""A stream of word ids in files."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_lightrnn._internal.checks import check_size, check_stream
from keras_lightrnn._internal.files import make_directory
from keras_lightrnn.data.id_files import count_ids, map_ids, write_ids
from keras_lightrnn.data.vocabulary import Vocabulary

_FORMAT = "keras_lightrnn.TokenShards/1"
_INDEX = "index.json"
_BLOCK_SIZE = 1 << 20  # words read or counted at a time
_MOST_MAPS = 128  # files that are mapped at a time: each takes a file descriptor


class TokenShards:
    """A stream of word ids in a directory of files, which are mapped into memory, not loaded.

    `contiguous_windows`, `shuffled_windows` and `token_windows` take one wherever they take an
    array, and read of it what a window needs; `Allocation.from_cooccurrence` reads it block by
    block. The stream may be many times larger than memory.

    A directory holds `index.json` and the files `shard-00000.npy`, `shard-00001.npy`, …, of
    `shard_size` words each (the last may be shorter), uint16 if the vocabulary has at most
    65,536 words and int32 otherwise. NumPy reads each of them.

    Args:
        directory: Path of a directory that `write` wrote.
        vocabulary: The `Vocabulary` with which the stream must have been encoded, or its size;
            `None` to take the stream as it is.

    Attributes:
        directory: The path.
        size: Integer `N`, the number of words of the stream.
        shape: `(N,)`.
        dtype: The type of the ids in the files.
        shard_size: Integer, words in a file.
        vocabulary_size: Integer `V`.
        vocabulary_fingerprint: `Vocabulary.fingerprint` of the vocabulary, or `None` if only
            its size was given to `write`.

    Raises:
        FileNotFoundError: if the directory has no index, which is there once all is written.
        ValueError: if the index is none of this class, a file is missing, truncated or of
            another kind than the index says, or the vocabulary is another one. When words are
            read: if a file holds an id outside `[0, V)`.

    Example:

    >>> import tempfile
    >>> from keras_lightrnn.data import contiguous_windows
    >>> stream = ([1, 2, 3], [4], [5, 6, 7, 8])  # any iterable, of any length
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     directory = os.path.join(parent, "train")
    ...     shards = TokenShards.write(directory, stream, vocabulary=9)
    ...     shards.size, shards.dtype, shards[5:].tolist()
    ...     windows = contiguous_windows(shards, batch_size=2, sequence_length=2)
    ...     windows[0][0].tolist()
    (8, dtype('uint16'), [6, 7, 8])
    [[1, 2, 3], [5, 6, 7]]
    """

    __slots__ = (
        "_maps",
        "_num_shards",
        "_root",
        "directory",
        "dtype",
        "shard_size",
        "size",
        "vocabulary_fingerprint",
        "vocabulary_size",
    )

    def __init__(
        self, directory: str | os.PathLike[str], vocabulary: Vocabulary | int | None = None
    ) -> None:
        self.directory = os.fspath(directory)
        self._root = os.path.abspath(directory)  # whatever the working directory is later on
        index = _read_index(self.directory)
        self.size: int = index["num_words"]
        self.shard_size: int = index["shard_size"]
        self.vocabulary_size: int = index["vocabulary_size"]
        self.vocabulary_fingerprint: str | None = index["vocabulary_fingerprint"]
        self.dtype = np.dtype(_choose_dtype(self.vocabulary_size))
        if vocabulary is not None:
            self._check_vocabulary(vocabulary)
        self._num_shards = -(-self.size // self.shard_size)
        self._maps: dict[int, np.ndarray] = {}
        for number in range(self._num_shards):
            self._get_shard(number)  # which checks it

    @classmethod
    def write(
        cls,
        directory: str | os.PathLike[str],
        words: Iterable[Any],
        vocabulary: Vocabulary | int,
        shard_size: int = 1 << 26,
    ) -> TokenShards:
        """Write a stream to a new directory, and open it.

        All is written to a directory of a temporary name, which is renamed at the end: what has
        the final name is whole, and an interrupted run can simply be started again.

        Args:
            directory: Path of the directory to make. It must not exist.
            words: Iterable of vectors of word ids, of any lengths: parts of one stream, read
                once, no more than one part held at a time. Or one such vector.
            vocabulary: The `Vocabulary` of the ids, by which the directory is recognised later,
                or its size.
            shard_size: Integer, words in a file.

        Returns:
            The `TokenShards`.

        Raises:
            FileExistsError: if the directory exists.
            TypeError: if the ids are not integers.
            ValueError: if a part is no vector, an id lies outside of the vocabulary, or there
                is no word.
        """
        size, fingerprint = _describe(vocabulary)
        check_size("shard_size", shard_size)
        if os.path.lexists(directory):
            raise FileExistsError(
                "A stream is written to a new directory. Received: "
                f"directory={os.fspath(directory)!r}, which exists. Open it with "
                "`TokenShards(directory)`, or remove it."
            )
        with make_directory(directory) as temporary:
            num_words = 0
            pieces = _cut(check_stream(words, size), shard_size)
            for number, shard in itertools.groupby(pieces, key=lambda piece: piece[0]):
                path = os.path.join(temporary, _name_shard(number))
                num_words += write_ids(path, (ids for _, ids in shard), _choose_dtype(size))
            if num_words == 0:
                raise ValueError(
                    "A stream must hold at least one word. Received: `words` without any. If it "
                    "is a generator, it may have been read to its end before."
                )
            index = {
                "format": _FORMAT,
                "num_words": num_words,
                "shard_size": shard_size,
                "vocabulary_size": size,
                "vocabulary_fingerprint": fingerprint,
            }
            with open(os.path.join(temporary, _INDEX), "w", encoding="utf-8") as file:
                json.dump(index, file, indent=2)
        return cls(directory)

    @property
    def shape(self) -> tuple[int]:
        return (self.size,)

    @property
    def ndim(self) -> int:
        return 1

    def __len__(self) -> int:
        return self.size

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the whole stream as an array, which is in memory if it is in several files."""
        ids, dtype = self[:], np.dtype(dtype or self.dtype)
        if copy is False and (self._num_shards > 1 or dtype != ids.dtype):
            raise ValueError(
                "A stream in several files, or as another type, is copied. Received: copy=False "
                f"for {self!r}. Use `np.asarray(shards)`."
            )
        return ids.astype(dtype, copy=bool(copy))

    def __getitem__(self, index: Any) -> Any:
        """Read words as of an array: an integer, a slice, or an array of integers."""
        if isinstance(index, slice):
            start, stop, step = index.indices(self.size)
            if step != 1:
                return self._gather(np.arange(start, stop, step))
            return self._slice(start, max(start, stop))
        positions = np.asarray(index, None if np.size(index) else np.int64)
        if not np.issubdtype(positions.dtype, np.integer):
            raise TypeError(
                "A stream is read by integers, slices or integer arrays. Received: "
                f"index={index!r}."
            )
        outside = (positions < -self.size) | (positions >= self.size)
        if outside.any():
            raise IndexError(
                f"Positions must lie in [-{self.size}, {self.size}), the stream. Received: "
                f"{positions[outside].flat[0]}."
            )
        return self._gather(np.where(positions < 0, positions + self.size, positions))[()]

    def blocks(self, block_size: int = _BLOCK_SIZE) -> Iterator[np.ndarray]:
        """Iterate over the stream in vectors of `block_size` words, the last one shorter."""
        check_size("block_size", block_size)
        for start in range(0, self.size, block_size):
            yield self[start : start + block_size]

    def count_words(self) -> np.ndarray:
        """Return the occurrences of each word, `(V,)` int64."""
        return count_ids(self.blocks(), self.vocabulary_size)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenShards, (self._root,)  # another process maps the files itself

    def __repr__(self) -> str:
        return (
            f"TokenShards({self.directory!r}, size={self.size}, shards={self._num_shards}, "
            f"vocabulary_size={self.vocabulary_size})"
        )

    def _gather(self, positions: np.ndarray) -> np.ndarray:
        numbers, offsets = np.divmod(positions, self.shard_size)
        ids = np.empty(positions.shape, self.dtype)
        for number in np.unique(numbers):
            here = numbers == number
            found = self._get_shard(int(number))[offsets[here]]
            self._check_ids(found, number)
            ids[here] = found
        return ids

    def _slice(self, start: int, stop: int) -> np.ndarray:
        numbers = range(start // self.shard_size, -(-stop // self.shard_size))
        ids = np.empty(stop - start if len(numbers) != 1 else 0, self.dtype)
        for number in numbers:
            first = number * self.shard_size
            piece = self._get_shard(number)[max(0, start - first) : stop - first]
            self._check_ids(piece, number)
            if len(numbers) == 1:
                return piece  # not copied
            ids[max(0, first - start) :][: piece.size] = piece
        return ids

    def _check_ids(self, ids: np.ndarray, number: int) -> None:
        # What was written was in range: this finds damaged files, while a step would not.
        if ids.size and int(ids.view(f"u{ids.itemsize}").max()) >= self.vocabulary_size:
            raise ValueError(
                f"Every word id must lie in [0, {self.vocabulary_size}). Received: another one in "
                f"{os.path.join(self.directory, _name_shard(number))!r}. The file is damaged: "
                "remove the directory and write it again."
            )

    def _check_vocabulary(self, vocabulary: Vocabulary | int) -> None:
        size, fingerprint = _describe(vocabulary)
        of_stream = self.vocabulary_fingerprint
        are_known = fingerprint is not None and of_stream is not None
        if size != self.vocabulary_size or (are_known and fingerprint != of_stream):
            raise ValueError(
                "A stream must be read with the vocabulary it was encoded with. Received: a "
                f"vocabulary of {size} words with fingerprint {fingerprint}, for "
                f"directory={self.directory!r}, encoded with {self.vocabulary_size} words and "
                f"fingerprint {of_stream}. Load that vocabulary, or write the stream again."
            )

    def _get_shard(self, number: int) -> np.ndarray:
        shard = self._maps.get(number)
        if shard is None:
            for oldest in list(self._maps)[: len(self._maps) + 1 - _MOST_MAPS]:
                self._maps.pop(oldest, None)  # another thread may have done so
            shard = self._maps[number] = self._map(number)
        return shard

    def _map(self, number: int) -> np.ndarray:
        num_words = min(self.shard_size, self.size - number * self.shard_size)
        path = os.path.join(self._root, _name_shard(number))
        remedy = "Bring the file back, or remove the directory and write it again."
        shard = map_ids(path, remedy, self.dtype, num_words)
        return shard.view(np.ndarray)  # indexing a `memmap` object is slow


def _read_index(directory: str) -> dict[str, Any]:
    path = os.path.join(directory, _INDEX)
    try:
        with open(path, encoding="utf-8") as file:
            index = json.load(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"A directory of token shards must hold {_INDEX!r}. Received: "
            f"directory={directory!r}, which does not. Make one with `TokenShards.write`."
        ) from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(
            f"An index of token shards must be JSON. Received: path={path!r} ({error}). Remove "
            "the directory and write it again."
        ) from error
    kind = index.get("format") if isinstance(index, dict) else None
    sizes = "num_words", "shard_size", "vocabulary_size"
    if (
        kind != _FORMAT
        or not all(isinstance(index.get(name), int) and index[name] > 0 for name in sizes)
        or not isinstance(index.get("vocabulary_fingerprint"), (str, type(None)))
    ):
        raise ValueError(
            f"An index of token shards must be of format {_FORMAT!r}, and whole. Received: "
            f"path={path!r}, format={kind!r}. Write the stream again with `TokenShards.write`."
        )
    return {"vocabulary_fingerprint": None, **index}


def _describe(vocabulary: Vocabulary | int) -> tuple[int, str | None]:
    if isinstance(vocabulary, Vocabulary):
        return len(vocabulary), vocabulary.fingerprint
    return check_size("vocabulary", vocabulary), None


def _choose_dtype(vocabulary_size: int) -> str:
    return "<u2" if vocabulary_size <= 1 << 16 else "<i4"


def _name_shard(number: int) -> str:
    return f"shard-{number:05}.npy"


def _cut(parts: Iterable[np.ndarray], shard_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the parts cut where shards end, each with the number of its shard."""
    position = 0
    for part in parts:
        while part.size:
            piece = part[: shard_size - position % shard_size]
            yield position // shard_size, piece
            position += piece.size
            part = part[piece.size :]
