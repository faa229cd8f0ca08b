from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import backup_run
import keras
import numpy as np
import pytest
from scripts import make_environment

from keras_lightrnn import LightRNNModel
from keras_lightrnn.callbacks import ReallocationCallback, TrainingBackup

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="backups inside an epoch need TensorFlow"
)
SCRIPT = Path(backup_run.__file__)


class Crashed(Exception):
    pass


def raise_crashed():
    raise Crashed


def never():
    return backup_run.Crash("never", 1, raise_crashed)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What comes of runs that nothing breaks off, by kind."""
    results = {}

    def get(kind):
        if kind not in results:
            folder = tmp_path_factory.mktemp(kind)
            results[kind] = backup_run.train(kind, folder, never())
            assert len(results[kind]["cost"]) == 2
            assert (results[kind]["moved"] > 0).all()
        return results[kind]

    return get


def check_same(received, expected):
    assert received.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(received[name], values), name


BREAKS = [[("step", 1), ("step", 8)], [("round", 2)], [("epoch", 1), ("step", 5)]]


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        ("stateful", BREAKS[0]),
        ("shuffled", BREAKS[1]),
        ("accumulated", [("step", 3), ("step", 4), ("step", 4)]),
        ("executions", [("step", 1), ("epoch", 1), ("step", 3)]),
        ("bfloat16", BREAKS[0]),
        *(
            pytest.param(kind, places, marks=pytest.mark.slow)
            for kind, places in [
                ("shuffled", BREAKS[0]),
                ("stateful", BREAKS[1]),
                ("stateful", BREAKS[2]),
                ("shuffled", BREAKS[2]),
            ]
        ),
    ],
)
def test_a_broken_run_ends_as_an_unbroken_one(tmp_path, unbroken, kind, places):
    for place, number in places:
        with pytest.raises(Crashed):
            backup_run.train(kind, tmp_path, backup_run.Crash(place, number, raise_crashed))
        assert os.listdir(tmp_path) == ["backup.npz"]
    check_same(backup_run.train(kind, tmp_path, never()), unbroken(kind))
    assert os.listdir(tmp_path) == [], "a run that has ended needs no backup"


def run_killed(kind, tmp_path, kills):
    """Run in processes, each killed at its place and taken up by the next; return the end."""
    folder, path = tmp_path / "backups", tmp_path / "results.npz"
    folder.mkdir()
    environment = make_environment(CUDA_VISIBLE_DEVICES="-1")
    for crash_at in [*kills, "never:1"]:
        command = [sys.executable, SCRIPT, kind, folder, path, crash_at]
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        expected = 0 if crash_at == "never:1" else -signal.SIGKILL
        assert process.returncode == expected, process.stderr[-4000:]
    with np.load(path) as file:
        return dict(file)


def test_killed_processes_end_as_an_unbroken_one(tmp_path, unbroken):
    # In the middle of an epoch, and while the new backup is complete but not in its place.
    received = run_killed("stateful", tmp_path, ["step:8", "write:3"])
    check_same(received, unbroken("stateful"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stateful", "shuffled", "keras"])
@pytest.mark.parametrize("seed", range(3))
def test_processes_killed_anywhere_end_as_an_unbroken_one(tmp_path, unbroken, kind, seed):
    rng = np.random.default_rng(seed)
    latest = {"step": 8, "round": 2, "epoch": 2}
    if kind != "keras":
        latest["write"] = 4
    place = rng.choice(sorted(latest))
    # Wherever the first kill was, an epoch of five steps is left for the second.
    kills = [f"{place}:{rng.integers(latest[place]) + 1}", f"step:{rng.integers(4) + 1}"]
    check_same(run_killed(kind, tmp_path, kills), unbroken(kind))


def test_keras_backup_and_restore_ends_as_an_unbroken_run(tmp_path, unbroken):
    with pytest.raises(Crashed):
        backup_run.train("keras", tmp_path, backup_run.Crash("step", 13, raise_crashed))
    check_same(backup_run.train("keras", tmp_path, never()), unbroken("keras"))


def make_model(size=20, **kwargs):
    keras.utils.set_random_seed(0)
    model = LightRNNModel(size, 4, 4, **kwargs)
    model.compile("adam")
    model.build((4, 6))
    return model


def fit(model, *callbacks, epochs=2, num_windows=8):
    windows = np.random.default_rng(0).integers(20, size=(num_windows, 6))
    return model.fit(
        windows, batch_size=4, epochs=epochs, shuffle=False, callbacks=list(callbacks), verbose=0
    )


def break_off(model, *callbacks, number=3, **arguments):
    with pytest.raises(Crashed):
        fit(model, *callbacks, backup_run.Crash("step", number, raise_crashed), **arguments)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_backup_before_the_reallocation_in_the_list(tmp_path, policy):
    """Neither undoes what the other has installed, nor are weights of a loss scale made anew."""

    def run(name, *others):
        model = make_model(dtype=policy)
        backup = TrainingBackup(tmp_path / name, every_steps=1)
        fit(model, backup, ReallocationCallback(every=[1], verbose=0), *others, epochs=3)
        return [keras.ops.convert_to_numpy(v) for v in model.weights + model.optimizer.variables]

    with pytest.raises(Crashed):
        run("a.npz", backup_run.Crash("step", 4, raise_crashed))
    for received, expected in zip(run("a.npz"), run("b.npz"), strict=True):
        np.testing.assert_array_equal(received, expected)


def test_keras_backup_before_the_round_is_refused(tmp_path):
    """It saves an epoch whose round has not been made."""
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    break_off(make_model(), backup, ReallocationCallback(verbose=0))
    with pytest.raises(ValueError, match="`ReallocationCallback` before `BackupAndRestore`"):
        fit(make_model(), backup, ReallocationCallback(verbose=0))


def test_checkpoints_made_during_fit_load_without_the_callback(tmp_path):
    model = make_model()
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "model.keras"))
    reallocation = ReallocationCallback(every="epoch", verbose=0, at_end=True)
    fit(model, reallocation, checkpoint)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.word_table.allocation == model.word_table.allocation
    # And a file of weights made without it loads while it is there.
    other = make_model()
    other.save_weights(tmp_path / "a.weights.h5")
    reallocation.set_model(model)
    model.load_weights(tmp_path / "a.weights.h5")
    assert len(reallocation.history) == 2


def test_the_epoch_to_start_in(tmp_path):
    backup = TrainingBackup(tmp_path / "a.npz")
    assert backup.epoch == 0
    break_off(make_model(), backup)
    assert TrainingBackup(tmp_path / "a.npz").epoch == 1
    model = make_model()
    history = fit(model, backup)
    assert history.epoch == [1]
    # A second `fit` of the same model starts where it is told to.
    assert fit(model).epoch == [0, 1]


def test_a_full_disk_leaves_the_earlier_backup(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    backup = TrainingBackup(path)
    break_off(make_model(), backup)
    earlier = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            fit(make_model(), backup)
    assert path.read_bytes() == earlier
    assert os.listdir(tmp_path) == ["a.npz"]
    assert fit(make_model(), backup).epoch == [1]


def test_a_folder_that_is_not_there_yet(tmp_path):
    backup = TrainingBackup(tmp_path / "missing" / "a.npz")
    break_off(make_model(), backup)
    assert backup.epoch == 1


def damage(path, kind):
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "a flipped bit":
        middle = data.index(b"\x93NUMPY") + 200
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif kind == "text":
        path.write_text("not a backup")
    elif kind == "an archive":
        np.savez(path, cells=np.arange(3))
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("header.json", json.dumps({"format": kind}))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "is damaged"),
        ("a flipped bit", "is damaged at 'weight_0'"),
        ("text", "is damaged"),
        ("an archive", "has no header"),
        ("another format", "is of format 'another format'"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, kind, message):
    path = tmp_path / "a.npz"
    backup = TrainingBackup(path)
    break_off(make_model(), backup)
    damage(path, kind)
    model = make_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"{message}.*Nothing was changed"):
        fit(model, backup)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 21}, r"\[\[20\], 'int32'\] where '.*cells' is \[\[21\]"),
        ({"num_layers": 2}, "weights where"),
    ],
)
def test_backups_of_other_models_are_refused(tmp_path, arguments, message):
    backup = TrainingBackup(tmp_path / "a.npz")
    break_off(make_model(), backup)
    with pytest.raises(ValueError, match=message):
        fit(make_model(**arguments), backup)


def test_another_optimizer_with_slots_of_the_same_shapes(tmp_path):
    backup = TrainingBackup(tmp_path / "a.npz")
    model, other = make_model(), make_model()
    model.compile(keras.optimizers.Adam())
    other.compile(keras.optimizers.AdamW())
    break_off(model, backup)
    with pytest.raises(ValueError, match=r"the optimizer Adam where this model has AdamW"):
        fit(other, backup)
    assert int(other.optimizer.iterations) == 0


def test_other_callbacks_than_the_backup_has_seen(tmp_path):
    backup = TrainingBackup(tmp_path / "a.npz")
    break_off(make_model(), backup)
    model = make_model()
    before = model.get_weights()
    windows = np.random.default_rng(0).integers(20, size=(16, 6))
    callbacks = [ReallocationCallback(verbose=0), backup]
    with pytest.raises(ValueError, match=r"this run has .*'RoundState'.*Nothing was changed"):
        model.fit(windows, callbacks=callbacks, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize(
    ("kinds", "every_steps"),
    [(("similarity", "likelihood"), None), (("likelihood", "similarity"), 2)],
)
def test_another_objective_than_the_backup_has_seen(tmp_path, kinds, every_steps):
    backup = TrainingBackup(tmp_path / "a.npz", every_steps)
    first, second = (ReallocationCallback(kind, every="epoch", verbose=0) for kind in kinds)
    break_off(make_model(), first, backup)
    model = make_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"another objective of reallocation.*Nothing was changed"):
        fit(model, second, backup)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


def test_another_batch_size_of_a_stateful_model(tmp_path):
    backup = TrainingBackup(tmp_path / "a.npz", every_steps=1)
    break_off(make_model(stateful=True), backup)
    other = LightRNNModel(20, 4, 4, stateful=True)
    other.compile("adam")
    other.build((2, 6))
    windows = np.random.default_rng(0).integers(20, size=(8, 6))
    before = other.get_weights()
    with pytest.raises(ValueError, match=r"with another batch size.*Nothing was changed"):
        other.fit(windows, batch_size=2, callbacks=[backup], verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(other.get_weights(), before, strict=True))


def test_a_model_that_is_not_built(tmp_path):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", "mse")
    batches = ((np.ones((2, 3)), np.ones((2, 1))) for _ in range(4))
    with pytest.raises(ValueError, match="A training backup needs a model that is built"):
        model.fit(batches, callbacks=[TrainingBackup(tmp_path / "a.npz")], verbose=0)


def break_off_at_step_4(path):
    """Break a run off after all four steps of its epoch, which had a backup every two."""
    backup = TrainingBackup(path, every_steps=2)
    model = make_model()
    windows = np.random.default_rng(0).integers(20, size=(16, 6))
    crash = backup_run.Crash("step", 4, raise_crashed)
    with pytest.raises(Crashed):
        model.fit(windows, batch_size=4, callbacks=[backup, crash], verbose=0)
    return model, windows, backup


def test_nothing_is_left_of_the_epoch(tmp_path):
    model, windows, backup = break_off_at_step_4(tmp_path / "a.npz")
    other = make_model()
    # A generator does not say how many batches there are.
    batches = ((windows[start : start + 4],) for start in range(0, 16, 4))
    other.fit(batches, callbacks=[backup], verbose=0)
    for a, b in zip(other.get_weights(), model.get_weights(), strict=True):
        assert np.array_equal(a, b)


def test_fewer_batches_than_the_backup_has_seen(tmp_path):
    _, windows, backup = break_off_at_step_4(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"4 steps into an epoch.*an epoch of 1"):
        make_model().fit(windows[:4], batch_size=4, callbacks=[backup], verbose=0)
    batches = ((windows[start : start + 4],) for start in range(0, 8, 4))
    with pytest.raises(ValueError, match=r"4 steps into an epoch.*an epoch of 2"):
        make_model().fit(batches, callbacks=[backup], verbose=0)


def test_several_steps_an_execution(tmp_path):
    expected = make_model()
    expected.steps_per_execution = 3
    fit(expected, epochs=1, num_windows=32)
    backup = TrainingBackup(tmp_path / "a.npz", every_steps=4)
    model = make_model()
    model.steps_per_execution = 3
    break_off(model, backup, number=2, num_windows=32)
    other = make_model()
    other.steps_per_execution = 3
    fit(other, backup, epochs=1, num_windows=32)
    for a, b in zip(other.get_weights(), expected.get_weights(), strict=True):
        assert np.array_equal(a, b)


def test_fewer_executions_than_the_backup_has_seen(tmp_path):
    model, other = make_model(), make_model()
    model.steps_per_execution = other.steps_per_execution = 4
    backup = TrainingBackup(tmp_path / "a.npz", every_steps=2)
    crash = backup_run.Crash("epoch", 1, raise_crashed)
    with pytest.raises(Crashed):
        fit(model, backup, crash, num_windows=40)
    # The third execution had two steps: in executions of four 8 are fewer.
    with pytest.raises(ValueError, match=r"10 steps into an epoch.*an epoch of 8"):
        fit(other, backup, num_windows=32)


@pytest.mark.parametrize("every_steps", [0, -1, 1.5, True])
def test_bad_arguments(every_steps):
    with pytest.raises(ValueError, match="`every_steps` must be"):
        TrainingBackup("a.npz", every_steps=every_steps)


class Interrupt(keras.callbacks.Callback):
    """Does what Ctrl-C does after some steps of an epoch."""

    def __init__(self, epoch, steps):
        super().__init__()
        self.epoch, self.steps = epoch, steps

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch + 1) == (self.epoch, self.steps):
            raise KeyboardInterrupt


@pytest.mark.parametrize("steps", [1, 2, 5])  # while it passes over batches, and afterwards
def test_fits_after_one_that_was_taken_up_and_interrupted_train(tmp_path, steps):
    path = tmp_path / "backup.npz"
    windows = np.random.default_rng(0).integers(9, size=(24, 4))
    for crash in (Interrupt(1, 4), Interrupt(1, steps)):
        model = LightRNNModel(9, embedding_dim=2, units=2)
        model.compile("adam")
        with pytest.raises(KeyboardInterrupt):
            model.fit(
                windows,
                batch_size=4,
                epochs=3,
                shuffle=False,
                callbacks=[TrainingBackup(path, every_steps=3), crash],
                verbose=0,
            )
    before = int(model.optimizer.iterations)
    history = model.fit(windows, batch_size=4, epochs=2, verbose=0)
    assert history.epoch == [0, 1]
    assert len(history.history["loss"]) == 2
    assert int(model.optimizer.iterations) == before + 12
