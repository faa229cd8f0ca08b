"""State of a training run that is no part of a model's weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_lightrnn._internal.distribution import assign_parts, read_parts


class RunState(keras.layers.Layer):
    """Layer whose variables belong to a run and not to the model: they are not saved with it.

    `TrainingBackup` saves them. A subclass makes its variables with `make_replica_variable` and
    sets `replica_variables` to them, by name.

    Attributes:
        is_within_epoch: Boolean, whether the state starts anew with every epoch.
    """

    is_within_epoch = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self.replica_variables: dict[str, Any] = {}

    @property
    def weights(self) -> list[Any]:
        """None: what `get_weights` returns fits a model whose run is another one, or over."""
        return []

    def read_run_state(self) -> dict[str, np.ndarray]:
        """Return what `assign_run_state` brings back, of the replicas of this process."""
        return {name: read_parts(value) for name, value in self.replica_variables.items()}

    def assign_run_state(self, values: dict[str, np.ndarray]) -> None:
        """Bring back what `read_run_state` returned."""
        for name, variable in self.replica_variables.items():
            assign_parts(variable, values[name])

    def reset(self) -> None:
        """Set every variable to zero."""
        for variable in self.replica_variables.values():
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))

    def end_broken_run(self) -> None:
        """Clear away what a `fit` that ended by an exception has left: it told nobody."""

    def save_own_variables(self, store: Any) -> None:
        """Nothing: the state belongs to a run, not to the model."""

    def load_own_variables(self, store: Any) -> None:
        """Nothing: see `save_own_variables`."""


def find_run_states(model: keras.Model) -> list[RunState]:
    """Return the states of runs that are part of a model now."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, RunState)]


def end_broken_runs(model: keras.Model) -> None:
    """Have every state of a run clear away what a broken `fit` has left."""
    for state in find_run_states(model):
        state.end_broken_run()
