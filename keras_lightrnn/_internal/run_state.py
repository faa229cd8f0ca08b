"""State of a training run that is not part of the model's weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_lightrnn._internal.distribution import assign_parts, count_parts, read_parts
from keras_lightrnn._internal.keras_internals import list_layers


class RunState(keras.layers.Layer):
    """Layer whose variables belong to a training run and are not saved with the model.

    `TrainingBackup` saves them. A subclass creates its variables with `make_replica_variable` and
    sets `replica_variables`, a dictionary of them by name.

    Attributes:
        is_within_epoch: Boolean, whether the state is reset at the start of every epoch.
    """

    is_within_epoch = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self.replica_variables: dict[str, Any] = {}

    @property
    def weights(self) -> list[Any]:
        """Empty: `get_weights` must fit the same model in another run, or after this one."""
        return []

    def read_run_state(self) -> dict[str, np.ndarray]:
        """Return the state of this process's replicas, by name."""
        return {name: read_parts(value) for name, value in self.replica_variables.items()}

    def check_run_state(self, values: dict[str, np.ndarray]) -> None:
        """Raise `ValueError` unless `assign_run_state` can restore `values`. Changes nothing."""
        expected = {
            name: (count_parts(variable), *variable.shape)
            for name, variable in self.replica_variables.items()
        }
        received = {name: array.shape for name, array in values.items()}
        if received != expected:
            raise ValueError(
                f"The state of {type(self).__name__} must be arrays of the shapes {expected}. "
                f"Received: {received}."
            )

    def assign_run_state(self, values: dict[str, np.ndarray]) -> None:
        """Restore what `read_run_state` returned."""
        for name, variable in self.replica_variables.items():
            assign_parts(variable, values[name])

    def reset(self) -> None:
        """Set every variable to zero."""
        for variable in self.replica_variables.values():
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))

    def end_broken_run(self) -> None:
        """Clean up after a `fit` that raised; Keras does not call `on_train_end` then."""

    def save_own_variables(self, store: Any) -> None:
        """Save nothing: the state belongs to the run, not to the model."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing; see `save_own_variables`."""


def find_run_states(model: keras.Model) -> list[RunState]:
    """Return the run states that are part of a model now."""
    return [layer for layer in list_layers(model) if isinstance(layer, RunState)]


def end_broken_runs(model: keras.Model) -> None:
    """Let every run state of a model clean up after a `fit` that raised."""
    for state in find_run_states(model):
        state.end_broken_run()
