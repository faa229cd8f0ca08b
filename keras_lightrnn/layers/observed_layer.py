"""A layer that shows its tensors to observers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import keras

from keras_lightrnn._internal.keras_internals import unlock
from keras_lightrnn._internal.typing import Tensor


class Observer(Protocol):
    """What an observer of an `ObservedLayer` is, in addition to a `keras.layers.Layer`."""

    def see(self, make_tensors: Callable[[], list[Tensor]], training: bool, table: int) -> None:
        """Use the tensors of a call, or leave them alone.

        Args:
            make_tensors: Function without arguments that computes the tensors. An observer that
                does not call it costs the step nothing.
            training: Boolean, whether the call is a training step.
            table: Integer, the index of the word table that the tensors belong to.
        """


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

    @property
    def observers(self) -> list[Any]:
        """The observers that were added and not removed."""
        return list(self._observers)

    def observe(self, observer: Any) -> None:
        """Add an observer.

        Compiled functions of the model do not have it. They must be made again afterwards, for
        example by `model.make_train_function(force=True)`.

        Args:
            observer: An `Observer` that is a `keras.layers.Layer`, because its variables become
                part of the training state.
        """
        with unlock(self):
            self._observers.append(observer)

    def stop_observing(self, observer: Any) -> None:
        """Undo `observe`."""
        with unlock(self):
            if observer in self._observers:
                self._observers.remove(observer)

    def show(
        self, make_tensors: Callable[[], list[Tensor]], training: bool | None, table: int = 0
    ) -> None:
        """Show tensors to the observers; see `Observer.see`."""
        for observer in self._observers:
            observer.see(make_tensors, bool(training), table)
