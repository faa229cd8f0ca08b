"""The map from words to cells of the table."""

from __future__ import annotations

import errno
import math
import os
import zipfile
from collections.abc import Callable, Iterable
from typing import IO, Any, overload

import numpy as np

from keras_lightrnn._internal.checks import check_counts, check_size
from keras_lightrnn._internal.files import replace_file

_FORMAT = "keras_lightrnn.Allocation/1"
# Bytes of a member of a file that holds sizes or a name, and of the header of one.
_SMALL_MEMBER = 1024
# Different numbers cannot be compressed to a smaller share than one in so many.
_MOST_COMPRESSION = 64
# A table with more cells a word is sparse.
_SPARSE = 8

# The builders of allocations that use the solvers. Clustering and solvers import this module, so it
# cannot import them; `keras_lightrnn.clustering` registers its builders when it is imported, and
# `keras_lightrnn` imports it.
_builders: dict[str, Callable[..., Any]] = {}


def register_builder(name: str, builder: Callable[..., Any]) -> None:
    """Register a function that `Allocation` calls to build an allocation.

    Args:
        name: String, `"cooccurrence"` or `"features"`.
        builder: Function that returns an `Allocation`, or a list of them.

    Example:

    >>> from keras_lightrnn.clustering import cluster_features
    >>> register_builder("features", cluster_features)
    """
    _builders[name] = builder


def compute_table_shape(
    vocabulary_size: int, num_rows: int | None = None, num_columns: int | None = None
) -> tuple[int, int]:
    """Return the table shape `(R, C)` for a vocabulary, given one size, both or none.

    Without sizes, the table is as near to square as possible with `R * C >= vocabulary_size` and no
    empty row.

    Args:
        vocabulary_size: Integer `V >= 1`, number of words.
        num_rows: Integer `R`, or `None` for the smallest number that holds the words.
        num_columns: Integer `C`, or `None` for the smallest number that holds the words.

    Returns:
        Tuple `(R, C)` with `R * C >= V`.

    Raises:
        ValueError: if a size is not a positive integer or the table is too small.

    Example:

    >>> compute_table_shape(10_000)
    (100, 100)
    >>> compute_table_shape(507)
    (23, 23)
    >>> compute_table_shape(10, num_rows=2)
    (2, 5)
    """
    vocabulary_size = check_size("vocabulary_size", vocabulary_size)
    if num_rows is not None:
        num_rows = check_size("num_rows", num_rows)
    if num_columns is not None:
        num_columns = check_size("num_columns", num_columns)
    if num_columns is None:
        if num_rows is None:
            num_columns = math.isqrt(vocabulary_size - 1) + 1
        else:
            num_columns = -(-vocabulary_size // num_rows)
    if num_rows is None:
        num_rows = -(-vocabulary_size // num_columns)
    if num_rows * num_columns < vocabulary_size:
        raise ValueError(
            "A table needs at least as many cells as there are words. Received: "
            f"num_rows={num_rows}, num_columns={num_columns} ({num_rows * num_columns} cells), "
            f"vocabulary_size={vocabulary_size}. Use a larger table, or omit one of "
            "`num_rows` and `num_columns` to have it computed."
        )
    if num_rows * num_columns > np.iinfo(np.int32).max:
        raise ValueError(
            "Cells are numbered with int32, so a table has at most 2**31 - 1 cells. Received: "
            f"num_rows={num_rows}, num_columns={num_columns}. Use a smaller table."
        )
    return num_rows, num_columns


class Allocation:
    """An immutable map from word id to cell of an `R x C` table.

    Word `w` has the cell `cells[w] = row * num_columns + column`. No two words share a cell.
    Some cells are empty if `V < R * C`.

    Args:
        cells: Integer array `(V,)`, the cell of each word.
        num_rows: Integer `R`, or `None`. Without sizes, the table is near square.
        num_columns: Integer `C`, or `None`.

    Attributes:
        cells: `(V,)` int32, read-only.
        rows: `(V,)` int32, the row of each word.
        columns: `(V,)` int32, the column of each word.
        words: `(R, C)` int32, read-only, the word in each cell, `-1` if the cell is empty.

    Raises:
        TypeError: if `cells` does not hold integers.
        ValueError: if the table is too small, a cell is outside of it, or two words share a cell.

    Example:

    >>> allocation = Allocation([4, 0, 2], num_rows=2, num_columns=3)
    >>> allocation.rows.tolist(), allocation.columns.tolist()
    ([1, 0, 0], [1, 0, 2])
    >>> allocation.words.tolist()
    [[1, -1, 2], [-1, 0, -1]]
    >>> allocation.words_in_row(0).tolist()
    [1, 2]

    Reference:
        Li et al., "LightRNN: Memory and Computation-Efficient Recurrent Neural
        Networks", NIPS 2016, [arXiv:1610.09893](https://arxiv.org/abs/1610.09893).
    """

    __slots__ = ("_cells", "_num_columns", "_num_rows", "_words")

    def __init__(
        self, cells: Any, num_rows: int | None = None, num_columns: int | None = None
    ) -> None:
        cells = np.asarray(cells)
        if cells.ndim != 1 or cells.size == 0:
            raise ValueError(
                "`cells` must be a vector with one cell for each word, of at least one word. "
                f"Received: cells.shape={cells.shape}."
            )
        if not np.issubdtype(cells.dtype, np.integer):
            raise TypeError(
                f"`cells` must hold integers. Received: cells.dtype={cells.dtype}. "
                "Convert with `.astype('int32')` if they are whole numbers."
            )
        self._num_rows, self._num_columns = compute_table_shape(cells.size, num_rows, num_columns)
        outside = np.flatnonzero((cells < 0) | (cells >= self.num_cells))
        if outside.size:
            word = int(outside[0])
            raise ValueError(
                f"Every cell must be in [0, {self.num_cells}) for a table of {self._num_rows} x "
                f"{self._num_columns}. Received: cells[{word}]={cells[word]} ({outside.size} cells "
                "are outside). Use a larger table or correct the cells."
            )
        self._cells = cells.astype(np.int32)  # a copy: the caller's array may change
        self._cells.flags.writeable = False
        self._words: np.ndarray | None = None
        if self.num_cells <= _SPARSE * cells.size:
            is_shared = self.words[self.rows, self.columns] != np.arange(cells.size)
        else:  # `words` would take far more memory than `cells`
            order = np.argsort(self._cells, kind="stable")
            is_shared = np.zeros(cells.size, bool)
            is_shared[order[:-1]] = np.diff(self._cells[order]) == 0
        if is_shared.any():
            word = int(np.argmax(is_shared))
            other = int(np.flatnonzero(self._cells == self._cells[word])[-1])
            raise ValueError(
                f"No two words may share a cell. Received: words {word} and {other} both in cell "
                f"{cells[word]} ({np.count_nonzero(is_shared)} words share a cell with another). "
                "Give each word a different cell."
            )

    # Builders.

    @classmethod
    def random(
        cls,
        vocabulary_size: int,
        num_rows: int | None = None,
        num_columns: int | None = None,
        seed: int | None = None,
    ) -> Allocation:
        """Return an allocation with random cells, the start of the LightRNN paper.

        Args:
            vocabulary_size: Integer `V`.
            num_rows: Integer `R`, or `None`.
            num_columns: Integer `C`, or `None`.
            seed: Integer, or `None` for a different allocation each time.

        Example:

        >>> Allocation.random(10, seed=0).shape
        (3, 4)
        """
        num_rows, num_columns = compute_table_shape(vocabulary_size, num_rows, num_columns)
        cells = np.random.default_rng(seed).permutation(num_rows * num_columns)
        return cls(cells[:vocabulary_size], num_rows, num_columns)

    @classmethod
    def by_frequency(
        cls,
        vocabulary_size: int,
        num_rows: int | None = None,
        num_columns: int | None = None,
        counts: Any = None,
    ) -> Allocation:
        """Return an allocation that fills the table row by row with words of falling frequency.

        Args:
            vocabulary_size: Integer `V`.
            num_rows: Integer `R`, or `None`.
            num_columns: Integer `C`, or `None`.
            counts: `(V,)`, the number of occurrences of each word, or `None` if word ids are
                sorted by falling frequency, as in `keras_lightrnn.data.Vocabulary`.

        Example:

        >>> Allocation.by_frequency(4, counts=[1, 5, 9, 7]).words.tolist()
        [[2, 3], [1, 0]]
        """
        num_rows, num_columns = compute_table_shape(vocabulary_size, num_rows, num_columns)
        cells = np.arange(vocabulary_size)
        if counts is not None:
            counts = check_counts(counts, vocabulary_size)
            # As floats, because an unsigned integer has no negative.
            order = np.argsort(-counts.astype(np.float64), kind="stable")
            cells = np.empty(vocabulary_size, np.int64)
            cells[order] = np.arange(vocabulary_size)
        return cls(cells, num_rows, num_columns)

    @overload
    @classmethod
    def from_cooccurrence(
        cls,
        words: Iterable[Any],
        vocabulary_size: int,
        num_rows: int | None = None,
        num_columns: int | None = None,
        *,
        num_tables: None = None,
        **kwargs: Any,
    ) -> Allocation: ...

    @overload
    @classmethod
    def from_cooccurrence(
        cls,
        words: Iterable[Any],
        vocabulary_size: int,
        num_rows: int | None = None,
        num_columns: int | None = None,
        *,
        num_tables: int,
        **kwargs: Any,
    ) -> list[Allocation]: ...

    @classmethod
    def from_cooccurrence(
        cls,
        words: Iterable[Any],
        vocabulary_size: int,
        num_rows: int | None = None,
        num_columns: int | None = None,
        *,
        num_tables: int | None = None,
        **kwargs: Any,
    ) -> Allocation | list[Allocation]:
        """Return an allocation in which words with similar neighbours share rows and columns.

        This is the recommended start if text is available. The rows become word classes. See
        `keras_lightrnn.clustering.cluster_words` for the method and further arguments.

        Args:
            words: Word ids `(N,)`, `keras_lightrnn.data.TokenShards`, or an iterable of vectors of
                word ids (one stream, read once).
            vocabulary_size: Integer `V`.
            num_rows: Integer `R`, or `None`.
            num_columns: Integer `C`, or `None`.
            num_tables: Integer, the number of tables to return in a list, or `None` for one
                `Allocation`. Each further table separates words that share a row or a column in the
                tables before. Defaults to `None`.
            **kwargs: Passed on to `cluster_words`.

        Returns:
            An `Allocation`; with `num_tables`, a list of so many.

        Example:

        >>> words = np.random.default_rng(0).integers(50, size=2_000)
        >>> Allocation.from_cooccurrence(words, vocabulary_size=50, seed=0).shape
        (7, 8)
        >>> len(Allocation.from_cooccurrence(words, vocabulary_size=50, num_tables=2))
        2
        """
        return _get_builder("cooccurrence")(
            words, vocabulary_size, num_rows, num_columns, num_tables=num_tables, **kwargs
        )

    @overload
    @classmethod
    def from_features(
        cls,
        features: Any,
        num_rows: int | None = None,
        num_columns: int | None = None,
        *,
        num_tables: None = None,
        **kwargs: Any,
    ) -> Allocation: ...

    @overload
    @classmethod
    def from_features(
        cls,
        features: Any,
        num_rows: int | None = None,
        num_columns: int | None = None,
        *,
        num_tables: int,
        **kwargs: Any,
    ) -> list[Allocation]: ...

    @classmethod
    def from_features(
        cls,
        features: Any,
        num_rows: int | None = None,
        num_columns: int | None = None,
        *,
        num_tables: int | None = None,
        **kwargs: Any,
    ) -> Allocation | list[Allocation]:
        """Return an allocation in which words with similar features share rows and columns.

        Features may be word vectors of another model, or any description of items. See
        `keras_lightrnn.clustering.cluster_features` for the method and further arguments.

        Args:
            features: `(V, F)` floats, one row for each word. The length of a row is the weight of
                the word. Words whose features are all zero take the cells that the others leave.
            num_rows: Integer `R`, or `None`.
            num_columns: Integer `C`, or `None`.
            num_tables: Integer, the number of tables to return in a list, or `None` for one
                `Allocation`. Each further table separates words that share a row or a column in the
                tables before. Defaults to `None`.
            **kwargs: Passed on to `cluster_features`.

        Returns:
            An `Allocation`; with `num_tables`, a list of so many.

        Raises:
            ValueError: if `features` is not a matrix of finite numbers, or an argument is out of
                range.

        Example:

        >>> features = np.random.default_rng(0).standard_normal((50, 4))
        >>> Allocation.from_features(features).shape
        (7, 8)
        >>> [table.shape for table in Allocation.from_features(features, 5, num_tables=2)]
        [(5, 10), (5, 10)]
        """
        return _get_builder("features")(
            features, num_rows, num_columns, num_tables=num_tables, **kwargs
        )

    # Attributes.

    @property
    def cells(self) -> np.ndarray:
        return self._cells

    @property
    def words(self) -> np.ndarray:
        if self._words is None:
            words = np.full(self.num_cells, -1, np.int32)
            words[self._cells] = np.arange(self.vocabulary_size, dtype=np.int32)
            words.flags.writeable = False
            self._words = words.reshape(self.shape)
        return self._words

    @property
    def rows(self) -> np.ndarray:
        return self._cells // np.int32(self._num_columns)

    @property
    def columns(self) -> np.ndarray:
        return self._cells % np.int32(self._num_columns)

    @property
    def vocabulary_size(self) -> int:
        return self._cells.size

    @property
    def num_rows(self) -> int:
        return self._num_rows

    @property
    def num_columns(self) -> int:
        return self._num_columns

    @property
    def num_cells(self) -> int:
        return self._num_rows * self._num_columns

    @property
    def shape(self) -> tuple[int, int]:
        """Table shape `(R, C)`."""
        return self._num_rows, self._num_columns

    def words_in_row(self, row: int) -> np.ndarray:
        """Return the words of one row, in the order of columns, without empty cells."""
        words = self.words[_check_index("row", row, self._num_rows)]
        return words[words >= 0]

    def words_in_column(self, column: int) -> np.ndarray:
        """Return the words of one column, in the order of rows, without empty cells."""
        words = self.words[:, _check_index("column", column, self._num_columns)]
        return words[words >= 0]

    def count_moved(self, other: Allocation) -> int:
        """Return the number of words that have another cell in `other`.

        Example:

        >>> Allocation([0, 1, 2, 3]).count_moved(Allocation([1, 0, 2, 3]))
        2
        """
        self.check_compatible(other)
        return int(np.count_nonzero(self._cells != other.cells))

    def check_compatible(self, other: Allocation) -> None:
        """Raise `ValueError` unless `other` has the same vocabulary size and table shape."""
        if (self.vocabulary_size, self.shape) != (other.vocabulary_size, other.shape):
            raise ValueError(
                "Both allocations must have one vocabulary size and table shape. Received: "
                f"{self!r} and {other!r}."
            )

    # Files.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the allocation to one `.npz` file, with its sizes.

        The file is written under a temporary name and then renamed, so an earlier file survives a
        failure.
        """
        with replace_file(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                format=np.array(_FORMAT),
                vocabulary_size=np.int64(self.vocabulary_size),
                table_shape=np.array(self.shape, np.int64),
                cells=self._cells,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Allocation:
        """Read an allocation that `save` wrote.

        Sizes are checked before memory is allocated, so a small file cannot take much memory.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not an allocation, is damaged, or disagrees with its sizes.
        """
        path = os.fspath(path)
        try:
            with zipfile.ZipFile(path) as file:
                cells, shape = _read_members(file)
                return cls(cells, *shape)
        # NumPy and zipfile raise nearly every exception for a damaged file.
        except Exception as error:
            if isinstance(error, MemoryError) or (
                isinstance(error, OSError) and error.errno != errno.EINVAL  # that of a wild seek
            ):
                raise
            raise ValueError(
                "An allocation file must be one that `Allocation.save` wrote, whole. Received: "
                f"path={path!r}, which cannot be read as one ({error or type(error).__name__})."
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._cells, self._num_rows, self._num_columns)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Allocation):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self._cells, other.cells)

    def __hash__(self) -> int:
        return hash((self.shape, self._cells.tobytes()))

    def __repr__(self) -> str:
        return (
            f"Allocation(vocabulary_size={self.vocabulary_size}, num_rows={self._num_rows}, "
            f"num_columns={self._num_columns})"
        )


def _check_index(name: str, value: int, size: int) -> int:
    if not 0 <= value < size:
        raise ValueError(f"`{name}` must lie in [0, {size}). Received: {name}={value}.")
    return value


def _get_builder(name: str) -> Callable[..., Any]:
    if name not in _builders:
        raise RuntimeError(
            f"Allocations from {name} need `keras_lightrnn.clustering`. Received: a package that "
            "did not import it. Write `import keras_lightrnn`."
        )
    return _builders[name]


def _read_members(file: zipfile.ZipFile) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the cells and the table shape of an allocation file; raise if they are not right."""
    small = {}
    for name, shape in (("format", ()), ("vocabulary_size", ()), ("table_shape", (2,))):
        small[name] = _read_array(file, name, shape, _SMALL_MEMBER)
    kind, size = str(small["format"]), int(small["vocabulary_size"])
    if kind != _FORMAT:
        raise ValueError(f"format={kind!r} instead of {_FORMAT!r}")
    info = file.getinfo("cells.npy")
    if info.file_size > _MOST_COMPRESSION * info.compress_size + _SMALL_MEMBER:
        raise ValueError(
            f"{info.file_size} bytes of cells in {info.compress_size} bytes of the file"
        )
    if not 0 < size <= info.file_size:
        raise ValueError(f"vocabulary_size={size} for {info.file_size} bytes of cells")
    num_rows, num_columns = (int(number) for number in small["table_shape"])
    return _read_array(file, "cells", (size,), info.file_size), (num_rows, num_columns)


def _read_array(
    file: zipfile.ZipFile, name: str, shape: tuple[int, ...], most_bytes: int
) -> np.ndarray:
    """Return an array whose shape is known, and that takes no more than so many bytes."""
    info = file.getinfo(f"{name}.npy")
    if info.file_size > most_bytes:
        raise ValueError(f"{info.file_size} bytes of {name} instead of {most_bytes} at most")
    with file.open(info) as member:
        found, dtype = _read_header(member)
        if found != shape or dtype.kind not in ("U" if name == "format" else "i"):
            raise ValueError(f"{name}.shape={found} of {dtype} instead of {shape} integers")
        num_bytes = dtype.itemsize * math.prod(shape)
        data = member.read(num_bytes + 1)  # to the end, where the checksum is compared
    if len(data) != num_bytes:
        raise ValueError(f"{len(data)} bytes of {name} instead of {num_bytes}")
    return np.frombuffer(data, dtype).reshape(shape)


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise ValueError(f"arrays of version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    return shape, dtype
