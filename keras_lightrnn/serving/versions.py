"""Numbered versions of an exported model in one directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from keras_lightrnn._internal.checks import check_not_negative

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
    """Give the directory of a version that no other export writes at the same time.

    An empty directory `.{version}.export` in `path` marks the version until the block ends. A
    process that is killed leaves it behind; the version is not chosen by itself then.

    Args:
        path: Directory of the versions; created if it does not exist.
        version: Integer, or `None` for the next one that is neither there nor being written.

    Raises:
        ValueError: if the version is negative.
        FileExistsError: if the version exists, or another export is writing it.
    """
    if version is not None:
        check_not_negative("version", version)
    path.mkdir(parents=True, exist_ok=True)
    names = os.listdir(path)
    number = version
    if version is None:
        number = 1 + max((int(name) for name in names if name.isdecimal()), default=0)
    while True:
        target, claim = path / str(number), path / f".{number}.export"
        is_claimed = False
        with contextlib.suppress(FileExistsError):
            claim.mkdir()
            is_claimed = True
        try:
            if is_claimed and not os.path.lexists(target):
                yield target
                return
        finally:
            if is_claimed:
                claim.rmdir()
        if version is not None:
            raise _make_error(target, None if is_claimed else claim)
        number += 1


def _make_error(target: Path, claim: Path | None) -> FileExistsError:
    if claim is None:
        return FileExistsError(
            f"A version is written once. Received: version={target.name}, and {str(target)!r} "
            "exists. Give another version, leave it out for the next one, or remove the directory."
        )
    return FileExistsError(
        f"Only one export may write a version. Received: version={target.name}, which another "
        f"export is writing or has left by {str(claim)!r}. Give another version, leave it out for "
        "the next one, or remove that directory if no export is running."
    )
