import numpy as np
import pytest

from keras_lightrnn.data.id_files import map_ids, write_ids


@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
def test_parts_become_one_file(tmp_path, dtype):
    path = tmp_path / "ids.npy"
    parts = [np.arange(5), np.empty(0, np.int32), np.array([65_535], np.int64)]
    assert write_ids(path, iter(parts), dtype) == 6
    stored = np.load(path, mmap_mode="r")
    assert stored.dtype == np.dtype(dtype)
    assert stored.tolist() == [0, 1, 2, 3, 4, 65_535]
    assert [entry.name for entry in tmp_path.iterdir()] == ["ids.npy"]


def test_failure_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "ids.npy"
    write_ids(path, [np.arange(3)])

    def parts():
        yield np.arange(9)
        raise RuntimeError("out of text")

    with pytest.raises(RuntimeError, match="out of text"):
        write_ids(path, parts())
    assert np.load(path).tolist() == [0, 1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["ids.npy"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"", "No data left|EOF"),
        (np.arange(3), r"it holds shape \(3,\) of int64"),
        (np.zeros((3, 1), np.int32), r"it holds shape \(3, 1\) of int32"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, problem):
    path = tmp_path / "ids.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(
        ValueError, match=rf"of ids of int32.*ids\.npy'.*({problem}).*\. Write it\.$"
    ):
        map_ids(path, "Write it.")
