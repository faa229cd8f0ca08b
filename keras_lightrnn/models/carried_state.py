"""Recurrent state that is carried from one window to the next."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.distribution import count_replicas, make_replica_variable
from keras_lightrnn._internal.run_state import RunState
from keras_lightrnn._internal.typing import Logs, Tensor


class CarriedState(RunState):
    """State of a recurrent stack between calls, `(B, H)` each. It is not saved with the weights.

    Each of `N` replicas holds the state of its share of the batch, `(B / N, H)`.

    Args:
        batch_size: Integer `B`, fixed, the sum over replicas.
        state_sizes: For each layer, the sizes `H` of its states.

    Raises:
        ValueError: if the replicas cannot share the batch evenly.
    """

    def __init__(self, batch_size: int, state_sizes: list[list[int]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        num_replicas = count_replicas()
        if batch_size % num_replicas:
            raise ValueError(
                "Replicas of a stateful model must have equal shares of the batch. Received: "
                f"batch_size={batch_size} for {num_replicas} replicas. Choose a multiple of "
                f"{num_replicas}."
            )
        self.batch_size = batch_size
        self.share = batch_size // num_replicas
        dtype = self.compute_dtype
        self.states = [
            [
                make_replica_variable((self.share, size), f"state_{layer}_{index}", dtype)
                for index, size in enumerate(sizes)
            ]
            for layer, sizes in enumerate(state_sizes)
        ]
        self.replica_variables = {state.name: state for states in self.states for state in states}
        self.built = True

    def make_size_error(self, received: str) -> ValueError:
        """Return the error for windows of another batch size; `received` describes them."""
        shared = f" ({self.share} on each replica)" if self.share < self.batch_size else ""
        return ValueError(
            "A stateful model takes windows of the batch size that it was built for: "
            f"{self.batch_size}{shared}. Received: {received}. Make windows of that batch size, or "
            "score them with `score`, which carries no state from call to call."
        )

    def read(self) -> list[list[Tensor]]:
        """Return the states as tensors, by layer."""
        # Copies: PyTorch writes variables in place, and the backward pass needs the old values.
        return [[ops.copy(state) for state in states] for states in self.states]

    def write(self, new_states: list[list[Tensor]]) -> None:
        """Store `new_states` for the next call."""
        for states, values in zip(self.states, new_states, strict=True):
            for state, value in zip(states, values, strict=True):
                state.assign(ops.stop_gradient(value))


class StateReset(keras.callbacks.Callback):
    """Resets the carried state before every pass over the text.

    After an evaluation or a prediction it restores the state, because training may be in the middle
    of an epoch.
    """

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.model.reset_states()

    def on_test_begin(self, logs: Logs = None) -> None:
        self._found = self.model.carried_state.read_run_state()
        self.model.reset_states()

    def on_test_end(self, logs: Logs = None) -> None:
        self.model.carried_state.assign_run_state(self._found)

    def on_predict_begin(self, logs: Logs = None) -> None:
        self.on_test_begin()

    def on_predict_end(self, logs: Logs = None) -> None:
        self.on_test_end()
