"""Numbered versions of an exported model in one directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from keras_lightrnn._internal.checks import check_not_negative
from keras_lightrnn._internal.path_lock import PathLock

# TensorFlow reads variables by a pattern: `*` could match the files of another model.
_PATTERN_CHARACTERS = "*?[" + ("" if os.sep == "\\" else "\\")


def check_readable(path: str | os.PathLike[str]) -> None:
    """Raise unless TensorFlow can read a SavedModel at `path`.

    Raises:
        ValueError: if the absolute path contains a character that TensorFlow reads as a pattern.
    """
    absolute = os.path.abspath(path)
    found = sorted({character for character in absolute if character in _PATTERN_CHARACTERS})
    if found:
        raise ValueError(
            f"TensorFlow reads the characters {' '.join(_PATTERN_CHARACTERS)} in the path of a "
            f"SavedModel as a pattern, and would not find its variables. Received: the path "
            f"{absolute!r}, with {' '.join(found)}. Choose another directory."
        )


@contextlib.contextmanager
def claim_version(path: Path, version: int | None) -> Iterator[Path]:
    """Yield the directory of a version, which no other export can write at the same time.

    A lock file in `path` protects the version until the block or the process ends.

    Args:
        path: Directory of the versions; created if it does not exist.
        version: Integer, or `None` for the next version that neither exists nor is being written.

    Raises:
        ValueError: if the version is negative.
        FileExistsError: if the version exists, or another export is writing it.
    """
    number = 1
    if version is not None:
        number = check_not_negative("version", version)
    elif path.exists():
        number += max((int(name) for name in os.listdir(path) if name.isdecimal()), default=0)
    while True:
        target = path / str(number)
        try:
            lock = PathLock(path / f".{number}")  # hidden, so that it is not read as a version
        except RuntimeError as error:
            problem = f"which another export is writing. {error}"
        else:
            try:
                if not os.path.lexists(target):
                    yield target
                    return
            finally:
                lock.release()
            problem = f"and {str(target)!r} exists. Remove the directory to write it again."
        if version is not None:
            raise FileExistsError(
                f"`version` must be a new version. Received: version={version}, {problem} Give "
                "another version, or `None` for the next one."
            )
        number += 1
