"""A layer that shows its tensors to observers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


class ObservedLayer(keras.layers.Layer):
    """Layer whose `call` shows tensors to observers.

    The layer does not know what observers do with the tensors, such as sums for reallocation.
    Observers can be added and removed after the layer is built.

    Args:
        **kwargs: As in every Keras layer.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._observers: list[Any] = []
        # Of each observer: whether it observes training or evaluation, and which table.
        self._observed: list[tuple[bool, int]] = []

    @property
    def observers(self) -> list[Any]:
        """The observers that were added and not removed."""
        return list(self._observers)

    def observe(self, observer: Any, in_training: bool = True, table: int = 0) -> None:
        """Add an observer, or change what an observer observes.

        The model's train function, or test function, must be rebuilt afterwards.

        Args:
            observer: A `keras.layers.Layer` whose variables are to be part of the training state.
            in_training: Boolean, whether it is called in training or in evaluation.
            table: Integer, the index of the word table whose tensors it is shown.
        """
        with self._open_tracker():
            # An observer keeps its place, because backups number what belongs to a run.
            if observer not in self._observers:
                self._observers.append(observer)
                self._observed.append((in_training, table))
            self._observed[self._observers.index(observer)] = in_training, table

    def stop_observing(self, observer: Any) -> None:
        """Undo `observe`."""
        with self._open_tracker():
            if observer in self._observers:
                del self._observed[self._observers.index(observer)]
                self._observers.remove(observer)

    def is_observed(self, training: bool | None, table: int = 0) -> bool:
        """Return whether `show` would call an observer."""
        return (bool(training), table) in list(self._observed)

    def show(self, *tensors: Any, training: bool | None, table: int = 0) -> None:
        """Call the observers of a table, in training or in evaluation."""
        for observer, observed in zip(self._observers, self._observed, strict=True):
            if tuple(observed) == (bool(training), table):
                observer(*tensors)

    @contextlib.contextmanager
    def _open_tracker(self) -> Iterator[None]:
        """Let a built layer, which refuses new state, take some, as Keras does for LoRA."""
        self._tracker.unlock()
        try:
            yield
        finally:
            if self.built:
                self._tracker.lock()
