"""Atomic writes: a file or directory is complete or absent, also after a crash."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator

_TOKEN_BYTES = 6
# Characters of a name that its temporary name keeps: file systems allow 255 bytes.
_END_LENGTH = 40
# Errors of writing. Python does not say for which file.
_NO_SPACE = (errno.EDQUOT, errno.EFBIG, errno.ENOSPC)


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the name of a temporary file that replaces `path` after the block.

    The temporary file is in the directory of `path`, and its name ends like `path`. Missing parent
    directories are created. If `path` is a symbolic link, its target is replaced. After the block
    the file is flushed to disk, receives the permissions of the earlier file, and is renamed, which
    is atomic. If the block raises, the temporary file is removed and the earlier file is unchanged.
    Every call uses another temporary name, so concurrent writers do not interfere, and the last one
    wins. A killed process leaves its temporary file; see `remove_temporaries`.

    Raises:
        FileExistsError: if `path` exists and is not a regular file.
        OSError: if writing fails. Without space on the disk, the error names `path`.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "a.txt")
    ...     with replace_file(path) as temporary, open(temporary, "w") as file:
    ...         _ = file.write("whole")
    ...     with open(path) as file:
    ...         print(os.listdir(directory), file.read())
    ['a.txt'] whole
    """
    path = os.path.realpath(path)
    mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else None
    if mode is not None and not os.path.isfile(path):
        raise FileExistsError(
            f"A file can replace only a regular file. Received: path={path!r}, which exists and is "
            "not a regular file. Choose another path."
        )
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = _name_temporary(path)
    try:
        with _naming(path, temporary):
            if mode is not None:  # nobody may read it now who may not read it in the end
                access = mode | stat.S_IRUSR | stat.S_IWUSR
                os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, access))
            yield temporary
            _flush(temporary)
            if mode is not None:
                os.chmod(temporary, mode)
            os.replace(temporary, path)
            _flush_directory(os.path.dirname(temporary))
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file as `replace_file` does."""
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def make_directory(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the name of a temporary directory that becomes `path` after the block.

    The temporary directory is in the parent directory of `path`. Missing parent directories are
    created. After the block its contents are flushed to disk and it is renamed. If the block
    raises, it is removed. A killed process leaves it, with a name of the form `.….tmp.NAME`.

    Raises:
        FileExistsError: if `path` exists at the end of the block.
        OSError: if writing fails. Without space on the disk, the error names `path` or the file in
            it.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     path = os.path.join(parent, "a")
    ...     with make_directory(path) as temporary:
    ...         write_file(os.path.join(temporary, "b.txt"), b"whole")
    ...     print(os.listdir(parent), os.listdir(path))
    ['a'] ['b.txt']
    """
    path = os.path.abspath(path)
    temporary = _name_temporary(path)
    os.makedirs(temporary)
    try:
        with _naming(path, temporary):
            yield temporary
            for directory, _, names in os.walk(temporary):
                for name in names:
                    _flush(os.path.join(directory, name))
                _flush_directory(directory)
            if os.path.lexists(path):  # `rename` would replace an empty directory
                raise FileExistsError(
                    f"A directory is written once. Received: path={path!r}, which was created "
                    "meanwhile. Remove it, or choose another path."
                )
            os.rename(temporary, path)
            _flush_directory(os.path.dirname(temporary))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def reserve_space(path: str, num_bytes: int) -> None:
    """Check that the disk has room for a file of `num_bytes`, and leave an empty one.

    Raises:
        OSError: if the disk has no room.
    """
    with open(path, "wb") as file:
        if num_bytes and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            file.truncate()


def remove_temporaries(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files that killed writers of `path` left.

    No other process may be writing `path`.
    """
    directory, name = os.path.split(os.path.realpath(path))
    end = _end_temporary(name)
    for found in os.listdir(directory) if os.path.isdir(directory) else ():
        temporary = os.path.join(directory, found)
        is_one = found.startswith(".") and found[1 + 2 * _TOKEN_BYTES :] == end
        if is_one and os.path.isfile(temporary):
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)


@contextlib.contextmanager
def _naming(path: str, temporary: str) -> Iterator[None]:
    """Have an `OSError` name `path` where it names the temporary path, or lacks a name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _NO_SPACE:
            error.filename = path
        elif isinstance(error.filename, str) and error.filename.startswith(temporary):
            error.filename = path + error.filename[len(temporary) :]
        raise


def _name_temporary(path: str | os.PathLike[str]) -> str:
    directory, name = os.path.split(os.path.abspath(path))
    # Process numbers would not do: in containers they are often equal.
    token = secrets.token_hex(_TOKEN_BYTES)
    return os.path.join(directory, f".{token}{_end_temporary(name)}")


def _end_temporary(name: str) -> str:
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]  # of names that end alike
    return f".{digest}.tmp.{name[-_END_LENGTH:]}"


def _flush_directory(path: str) -> None:
    if os.name == "posix":  # other systems cannot open a directory
        _flush(path, os.O_RDONLY)


def _flush(path: str, flags: int = os.O_RDWR) -> None:
    """Flush a file to disk."""
    descriptor = os.open(path, flags)  # for writing: Windows flushes no other
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
