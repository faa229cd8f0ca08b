"""Versions of an exported model: their numbers, their paths, and exports at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tensorflow as tf
from exportable import make_model

from keras_lightrnn.serving import export_litert, export_saved_model
from keras_lightrnn.serving.versions import claim_version


@pytest.fixture
def save_nothing(monkeypatch):
    """Saving takes seconds, and these tests are about names only."""
    monkeypatch.setattr(tf.saved_model, "save", lambda *_: None)


@pytest.mark.usefixtures("save_nothing")
def test_versions(model, vocabulary, tmp_path):
    path = tmp_path / "models" / "lightrnn"
    assert export_saved_model(model, vocabulary, path) == path / "1"
    assert export_saved_model(model, vocabulary, path, version=7) == path / "7"
    assert export_saved_model(model, vocabulary, str(path)) == path / "8"
    with pytest.raises(ValueError, match="version=-1"):
        export_saved_model(model, vocabulary, path, version=-1)
    before = {file: file.stat().st_mtime_ns for file in path.glob("*/**/*")}
    with pytest.raises(FileExistsError, match=r"version=7, and .*/7' exists"):
        export_saved_model(model, vocabulary, path, version=7)
    assert {file: file.stat().st_mtime_ns for file in path.glob("*/**/*")} == before
    assert sorted(os.listdir(path)) == ["1", "7", "8"]
    # Whoever runs the server may read it.
    assert (path / "1").stat().st_mode & 0o777 == path.stat().st_mode & 0o777


def test_two_exports_at_once(model, vocabulary, tmp_path, monkeypatch):
    is_saving, may_end = threading.Event(), threading.Event()

    def save(*_):
        is_saving.set()
        assert may_end.wait(60)

    monkeypatch.setattr(tf.saved_model, "save", save)
    written = []
    thread = threading.Thread(
        target=lambda: written.append(export_saved_model(model, vocabulary, tmp_path))
    )
    thread.start()
    assert is_saving.wait(60)
    # The second export fails before its work, or takes the next version.
    monkeypatch.setattr(tf.saved_model, "save", lambda *_: pytest.fail("it must not be written"))
    with pytest.raises(FileExistsError, match="version=1, which another export is writing"):
        export_saved_model(model, vocabulary, tmp_path, version=1)
    monkeypatch.setattr(tf.saved_model, "save", lambda *_: None)
    assert export_saved_model(model, vocabulary, tmp_path) == tmp_path / "2"
    may_end.set()
    thread.join()
    assert written == [tmp_path / "1"]
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_a_version_that_was_written_meanwhile(tmp_path, monkeypatch):
    """Another export may end between listing the versions and locking one."""
    (tmp_path / "1").mkdir()
    monkeypatch.setattr(os, "listdir", lambda _: [])
    with claim_version(tmp_path, None) as target:
        assert target.name == "2"


def test_a_killed_export_blocks_no_version(tmp_path):
    script = (
        "import os, sys, types; from pathlib import Path\n"
        # Without what the packages import: Keras and TensorFlow take seconds.
        "for name in 'keras_lightrnn', 'keras_lightrnn.serving':\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    sys.modules[name].__path__ = [str(Path(sys.argv[2], *name.split('.')))]\n"
        "from keras_lightrnn.serving.versions import claim_version\n"
        "with claim_version(Path(sys.argv[1]), 3): os._exit(1)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script, tmp_path, root], check=False)
    assert os.listdir(tmp_path) == [".3.lock"]
    with claim_version(tmp_path, 3) as target:
        assert target.name == "3"


@pytest.mark.usefixtures("save_nothing")
@pytest.mark.parametrize("name", ["run[1]", "run*", "what?", "a\\b"])
def test_paths_that_tensorflow_cannot_read(model, vocabulary, tmp_path, monkeypatch, name):
    with pytest.raises(ValueError, match=r"as a pattern.*Received.*Choose another directory"):
        export_saved_model(model, vocabulary, tmp_path / name / "lightrnn")
    assert os.listdir(tmp_path) == []
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(ValueError, match="as a pattern"):
        export_saved_model(model, vocabulary, "models")
    # The converter reads a SavedModel in the directory of temporary files.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
    with pytest.raises(ValueError, match="as a pattern"):
        export_litert(make_model(), "model.tflite")


def test_other_characters_can_be_read(by_cell):
    assert by_cell.parent.name == "it's {1,2} ~50% of $x & (y); naïve]"
    assert len(tf.saved_model.load(by_cell).signatures) == 5
