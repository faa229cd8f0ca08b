"""A model file that cannot be written or read costs nothing but itself."""

from __future__ import annotations

import contextlib
import os
import resource

import keras
import numpy as np
import pytest

from keras_lightrnn import Allocation, LightRNNModel

WINDOWS = np.random.default_rng(0).integers(40, size=(8, 6))


def make_model(seed=0, size=40):
    keras.utils.set_random_seed(seed)
    model = LightRNNModel(Allocation.random(size, seed=seed), embedding_dim=16, units=16)
    model.compile("adam")
    model.build((None, None))
    return model


@contextlib.contextmanager
def limit_file_size(size):
    """Let no file of this process grow beyond a size, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:  # at once: what pytest reports may go to a file, too
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_a_full_disk_leaves_the_earlier_file(tmp_path, name):
    path = tmp_path / name
    model, other = make_model(0), make_model(1)
    save = (lambda m: m.save(path)) if name.endswith("keras") else (lambda m: m.save_weights(path))
    save(model)
    expected = model.predict(WINDOWS, verbose=0)
    with limit_file_size(4096), pytest.raises(OSError):  # noqa: PT011
        save(other)
    assert os.listdir(tmp_path) == [name]
    other.load_weights(path)
    assert np.array_equal(other.predict(WINDOWS, verbose=0), expected)


def test_a_disk_that_fills_at_any_byte_is_an_error(tmp_path):
    """HDF5, which brings the process down, must not be what writes to the disk."""
    path = tmp_path / "model.weights.h5"
    model = LightRNNModel(20, embedding_dim=4, units=4)
    model.compile("adam")
    model.build((None, None))
    model.save_weights(path)
    size = path.stat().st_size
    data = path.read_bytes()
    for limit in range(0, size, size // 15):
        with limit_file_size(limit), pytest.raises(OSError):  # noqa: PT011
            model.save_weights(path)
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["model.weights.h5"]


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "model.weights.h5"
    model = make_model()
    model.save_weights(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(OSError, match="truncated"):
        model.load_weights(path)


def test_weights_of_another_vocabulary_are_refused(tmp_path):
    path = tmp_path / "model.weights.h5"
    make_model(size=60).save_weights(path)
    model = make_model()
    before = model.word_table.allocation
    with pytest.raises(ValueError, match="could not be loaded"):
        model.load_weights(path)
    assert model.word_table.allocation == before


def test_other_names_are_refused_as_they_were_given(tmp_path):
    model = make_model(0)
    for save, name in ((model.save, "model"), (model.save_weights, "model.h5")):
        with pytest.raises(ValueError, match=rf"{name}") as info:
            save(tmp_path / name)
        assert "tmp." not in str(info.value)
    assert os.listdir(tmp_path) == []


def test_overwrite_asks(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    make_model(0).save(path)
    data = path.read_bytes()
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    make_model(1).save(path, overwrite=False)
    assert path.read_bytes() == data


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
def test_a_format_that_could_not_be_loaded_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"must be saved as `.keras`.*save_weights"):
        make_model().save(tmp_path / name)
    assert os.listdir(tmp_path) == []
