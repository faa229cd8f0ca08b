from __future__ import annotations

import os

import pytest

from keras_lightrnn.files import replace_file


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.weights.h5"
    path.write_bytes(b"earlier")
    return path


def test_replaces_what_was_there(path):
    with replace_file(path) as temporary:
        assert temporary.endswith("model.weights.h5"), "Keras looks at the end of a name"
        with open(temporary, "wb") as file:
            file.write(b"new")
        assert path.read_bytes() == b"earlier"
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == [path.name]


def test_a_failure_leaves_what_was_there(path):
    def fail():
        with replace_file(path) as temporary, open(temporary, "wb") as file:
            file.write(b"ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert path.read_bytes() == b"earlier"
    assert os.listdir(path.parent) == [path.name]


def test_a_full_disk_leaves_what_was_there(path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OSError, match="No space left"),
        replace_file(path) as temporary,
        open(temporary, "wb") as file,
    ):
        file.write(b"new")
    assert path.read_bytes() == b"earlier"
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_that_does_not_exist(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="missing"),
        replace_file(tmp_path / "missing" / "a") as temporary,
        open(temporary, "wb"),
    ):
        pass
