"""A layer that shows its tensors to observers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


class ObservedLayer(keras.layers.Layer):
    """Layer whose `call` shows tensors to observers.

    The layer does not know what observers do with them, such as sums for reallocation. Observers
    can be added and removed after the layer is built.

    Args:
        **kwargs: As in every Keras layer.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._training_observers: list[Any] = []
        self._evaluation_observers: list[Any] = []

    @property
    def observers(self) -> list[Any]:
        """The observers that were added and not removed."""
        return [*self._training_observers, *self._evaluation_observers]

    def observe(self, observer: Any, in_training: bool = True) -> None:
        """Add an observer.

        The model's train function, or test function, must be rebuilt afterwards.

        Args:
            observer: A `keras.layers.Layer` whose variables are to be part of the training state.
            in_training: Boolean, whether it is called in training or in evaluation.
        """
        with self._open_tracker():
            observers = self._training_observers if in_training else self._evaluation_observers
            observers.append(observer)

    def stop_observing(self, observer: Any) -> None:
        """Undo `observe`."""
        with self._open_tracker():
            for observers in (self._training_observers, self._evaluation_observers):
                if observer in observers:
                    observers.remove(observer)

    def is_observed(self, training: bool | None) -> bool:
        """Return whether `show` would call an observer."""
        return bool(self._training_observers if training else self._evaluation_observers)

    def show(self, *tensors: Any, training: bool | None) -> None:
        """Call the observers of training, or the others."""
        for observer in self._training_observers if training else self._evaluation_observers:
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
