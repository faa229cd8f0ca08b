"""Observer that sums states for reallocation and stores its rounds with the model's run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_lightrnn._internal.run_state import RunState
from keras_lightrnn.callbacks.half_step_statistics import HalfStepStatistics
from keras_lightrnn.callbacks.rounds import Rounds
from keras_lightrnn.callbacks.shown_step import get_shown_weight
from keras_lightrnn.ops.word_weights import compute_word_weights


class RoundState(RunState):
    """Observer of `TwoComponentSoftmax` that holds the state of reallocation.

    While `fit` runs it is a layer of the model, so that whatever saves weights or a run saves it
    too: `TrainingBackup`, `keras.callbacks.BackupAndRestore` and `ModelCheckpoint`. A model without
    the callback ignores it when it loads such a file.

    Args:
        rounds: The `Rounds` to store.
        statistics: The `HalfStepStatistics` that receive the states.
        end_broken_run: Function without arguments that cleans up after a `fit` that raised.

    Attributes:
        is_summing: Boolean, whether states are passed on to the statistics. A compiled function
            keeps the value that it was traced with; see `StepFunctions`.
    """

    is_within_epoch = False

    def __init__(
        self,
        rounds: Rounds,
        statistics: HalfStepStatistics,
        end_broken_run: Callable[[], None],
    ) -> None:
        super().__init__()
        self.rounds = rounds
        self._end_broken_run = end_broken_run
        self.statistics = statistics
        self.is_summing = False
        self.built = True

    def call(
        self,
        row_states: Any,
        column_states: Any,
        targets: Any,
        weights: Any = None,
        shares: Any = None,
    ) -> None:
        if not self.is_summing:
            return
        weights = compute_word_weights(targets, get_shown_weight(), weights)  # (B, T)
        self.statistics(row_states, column_states, targets, weights, shares)

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
        names = list(store.keys())  # the store of a file is not an ordinary dictionary
        # Weights may also be loaded in the middle of a run, which then keeps its rounds.
        if names and self.rounds.num_epochs is None:
            self.assign_run_state({name: store[name] for name in names})
