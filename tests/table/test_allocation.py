from __future__ import annotations

import contextlib
import copy
import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from keras_lightrnn.table.allocation import Allocation, compute_table_shape

SIZES = [1, 2, 3, 10, 255, 256, 257, 507, 10_000]


@pytest.mark.parametrize("vocabulary_size", SIZES)
def test_table_is_the_least_near_square(vocabulary_size):
    num_rows, num_columns = compute_table_shape(vocabulary_size)
    assert num_rows * num_columns >= vocabulary_size
    assert num_rows <= num_columns <= num_rows + 1
    assert (num_rows - 1) * num_columns < vocabulary_size, "a row is empty"


@pytest.mark.parametrize("num_rows", [1, 2, 7, 10])
def test_table_completes_the_size_left_out(num_rows):
    assert compute_table_shape(10, num_rows=num_rows) == (num_rows, -(-10 // num_rows))
    assert compute_table_shape(10, num_columns=num_rows) == (-(-10 // num_rows), num_rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary_size": 0}, "positive integer.*vocabulary_size=0"),
        ({"vocabulary_size": 2.0}, "positive integer.*vocabulary_size=2.0"),
        ({"vocabulary_size": True}, "positive integer.*True"),
        ({"vocabulary_size": 5, "num_rows": -1}, "positive integer.*num_rows=-1"),
        ({"vocabulary_size": 5, "num_rows": 2, "num_columns": 2}, "as many cells.*4 cells"),
        ({"vocabulary_size": 5, "num_rows": 2**16, "num_columns": 2**15}, "int32.*smaller table"),
    ],
)
def test_table_shape_errors(arguments, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        compute_table_shape(**arguments)


@pytest.mark.parametrize("vocabulary_size", SIZES)
@pytest.mark.parametrize("make", [Allocation.random, Allocation.by_frequency])
def test_rows_columns_and_words_say_the_same(make, vocabulary_size):
    allocation = make(vocabulary_size)
    cells = allocation.rows * allocation.num_columns + allocation.columns
    assert np.array_equal(cells, allocation.cells)
    assert len(set(allocation.cells.tolist())) == vocabulary_size, "two words share a cell"
    assert np.array_equal(
        allocation.words[allocation.rows, allocation.columns], np.arange(vocabulary_size)
    )
    assert (allocation.words == -1).sum() == allocation.num_cells - vocabulary_size
    assert allocation.cells.dtype == allocation.words.dtype == np.int32


def test_words_in_row_and_column():
    allocation = Allocation([5, 0, 2, 3], num_rows=2, num_columns=3)
    assert [allocation.words_in_row(i).tolist() for i in range(2)] == [[1, 2], [3, 0]]
    assert [allocation.words_in_column(j).tolist() for j in range(3)] == [[1, 3], [], [2, 0]]
    for name in ("row", "column"):
        with pytest.raises(ValueError, match=rf"{name}.*-1"):
            getattr(allocation, f"words_in_{name}")(-1)


def test_immutable_and_independent_of_the_callers_array():
    cells = np.array([2, 0, 1])
    allocation = Allocation(cells)
    cells[0] = 1
    assert allocation.cells.tolist() == [2, 0, 1]
    copies = [pickle.loads(pickle.dumps(allocation)), copy.deepcopy(allocation)]
    assert copies == [allocation] * 2
    for array in (a for x in (allocation, *copies) for a in (x.cells, x.words)):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(AttributeError):
        allocation.cells = cells


@pytest.mark.parametrize(
    ("cells", "error", "message"),
    [
        ([], ValueError, "at least one"),
        ([[0, 1]], ValueError, r"vector.*\(1, 2\)"),
        ([0.0, 1.0], TypeError, "integers.*float64"),
        ([0, 4, 1, 2], ValueError, r"\[0, 4\).*cells\[1\]=4"),
        ([0, -1, 1, 2], ValueError, r"\[0, 4\).*cells\[1\]=-1"),
        ([0, 1, 1, 2], ValueError, "share a cell.*words 1 and 2 both in cell 1"),
    ],
)
def test_constructor_errors(cells, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        Allocation(cells)


def test_by_frequency_puts_the_most_frequent_first():
    counts = np.array([3, 9, 1, 9, 4])
    words = Allocation.by_frequency(5, counts=counts).words.ravel()
    assert words[words >= 0].tolist() == [1, 3, 4, 0, 2]  # equal counts: the lesser id first
    with pytest.raises(ValueError, match=r"each of 4 words.*counts.shape="):
        Allocation.by_frequency(4, counts=counts)
    unsigned = Allocation.by_frequency(5, counts=counts.astype("uint8"))
    assert unsigned == Allocation.by_frequency(5, counts=counts)
    for bad in (np.nan, np.inf, -1):
        with pytest.raises(ValueError, match="`counts` must be finite and not negative"):
            Allocation.by_frequency(2, counts=[1.0, bad])


def test_random_repeats_with_its_seed():
    assert Allocation.random(99, seed=1) == Allocation.random(99, seed=1)
    assert Allocation.random(99, seed=1) != Allocation.random(99, seed=2)
    # Empty cells are anywhere, not at the end.
    assert Allocation.random(5, 10, 10, seed=0).cells.max() > 5


def test_equality_and_hash():
    a, b = Allocation([0, 1, 2], 2, 3), Allocation(np.int64([0, 1, 2]), 2, 3)
    assert a == b
    assert hash(a) == hash(b)
    assert a != Allocation([0, 1, 2], 3, 2), "another table shape is another allocation"
    assert a != "allocation"
    assert repr(a) == "Allocation(vocabulary_size=3, num_rows=2, num_columns=3)"


def test_count_moved():
    a = Allocation([0, 1, 2, 3])
    assert a.count_moved(a) == 0
    assert a.count_moved(Allocation([0, 2, 1, 3])) == 2
    with pytest.raises(ValueError, match="one vocabulary size and table shape"):
        a.count_moved(Allocation([0, 1, 2, 3], 1, 4))


def test_save_and_load(tmp_path):
    path = tmp_path / "table.npz"
    for allocation in (Allocation.random(10, 3, 5, seed=0), Allocation.random(10, 5, 3, seed=1)):
        allocation.save(path)  # over the earlier one
        assert Allocation.load(path) == allocation
    assert [file.name for file in tmp_path.iterdir()] == ["table.npz"], "temporary files stay"


def test_load_refuses_what_save_did_not_write(tmp_path):
    with pytest.raises(FileNotFoundError):
        Allocation.load(tmp_path / "none.npz")
    path = tmp_path / "table.npz"
    Allocation.random(200, seed=0).save(path)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", cells=np.arange(3))
    np.save(tmp_path / "array.npy", np.arange(3))
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("cells")
    for name in ("other.npz", "array.npy", "cut.npz", "empty.npz", "text.npz"):
        with pytest.raises(ValueError, match=rf"Allocation\.save.*{name}"):
            Allocation.load(tmp_path / name)


@pytest.mark.parametrize("place", range(0, 600, 25))
def test_load_refuses_or_sees_through_a_flipped_byte(tmp_path, place):
    path, allocation = tmp_path / "table.npz", Allocation.random(200, seed=0)
    allocation.save(path)
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    with contextlib.suppress(ValueError):
        assert Allocation.load(path) == allocation


def test_load_checks_the_sizes_that_the_file_names(tmp_path):
    path = tmp_path / "table.npz"
    Allocation([0, 1, 2]).save(path)
    with np.load(path) as file:
        content = dict(file)
    np.savez(path, **{**content, "vocabulary_size": np.int64(4)})
    with pytest.raises(ValueError, match=r"cells\.shape=\(3,\) of int32 instead of \(4,\)"):
        Allocation.load(path)
    np.savez(path, **{**content, "cells": np.int32([0, 1, 1])})
    with pytest.raises(ValueError, match="share a cell"):
        Allocation.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"table_shape": np.array([2])},
        {"vocabulary_size": np.array([3, 4])},
        {"cells": np.array([0.0, 1.0, 2.0])},
    ],
)
def test_files_with_other_arrays(tmp_path, change):
    arrays = {
        "format": np.array("keras_lightrnn.Allocation/1"),
        "vocabulary_size": np.int64(3),
        "table_shape": np.array([2, 2]),
        "cells": np.arange(3),
    }
    path = tmp_path / "allocation.npz"
    np.savez(path, **arrays)
    assert Allocation.load(path).shape == (2, 2)
    np.savez(path, **(arrays | change))
    with pytest.raises(ValueError, match=r"allocation\.npz"):
        Allocation.load(path)


def test_no_damaged_byte_is_another_error(tmp_path):
    path = tmp_path / "allocation.npz"
    Allocation.random(9, seed=0).save(path)
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        with contextlib.suppress(ValueError):
            Allocation.load(path)


def test_sparse_tables_are_checked_without_an_array_of_all_cells():
    allocation = Allocation([2**31 - 2, 0, 5], 1, 2**31 - 1)
    assert allocation.columns.tolist() == [2**31 - 2, 0, 5]
    with pytest.raises(ValueError, match=r"share a cell.*words 0 and 2 both in cell 7 \(1 words"):
        Allocation([7, 0, 7], 1, 2**31 - 1)


def write_members(path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)


def make_array(array: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """Return an array as in a file, or one whose header says that it has another shape."""
    file = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, header | ({"shape": shape} if shape else {}))
    return file.getvalue() + array.tobytes()


@pytest.mark.parametrize("kind", ["zeros", "header", "table", "format", "size"])
def test_small_files_take_little_memory(tmp_path, kind):
    arrays = {
        "format.npy": np.array("keras_lightrnn.Allocation/1"),
        "vocabulary_size.npy": np.int64(3),
        "table_shape.npy": np.array([2, 2]),
        "cells.npy": np.arange(3, dtype=np.int32),
    }
    members = {name: make_array(np.asarray(array)) for name, array in arrays.items()}
    path = tmp_path / "allocation.npz"
    huge = 2**26
    if kind == "zeros":  # 256 MB that compress to 256 kB
        members["cells.npy"] = make_array(np.zeros(huge, np.int32))
        members["vocabulary_size.npy"] = make_array(np.asarray(np.int64(huge)))
        members["table_shape.npy"] = make_array(np.array([2**13, 2**13]))
    elif kind == "header":
        members["cells.npy"] = make_array(np.arange(3, dtype=np.int32), (huge,))
        members["vocabulary_size.npy"] = make_array(np.asarray(np.int64(huge)))
        members["table_shape.npy"] = make_array(np.array([2**13, 2**13]))
    elif kind == "table":
        members["table_shape.npy"] = make_array(np.array([46340, 46340]))
    else:
        name = "format.npy" if kind == "format" else "vocabulary_size.npy"
        members[name] = make_array(np.zeros(huge, np.int8))
    write_members(path, members)
    tracemalloc.start()
    try:
        if kind == "table":  # a table of many empty cells is sound
            assert Allocation.load(path).shape == (46340, 46340)
        else:
            with pytest.raises(ValueError, match=r"Allocation\.save.*allocation\.npz"):
                Allocation.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_no_cut_or_encrypted_file_is_another_error(tmp_path):
    path = tmp_path / "allocation.npz"
    Allocation.random(50, seed=0).save(path)
    data = path.read_bytes()
    damaged = [data[:size] for size in range(0, len(data), 7)]
    flags = data.index(b"PK\x01\x02") + 8  # of the first member: encrypted
    damaged.append(data[:flags] + b"\x01" + data[flags + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"allocation\.npz"):
            Allocation.load(path)
