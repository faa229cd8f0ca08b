"""Streams of word ids: written to files part by part, mapped into memory, and counted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_lightrnn._internal.files import replace_file


def write_ids(path: str | os.PathLike[str], parts: Iterable[np.ndarray], dtype: str = "<i4") -> int:
    """Write a stream of word ids to one `.npy` file, part by part.

    The file is written under a temporary name and renamed, so that a failure leaves no half of
    one.

    Args:
        path: Path of the file.
        parts: Iterable of integer vectors, read once.
        dtype: String, the type of the ids in the file. It must hold them all.

    Returns:
        Integer, how many ids were written.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "ids.npy")
    ...     write_ids(path, (np.arange(n) for n in (3, 0, 2)))
    ...     np.load(path).tolist()
    5
    [0, 1, 2, 0, 1]
    """
    num_ids = 0
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        # The number of ids is known only at the end. NumPy leaves room in the header for the
        # first axis to grow, so that writing it again does not move the data.
        _write_header(file, dtype, num_ids)
        for part in parts:
            part.astype(dtype, copy=False).tofile(file)
            num_ids += part.size
        file.seek(0)
        _write_header(file, dtype, num_ids)
    return num_ids


def map_ids(
    path: str | os.PathLike[str],
    remedy: str,
    dtype: np.dtype | str = "<i4",
    num_ids: int | None = None,
) -> np.ndarray:
    """Map a file of `write_ids` into memory, to read.

    Args:
        path: Path of the file.
        remedy: String, what to do about a file that is not whole, for the message.
        dtype: The type of the ids in the file.
        num_ids: Integer, how many ids it holds, or `None` if any number will do.

    Raises:
        ValueError: if there is no such file, it is damaged, or holds something else.
    """
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, EOFError, ValueError) as error:
        problem = str(error)
    else:
        if ids.shape == (ids.size if num_ids is None else num_ids,) and ids.dtype == dtype:
            return ids
        problem = f"it holds shape {ids.shape} of {ids.dtype}"
    number = "" if num_ids is None else f"{num_ids} "
    raise ValueError(
        f"A stream must be in a `.npy` file of {number}ids of {np.dtype(dtype)}. Received: "
        f"path={os.fspath(path)!r}: {problem}. {remedy}"
    )


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


def _write_header(file: Any, dtype: str, num_ids: int) -> None:
    header = {"descr": dtype, "fortran_order": False, "shape": (num_ids,)}
    np.lib.format.write_array_header_1_0(file, header)
