"""File format of training backups: a header and arrays in one NumPy archive."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_lightrnn._internal.checks import check_not_negative
from keras_lightrnn._internal.files import replace_file

_FORMAT = "keras_lightrnn.TrainingBackup.5"
# Its header does not list the members.
_FORMAT_WITHOUT_MEMBERS = "keras_lightrnn.TrainingBackup.4"
_HEADER_FIELDS = {
    "epoch": int,
    "steps": int,
    "num_replicas": int,
    "weights": list,
    "run_states": list,
    "optimizer": str,
}


def write_backup(
    path: str, header: dict[str, Any], arrays: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Write a backup under a temporary name and rename it.

    Args:
        path: Path of the file.
        header: JSON-serialisable dictionary with the fields of `_HEADER_FIELDS`.
        arrays: Names and arrays. From a generator, one array at a time is in memory.

    Raises:
        OSError: if the file cannot be written. An existing file is unchanged.
    """
    members = {}
    with replace_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, values in arrays:
            values = np.asarray(values, order="C")
            if values.dtype.kind == "V":  # bfloat16, whose type NumPy's format would lose
                values = values.astype(np.float32)
            members[name] = [list(values.shape), values.dtype.str]
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, allow_pickle=False)
        header = {"format": _FORMAT, **header, "members": members}
        archive.writestr("header.json", json.dumps(header))


class BackupFile:
    """A backup that is open for reading.

    Any damage of the file raises `ValueError`. Sizes are checked before data are read, so that
    nothing larger than the file is allocated.

    Args:
        path: Path of the file.

    Attributes:
        header: Dictionary, complete and of the right types.
        state_names: Names of the arrays that begin with `state_`.

    Raises:
        ValueError: if the file is damaged or is not a backup.
        OSError: if it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(path, "rb"))
            with self._reading("is damaged, or is not a backup"):
                self._archive = stack.enter_context(zipfile.ZipFile(file))
            with self._reading("has no header"):
                header = json.loads(self._read_member("header.json"))
            found = header.get("format") if isinstance(header, dict) else None
            if found not in (_FORMAT, _FORMAT_WITHOUT_MEMBERS):
                raise self.make_error(f"has the format {found!r}")
            with self._reading("has a damaged header"):
                self._members = self._list_members(header)
            self.header: dict[str, Any] = header
            self._stack = stack.pop_all()

    def __enter__(self) -> BackupFile:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    @property
    def state_names(self) -> list[str]:
        return [name for name in self._members if name.startswith("state_")]

    def read(self, name: str) -> np.ndarray:
        """Return an array, after comparing its shape and type with those in the header."""
        with self._reading(f"is damaged at {name!r}"):
            values = _parse_array(self._read_member(f"{name}.npy"))
            described = self._members[name]
            if described is not None and described != [list(values.shape), values.dtype.str]:
                raise ValueError(f"{values.dtype} {values.shape} instead of {described}")
        return values

    def make_error(self, fault: str) -> ValueError:
        """Return the error for a file with a fault."""
        return ValueError(
            "A backup must be a file that `TrainingBackup` wrote for this model and this training "
            f"run. Received: path={self.path!r}, which {fault}. Nothing was changed. Remove the "
            "file to start from the beginning."
        )

    @contextlib.contextmanager
    def _reading(self, fault: str) -> Iterator[None]:
        try:
            yield
        # Damaged bytes make zipfile, json and NumPy raise almost anything.
        except Exception as error:
            raise self.make_error(f"{fault} ({type(error).__name__}: {error})") from error

    def _list_members(self, header: dict[str, Any]) -> dict[str, Any]:
        """Check a header and return the described arrays by name."""
        for name, kind in _HEADER_FIELDS.items():
            if not isinstance(header[name], kind):
                raise ValueError(f"{name}={header[name]!r}")
        for name in ("epoch", "steps"):
            check_not_negative(name, header[name])
        files = sorted(self._archive.namelist())
        if header["format"] == _FORMAT_WITHOUT_MEMBERS:
            return {name.removesuffix(".npy"): None for name in files if name != "header.json"}
        members = header["members"]
        expected = sorted(["header.json", *(f"{name}.npy" for name in members)])
        if files != expected:
            raise ValueError(f"members {files} instead of {expected}")
        return members

    def _read_member(self, name: str) -> bytes:
        info = self._archive.getinfo(name)
        # Uncompressed data cannot be larger than the file.
        size = os.fstat(self._archive.fp.fileno()).st_size  # type: ignore[union-attr]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
            raise ValueError(f"{info.file_size} bytes in a file of {size}")
        return self._archive.read(info)


def _parse_array(data: bytes) -> np.ndarray:
    """Return the array in the bytes of an `.npy` file, as a view of them."""
    stream = io.BytesIO(data)
    np.lib.format.read_magic(stream)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    num_bytes = len(data) - stream.tell()
    if dtype.hasobject or num_bytes != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{num_bytes} bytes for {dtype} {shape}")
    values = np.frombuffer(data, dtype, offset=stream.tell())
    return values.reshape(shape, order="F" if is_fortran else "C")
