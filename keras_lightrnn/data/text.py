"""Text files."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

_GZIP_MAGIC = b"\x1f\x8b"


def read_lines(path: str | os.PathLike[str]) -> Iterator[str]:
    """Iterate over the lines of a UTF-8 text file, plain or gzip.

    A compressed file is recognised by its content; a byte order mark is passed over. The file is
    opened at once, so that a missing one is noticed by the call, and read as the lines are asked
    for.

    Args:
        path: Path of the file.

    Returns:
        Iterator of strings without the end of line.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: by the call if the file has no content; while iterating if it is not
            UTF-8 (the message names line and byte), its compressed data are damaged, or it
            has no word at all.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "text.txt")
    ...     with open(path, "w") as file:
    ...         _ = file.write("the cat\\nsat\\n")
    ...     list(read_lines(path))
    ['the cat', 'sat']
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            magic = file.read(len(_GZIP_MAGIC))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"A text file must exist to be read. Received: path={path!r}. Correct the path."
        ) from error
    if not magic:
        raise ValueError(f"A text file must hold some text. Received: path={path!r}, of 0 bytes.")
    if magic == _GZIP_MAGIC:
        return _decode(cast(BinaryIO, gzip.open(path, "rb")), path)
    return _decode(open(path, "rb"), path)


def _decode(file: BinaryIO, path: str) -> Iterator[str]:
    has_words = False
    offset = number = 0
    with file:
        try:
            for line in file:
                number += 1
                text = line.decode("utf-8" if number > 1 else "utf-8-sig")
                has_words = has_words or bool(text.strip())
                offset += len(line)
                yield text.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"A text file must be UTF-8. Received: path={path!r}, line {number} has byte "
                f"0x{error.object[error.start]:02x} at offset {offset + error.start} "
                f"({error.reason}). Convert the file to UTF-8."
            ) from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                "A gzip file must be whole. Received: "
                f"path={path!r}, damaged after line {number} ({error}). Fetch the file again."
            ) from error
    if not has_words:
        raise ValueError(
            f"A text file must hold at least one word. Received: path={path!r}, with "
            f"{number} lines, all of them blank."
        )
