"""A training run that can be killed at a given place, and taken up again by the next.

python backup_run.py KIND FOLDER PLACE:NUMBER
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from graphs import prepare_process, trace_without_xla

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.assignment import AuctionSolver
from keras_lightrnn.callbacks import ReallocationCallback, TrainingBackup
from keras_lightrnn.data import token_windows
from keras_lightrnn.reallocation import LikelihoodObjective

V, EPOCHS, STEPS = 23, 3, 5


class Crash(keras.callbacks.Callback):
    """Calls `act` when the run has come to a place for a number of times."""

    def __init__(self, place: str, number: int, act: Callable[[], None]) -> None:
        super().__init__()
        self.place, self.number, self.act = place, number, act

    def come_to(self, place: str) -> None:
        self.number -= place == self.place
        if self.number == 0 and place == self.place:
            self.act()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.come_to("step")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.come_to("epoch")


class CrashingSolver(AuctionSolver):
    crash: Crash

    def solve(self, *args: Any, **kwargs: Any) -> Any:
        solution = super().solve(*args, **kwargs)
        self.crash.come_to("round")
        return solution


def train(kind: str, folder: Path, crash: Crash) -> dict[str, np.ndarray]:
    """Train, with backups of a kind, and return what came of it."""
    keras.utils.set_random_seed(5)
    words = np.random.default_rng(0).integers(V, size=4 * 6 * STEPS - 2)
    words[1::2] = (words[:-1:2] * 3 + 1) % V
    is_stateful = kind in ("stateful", "keras", "bfloat16")
    counts_steps = kind in ("accumulated", "executions")
    # Keras's backups leave the seeds of dropout out.
    dropout = 0.0 if kind == "keras" else 0.3
    tables: Any = Allocation.random(V, 5, 5, seed=1)
    if kind == "tables":
        tables = [tables, Allocation.random(V, 4, 6, seed=2)]
    dtype = "mixed_bfloat16" if kind == "bfloat16" else None
    model = LightRNNModel(tables, 6, 6, stateful=is_stateful, dropout=dropout, dtype=dtype)
    schedule = keras.optimizers.schedules.CosineDecay(0.5, EPOCHS * STEPS)
    accumulation = 3 if kind == "accumulated" else None
    model.compile(
        # It has slots, and a step takes half the time to trace that one with Adam takes.
        keras.optimizers.SGD(schedule, 0.9, gradient_accumulation_steps=accumulation),
        # Of the five steps of an epoch the last execution has two.
        steps_per_execution=3 if kind == "executions" else 1,
    )
    model.build((4, 7))
    solver = CrashingSolver()
    solver.crash = crash
    # Two rounds in three epochs: the schedule must be taken up as well.
    reallocation = ReallocationCallback(
        LikelihoodObjective(solver), every=4 if counts_steps else "epoch", max_rounds=2, verbose=0
    )
    backup: Any
    if kind == "keras":
        backup = keras.callbacks.BackupAndRestore(str(folder))
        epoch = 0  # the windows come in one order
    else:
        backup = TrainingBackup(folder / "backup.npz", every_steps=2)
        epoch = backup.epoch
    windows = token_windows(
        words, 4, 6, contiguous=is_stateful, shuffle=not is_stateful, seed=0, initial_epoch=epoch
    )
    model.fit(windows, epochs=EPOCHS, callbacks=[reallocation, backup, crash], verbose=0)
    weights = [*model.variables, *model.optimizer.variables]
    results = {
        f"weight_{index}": keras.ops.convert_to_numpy(weight)
        for index, weight in enumerate(weights)
    }
    for name in ("cost", "moved"):
        results[name] = np.array([record[name] for record in reallocation.history])
    prices = reallocation.prices if kind == "tables" else [reallocation.prices]
    return results | {f"prices_{table}": x for table, x in enumerate(prices)}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(kind: str, folder: str, crash_at: str) -> None:
    place, number = crash_at.split(":")
    crash = Crash(place, int(number), kill)
    replace = os.replace

    def replace_or_crash(*args: Any) -> None:
        crash.come_to("write")
        replace(*args)

    os.replace = replace_or_crash
    train(kind, Path(folder), crash)


if __name__ == "__main__":
    prepare_process()
    trace_without_xla()
    main(*sys.argv[1:])
