"""What reallocation knows from round to round, kept where a model's weights are."""

from __future__ import annotations

import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_lightrnn._internal.run_state import RunState
from keras_lightrnn.callbacks.half_step_statistics import HalfStepStatistics
from keras_lightrnn.ops.word_weights import compute_word_weights

if TYPE_CHECKING:
    from keras_lightrnn.callbacks.reallocation import ReallocationCallback

# Of the step that runs. A `MirroredStrategy` runs the step of each replica in a thread of its own.
_sample_weight: ContextVar[Any] = ContextVar("sample_weight", default=None)


class RoundState(RunState):
    """Observer of `TwoComponentSoftmax` that holds the state of a `ReallocationCallback`.

    While `fit` runs it is part of the model, and so whatever saves weights or a run saves it:
    `TrainingBackup`, `keras.callbacks.BackupAndRestore` and `ModelCheckpoint`. A model without
    the callback passes over it.

    Args:
        callback: The `ReallocationCallback` whose history, prices and schedule these are.
        statistics: `HalfStepStatistics`, to which half-steps are handed on.

    Attributes:
        is_summing: Boolean, whether they are. The model's train function, or test function, must
            be made anew after a change.
    """

    is_within_epoch = False

    def __init__(self, callback: ReallocationCallback, statistics: HalfStepStatistics) -> None:
        super().__init__()
        self.callback = callback
        self.statistics = statistics
        self.is_summing = True
        self.built = True

    def call(
        self, column_half_steps: Any, row_half_steps: Any, targets: Any, mask: Any = None
    ) -> None:
        if not self.is_summing:
            return
        weights = compute_word_weights(targets, _sample_weight.get(), mask)  # (B, T)
        self.statistics(column_half_steps, row_half_steps, targets, weights)

    def read_run_state(self) -> dict[str, np.ndarray]:
        rounds = {
            "history": self.callback.history,
            "num_epochs": self.callback.num_epochs,
            "num_steps": self.callback.num_steps,
            "num_steps_before": self.callback.num_steps_before,
            "best": self.callback.schedule.best,
        }
        state = {"rounds": np.frombuffer(json.dumps(rounds).encode(), np.uint8)}
        if self.callback.prices is not None:
            state["prices"] = self.callback.prices
        return state

    def assign_run_state(self, values: dict[str, np.ndarray]) -> None:
        rounds = json.loads(np.asarray(values["rounds"]).tobytes())
        self.callback.history[:] = rounds["history"]
        self.callback.num_epochs = rounds["num_epochs"]
        self.callback.num_steps = rounds["num_steps"]
        self.callback.num_steps_before = rounds["num_steps_before"]
        self.callback.schedule.best = rounds["best"]
        self.callback.prices = np.asarray(values["prices"]) if "prices" in values else None

    def end_broken_run(self) -> None:
        self.callback._end_broken_fit()

    def save_own_variables(self, store: Any) -> None:
        for name, values in self.read_run_state().items():
            store[name] = values

    def load_own_variables(self, store: Any) -> None:
        names = list(store.keys())  # of a file, not of an ordinary dictionary
        # In the course of a run weights may be loaded, and the run goes on.
        if names and self.callback.num_epochs is None:
            self.assign_run_state({name: store[name] for name in names})


class ShownStep:
    """The train or test step of a model while it shows its sample weights to a `RoundState`.

    Keras shows them to losses and metrics only. One such step serves all that ask for it.

    Args:
        model: The Keras model, whose function of that step must be made anew.
        name: `"train_step"` or `"test_step"`.
    """

    def __init__(self, model: keras.Model, name: str) -> None:
        self.model, self.name = model, name
        self.num_users = 0
        self.own = model.__dict__.get(name)  # in place of that of the class
        self.step = getattr(model, name)
        setattr(model, name, self._run)

    @classmethod
    def use(cls, model: keras.Model, name: str) -> ShownStep:
        """Return the shown step that the model has, or has from now on."""
        step = getattr(getattr(model, name), "__self__", None)
        step = step if isinstance(step, cls) else cls(model, name)
        step.num_users += 1
        return step

    def undo(self) -> None:
        """Undo `use`; the last one gives the model back the step that it had."""
        self.num_users -= 1
        if self.num_users:
            return
        if self.own is None:
            delattr(self.model, self.name)
        else:
            setattr(self.model, self.name, self.own)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        data = kwargs["data"] if "data" in kwargs else args[-1]
        _, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = keras.tree.flatten(sample_weight)
        # Which of several outputs is that of the words is not known here.
        token = _sample_weight.set(weights[0] if len(weights) == 1 else None)
        try:
            return self.step(*args, **kwargs)
        finally:
            _sample_weight.reset(token)
