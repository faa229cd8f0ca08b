"""Observer that sums states for reallocation and stores its rounds with the model's run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.conditional_update import update_if
from keras_lightrnn._internal.observed_training import (
    ObservedTraining,
    expect_no_weights,
    get_step,
)
from keras_lightrnn._internal.run_state import RunState
from keras_lightrnn._internal.typing import Tensor
from keras_lightrnn.callbacks.half_step_statistics import HalfStepStatistics
from keras_lightrnn.callbacks.rounds import Rounds
from keras_lightrnn.ops.word_weights import compute_word_weights

_NO_TABLE = -1


class RoundState(RunState):
    """Observer of `TwoComponentSoftmax` that holds the state of reallocation.

    While `fit` runs it is a layer of the model, so that `TrainingBackup`,
    `keras.callbacks.BackupAndRestore` and `ModelCheckpoint` save it too. A model without the
    callback ignores it when it loads such a file.

    The compiled step sums under a condition on a variable, so that summing can be turned on, off or
    to another table without compiling the step again.

    Args:
        rounds: The `Rounds` to store.
        statistics: The `HalfStepStatistics` that receive the states.
        model: The model that is trained.
        in_training: Boolean, whether to sum the states of train steps, or of evaluations.
        end_broken_run: Function without arguments that cleans up after a `fit` that raised.

    Attributes:
        summed_table: Integer, the index of the table whose states are summed; `None` for no sums.
    """

    is_within_epoch = False

    def __init__(
        self,
        rounds: Rounds,
        statistics: HalfStepStatistics,
        model: keras.Model,
        in_training: bool,
        end_broken_run: Callable[[], None],
    ) -> None:
        super().__init__()
        self.rounds = rounds
        self._end_broken_run = end_broken_run
        self.statistics = statistics
        self._in_training = in_training
        self._publishes_steps = isinstance(model, ObservedTraining)
        self._model_losses = () if self._publishes_steps else tuple(keras.tree.flatten(model.loss))
        self.summed_table: int | None = None
        # JAX reuses the trace of a step for state of the same shapes. The shape of the variable
        # encodes what is summed, so that the trace of other sums is not reused.
        kind = 2 * statistics.kind + in_training
        self._table = keras.Variable(
            np.full((kind + 1,), _NO_TABLE), dtype="int32", trainable=False, name="summed_table"
        )
        self.built = True

    def sum_table(self, table: int | None) -> None:
        """Select the table whose states are summed; `None` for no sums."""
        if table != self.summed_table:
            value = _NO_TABLE if table is None else table
            self._table.assign(np.full(self._table.shape, value))
            self.summed_table = table

    def see(self, make_tensors: Callable[[], list[Tensor]], training: bool, table: int) -> None:
        """Sum the states if `table` is the selected one; see `Observer.see`."""
        step = get_step()
        # Predictions and exports are not evaluations.
        is_other_call = step is None and self._publishes_steps and not training
        is_observed = training is self._in_training and not is_other_call
        if not self._publishes_steps:
            expect_no_weights(self._model_losses if is_observed else ())
        if not is_observed:
            return
        sample_weight = None if step is None else step.sample_weight

        def add() -> None:
            row_states, column_states, targets, mask, shares = make_tensors()
            weights = compute_word_weights(targets, sample_weight, mask)  # (B, T)
            self.statistics(row_states, column_states, targets, weights, shares)

        is_summed = ops.equal(ops.convert_to_tensor(self._table)[0], table)
        update_if(is_summed, add, self.statistics.replica_variables.values())

    def read_run_state(self) -> dict[str, np.ndarray]:
        return self.rounds.to_arrays()

    def check_run_state(self, values: dict[str, np.ndarray]) -> None:
        Rounds.from_arrays(values)

    def assign_run_state(self, values: dict[str, np.ndarray]) -> None:
        self.rounds.assign(Rounds.from_arrays(values))

    def end_broken_run(self) -> None:
        self._end_broken_run()

    def save_own_variables(self, store: Any) -> None:
        for name, values in self.read_run_state().items():
            store[name] = values

    def load_own_variables(self, store: Any) -> None:
        names = list(store.keys())  # the store of a file is not a dictionary
        # If weights are loaded during a run, the run keeps its rounds.
        if names and self.rounds.num_epochs is None:
            self.assign_run_state({name: store[name] for name in names})
