from __future__ import annotations

import contextlib
import os
import shutil

import pytest

from keras_lightrnn._internal.files import (
    make_directory,
    remove_temporaries,
    replace_file,
    write_file,
)


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


def fill(path, occupied=False, error=None):
    """Make a directory with a file in a folder; something may happen before its end."""
    with make_directory(path) as temporary:
        os.mkdir(os.path.join(temporary, "folder"))
        with open(os.path.join(temporary, "folder", "file"), "wb") as file:
            file.write(b"new")
        assert not path.exists()
        if occupied:
            path.mkdir()
        if error:
            raise error


def test_a_directory_is_there_whole(tmp_path):
    fill(tmp_path / "above" / "directory")
    assert os.listdir(tmp_path / "above") == ["directory"]
    assert (tmp_path / "above" / "directory" / "folder" / "file").read_bytes() == b"new"


def test_or_a_directory_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "directory", error=KeyboardInterrupt())
    assert os.listdir(tmp_path) == []

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fill(tmp_path / "directory")
    assert os.listdir(tmp_path) == []


def test_a_directory_of_others_is_not_replaced(tmp_path):
    with pytest.raises(FileExistsError, match="meanwhile"):
        fill(tmp_path / "directory", occupied=True)
    assert os.listdir(tmp_path) == ["directory"]
    assert os.listdir(tmp_path / "directory") == []


def test_folders_that_are_missing_are_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "of" / "link" / "a")
    for path in (tmp_path / "missing" / "folder" / "a", "relative/a", "a", "link"):
        write_file(path, b"new")
        assert (tmp_path / path).read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


def test_a_folder_that_is_a_file_is_named(path):
    with pytest.raises(OSError, match=r"model\.weights\.h5'$"):
        write_file(path / "a", b"new")
    assert path.read_bytes() == b"earlier"


def test_what_a_link_points_to_is_replaced(tmp_path):
    target, link = tmp_path / "folder" / "target.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    with replace_file(link) as temporary:
        with open(temporary, "w") as file:
            file.write("new")
        assert os.path.dirname(temporary) == str(target.parent)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["target.txt"]


def test_a_killed_process_is_no_hindrance(tmp_path, monkeypatch):
    # As it would be in a container, where the next one has the same number.
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "directory", error=KeyboardInterrupt())
    assert len(os.listdir(tmp_path)) == 1
    fill(tmp_path / "directory")
    assert os.listdir(tmp_path / "directory") == ["folder"]


def test_writers_at_one_time_do_not_meet(path):
    with replace_file(path) as one, replace_file(path) as other:
        assert one != other
        for temporary, content in ((one, b"one"), (other, b"other")):
            with open(temporary, "wb") as file:
                file.write(content)
    assert path.read_bytes() == b"one"  # was renamed last
    assert os.listdir(path.parent) == [path.name]


def test_temporaries_of_killed_processes_are_removed(path):
    other = path.with_name("other-" + path.name)
    long = [path.with_name(f"rate-{rate}" + 50 * "-" + path.name) for rate in (1, 2)]
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(replace_file(p)) for p in (path, other, *long)]
        for name in names:
            with open(name, "wb") as file:
                file.write(b"half")
        remove_temporaries(path)
        remove_temporaries(long[0])
        assert [os.path.exists(name) for name in names] == [False, True, False, True]
        for name in (names[0], names[2]):
            os.mkdir(name)
        remove_temporaries(path)  # which are no files
        for name in (names[0], names[2]):
            os.rmdir(name)
            with open(name, "wb"):
                pass
    remove_temporaries(path.parent / "missing" / "a")


@pytest.mark.parametrize("mode", [0o600, 0o444])
def test_permissions_and_long_names_are_kept(tmp_path, mode):
    path = tmp_path / ("é" * 120 + ".npz")
    for content in (b"old", b"new"):
        with replace_file(path) as temporary, open(temporary, "wb") as file:
            if content == b"new":
                assert os.stat(temporary).st_mode & 0o077 == mode & 0o077
                assert os.stat(temporary).st_mode & 0o600 == 0o600, "or only root could write it"
            file.write(content)
        path.chmod(mode)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == mode
    assert os.listdir(tmp_path) == [path.name]


def test_an_earlier_file_may_be_gone_meanwhile(path):
    with replace_file(path) as temporary:
        path.unlink()
        with open(temporary, "wb") as file:
            file.write(b"new")
    assert path.read_bytes() == b"new"


def test_what_is_no_file_is_not_replaced(tmp_path):
    with pytest.raises(FileExistsError, match="not a regular file"), replace_file(tmp_path):
        pass


def test_a_full_disk_is_named(path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for target in (path, path.parent / "new" / "b.txt"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            with pytest.raises(OSError, match=rf"File too large: '{target}'$"):
                write_file(target, bytes(20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"earlier"
    assert sorted(os.listdir(path.parent)) == [path.name, "new"]


def test_other_errors_keep_their_name(path, tmp_path):
    def read(source):
        with replace_file(path):
            source.read_text()

    with pytest.raises(FileNotFoundError, match=r"source\.txt'$"):
        read(tmp_path / "source.txt")
    with pytest.raises(ConnectionResetError, match=r"^\[Errno 104\] reset$"), replace_file(path):
        raise ConnectionResetError(104, "reset")
