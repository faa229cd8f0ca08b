"""`fit`, `evaluate` and `predict` over windows of word ids."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.run_state import end_broken_runs
from keras_lightrnn.models.carried_state import CarriedState, StateReset
from keras_lightrnn.models.window_checks import (
    check_source,
    complete_arrays,
    is_array,
    read_first_batch,
)
from keras_lightrnn.table.word_table import WordTable


class WindowReading:
    """Mixin of `LightRNNModel` that checks its input before it builds or trains anything.

    It fills in the targets that windows contain, and lets a stateful model read windows in order,
    starting every pass in the zero state.
    """

    # Attributes of the model.
    word_table: WordTable
    word_bias: str | None
    stateful: bool
    carried_state: CarriedState | None
    softmax: Any
    built: bool
    build: Any

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | None = None,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> keras.callbacks.History:
        """Train on windows of word ids, as `keras.Model.fit`.

        Args:
            x: An array of windows `(N, T + 1)`; or a source of batches of `(windows,)`,
                `(windows, targets)` or `(windows, targets, sample_weight)`, such as a
                `tf.data.Dataset`, a generator, a `keras.utils.PyDataset` or a PyTorch `DataLoader`.
                A stateful model continues window `i` of an array in window `i + batch_size`.
            y: Targets `(N, T)`, the words of `x` from the second on. They may be left out.
            batch_size: Integer. Defaults to 32, or for a stateful model to the batch size that it
                was built for.
            validation_data: Windows, a tuple of windows, targets and sample weights, or a source of
                batches.
            shuffle: Boolean. Defaults to `True` for an array, unless the model is stateful.
            class_weight: Must be `None`.
            sample_weight: One weight for each target, `(N, T)`, or for each window, `(N,)`.

        The other arguments are those of `keras.Model.fit`.

        Raises:
            ValueError: if an array holds ids outside `[0, V)`, windows of fewer than two words, or
                no windows; if the word bias has no counts; for `class_weight`; or for
                `shuffle=True` with an array and a stateful model.
        """
        needs_counts = self.word_bias is not None and self.word_table.vocabulary_size > 1
        if needs_counts and not np.any(ops.convert_to_numpy(self.softmax.word_bias_values)):
            raise ValueError(
                "A word bias starts from the counts of the words. Received: "
                f"word_bias={self.word_bias!r}, and no counts. Call "
                "`model.assign_word_counts(counts)` before `fit`."
            )
        end_broken_runs(self)  # type: ignore[arg-type]
        _refuse_class_weight(class_weight)
        has_arrays = is_array(x)
        if has_arrays and self.stateful and shuffle:
            raise ValueError(
                "A stateful model must read windows in the order of the text. Received: "
                "shuffle=True. Leave `shuffle` out."
            )
        if shuffle is None:
            shuffle = has_arrays and not self.stateful
        x, y, sample_weight, batch_size = self._prepare(
            x, y, sample_weight, batch_size, validation_split
        )
        validation_data, validation_batch_size = self._prepare_validation(
            validation_data, validation_batch_size or batch_size
        )
        return super().fit(  # type: ignore[misc]
            x=x,
            y=y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=self._add_state_reset(callbacks),
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
        )

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Train on one batch of windows, as `keras.Model.train_on_batch`.

        Raises:
            ValueError: for `class_weight`.
        """
        _refuse_class_weight(class_weight)
        return super().train_on_batch(  # type: ignore[misc]
            x, y=y, sample_weight=sample_weight, return_dict=return_dict
        )

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the loss and metrics on windows of word ids, as `keras.Model.evaluate`.

        See `fit` for `x`, `y`, `batch_size` and `sample_weight`.
        """
        x, y, sample_weight, batch_size = self._prepare(x, y, sample_weight, batch_size)
        return super().evaluate(  # type: ignore[misc]
            x=x,
            y=y,
            batch_size=batch_size,
            verbose=verbose,
            sample_weight=sample_weight,
            steps=steps,
            callbacks=self._add_state_reset(callbacks),
            return_dict=return_dict,
            **kwargs,
        )

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> np.ndarray:
        """Return the log-probabilities of windows, `(N, T)`, as `keras.Model.predict`."""
        x, _, _, batch_size = self._prepare(x, None, None, batch_size)
        return super().predict(  # type: ignore[misc]
            x=x,
            batch_size=batch_size,
            verbose=verbose,
            steps=steps,
            callbacks=self._add_state_reset(callbacks),
        )

    def _prepare(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        batch_size: int | None,
        validation_split: float = 0.0,
    ) -> tuple[Any, Any, Any, int | None]:
        """Check the input and build the model for it.

        Returns:
            The input, and the batch size for arrays.
        """
        shape: tuple[int | None, ...] | None
        if is_array(x):
            size = self.word_table.vocabulary_size
            x, y, sample_weight = complete_arrays("x", size, x, y, sample_weight)
            batch_size = self._default_batch_size if batch_size is None else batch_size
            check_size("batch_size", batch_size)
            num_windows = len(x)
            num_trained = math.floor(num_windows * (1 - (validation_split or 0.0)))  # as in Keras
            self._check_batches((num_trained, num_windows - num_trained), batch_size)
            shape = (batch_size, x.shape[1])
        else:
            shape = check_source("x", x)
            if not self.built and shape is None:
                # Of a batch only its size matters, and only for a state.
                shape = (None, None)
                if self.stateful:
                    shape, x = read_first_batch("x", x)
        if not self.built and shape is not None:
            self.build(shape)  # before Keras builds it from a first batch
        return x, y, sample_weight, batch_size

    def _prepare_validation(
        self, validation_data: Any, batch_size: int | None
    ) -> tuple[Any, int | None]:
        """Check the validation data, before the training that comes first."""
        if validation_data is None:
            return None, batch_size
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(validation_data)
        if not is_array(x):
            check_source("validation_data", x)
            return validation_data, batch_size
        size = self.word_table.vocabulary_size
        arrays = complete_arrays("validation_data", size, x, y, sample_weight)
        batch_size = self._default_batch_size if batch_size is None else batch_size
        self._check_batches((0, len(arrays[0])), batch_size)
        return arrays, batch_size

    @property
    def _default_batch_size(self) -> int:
        return 32 if self.carried_state is None else self.carried_state.batch_size

    def _add_state_reset(self, callbacks: Any) -> Any:
        """Return callbacks, in any form that `fit` takes, with a `StateReset` if it is needed."""
        if not self.stateful:
            return callbacks
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
            return [StateReset(), *(callback for callback in given if callback is not None)]
        # `fit` evaluates with its own list, which has one already.
        if not any(isinstance(callback, StateReset) for callback in callbacks.callbacks):
            reset = StateReset()
            reset.set_model(self)
            callbacks.callbacks.insert(0, reset)
        return callbacks

    def _check_batches(self, num_windows: tuple[int, int], batch_size: int) -> None:
        """Raise unless a stateful model can take windows of training and of validation."""
        if not self.stateful:
            return
        if any(number % batch_size for number in num_windows):
            kinds = zip(num_windows, ("windows", "windows of validation"), strict=True)
            received = " and ".join(f"{number} {kind}" for number, kind in kinds if number)
            raise ValueError(
                f"A stateful model needs whole batches. Received: {received}, "
                f"batch_size={batch_size}. Leave windows out, choose a batch size that divides "
                "their number, or use `token_windows`, which pads."
            )
        state = self.carried_state
        if state is not None and batch_size != state.batch_size:
            raise state.make_size_error(f"batch_size={batch_size}")


def _refuse_class_weight(class_weight: Any) -> None:
    if class_weight is not None:
        raise ValueError(
            "Words of a window cannot be weighted by class, because Keras takes each window "
            "for an example of one class. Received: class_weight. Give `sample_weight`, one "
            "for each word (N, T)."
        )
