from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from pathlib import Path

import backup_run
import keras
import numpy as np
import pytest
from scripts import make_environment

from keras_lightrnn import LightRNNModel
from keras_lightrnn.callbacks import ReallocationCallback, TrainingBackup
from keras_lightrnn.callbacks.backup_file import BackupFile
from keras_lightrnn.reallocation import LikelihoodObjective

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="backups inside an epoch need TensorFlow"
)
SCRIPT = Path(backup_run.__file__)


def list_files(folder):
    """Return names without the locks of runs that have raised, which go with their callback."""
    return [name for name in os.listdir(folder) if not name.endswith(".lock")]


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
        # Before and after the first round, where the next table is summed.
        ("tables", [("step", 3), ("step", 6), ("step", 3)]),
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
        assert list_files(tmp_path) == ["backup.npz"]
    check_same(backup_run.train(kind, tmp_path, never()), unbroken(kind))
    assert os.listdir(tmp_path) == [], "a run that has ended needs no backup"


def run_killed(kind, folder, kills):
    """Run in processes, each killed at its place and taken up by the next, here the last one."""
    environment = make_environment(CUDA_VISIBLE_DEVICES="-1")
    for crash_at in kills:
        command = [sys.executable, SCRIPT, kind, folder, crash_at]
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert process.returncode == -signal.SIGKILL, process.stderr[-4000:]
    return backup_run.train(kind, folder, never())


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


def make_optimizer():
    # It has slots, and a step takes half the time to trace that one with Adam takes.
    return keras.optimizers.SGD(0.01, momentum=0.9)


def make_model(size=20, run_eagerly=True, **kwargs):
    keras.utils.set_random_seed(0)
    model = LightRNNModel(size, 4, 4, **kwargs)
    # A few steps take less time than one trace.
    model.compile(make_optimizer(), run_eagerly=run_eagerly)
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


class Decay(keras.callbacks.Callback):
    """Lowers the learning rate in each step."""

    def on_train_batch_end(self, batch, logs=None):
        rate = self.model.optimizer.learning_rate
        rate.assign(0.75 * rate)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_learning_rates_that_follow_from_the_last_one(tmp_path, policy):
    """The callbacks that change it run again for the epoch and for the steps that are skipped."""

    def run(name, *others):
        model = make_model(dtype=policy)
        backup = TrainingBackup(tmp_path / name, every_steps=1)
        scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
        fit(model, backup, scheduler, Decay(), *others)
        weights = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
        return [float(model.optimizer.learning_rate), *weights]

    with pytest.raises(Crashed):
        run("a.npz", backup_run.Crash("step", 3, raise_crashed))
    expected = run("b.npz")
    assert expected[0] == pytest.approx(0.01 * 0.5**2 * 0.75**4)
    for received, value in zip(run("a.npz"), expected, strict=True):
        np.testing.assert_array_equal(received, value)


def test_orders_of_callbacks_that_are_refused(tmp_path):
    """The learning rate would be scheduled twice, and means of weights taken for weights."""
    backup = TrainingBackup(tmp_path / "a.npz")
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    with pytest.raises(ValueError, match=r"`LearningRateScheduler` before.* before that"):
        fit(make_model(), scheduler, backup)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    with pytest.raises(ValueError, match=r"`SwapEMAWeights.*` after.* after that"):
        fit(make_model(), backup, swap)
    model = make_model()
    model.compile(keras.optimizers.SGD(0.01, use_ema=True), run_eagerly=True)
    assert fit(model, swap, backup, scheduler).epoch == [0, 1]


def test_keras_backup_before_the_round_is_refused(tmp_path):
    """It saves an epoch whose round has not been made."""
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    with pytest.raises(ValueError, match=r"`BackupAndRestore` before it.*before that callback"):
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
    assert list_files(tmp_path) == ["a.npz"]
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
        ("another format", "has the format 'another format'"),
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
    model.compile(keras.optimizers.Adam(), run_eagerly=True)
    other.compile(keras.optimizers.AdamW(), run_eagerly=True)
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
    other.compile(make_optimizer())
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
    with pytest.raises(ValueError, match="A training backup needs a built model"):
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
    expected = make_model(run_eagerly=False)
    expected.steps_per_execution = 3
    fit(expected, epochs=1, num_windows=32)
    backup = TrainingBackup(tmp_path / "a.npz", every_steps=4)
    model = make_model(run_eagerly=False)
    model.steps_per_execution = 3
    break_off(model, backup, number=2, num_windows=32)
    other = make_model(run_eagerly=False)
    other.steps_per_execution = 3
    fit(other, backup, epochs=1, num_windows=32)
    for a, b in zip(other.get_weights(), expected.get_weights(), strict=True):
        assert np.array_equal(a, b)


def test_numbers_may_be_integers_of_numpy(tmp_path):
    """The backup holds them as JSON, which has no integers of NumPy."""
    windows = np.random.default_rng(0).integers(12, size=(40, 5))

    def train(kind):
        keras.utils.set_random_seed(0)
        model = LightRNNModel(12, 4, 4)
        model.compile("sgd", steps_per_execution=kind(4))
        path = tmp_path / "backup.npz"
        backup = TrainingBackup(path, every_steps=kind(4), delete_backup=False)
        reallocation = ReallocationCallback(every=kind(7), max_rounds=kind(2), verbose=0)
        model.fit(
            windows,
            batch_size=kind(4),
            steps_per_epoch=kind(10),
            initial_epoch=kind(1),
            epochs=kind(3),
            shuffle=False,
            callbacks=[reallocation, backup],
            verbose=0,
        )
        assert len(reallocation.history) == 2
        with BackupFile(path) as file:
            header = file.header
        assert (header["epoch"], header["steps"]) == (2, 8)
        os.remove(path)
        moved = [record["moved"] for record in reallocation.history]
        return [reallocation.num_steps, moved, *model.get_weights()]

    for received, expected in zip(train(np.int64), train(int), strict=True):
        assert np.array_equal(received, expected)


def test_fewer_executions_than_the_backup_has_seen(tmp_path):
    model, other = make_model(run_eagerly=False), make_model(run_eagerly=False)
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
        model.compile("sgd")
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


def loop(model, backup, crash, step):
    """Train for one epoch of four steps in a training loop of the user."""
    windows = np.random.default_rng(0).integers(20, size=(16, 6))
    callbacks = keras.callbacks.CallbackList([backup, crash], model=model, epochs=1, steps=4)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    for index in range(4):
        callbacks.on_train_batch_begin(index)
        step(windows[4 * index : 4 * index + 4])
        callbacks.on_train_batch_end(index)
    callbacks.on_epoch_end(0)
    callbacks.on_train_end()


def test_steps_of_a_training_loop_are_skipped_or_refused(tmp_path):
    model, other, expected = make_model(), make_model(), make_model()
    path = tmp_path / "a.npz"
    loop(expected, TrainingBackup(path, every_steps=2), never(), expected.train_on_batch)
    crash = backup_run.Crash("step", 3, raise_crashed)
    with pytest.raises(Crashed):
        loop(model, TrainingBackup(path, every_steps=2), crash, model.train_on_batch)
    saved = path.read_bytes()
    with pytest.raises(ValueError, match=r"in `fit` and `train_on_batch` only.*a.npz"):
        loop(model, TrainingBackup(path, every_steps=2), never(), lambda windows: None)
    assert path.read_bytes() == saved
    loop(other, TrainingBackup(path, every_steps=2), never(), other.train_on_batch)
    for a, b in zip(other.get_weights(), expected.get_weights(), strict=True):
        assert np.array_equal(a, b)


def read_values(model):
    weights = [*model.weights, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(weight) for weight in weights]


def check_unchanged(model, before):
    for received, expected in zip(read_values(model), before, strict=True):
        np.testing.assert_array_equal(received, expected)


def rewrite(path, changes=(), header=None, **members):
    """Write an archive again with other members; its checksums are right."""
    with zipfile.ZipFile(path) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    found = json.loads(contents["header.json"])
    found.update(header or {})
    for name, values in members.items():
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.asarray(values))
        contents[f"{name}.npy"] = stream.getvalue()
        found["members"][name] = [list(values.shape), values.dtype.str]
    contents["header.json"] = json.dumps(found).encode()
    for old, new in changes:
        contents[new] = contents.pop(old)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in contents.items():
            file.writestr(name, data)


@pytest.fixture(scope="module")
def backup_file(tmp_path_factory):
    """A backup within an epoch of a stateful model with reallocation."""
    path = tmp_path_factory.mktemp("backup") / "a.npz"
    model = make_model(stateful=True)
    reallocation = ReallocationCallback(LikelihoodObjective("auction"), every="epoch", verbose=0)
    break_off(model, reallocation, TrainingBackup(path, every_steps=1), num_windows=12, number=5)
    return path


@pytest.fixture
def damaged(backup_file, tmp_path):
    """Return the path of a copy of the backup and a function that tries to resume from it."""
    path = Path(shutil.copy(backup_file, tmp_path))
    model = make_model(stateful=True)
    model.optimizer.build(model.trainable_variables)

    def resume():
        objective = LikelihoodObjective("auction")
        reallocation = ReallocationCallback(objective, every="epoch", verbose=0)
        before = read_values(model)
        callbacks = [reallocation, TrainingBackup(path, every_steps=1)]
        with pytest.raises(ValueError, match=r"Nothing was changed|needs an epoch of") as info:
            fit(model, *callbacks, num_windows=12)
        check_unchanged(model, before)
        assert reallocation.history == []
        return str(info.value)

    return path, resume


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"epoch": -1}, "damaged header"),
        ({"epoch": "1"}, "damaged header"),
        ({"epoch": 10**30}, "epochs=2"),
        ({"steps": 1.5}, "damaged header"),
        ({"steps": 10**9}, "needs an epoch of"),
        ({"weights": None}, "damaged header"),
        ({"num_replicas": 7}, "on 7 replicas"),
        ({"members": {}}, "damaged header"),
        ({"members": 3}, "damaged header"),
        ({"run_states": []}, "holds the state of"),
        ({"format": ["another"]}, "has the format"),
    ],
)
def test_a_bad_header_changes_nothing(damaged, header, message):
    path, resume = damaged
    rewrite(path, header=header)
    assert message in resume()


def test_bad_values_change_nothing(damaged):
    path, resume = damaged
    original = path.read_bytes()
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "header.json"}
    last = max(int(name[7:]) for name in arrays if name.startswith("weight_"))
    cells = next(name for name, x in arrays.items() if x.shape == (20,) and x.dtype == "int32")
    twice = arrays[cells].copy()
    twice[3] = twice[4]
    rounds = next(name for name in arrays if name.endswith("_rounds"))
    prices = next(name for name in arrays if name.endswith("_prices"))
    carried = next(name for name in arrays if name.endswith("_state_0_0"))
    for name, values, message in [
        (cells, twice, "words 3 and 4 both in cell"),
        (cells, arrays[cells] + 1000, "Every cell must be in"),
        (f"weight_{last}", np.zeros((3, 3, 3), "float32"), "of shape (3, 3, 3)"),
        (f"weight_{last}", np.array(["a"]), "holds"),
        (rounds, np.frombuffer(b"{}[", np.uint8), "damaged state"),
        (rounds, np.frombuffer(b'{"num_steps": -1}', np.uint8), "damaged state"),
        (rounds, np.frombuffer(b'{"history": [{"cost": "a"}]}', np.uint8), "damaged state"),
        (prices, np.zeros(3), "damaged state"),
        (carried, np.zeros((1, 9, 9), "float32"), "damaged state"),
    ]:
        path.write_bytes(original)
        rewrite(path, **{name: values})
        assert message in resume(), name


def test_every_member_is_missed(damaged):
    """A flipped bit in the name of a member would otherwise lose it without a word."""
    path, resume = damaged
    original = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
    assert any(name.startswith("state_") for name in names)
    for name in names:
        path.write_bytes(original)
        rewrite(path, changes=[(name, "t" + name[1:])])
        assert "damaged" in (message := resume()) or "no header" in message
        path.write_bytes(original)
        data = original.replace(name.encode(), b"\xf3" + name.encode()[1:])
        assert data != original
        path.write_bytes(data)
        resume()


def read_all(path):
    with BackupFile(str(path)) as file:
        return {name: file.read(name) for name in file._members}


@pytest.mark.parametrize("number", [300, pytest.param(30_000, marks=pytest.mark.slow)])
def test_flipped_bits_are_errors_or_harmless(backup_file, tmp_path, number):
    """Whatever is read is what was written."""
    expected = read_all(backup_file)
    original = backup_file.read_bytes()
    path = tmp_path / "a.npz"
    offsets = np.random.default_rng(0).integers(len(original), size=number)
    # And the directory of the archive, where nothing has a checksum.
    with zipfile.ZipFile(backup_file) as file:
        directory = range(file.start_dir, len(original), 7)
    num_refused = 0
    for offset in [*offsets, *directory]:
        data = bytearray(original)
        data[offset] ^= 1 << (offset % 8)
        # A new file, because a file system may wait for the disk where one is written over.
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        try:
            received = read_all(path)
        except ValueError as error:
            assert "Nothing was changed" in str(error)  # noqa: PT017
            num_refused += 1
            continue
        assert received.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(received[name], values)
    assert num_refused > len(offsets) // 2


def test_truncated_files_are_errors(backup_file, tmp_path):
    original = backup_file.read_bytes()
    path = tmp_path / "a.npz"
    for size in range(0, len(original), len(original) // 50):
        path.write_bytes(original[:size])
        with pytest.raises(ValueError, match="Nothing was changed"):
            read_all(path)


def test_small_files_that_claim_much_are_refused(backup_file, tmp_path):
    path = Path(shutil.copy(backup_file, tmp_path))
    with zipfile.ZipFile(path) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    header = json.loads(contents["header.json"])
    # An array header that claims terabytes, and a member that would be inflated.
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)}
    )
    header["members"]["weight_0"] = [[2**40], "<f4"]
    for method, name, data in [
        (zipfile.ZIP_STORED, "weight_0.npy", stream.getvalue()),
        (zipfile.ZIP_DEFLATED, "weight_1.npy", bytes(10**7)),
        (zipfile.ZIP_DEFLATED, "header.json", b" " * 10**7),
    ]:
        with zipfile.ZipFile(path, "w") as file:
            changed = {**contents, "header.json": json.dumps(header).encode(), name: data}
            for other, values in changed.items():
                kind = method if other == name else zipfile.ZIP_STORED
                file.writestr(other, values, compress_type=kind)
        tracemalloc.start()
        with pytest.raises(ValueError, match="Nothing was changed"):
            read_all(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**20


class Diverge(keras.callbacks.Callback):
    """Does what a learning rate that is too high does, at the start of a step."""

    def __init__(self, epoch, value=np.nan):
        super().__init__()
        self.epoch, self.value = epoch, value

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, 1):
            kernel = self.model.softmax.row_kernel
            kernel.assign(np.full(kernel.shape, self.value))


@pytest.mark.parametrize("every_steps", [None, 1])
@pytest.mark.parametrize("stop", [True, False])
def test_a_diverged_run_keeps_its_last_finite_backup(tmp_path, every_steps, stop):
    path = tmp_path / "a.npz"
    model = make_model()
    callbacks = [TrainingBackup(path, every_steps), Diverge(epoch=1)]
    if stop:
        callbacks.append(keras.callbacks.TerminateOnNaN())
    with pytest.warns(UserWarning, match=r"diverged.*finite backup is kept.*epoch 1") as record:
        fit(model, *callbacks, epochs=4)
    assert len([x for x in record if "diverged" in str(x.message)]) == 1
    assert os.listdir(tmp_path) == ["a.npz"]
    resumed = make_model()
    assert fit(resumed, TrainingBackup(path, every_steps), epochs=2).epoch == [1]
    assert all(np.isfinite(x).all() for x in read_values(resumed))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_run_that_starts_diverged_has_no_backup(tmp_path, value):
    model = make_model()
    model.embedding.row_embeddings.assign(np.full(model.embedding.row_embeddings.shape, value))
    with pytest.warns(UserWarning, match=r"row_embeddings' with NaN.*There is no earlier backup"):
        fit(model, TrainingBackup(tmp_path / "a.npz"), epochs=1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("every_steps", [None, 1])
def test_a_backup_that_is_kept_repeats_the_end(tmp_path, every_steps):
    path = tmp_path / "a.npz"
    model, other = make_model(), make_model()
    fit(model, TrainingBackup(path, every_steps, delete_backup=False))
    assert os.listdir(tmp_path) == ["a.npz"]
    assert fit(other, TrainingBackup(path, every_steps)).epoch == [1]
    check_unchanged(other, read_values(model))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("epochs", [1, 2])
def test_no_epochs_left_after_the_backup(tmp_path, epochs):
    path = tmp_path / "a.npz"
    fit(make_model(), TrainingBackup(path, delete_backup=False), epochs=3)
    model = make_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=rf"epochs={epochs} and .*made in epoch 2.*Nothing was"):
        fit(model, TrainingBackup(path), epochs=epochs)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    assert os.listdir(tmp_path) == ["a.npz"], "the backup is kept and the path is free"
    assert fit(model, TrainingBackup(path), epochs=3).epoch == [2]


def test_a_path_that_another_run_uses(tmp_path):
    path = tmp_path / "a.npz"
    outcomes = []

    class StartAnother(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            def run():
                try:
                    fit(make_model(), TrainingBackup(path))
                except RuntimeError as error:
                    outcomes.append(str(error))

            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

    fit(make_model(), TrainingBackup(path), StartAnother())
    assert len(outcomes) == 2
    assert all("in use by thread 'MainThread'" in text for text in outcomes)
    assert os.listdir(tmp_path) == []
