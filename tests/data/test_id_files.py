import numpy as np
import pytest

from keras_lightrnn.data.id_files import write_ids


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
