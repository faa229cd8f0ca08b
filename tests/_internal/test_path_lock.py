from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import keras_lightrnn
from keras_lightrnn._internal import path_lock
from keras_lightrnn._internal.path_lock import PathLock

# Loads the module alone, which needs no Keras.
SCRIPT = f"""
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("path_lock", {path_lock.__file__!r})
module = importlib.util.module_from_spec(spec)
sys.modules["path_lock"] = module
spec.loader.exec_module(module)
try:
    lock = module.PathLock(sys.argv[1])
except RuntimeError as error:
    print(error)
    sys.exit(3)
print("locked", flush=True)
time.sleep(60 if sys.argv[2] == "stay" else 0)
"""


def start(path, behaviour):
    command = [sys.executable, "-c", SCRIPT, path, behaviour]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "missing" / "a.npz"
    holder = start(path, "stay")
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RuntimeError, match=rf"a\.npz.*in use by process {holder.pid} on"):
            PathLock(path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert os.listdir(path.parent) == ["a.npz.lock"], "a killed process removes nothing"
    lock = PathLock(path)
    other = start(path, "leave")
    message, _ = other.communicate(timeout=60)
    assert other.returncode == 3
    assert f"process {os.getpid()} on" in message
    lock.release()
    assert os.listdir(path.parent) == []
    with start(path, "leave") as last:
        assert last.wait(timeout=60) == 0


def test_one_thread_at_a_time(tmp_path):
    path = tmp_path / "a.npz"
    locks, errors = [PathLock(path)], []

    def run():
        try:
            locks.append(PathLock(path))
        except RuntimeError as error:
            errors.append(str(error))

    def run_in_thread():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    run_in_thread()
    assert len(locks) == 1
    assert "thread 'MainThread' of this process" in errors[0]
    locks[0].release()
    run_in_thread()
    # Its thread has died, as one whose job has raised.
    lock = PathLock(path)
    locks[1].release()  # nothing is left of it to release
    assert os.listdir(tmp_path) == ["a.npz.lock"]
    lock.release()
    lock.release()
    assert os.listdir(tmp_path) == []


def test_the_next_job_of_a_thread_takes_over(tmp_path):
    first = PathLock(tmp_path / "a.npz")
    second = PathLock(tmp_path / "a.npz")
    first.release()
    assert os.listdir(tmp_path) == ["a.npz.lock"]
    second.release()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_neither_has_nor_releases_it(tmp_path):
    lock = PathLock(tmp_path / "a.npz")
    child = os.fork()
    if child == 0:
        lock.release()
        try:
            PathLock(tmp_path / "a.npz")
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert os.listdir(tmp_path) == ["a.npz.lock"]
    lock.release()


def test_a_link_is_the_file_that_it_points_to(tmp_path):
    (tmp_path / "link.npz").symlink_to(tmp_path / "a.npz")
    PathLock(tmp_path / "link.npz").release()
    lock = PathLock(tmp_path / "link.npz")
    assert lock.path == str(Path(tmp_path / "a.npz").resolve())
    lock.release()


def test_a_file_system_without_locks_warns(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(path_lock, "_lock", refuse)
    with pytest.warns(UserWarning, match=r"a\.npz\.lock' cannot be locked.*No locks available"):
        lock = PathLock(tmp_path / "a.npz")
    lock.release()
    assert os.listdir(tmp_path) == []


def test_the_module_under_test_is_that_of_the_package():
    assert Path(path_lock.__file__).is_relative_to(Path(keras_lightrnn.__file__).parent)
