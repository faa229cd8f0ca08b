"""Lines of text files."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator

from keras_lightrnn._internal.checks import check_size

# A line feed, a carriage return, or both in this order, as in Python's `open`.
LINE_END = re.compile(r"\r\n?|\n")
BYTE_ORDER_MARK = "\ufeff"

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_SIZE = 1 << 16  # bytes read or decompressed at a time


def read_lines(path: str | os.PathLike[str], *, max_line_bytes: int = 1 << 27) -> Iterator[str]:
    r"""Iterate over the lines of a UTF-8 text file, plain or gzip.

    Lines end with `"\n"`, `"\r\n"` or `"\r"`, as in Python's `open`. Other separators, such as a
    form feed, separate words but not lines. A compressed file is recognized by its content. A
    byte order mark at the beginning is skipped.

    The call opens the file once, so pipes can be read too. Lines are read and decompressed as
    they are requested, and memory holds one line at a time.

    Args:
        path: Path of a file, a named pipe or a device such as `/dev/stdin`.
        max_line_bytes: Integer, the longest line to accept, in bytes after decompression and
            with its end. It bounds the memory that a damaged or hostile file can take. Defaults
            to 128 MiB.

    Returns:
        Iterator of strings, without line ends.

    Raises:
        FileNotFoundError: by the call, if the file does not exist.
        ValueError: by the call, if the file is empty. While iterating, if the file is not UTF-8
            (the message names the line and the byte), the compressed data is damaged, a line is
            longer than `max_line_bytes`, or the file has no words.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "text.txt")
    ...     with open(path, "w") as file:
    ...         _ = file.write("the cat\nsat\n")
    ...     list(read_lines(path))
    ['the cat', 'sat']
    """
    path = os.fspath(path)
    check_size("max_line_bytes", max_line_bytes)
    try:
        file = open(path, "rb")  # noqa: SIM115 (the iterator closes it)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"A text file must exist to be read. Received: path={path!r}. Correct the path."
        ) from error
    magic = file.peek(2)[:2]  # may be shorter: a pipe delivers what was written first
    if not magic:
        file.close()
        raise ValueError(f"A text file must hold some text. Received: path={path!r}, of 0 bytes.")
    return _decode(file, path, _GZIP_MAGIC.startswith(magic), max_line_bytes)


def _decode(
    file: io.BufferedReader, path: str, is_compressed: bool, max_line_bytes: int
) -> Iterator[str]:
    has_words = False
    offset = number = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        read = file.read1
        if is_compressed:
            read = stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb")).read1
        try:
            for line in _split_chunks(_read_chunks(read), max_line_bytes):
                number += 1
                if len(line) > max_line_bytes:
                    raise ValueError(
                        f"A line of text must have at most {max_line_bytes} bytes. Received: "
                        f"path={path!r}, whose line {number} is longer"
                        f"{' after decompression' if is_compressed else ''}. Check the file, or "
                        "raise `max_line_bytes`."
                    )
                text = line.decode("utf-8").rstrip("\r\n")
                if number == 1:
                    text = text.removeprefix(BYTE_ORDER_MARK)
                has_words = has_words or bool(text.strip())
                offset += len(line)
                yield text
        except UnicodeDecodeError as error:
            raise ValueError(
                f"A text file must be UTF-8. Received: path={path!r}, line {number} has byte "
                f"0x{error.object[error.start]:02x} at offset {offset + error.start} "
                f"({error.reason}). Convert the file to UTF-8."
            ) from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                "A gzip file must be complete. Received: "
                f"path={path!r}, damaged after line {number} ({error}). Fetch the file again."
            ) from error
    if not has_words:
        raise ValueError(
            f"A text file must hold at least one word. Received: path={path!r}, with "
            f"{number} lines, all of them blank."
        )


def _read_chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    r"""Yield the content in pieces that do not end between `"\r"` and `"\n"`."""
    held = b""
    while chunk := read(_CHUNK_SIZE):
        chunk = held + chunk
        held = b"\r" if chunk.endswith(b"\r") else b""
        yield chunk[: len(chunk) - len(held)]
    if held:
        yield held


def _split_chunks(chunks: Iterator[bytes], max_line_bytes: int) -> Iterator[bytes]:
    """Yield lines with their ends; the beginning of a line that is too long."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        for part in chunk.splitlines(keepends=True):  # of bytes, at the ends of `LINE_END` only
            parts.append(part)
            size += len(part)
            if part.endswith((b"\n", b"\r")) or size > max_line_bytes:
                yield b"".join(parts)
                parts, size = [], 0
    if parts:
        yield b"".join(parts)
