"""Backups from which a killed training run goes on as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.distribution import (
    count_replicas,
    is_chief,
    is_multi_worker,
    strategy_scope,
)
from keras_lightrnn._internal.files import remove_temporaries, replace_file
from keras_lightrnn._internal.run_state import find_run_states
from keras_lightrnn.callbacks.executions import count_steps
from keras_lightrnn.callbacks.readiness import check_ready
from keras_lightrnn.table.linked_variable import DerivedVariable

_FORMAT = "keras_lightrnn.TrainingBackup.4"


class TrainingBackup(keras.callbacks.Callback):
    """Backs a training run up in one file, and takes it up again where the backup was made.

    `fit` with this callback starts from the file if there is one. At the start of every epoch,
    and every so many steps, the file is written: weights, optimizer, seeds of dropout, the table,
    and of `ReallocationCallback` its history, prices and sums. In the middle of an epoch the state
    that a stateful model carries is written too, and the resumed run passes over the batches that
    the epoch has had. So the weights and the table in the end are those of a run that was never
    killed, bit for bit on a CPU, whenever it is killed. The file is written under a temporary name
    and renamed. It is removed when `fit` ends.

    What the data are must be the same: contiguous windows always come in one order; for an order
    drawn anew for each epoch use `token_windows(..., seed=0, initial_epoch=backup.epoch)`. Keras's
    own shuffling of arrays starts over, so shuffle them not at all, or not by `fit`, and on PyTorch
    its dropout draws from PyTorch's generator, which is not saved. Data that go on from epoch to
    epoch (`.repeat()` with `steps_per_epoch`) must be given from where the backup was made:
    `data.skip(backup.epoch * steps_per_epoch)`. Callbacks that
    decide from earlier epochs (`EarlyStopping`, `ReduceLROnPlateau`) start over too, and the
    `logs` of an epoch taken up in its middle are those of its rest.

    With several workers all must see the file; the first writes it.

    Args:
        path: Path of the file.
        every_steps: Integer, train steps from one backup to the next inside an epoch, or `None`
            for the starts of epochs alone. Sums of `ReallocationCallback` are large: `2 V H`
            floats. Needs the TensorFlow backend and one process.

    Attributes:
        epoch: Integer, the epoch (from 0) in which `fit` will start.

    Raises:
        ValueError: in `fit`, if the model is not built or not compiled; or if the file was not
            written by this callback, is damaged, or belongs to another model or run; the model is
            as it was.
        OSError: if the file cannot be written; an earlier one is as it was.

    Example:

    >>> import tempfile
    >>> from keras_lightrnn import LightRNNModel
    >>> from keras_lightrnn.callbacks import ReallocationCallback
    >>> model = LightRNNModel(30, embedding_dim=4, units=4)
    >>> model.compile("adam")
    >>> windows = np.random.default_rng(0).integers(30, size=(32, 6))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     backup = TrainingBackup(os.path.join(directory, "backup.npz"), every_steps=100)
    ...     callbacks = [ReallocationCallback(verbose=0), backup]
    ...     history = model.fit(windows, epochs=2, callbacks=callbacks, shuffle=False, verbose=0)
    ...     os.listdir(directory)
    []
    """

    def __init__(self, path: str | os.PathLike[str], every_steps: int | None = None) -> None:
        super().__init__()
        self.path = os.fspath(path)
        self.every_steps = None if every_steps is None else check_size("every_steps", every_steps)
        self._epoch = 0
        self._steps = 0  # of this epoch
        self._first_step = 0  # of the execution that runs
        self._is_passing_over = False
        self._is_in_step = False
        # Steps to pass over and the state after them, of a run that is taken up.
        self._resume: tuple[int, dict[str, np.ndarray]] | None = None

    @property
    def epoch(self) -> int:
        return self._read_header()["epoch"] if os.path.exists(self.path) else 0

    def on_train_begin(self, logs: Any = None) -> None:
        if self.every_steps is not None and (
            keras.backend.backend() != "tensorflow" or is_multi_worker(self.model)
        ):
            raise ValueError(
                "Backups inside an epoch need the TensorFlow backend and one process. Received: "
                f"every_steps={self.every_steps}. Leave it out, and make the epochs shorter "
                "(`steps_per_epoch`) if they are long."
            )
        check_ready(self.model, "A training backup")
        self._resume = None
        self._is_passing_over = False
        if is_chief(self.model):
            remove_temporaries(self.path)
        if os.path.exists(self.path):
            self._restore()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model._initial_epoch = None  # Keras has read it, and would in a later `fit` again
        self._epoch = epoch
        self._steps = 0
        if self._resume is not None:
            self._is_passing_over = True
            self._pass_over(*self._resume)
            self._resume = None
        else:
            # Everything that other callbacks do at the end of an epoch has been done.
            self._save(is_within_epoch=False)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._is_in_step = True
        self._first_step = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before, self._steps = self._steps, count_steps(self, self._first_step, batch)
        if self.every_steps is None or self._is_passing_over:
            return
        if before // self.every_steps < self._steps // self.every_steps:
            self._save(is_within_epoch=True)

    def on_train_end(self, logs: Any = None) -> None:
        self.model._initial_epoch = None
        if is_chief(self.model) and os.path.exists(self.path):
            os.remove(self.path)

    # Writing.

    def _save(self, is_within_epoch: bool) -> None:
        if not is_chief(self.model):
            return
        weights = self._list_weights()
        states = {
            f"state_{index}_{name}": values
            for index, layer in enumerate(find_run_states(self.model))
            if is_within_epoch or not layer.is_within_epoch
            for name, values in layer.read_run_state().items()
        }
        header = {
            "format": _FORMAT,
            "epoch": self._epoch,
            "steps": self._steps if is_within_epoch else 0,
            "num_replicas": count_replicas(self.model),
            "weights": [_describe(weight) for weight in weights],
            "run_states": self._describe_run_states(),
            "optimizer": self._name_optimizer(),
        }
        with replace_file(self.path) as temporary, zipfile.ZipFile(temporary, "w") as file:
            file.writestr("header.json", json.dumps(header))
            for index, weight in enumerate(weights):
                _write(file, f"weight_{index}", keras.ops.convert_to_numpy(weight))
            for name, values in states.items():
                _write(file, name, values)

    def _list_weights(self) -> list[Any]:
        own = {id(v) for layer in find_run_states(self.model) for v in layer.variables}
        weights = [
            weight
            for weight in self.model.variables
            if id(weight) not in own and not isinstance(weight, DerivedVariable)
        ]
        optimizer = self.model.optimizer
        if optimizer is not None:
            if not optimizer.built:  # that of loss scaling would make its variables again
                with strategy_scope(self.model):
                    optimizer.build(self.model.trainable_variables)
            weights += optimizer.variables
        return weights

    def _describe_run_states(self) -> list[Any]:
        return [
            [
                type(layer).__name__,
                {name: _describe(value) for name, value in layer.replica_variables.items()},
            ]
            for layer in find_run_states(self.model)
        ]

    def _name_optimizer(self) -> str:
        optimizer = self.model.optimizer
        return type(getattr(optimizer, "inner_optimizer", optimizer)).__name__

    # Reading.

    def _read_header(self) -> dict[str, Any]:
        with _open(self.path) as file:
            try:
                header = json.loads(file.read("header.json"))
            except (KeyError, ValueError, zipfile.BadZipFile) as error:
                raise _make_error(self.path, "has no header") from error
        found = header.get("format") if isinstance(header, dict) else None
        if found != _FORMAT:
            raise _make_error(self.path, f"is of format {found!r}")
        return header

    def _restore(self) -> None:
        header = self._read_header()
        weights = self._list_weights()
        if len(header["weights"]) != len(weights):
            raise _make_error(
                self.path,
                f"holds {len(header['weights'])} weights where this model has {len(weights)}",
            )
        for weight, received in zip(weights, header["weights"], strict=True):
            if received != _describe(weight):
                raise _make_error(
                    self.path, f"holds {received} where {weight.path!r} is {_describe(weight)}"
                )
        # Slots of another optimizer may have the same shapes.
        if header["optimizer"] != self._name_optimizer():
            raise _make_error(
                self.path,
                f"was made with the optimizer {header['optimizer']} where this model has "
                f"{self._name_optimizer()}",
            )
        run_states = self._describe_run_states()
        if header["run_states"] != run_states:
            raise _make_error(
                self.path,
                f"holds the state of {header['run_states']} where this run has {run_states}: other "
                "callbacks, another objective of reallocation, or a model that is `stateful`, or "
                "not, or with another batch size",
            )
        steps, num_replicas = header["steps"], count_replicas(self.model)
        if steps and header["num_replicas"] != num_replicas:
            raise _make_error(
                self.path,
                f"was made inside an epoch on {header['num_replicas']} replicas and not on "
                f"{num_replicas}",
            )
        with _open(self.path) as file:
            values = [_read(file, f"weight_{index}") for index in range(len(weights))]
            states = {
                name.removesuffix(".npy"): _read(file, name.removesuffix(".npy"))
                for name in file.namelist()
                if name.startswith("state_")
            }
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)
        # What an epoch sets to its start comes back when its batches have been passed over.
        self._resume = (steps, states) if steps else None
        self._assign_states(states, is_within_epoch=False)
        self.model._initial_epoch = header["epoch"]

    def _assign_states(self, states: dict[str, np.ndarray], is_within_epoch: bool) -> None:
        for index, layer in enumerate(find_run_states(self.model)):
            prefix = f"state_{index}_"
            own = {
                name.removeprefix(prefix): values
                for name, values in states.items()
                if name.startswith(prefix)
            }
            if own and layer.is_within_epoch == is_within_epoch:
                layer.assign_run_state(own)

    def _pass_over(self, num_steps: int, states: dict[str, np.ndarray]) -> None:
        """Have the next steps of `fit` read their batches and do nothing else."""
        steps_per_execution = self.model.steps_per_execution
        num_there = self.params.get("steps")
        if num_there is not None:
            # Of data of unknown length the last execution counts in full.
            executions, there = (-(-n // steps_per_execution) for n in (num_steps, num_there))
            if executions > there:
                raise _make_short_error(num_steps, num_there)
        train = self.model.train_function
        passed = 0

        def read(batches: Iterator[Any]) -> dict[str, Any]:
            nonlocal passed
            if not self._is_in_step:  # of a `fit` that was interrupted; this is another one
                self.model.train_function = train
                return train(batches)
            self._is_in_step = False
            execution = list(itertools.islice(batches, steps_per_execution))
            if not execution:
                raise _make_short_error(num_steps, passed)
            passed += steps_per_execution
            if passed >= num_steps:
                self.model.train_function = train
                self._is_passing_over = False
                self._assign_states(states, is_within_epoch=True)
                if count_replicas(self.model) == 1:
                    # Metrics would have been built by the first step; there may be none left.
                    self.model._symbolic_build(data_batch=execution[-1])
            return {}

        self.model.train_function = read


def _describe(weight: Any) -> list[Any]:
    # Names of slots have the model's name in them, which Keras numbers.
    return [list(weight.shape), keras.backend.standardize_dtype(weight.dtype)]


def _write(file: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
    values = np.asanyarray(values)
    if values.dtype.kind == "V":  # bfloat16, of which NumPy's format knows but the size
        values = values.astype(np.float32)
    with file.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, values, allow_pickle=False)


def _read(file: zipfile.ZipFile, name: str) -> np.ndarray:
    try:
        with file.open(f"{name}.npy") as member:
            return np.lib.format.read_array(member, allow_pickle=False)
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _make_error(file.filename, f"is damaged at {name!r}") from error


def _open(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise _make_error(path, "is damaged, or something else") from error


def _make_short_error(num_steps: int, num_there: int) -> ValueError:
    return ValueError(
        f"A backup made {num_steps} steps into an epoch needs as many. Received: an epoch of "
        f"{num_there}. Give the data and the batch size that it was made with."
    )


def _make_error(path: str | None, fault: str) -> ValueError:
    return ValueError(
        "A backup must be one that `TrainingBackup` wrote for this model. Received: "
        f"path={path!r}, which {fault}. Nothing was changed. Remove the file to start anew."
    )
