"""A stream of word ids in memory-mapped files."""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_lightrnn._internal.checks import check_size, check_stream, is_size
from keras_lightrnn._internal.files import make_directory
from keras_lightrnn.data.id_files import compute_checksum, count_ids, map_ids, write_ids
from keras_lightrnn.data.vocabulary import Vocabulary

_FORMAT = "keras_lightrnn.TokenShards/2"
_FORMAT_WITHOUT_CHECKSUMS = "keras_lightrnn.TokenShards/1"
_INDEX = "index.json"
_BLOCK_SIZE = 1 << 20  # words read or counted at a time
_MOST_MAPS = 128  # files that are mapped at a time: each takes a file descriptor


class TokenShards:
    """A stream of word ids in a directory of files, which are mapped into memory, not loaded.

    `contiguous_windows`, `shuffled_windows` and `token_windows` accept `TokenShards` instead of an
    array, and read only the words of the windows that they make. `Allocation.from_cooccurrence`
    reads it block by block. The stream may be many times larger than memory.

    A directory contains `index.json` and the files `shard-00000.npy`, `shard-00001.npy`, …, with
    `shard_size` words each (the last may be shorter): uint16 if the vocabulary has at most
    65,536 words, int32 otherwise. NumPy can read each of them. The index holds a CRC-32 checksum
    of the ids of each shard, which `verify` compares.

    The files must not change or shrink while they are mapped: reading beyond the new end of a
    file kills the process with `SIGBUS`. Write a new directory instead.

    Args:
        directory: Path of a directory that `write` wrote.
        vocabulary: The `Vocabulary` that the stream must be encoded with, or its size. `None`
            accepts any.

    Attributes:
        directory: The path.
        size: Integer `N`, the number of words of the stream.
        shape: `(N,)`.
        dtype: The type of the ids in the files.
        shard_size: Integer, words in a file.
        vocabulary_size: Integer `V`.
        vocabulary_fingerprint: `Vocabulary.fingerprint` of the vocabulary, or `None` if `write`
            was given its size only.

    Raises:
        FileNotFoundError: if the directory has no index. `write` creates the directory only when
            it is complete.
        ValueError: if the index is damaged, a file is missing, truncated or of another kind than
            the index says, or the vocabulary is another one. While reading, if a file contains
            an id outside `[0, V)`. The message names the file.

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
        "_checksums",
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
        self._root = os.path.abspath(directory)  # the working directory may change
        index = _read_index(self.directory)
        self._checksums: list[int] | None = index["checksums"]
        self.size: int = index["num_words"]
        self.shard_size: int = index["shard_size"]
        self.vocabulary_size: int = index["vocabulary_size"]
        self.vocabulary_fingerprint: str | None = index.get("vocabulary_fingerprint")
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

        The files are written to a temporary directory, which is renamed at the end. So a
        directory with the final name is complete, and an interrupted run can be repeated.

        Args:
            directory: Path of the directory to create. It must not exist.
            words: Iterable of vectors of word ids, of any lengths: parts of one stream. It is
                read once, and one part is held at a time. Or one such vector.
            vocabulary: The `Vocabulary` of the ids, or its size. The index holds its fingerprint.
            shard_size: Integer, words in a file. Defaults to `2**26`.

        Returns:
            The `TokenShards`.

        Raises:
            FileExistsError: if the directory exists.
            OSError: if the disk is full. The error names the directory, and nothing is left.
            TypeError: if the ids are not integers.
            ValueError: if a part is not a vector, an id is not in the vocabulary, or there are no
                words.
        """
        size, fingerprint = _describe(vocabulary)
        shard_size = check_size("shard_size", shard_size)
        if os.path.lexists(directory):
            raise FileExistsError(
                "A stream is written to a new directory. Received: "
                f"directory={os.fspath(directory)!r}, which exists. Open it with "
                "`TokenShards(directory)`, or remove it."
            )
        with make_directory(directory) as temporary:
            num_words, checksums = 0, []
            pieces = _cut(check_stream(words, size), shard_size)
            for number, shard in itertools.groupby(pieces, key=lambda piece: piece[0]):
                path = os.path.join(temporary, _name_shard(number))
                parts = (ids for _, ids in shard)
                num_ids, checksum = write_ids(path, parts, _choose_dtype(size))
                num_words += num_ids
                checksums.append(checksum)
            if num_words == 0:
                raise ValueError(
                    "A stream must have at least one word. Received: `words` without any. If it "
                    "is a generator, it may already be exhausted."
                )
            index: dict[str, Any] = {
                "format": _FORMAT,
                "num_words": num_words,
                "shard_size": shard_size,
                "vocabulary_size": size,
                "vocabulary_fingerprint": fingerprint,
                "checksums": checksums,
            }
            index["index_checksum"] = _compute_index_checksum(index)
            with open(os.path.join(temporary, _INDEX), "w", encoding="utf-8") as file:
                json.dump(index, file, indent=2)
        return cls(directory)

    def verify(self) -> None:
        """Read all files, and compare their checksums with those in the index.

        This finds changed ids and exchanged files. Opening a directory and reading words do not
        compare checksums, because that takes a pass over the stream.

        Raises:
            ValueError: if the contents of a file have changed (the message names it), or the
                directory was written by a version that kept no checksums.

        Example:

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     shards = TokenShards.write(os.path.join(parent, "train"), [1, 2, 3], vocabulary=9)
        ...     shards.verify()
        """
        if self._checksums is None:
            raise ValueError(
                "Only token shards with checksums can be verified. Received: "
                f"directory={self.directory!r}, of format {_FORMAT_WITHOUT_CHECKSUMS!r}, which has "
                "none. Write the stream again with `TokenShards.write`."
            )
        for number, expected in enumerate(self._checksums):
            checksum = compute_checksum(self._map(number))  # also if the file was replaced
            if checksum != expected:
                raise ValueError(
                    "A shard must have the contents that were written. Received: "
                    f"{os.path.join(self.directory, _name_shard(number))!r} with checksum "
                    f"{checksum:08x} instead of {expected:08x}. Restore the file, or remove the "
                    "directory and write it again."
                )

    @property
    def shape(self) -> tuple[int]:
        return (self.size,)

    @property
    def ndim(self) -> int:
        return 1

    def __len__(self) -> int:
        return self.size

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the whole stream as an array. A stream in several files is copied to memory."""
        ids, dtype = self[:], np.dtype(dtype or self.dtype)
        if copy is False and (self._num_shards > 1 or dtype != ids.dtype):
            raise ValueError(
                "A stream in several files, or of another type, must be copied. Received: "
                f"copy=False for {self!r}. Use `np.asarray(shards)`."
            )
        return ids.astype(dtype, copy=bool(copy))

    def __getitem__(self, index: Any) -> Any:
        """Read words by an integer, a slice, or an array of integers, as from a NumPy array."""
        if isinstance(index, slice):
            start, stop, step = index.indices(self.size)
            if step != 1:
                return self._gather(np.arange(start, stop, step))
            return self._slice(start, max(start, stop))
        positions = np.asarray(index, None if np.size(index) else np.int64)
        if not np.issubdtype(positions.dtype, np.integer):
            raise TypeError(
                "An index must be an integer, a slice or an integer array. Received: "
                f"index={index!r}."
            )
        outside = (positions < -self.size) | (positions >= self.size)
        if outside.any():
            raise IndexError(
                f"Positions must be in [-{self.size}, {self.size}), the stream. Received: "
                f"{positions[outside].flat[0]}."
            )
        return self._gather(np.where(positions < 0, positions + self.size, positions))[()]

    def blocks(self, block_size: int = _BLOCK_SIZE) -> Iterator[np.ndarray]:
        """Iterate over the stream in vectors of `block_size` words, the last one shorter."""
        block_size = check_size("block_size", block_size)
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
        # `write` checked the range, so this finds damaged files, which `fit` would not.
        if ids.size and int(ids.view(f"u{ids.itemsize}").max()) >= self.vocabulary_size:
            raise ValueError(
                f"Every word id must be in [0, {self.vocabulary_size}). Received: others in "
                f"{os.path.join(self.directory, _name_shard(number))!r}. The file is damaged: "
                "restore it, or remove the directory and write it again."
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
        remedy = "Restore the file, or remove the directory and write it again."
        shard = map_ids(path, remedy, self.dtype, num_words)
        return shard.view(np.ndarray)  # indexing a `memmap` object is slow


def _read_index(directory: str) -> dict[str, Any]:
    path = os.path.join(directory, _INDEX)
    try:
        with open(path, encoding="utf-8") as file:
            index = json.load(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"A directory of token shards must contain {_INDEX!r}. Received: "
            f"directory={directory!r}, which does not. Make one with `TokenShards.write`."
        ) from error
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise ValueError(
            f"An index of token shards must be JSON. Received: path={path!r} ({error}). Remove "
            "the directory and write it again."
        ) from error
    kind = index.get("format") if isinstance(index, dict) else None
    if kind == _FORMAT_WITHOUT_CHECKSUMS:
        index["checksums"] = None
    elif kind != _FORMAT:
        raise ValueError(
            f"An index of token shards must have format {_FORMAT!r}. Received: path={path!r}, "
            f"format={kind!r}. Write the stream again with `TokenShards.write`."
        )
    elif index.pop("index_checksum", None) != _compute_index_checksum(index):
        raise ValueError(
            "An index of token shards must be unchanged since it was written. Received: "
            f"path={path!r} with another checksum. Restore the file, or remove the directory and "
            "write it again."
        )
    sizes = "num_words", "shard_size", "vocabulary_size"
    are_sizes = all(is_size(index.get(name)) for name in sizes)
    if not are_sizes or not isinstance(index.get("vocabulary_fingerprint"), (str, type(None))):
        received = ", ".join(f"{name}={index.get(name)!r}" for name in sizes)
        raise ValueError(
            "An index of token shards must have positive sizes. Received: "
            f"path={path!r} with {received}. Restore the file, or remove the directory and write "
            "it again."
        )
    return index


def _compute_index_checksum(index: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(index, sort_keys=True).encode("ascii"))


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
