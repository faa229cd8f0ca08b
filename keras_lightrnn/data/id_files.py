"""Files of word ids: written part by part, mapped into memory, and counted."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

_CHECKED_AT_ONCE = 1 << 24  # bytes


def write_ids(
    path: str | os.PathLike[str], parts: Iterable[np.ndarray], dtype: str = "<i4"
) -> tuple[int, int]:
    """Write a stream of word ids to one `.npy` file, part by part.

    A failure leaves a partial file: call it in a block of `replace_file` or `make_directory`.

    Args:
        path: Path of the file, which is overwritten.
        parts: Iterable of integer vectors, read once.
        dtype: String, the type of the ids in the file. It must be able to represent all of them.

    Returns:
        Tuple of integers, the number of ids and their checksum, see `compute_checksum`.

    Raises:
        OSError: if the file cannot be written.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "ids.npy")
    ...     num_ids, checksum = write_ids(path, (np.arange(n) for n in (3, 0, 2)))
    ...     np.load(path).tolist()
    [0, 1, 2, 0, 1]
    >>> num_ids, checksum == compute_checksum(np.array([0, 1, 2, 0, 1], "<i4"))
    (5, True)
    """
    num_ids = checksum = 0
    with open(path, "wb") as file:
        # The number of ids is known only at the end. NumPy reserves space in the header for the
        # first axis to grow, so a rewritten header has the same size.
        _write_header(file, dtype, num_ids)
        for part in parts:
            ids = np.ascontiguousarray(part, dtype)
            file.write(ids.data)  # `tofile` raises errors without an error number
            num_ids += ids.size
            checksum = compute_checksum(ids, checksum)
        file.seek(0)
        _write_header(file, dtype, num_ids)
    return num_ids, checksum


def map_ids(
    path: str | os.PathLike[str],
    remedy: str,
    dtype: np.dtype | str = "<i4",
    num_ids: int | None = None,
) -> np.ndarray:
    """Map a file of `write_ids` into memory, read-only.

    The file must not shrink while it is mapped: reading past its new end kills the process.

    Args:
        path: Path of the file.
        remedy: String, the end of the error message: how to repair a damaged file.
        dtype: The type of the ids in the file.
        num_ids: Integer, the number of ids in the file, or `None` for any number.

    Raises:
        ValueError: if the file is missing, damaged, or has other contents.
    """
    try:
        ids = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        problem = str(error)
    except OSError:  # the file may be undamaged
        raise
    except Exception as error:  # NumPy parses the header as Python, which fails in many ways
        problem = f"{type(error).__name__}: {error}"
    else:
        problem = f"it holds shape {ids.shape} of {ids.dtype}"
        if ids.shape == (ids.size if num_ids is None else num_ids,) and ids.dtype == dtype:
            num_bytes = ids.offset + ids.nbytes
            if os.path.getsize(path) == num_bytes:
                return ids
            problem = f"it has {os.path.getsize(path)} bytes instead of {num_bytes}"
    number = "" if num_ids is None else f"{num_ids} "
    raise ValueError(
        f"A stream must be in a `.npy` file of {number}ids of {np.dtype(dtype)}. Received: "
        f"path={os.fspath(path)!r}: {problem}. {remedy}"
    )


def compute_checksum(ids: np.ndarray, start: int = 0) -> int:
    """Return the CRC-32 of ids as bytes.

    Args:
        ids: `(N,)` array, contiguous.
        start: Integer, the checksum of the ids before them.

    Example:

    >>> ids = np.arange(5)
    >>> compute_checksum(ids) == compute_checksum(ids[2:], start=compute_checksum(ids[:2]))
    True
    """
    data = ids.reshape(-1).view(np.uint8)
    for first in range(0, data.size, _CHECKED_AT_ONCE):
        start = zlib.crc32(data[first : first + _CHECKED_AT_ONCE].data, start)
    return start


def count_ids(parts: Iterable[np.ndarray], vocabulary_size: int) -> np.ndarray:
    """Return the occurrences of each word in a stream, `(V,)` int64.

    Example:

    >>> count_ids((np.array([0, 2]), np.array([2])), vocabulary_size=4).tolist()
    [1, 0, 2, 0]
    """
    counts = np.zeros(vocabulary_size, np.int64)
    for part in parts:
        counts += np.bincount(part, minlength=vocabulary_size)
    return counts


def _write_header(file: BinaryIO, dtype: str, num_ids: int) -> None:
    header = {"descr": dtype, "fortran_order": False, "shape": (num_ids,)}
    np.lib.format.write_array_header_1_0(file, header)
