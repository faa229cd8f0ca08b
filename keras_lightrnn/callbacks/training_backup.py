"""Backups from which an interrupted training run resumes."""

from __future__ import annotations

import itertools
import math
import os
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.distribution import (
    count_replicas,
    is_chief,
    is_multi_worker,
    run_on_chief,
    strategy_scope,
)
from keras_lightrnn._internal.files import remove_temporaries
from keras_lightrnn._internal.keras_internals import (
    build_from_batch,
    list_layers,
    set_initial_epoch,
)
from keras_lightrnn._internal.path_lock import PathLock
from keras_lightrnn._internal.run_state import find_run_states
from keras_lightrnn._internal.typing import Logs
from keras_lightrnn.callbacks.backup_file import BackupFile, write_backup
from keras_lightrnn.callbacks.executions import count_steps
from keras_lightrnn.callbacks.readiness import check_order, check_ready
from keras_lightrnn.table.allocation import Allocation
from keras_lightrnn.table.linked_variable import DerivedVariable
from keras_lightrnn.table.word_table import WordTable


class TrainingBackup(keras.callbacks.Callback):
    """Backs up a training run in one file, and resumes it from there.

    `fit` with this callback resumes from the file if it exists. The file is written at the start
    of every epoch and, with `every_steps`, within epochs. It holds weights, optimizer, seeds of
    dropout, the word table, and the history, prices and sums of `ReallocationCallback`. A backup
    made within an epoch also holds the state that a stateful model carries, and the resumed run
    skips the batches that were already trained on. On a CPU the final weights and table are
    bit for bit those of an uninterrupted run.

    The file is replaced only by a complete new one. Only one run at a time can use it: the lock
    file `path + ".lock"` identifies that run. When `fit` ends, the backup is removed unless
    `delete_backup=False`.

    When training diverges (a weight is NaN or infinite), backups stop with a warning, and the last
    finite backup is kept after `fit` ends, also if `TerminateOnNaN` ends it. A backup contains the
    learning rate: to resume, lower it with `LearningRateScheduler`, or clip gradients.

    The resumed run must read the same data. Contiguous windows are always in the same order. For
    windows that are shuffled in each epoch use
    `token_windows(..., seed=0, initial_epoch=backup.epoch)`. Keras shuffles arrays in another order
    after a restart, so pass `shuffle=False` with arrays. Data that continue from epoch to epoch
    (`.repeat()` with `steps_per_epoch`) must start at the backup:
    `data.skip(backup.epoch * steps_per_epoch)`. Dropout on the PyTorch backend uses PyTorch's
    generator, which is not saved. Callbacks that depend on earlier epochs (`EarlyStopping`,
    `ReduceLROnPlateau`) start over, and the `logs` of an epoch that was resumed within the epoch
    cover only its remaining steps.

    Place it in `callbacks` before `LearningRateScheduler` and before other callbacks that change
    the learning rate. A resumed run calls them again for the epoch and its skipped steps, from the
    learning rate that the epoch started with. Place it after `SwapEMAWeights(swap_on_epoch=True)`,
    which puts the trained weights back at the start of an epoch.

    With several workers, all must be able to read the file. The chief writes it.

    Args:
        path: Path of the file.
        every_steps: Integer, the number of train steps between backups within an epoch, or `None`
            (default) for the starts of epochs only. With `ReallocationCallback` such a backup holds
            its sums, `2 V H` floats. Requires the TensorFlow backend, one process, and steps of
            `fit` or `train_on_batch`.
        delete_backup: Boolean, whether to remove the backup when `fit` ends. With `False`, a script
            that is killed after `fit` but before it saves the model can be started again and
            repeats the steps since the last backup. Remove the file after saving. Defaults to
            `True`.

    Attributes:
        epoch: Integer, the epoch (from 0) in which `fit` will start.

    Raises:
        ValueError: in `fit`, if the model is not built or not compiled; or if the file is damaged,
            was not written by this callback, belongs to another model or run, or was made at or
            after the end of the `epochs` of this `fit`; or if the order of callbacks is wrong. The
            model is unchanged.
        RuntimeError: in `fit`, if another run uses the file.
        OSError: if the file cannot be written. An existing file is unchanged.

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

    def __init__(
        self,
        path: str | os.PathLike[str],
        every_steps: int | None = None,
        delete_backup: bool = True,
    ) -> None:
        super().__init__()
        self.path = os.fspath(path)
        self.every_steps = None if every_steps is None else check_size("every_steps", every_steps)
        self.delete_backup = delete_backup
        self._lock: PathLock | None = None
        self._epoch = 0
        self._steps = 0  # of this epoch
        self._first_step = 0  # of the current execution
        self._learning_rates: dict[int, np.ndarray] = {}  # at the start of this epoch, by id
        self._is_skipping = False
        self._is_in_step = False
        self._has_warned = False
        # Steps to skip and the state after them, of a resumed run.
        self._resume: tuple[int, dict[str, np.ndarray]] | None = None

    @property
    def epoch(self) -> int:
        if not os.path.exists(self.path):
            return 0
        with BackupFile(self.path) as file:
            return file.header["epoch"]

    def on_train_begin(self, logs: Logs = None) -> None:
        if self.every_steps is not None and (
            keras.backend.backend() != "tensorflow" or is_multi_worker(self.model)
        ):
            raise ValueError(
                "Backups within an epoch require the TensorFlow backend and one process. Received: "
                f"every_steps={self.every_steps}. Leave it out, and make the epochs shorter "
                "(`steps_per_epoch`) if they are long."
            )
        check_ready(self.model, "A training backup")
        check_order(
            self,
            "A training backup must hold the trained weights and the learning rate that was not "
            "yet scheduled for the epoch.",
            earlier=[(keras.callbacks.SwapEMAWeights, "swap_on_epoch")],
            later=[(keras.callbacks.LearningRateScheduler, None)],
        )
        self._resume = None
        self._is_skipping = False
        self._has_warned = False
        run_on_chief(self.model, self._lock_path)
        if os.path.exists(self.path):
            try:
                self._restore()
            except Exception:
                if self._lock is not None:
                    self._lock.release()
                raise

    def _lock_path(self) -> dict[str, Any]:
        self._lock = PathLock(self.path)
        # Nothing else releases it after a `fit` that raised.
        weakref.finalize(self, self._lock.release)
        remove_temporaries(self.path)
        return {}

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        set_initial_epoch(self.model, None)  # Keras would read it again in the next `fit`
        self._epoch = epoch
        self._steps = 0
        # Callbacks that change them run again in a resumed epoch, for the skipped steps too.
        self._learning_rates = {
            id(weight): ops.convert_to_numpy(weight)
            for weight in getattr(self.model.optimizer, "variables", ())
            if weight.name == "learning_rate"
        }
        if self._resume is not None:
            self._is_skipping = True
            self._skip(*self._resume)
            self._resume = None
        else:
            # All callbacks have finished the previous epoch.
            self._save(is_within_epoch=False)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._is_in_step = True
        self._first_step = batch

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self._is_skipping and self._is_in_step:
            raise ValueError(
                "The steps before a backup within an epoch can be skipped in `fit` and "
                "`train_on_batch` only. Received: another train step, and "
                f"path={self.path!r}, a backup made within epoch {self._epoch} (from 0). The file "
                "is unchanged. Remove it to start from the beginning, and leave `every_steps` out."
            )
        before, self._steps = self._steps, count_steps(self, self._first_step, batch)
        if self.every_steps is None or self._is_skipping:
            return
        if before // self.every_steps < self._steps // self.every_steps:
            self._save(is_within_epoch=True)

    def on_train_end(self, logs: Logs = None) -> None:
        set_initial_epoch(self.model, None)
        if not is_chief(self.model):
            return
        fault = self._find_divergence(logs)
        if fault:
            self._warn_of_divergence(fault)
        elif self.delete_backup and os.path.exists(self.path):
            os.remove(self.path)
        if self._lock is not None:
            self._lock.release()

    # Writing.

    def _save(self, is_within_epoch: bool) -> None:
        if not is_chief(self.model):
            return
        fault = self._find_divergence()
        if fault:
            self._warn_of_divergence(fault)
            return
        weights = self._list_weights()
        header = {
            "epoch": self._epoch,
            "steps": self._steps if is_within_epoch else 0,
            "num_replicas": count_replicas(self.model),
            "weights": [_describe(weight) for weight in weights],
            "run_states": self._describe_run_states(),
            "optimizer": self._name_optimizer(),
        }
        write_backup(self.path, header, self._iterate_arrays(weights, is_within_epoch))

    def _iterate_arrays(
        self, weights: list[keras.Variable], is_within_epoch: bool
    ) -> Iterator[tuple[str, np.ndarray]]:
        for index, weight in enumerate(weights):
            value = self._learning_rates.get(id(weight), weight)
            yield f"weight_{index}", ops.convert_to_numpy(value)
        for index, layer in enumerate(find_run_states(self.model)):
            if is_within_epoch or not layer.is_within_epoch:
                for name, values in layer.read_run_state().items():
                    yield f"state_{index}_{name}", values

    def _find_divergence(self, logs: Logs = None) -> str | None:
        """Return a description of a value that is not finite, or `None`.

        Weights that are not trainable may be infinite, but not NaN.
        """
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            return f"loss={float(loss)}"
        trainable = {id(weight) for weight in self.model.trainable_variables}
        for weight in self._list_weights():
            if not keras.backend.is_float_dtype(weight.dtype):
                continue
            is_good = ops.isfinite(weight)
            if id(weight) not in trainable:
                is_good = ops.logical_not(ops.isnan(weight))
            if not bool(ops.all(is_good)):
                return f"{weight.path!r} with NaN or infinite values"
        return None

    def _warn_of_divergence(self, fault: str) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        kept = "There is no earlier backup."
        if os.path.exists(self.path):
            with BackupFile(self.path) as file:
                epoch, steps = file.header["epoch"], file.header["steps"]
            kept = (
                f"The last finite backup is kept: path={self.path!r}, epoch {epoch} (from 0), step "
                f"{steps}. It contains the learning rate: to resume, lower it with "
                "`LearningRateScheduler`, or clip gradients. Remove the file to start over."
            )
        warnings.warn(
            f"A backup needs finite weights. Received: {fault}. Training has diverged, and no "
            f"backup is made. {kept}",
            stacklevel=3,
        )

    def _list_weights(self) -> list[keras.Variable]:
        own = {id(v) for layer in find_run_states(self.model) for v in layer.variables}
        weights = [
            weight
            for weight in self.model.variables
            if id(weight) not in own and not isinstance(weight, DerivedVariable)
        ]
        optimizer = self.model.optimizer
        if optimizer is not None:
            if not optimizer.built:  # a loss-scale optimizer would create its variables again
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

    def _restore(self) -> None:
        weights = self._list_weights()
        with BackupFile(self.path) as file:
            self._check_header(file, weights)
            header = file.header
            values = [file.read(f"weight_{index}") for index in range(len(weights))]
            states = {name: file.read(name) for name in file.state_names}
            self._check_values(file, weights, values, states)
        # All values have been checked.
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)
        # State that is reset at the start of an epoch is restored after its batches are skipped.
        steps = header["steps"]
        self._resume = (steps, states) if steps else None
        self._assign_states(states, is_within_epoch=False)
        set_initial_epoch(self.model, header["epoch"])

    def _check_header(self, file: BackupFile, weights: list[keras.Variable]) -> None:
        """Raise `ValueError` unless a backup was made by this run."""
        header = file.header
        if len(header["weights"]) != len(weights):
            raise file.make_error(
                f"holds {len(header['weights'])} weights where this model has {len(weights)}"
            )
        for weight, received in zip(weights, header["weights"], strict=True):
            if received != _describe(weight):
                raise file.make_error(
                    f"holds {received} where {weight.path!r} is {_describe(weight)}"
                )
        # Slots of another optimizer may have the same shapes.
        if header["optimizer"] != self._name_optimizer():
            raise file.make_error(
                f"was made with the optimizer {header['optimizer']} where this model has "
                f"{self._name_optimizer()}"
            )
        run_states = self._describe_run_states()
        if header["run_states"] != run_states:
            raise file.make_error(
                f"holds the state of {header['run_states']} where this run has {run_states}: other "
                "callbacks, another objective of reallocation, or a model that is `stateful`, or "
                "not, or with another batch size"
            )
        epoch, steps, num_replicas = header["epoch"], header["steps"], count_replicas(self.model)
        num_epochs = (self.params or {}).get("epochs")
        if num_epochs is not None and epoch >= num_epochs:
            raise ValueError(
                "`fit` must have epochs left to train after the backup that it resumes. Received: "
                f"epochs={num_epochs} and path={self.path!r}, a backup made in epoch {epoch} (from "
                "0). Nothing was changed. Give more `epochs` (they count from the beginning of the "
                "run), or remove the file to start from the beginning."
            )
        if steps and header["num_replicas"] != num_replicas:
            raise file.make_error(
                f"was made within an epoch on {header['num_replicas']} replicas where this run has "
                f"{num_replicas}"
            )
        num_available = (self.params or {}).get("steps")
        if num_available is not None:
            # With data of unknown length, the last execution counts as a full one.
            size = self.model.steps_per_execution
            if -(-steps // size) > -(-num_available // size):
                raise _make_short_error(steps, num_available)

    def _check_values(
        self,
        file: BackupFile,
        weights: list[keras.Variable],
        values: list[np.ndarray],
        states: dict[str, np.ndarray],
    ) -> None:
        """Raise `ValueError` unless all values can be assigned."""
        cells = {id(x.cells): x for x in list_layers(self.model) if isinstance(x, WordTable)}
        for weight, value in zip(weights, values, strict=True):
            if value.shape != tuple(weight.shape):
                raise file.make_error(
                    f"holds a value of shape {value.shape} for {weight.path!r} of shape "
                    f"{tuple(weight.shape)}"
                )
            if id(weight) in cells:
                try:
                    Allocation(value, *cells[id(weight)].table_shape)
                except (TypeError, ValueError) as error:
                    raise file.make_error(f"holds a damaged word table ({error})") from error
        layers = find_run_states(self.model)
        for index, layer in enumerate(layers):
            own = _select_state(states, index)
            if own or not layer.is_within_epoch or file.header["steps"]:
                try:
                    layer.check_run_state(own)
                except ValueError as error:
                    raise file.make_error(f"holds a damaged state ({error})") from error

    def _assign_states(self, states: dict[str, np.ndarray], is_within_epoch: bool) -> None:
        for index, layer in enumerate(find_run_states(self.model)):
            own = _select_state(states, index)
            if own and layer.is_within_epoch == is_within_epoch:
                layer.assign_run_state(own)

    def _skip(self, num_steps: int, states: dict[str, np.ndarray]) -> None:
        """Make the next steps of `fit` read their batches and do nothing else."""
        steps_per_execution = self.model.steps_per_execution
        train = self.model.train_function
        num_skipped = 0

        def skip(batches: Iterator[Any]) -> dict[str, Any]:
            nonlocal num_skipped
            if not self._is_in_step:  # a later `fit`, after an interrupted one
                self.model.train_function = train
                return train(batches)
            self._is_in_step = False
            execution = list(itertools.islice(batches, steps_per_execution))
            if not execution:
                raise _make_short_error(num_steps, num_skipped)
            num_skipped += steps_per_execution
            if num_skipped >= num_steps:
                self.model.train_function = train
                self._is_skipping = False
                self._assign_states(states, is_within_epoch=True)
                if count_replicas(self.model) == 1:
                    # The first step would build the metrics, but no step may follow.
                    build_from_batch(self.model, execution[-1])
            return {}

        self.model.train_function = skip


def _describe(weight: Any) -> list[Any]:
    # Without the name: names of optimizer slots contain the model's name, which Keras numbers.
    return [list(weight.shape), keras.backend.standardize_dtype(weight.dtype)]


def _select_state(states: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """Return the arrays of one run state, by name."""
    prefix = f"state_{index}_"
    return {
        name.removeprefix(prefix): values
        for name, values in states.items()
        if name.startswith(prefix)
    }


def _make_short_error(num_steps: int, num_available: int) -> ValueError:
    return ValueError(
        f"A backup made {num_steps} steps into an epoch needs an epoch of at least as many. "
        f"Received: an epoch of {num_available} steps. Give the data and the batch size of the "
        "interrupted run."
    )
