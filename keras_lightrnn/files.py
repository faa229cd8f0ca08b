"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give the name of a temporary file that takes the place of `path` once it is written.

    The temporary file lies beside `path` and ends as it does. After the block it is brought to
    the disk and renamed, which no crash can leave half done. When the block raises, it is
    removed, and an earlier file stays as it was.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "a.txt")
    ...     with replace_file(path) as temporary, open(temporary, "w") as file:
    ...         _ = file.write("whole")
    ...     print(os.listdir(directory), open(path).read())
    ['a.txt'] whole
    """
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{os.getpid()}.tmp.{name}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        if os.name == "posix":  # elsewhere a directory cannot be opened
            _flush(directory)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def reserve_space(path: str, num_bytes: int) -> None:
    """Make sure that a file of a size can be written to `path`, which is left empty.

    Raises:
        OSError: if there is no room for it.
    """
    with open(path, "wb") as file:
        if num_bytes and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            file.truncate()


def _flush(path: str) -> None:
    """Bring what was written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
