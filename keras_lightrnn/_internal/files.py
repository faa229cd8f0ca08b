"""Files and directories that are there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator

_TOKEN_BYTES = 6
# Characters of a name that its temporary one keeps: file systems allow 255 bytes.
_END_LENGTH = 40


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give the name of a temporary file that takes the place of `path` once it is written.

    The temporary file lies beside `path` (of a symbolic link, beside what it points to, which is
    replaced) and ends as `path` does; folders above it are made where they are missing. After the
    block it is brought to the disk, given the permissions of an earlier file, and renamed, which no
    crash can leave half done. When the block raises, it is removed, and an earlier file stays as it
    was. Every call has a temporary name of its own: of several writers the last one wins. A process
    that is killed leaves its file behind; see `remove_temporaries`.

    Raises:
        FileExistsError: if there is something else than a file at `path`.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "a.txt")
    ...     with replace_file(path) as temporary, open(temporary, "w") as file:
    ...         _ = file.write("whole")
    ...     print(os.listdir(directory), open(path).read())
    ['a.txt'] whole
    """
    path = os.path.realpath(path)
    mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else None
    if mode is not None and not os.path.isfile(path):
        raise FileExistsError(
            f"What is written must be a file. Received: path={path!r}, which is there and is none. "
            "Choose another path."
        )
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = _name_temporary(path)
    try:
        if mode is not None:  # nobody may read it meanwhile who may not read it in the end
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, mode | stat.S_IRUSR | stat.S_IWUSR))
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
    """Give the name of a temporary directory that becomes `path` once all is written to it.

    The temporary directory lies beside `path`; folders above it are made where they are missing.
    After the block what it holds is brought to the disk and it is renamed. When the block raises,
    it is removed. A process that is killed leaves it behind, as `.….tmp.` and the name.

    Raises:
        FileExistsError: if there is something at `path` by the end of the block.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     path = os.path.join(parent, "a")
    ...     with make_directory(path) as temporary:
    ...         write_file(os.path.join(temporary, "b.txt"), b"whole")
    ...     print(os.listdir(parent), os.listdir(path))
    ['a'] ['b.txt']
    """
    temporary = _name_temporary(path)
    os.makedirs(temporary)
    try:
        yield temporary
        for directory, _, names in os.walk(temporary):
            for name in names:
                _flush(os.path.join(directory, name))
            _flush_directory(directory)
        if os.path.lexists(path):  # `rename` would replace an empty directory
            raise FileExistsError(
                f"A directory is written once. Received: path={os.fspath(path)!r}, which has come "
                "into being meanwhile. Remove it, or choose another path."
            )
        os.rename(temporary, path)
        _flush_directory(os.path.dirname(temporary))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def reserve_space(path: str, num_bytes: int) -> None:
    """Make sure that a file of a size can be written to `path`, which is left empty.

    Raises:
        OSError: if there is no room for it.
    """
    with open(path, "wb") as file:
        if num_bytes and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            file.truncate()


def remove_temporaries(path: str | os.PathLike[str]) -> None:
    """Remove what killed processes left of writing a file, which nobody else may be writing now."""
    directory, name = os.path.split(os.path.realpath(path))
    end = _end_temporary(name)
    for found in os.listdir(directory) if os.path.isdir(directory) else ():
        temporary = os.path.join(directory, found)
        is_one = found.startswith(".") and found[1 + 2 * _TOKEN_BYTES :] == end
        if is_one and os.path.isfile(temporary):
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)


def _name_temporary(path: str | os.PathLike[str]) -> str:
    directory, name = os.path.split(os.path.abspath(path))
    # Not the number of the process: in containers it is often the same.
    token = secrets.token_hex(_TOKEN_BYTES)
    return os.path.join(directory, f".{token}{_end_temporary(name)}")


def _end_temporary(name: str) -> str:
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]  # of names that end alike
    return f".{digest}.tmp.{name[-_END_LENGTH:]}"


def _flush_directory(path: str) -> None:
    if os.name == "posix":  # elsewhere a directory cannot be opened
        _flush(path, os.O_RDONLY)


def _flush(path: str, flags: int = os.O_RDWR) -> None:
    """Bring what was written to the disk."""
    descriptor = os.open(path, flags)  # to write: Windows flushes no other
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
