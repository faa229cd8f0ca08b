import zlib

import numpy as np
import pytest

from keras_lightrnn.data.id_files import map_ids, write_ids


@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
def test_parts_become_one_file(tmp_path, dtype):
    path = tmp_path / "ids.npy"
    parts = [np.arange(5), np.empty(0, np.int32), np.array([65_535], np.int64)]
    num_ids, checksum = write_ids(path, iter(parts), dtype)
    assert num_ids == 6
    stored = np.load(path, mmap_mode="r")
    assert checksum == zlib.crc32(stored.tobytes())
    assert stored.dtype == np.dtype(dtype)
    assert stored.tolist() == [0, 1, 2, 3, 4, 65_535]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"", "No data left|EOF"),
        (b"PK\x03\x04" + bytes(100), "magic string"),
        (b"\x93NUMPY\x01\x00\x40\x00{'descr': '<i4', 'fortran_order': (" + 30 * b"(", "Error"),
        (np.arange(3), r"it holds shape \(3,\) of int64"),
        (np.arange(3, dtype=np.int32), "it has 144 bytes instead of 140"),
        (np.zeros((3, 1), np.int32), r"it holds shape \(3, 1\) of int32"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, problem):
    path = tmp_path / "ids.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
        if content.dtype == np.int32 and content.ndim == 1:
            with open(path, "ab") as file:
                file.write(b"more")
    with pytest.raises(
        ValueError, match=rf"of ids of int32.*ids\.npy'.*({problem}).*\. Write it\.$"
    ):
        map_ids(path, "Write it.")
