"""Which cell of the table every word lives in."""

from __future__ import annotations

import errno
import math
import os
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_lightrnn._internal.checks import check_counts, check_size
from keras_lightrnn._internal.files import replace_file

_FORMAT = "keras_lightrnn.Allocation/1"


def compute_table_shape(
    vocabulary_size: int, num_rows: int | None = None, num_columns: int | None = None
) -> tuple[int, int]:
    """Return the table shape `(R, C)` for a vocabulary, completing what is not given.

    With neither given the table is as near to square as it can be with
    `R * C >= vocabulary_size` and no empty row.

    Args:
        vocabulary_size: Integer `V >= 1`, number of words.
        num_rows: Integer `R`, or `None` for the least that holds the words.
        num_columns: Integer `C`, or `None` for the least that holds the words.

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
            f"vocabulary_size={vocabulary_size}. Give a larger table, or leave one of "
            "`num_rows` and `num_columns` out to have it computed."
        )
    if num_rows * num_columns > np.iinfo(np.int32).max:
        raise ValueError(
            "Cells are numbered with int32, so a table has at most 2**31 - 1 cells. Received: "
            f"num_rows={num_rows}, num_columns={num_columns}. Use a smaller table."
        )
    return num_rows, num_columns


class Allocation:
    """An immutable map from word id to cell of an `R x C` table.

    Word `w` lives in `cells[w] = row * num_columns + column`. No two words share a cell;
    cells may be empty when `V < R * C`.

    Args:
        cells: Integer array `(V,)`, the cell of each word.
        num_rows: Integer `R`. With both sizes left out the table is near square.
        num_columns: Integer `C`.

    Attributes:
        cells: `(V,)` int32, read-only.
        rows, columns: `(V,)` int32, the row and column of each word.
        words: `(R, C)` int32, the word in each cell, `-1` where the cell is empty.

    Raises:
        TypeError: if `cells` does not hold integers.
        ValueError: if the table is too small, a cell lies outside of it, or two words
            share a cell.

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
                "`cells` must be a vector with one cell for each word, and hold at least one. "
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
                f"Every cell must lie in [0, {self.num_cells}), the table being {self._num_rows} x "
                f"{self._num_columns}. Received: cells[{word}]={cells[word]} ({outside.size} cells "
                "lie outside). Give a larger table or correct the cells."
            )
        words = np.full(self.num_cells, -1, np.int32)
        words[cells] = np.arange(cells.size, dtype=np.int32)
        shared = np.flatnonzero(words[cells] != np.arange(cells.size))
        if shared.size:
            word = int(shared[0])
            raise ValueError(
                "No two words may share a cell. Received: words "
                f"{word} and {words[cells[word]]} both in cell {cells[word]} ({shared.size} words "
                "share a cell with another). Give each word a cell of its own."
            )
        self._cells = cells.astype(np.int32)  # a copy: the caller's array may change
        self._words = words.reshape(self._num_rows, self._num_columns)
        self._cells.flags.writeable = False
        self._words.flags.writeable = False

    # Ways to make one.

    @classmethod
    def random(
        cls,
        vocabulary_size: int,
        num_rows: int | None = None,
        num_columns: int | None = None,
        seed: int | None = None,
    ) -> Allocation:
        """Put every word into a cell drawn at random, as the paper starts.

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
        """Fill the table row by row with words of falling frequency.

        Args:
            vocabulary_size: Integer `V`.
            num_rows: Integer `R`, or `None`.
            num_columns: Integer `C`, or `None`.
            counts: `(V,)` occurrences of each word. `None` means that word ids are in
                falling order of frequency already, as `keras_lightrnn.data.Vocabulary`
                makes them.

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

    @classmethod
    def from_cooccurrence(
        cls,
        words: Iterable[Any],
        vocabulary_size: int,
        num_rows: int | None = None,
        num_columns: int | None = None,
        **kwargs: Any,
    ) -> Allocation:
        """Put words that occur in like contexts into like rows and columns.

        The first allocation to prefer when text is at hand: rows come out as word
        classes. See `keras_lightrnn.clustering.cooccurrence.cluster_words` for the method and the
        further arguments.

        Args:
            words: Word ids `(N,)`, `keras_lightrnn.data.TokenShards`, or an iterable of vectors of
                word ids (one stream, read once).
            vocabulary_size: Integer `V`.
            num_rows: Integer `R`, or `None`.
            num_columns: Integer `C`, or `None`.
            **kwargs: Passed on to `cluster_words`.

        Example:

        >>> words = np.random.default_rng(0).integers(50, size=2_000)
        >>> Allocation.from_cooccurrence(words, vocabulary_size=50, seed=0).shape
        (7, 8)
        """
        # Imported here because the clustering uses the solvers, which use this class.
        from keras_lightrnn.clustering.cooccurrence import cluster_words

        return cluster_words(words, vocabulary_size, num_rows, num_columns, **kwargs)

    # What it says.

    @property
    def cells(self) -> np.ndarray:
        return self._cells

    @property
    def words(self) -> np.ndarray:
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
        """Return the words of one row, in column order, empty cells left out."""
        words = self._words[_check_index("row", row, self._num_rows)]
        return words[words >= 0]

    def words_in_column(self, column: int) -> np.ndarray:
        """Return the words of one column, in row order, empty cells left out."""
        words = self._words[:, _check_index("column", column, self._num_columns)]
        return words[words >= 0]

    def count_moved(self, other: Allocation) -> int:
        """Return how many words have another cell in `other`.

        Example:

        >>> Allocation([0, 1, 2, 3]).count_moved(Allocation([1, 0, 2, 3]))
        2
        """
        self.check_compatible(other)
        return int(np.count_nonzero(self._cells != other.cells))

    def check_compatible(self, other: Allocation) -> None:
        """Raise `ValueError` unless `other` has the same words and table shape."""
        if (self.vocabulary_size, self.shape) != (other.vocabulary_size, other.shape):
            raise ValueError(
                "Both allocations must be of one vocabulary size and table shape. Received: "
                f"{self!r} and {other!r}."
            )

    # One file.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the allocation to one `.npz` file, with its sizes.

        The file is written under a temporary name and renamed, so that an earlier one
        survives a failure.
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

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not an allocation, is damaged, or disagrees with
                the sizes that it names.
        """
        path = os.fspath(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                kind = str(file["format"])
                cells = file["cells"]
                size = int(file["vocabulary_size"])
                num_rows, num_columns = (int(number) for number in file["table_shape"])
        except (
            AttributeError,
            EOFError,
            KeyError,
            TypeError,  # an array of one `.npy` file is no context
            NotImplementedError,  # of a method of compression that there is not
            ValueError,
            zipfile.BadZipFile,
            zlib.error,
            OSError,
        ) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that of a wild seek
                raise
            raise ValueError(
                "An allocation file must be one that `Allocation.save` wrote, whole. Received: "
                f"path={path!r}, which cannot be read as one ({error})."
            ) from error
        if kind != _FORMAT or size != cells.size or cells.dtype.kind != "i":
            raise ValueError(
                f"An allocation file must be of format {_FORMAT!r} and hold as many cells as it "
                f"names words, integers. Received: path={path!r}, format={kind!r}, "
                f"vocabulary_size={size}, cells.size={cells.size}, cells.dtype={cells.dtype}."
            )
        return cls(cells, num_rows, num_columns)

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
