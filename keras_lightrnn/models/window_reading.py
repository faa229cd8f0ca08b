"""What windows of word ids need of `fit`, `evaluate` and `predict`."""

from __future__ import annotations

import inspect
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.run_state import end_broken_runs
from keras_lightrnn.models.carried_state import CarriedState, StateReset
from keras_lightrnn.models.window_checks import check_source, complete_arrays, is_array
from keras_lightrnn.table.word_table import WordTable


class WindowReading:
    """Mixin of `LightRNNModel`: checks what it is given to read before it builds or trains.

    Targets that windows hold already are filled in, a stateful model reads windows in their order
    and starts every pass in the zero state.
    """

    # Of the model.
    word_table: WordTable
    word_bias: str | None
    stateful: bool
    carried_state: CarriedState | None
    softmax: Any
    built: bool
    build: Any

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train on windows of word ids, as `keras.Model.fit`.

        Args:
            *args: `x` is an array of windows `(N, T + 1)`, or a dataset of `(windows,)`,
                `(windows, targets)` or `(windows, targets, sample_weight)`. The targets may be
                left out: a window holds its own. A stateful model goes on from window `i` of an
                array with window `i + batch_size`, and does not shuffle.
            **kwargs: As in `keras.Model.fit`.

        Raises:
            ValueError: if an array holds ids outside `[0, V)`, windows of fewer than two
                words, or nothing; if the word bias was never given its counts; or for
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
        return self._run("fit", args, kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate on windows of word ids, as `keras.Model.evaluate`; see `fit`."""
        return self._run("evaluate", args, kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the log-probabilities of windows, `(N, T)`, as `keras.Model.predict`."""
        return self._run("predict", args, kwargs)

    def _run(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        parent = getattr(super(), method)
        arguments = inspect.signature(parent).bind(*args, **kwargs).arguments
        # What `bind` gathers of keyword arguments is theirs again.
        arguments.update(arguments.pop("kwargs", {}))
        if arguments.get("class_weight") is not None:
            raise ValueError(
                "Words of a window cannot be weighed by class: Keras takes windows for classes. "
                "Received: class_weight. Give `sample_weight`, one for each word (N, T)."
            )
        has_arrays = is_array(arguments.get("x"))
        if has_arrays:
            shape: Any = self._complete_arrays(arguments)
        else:
            shape = check_source("x", arguments.get("x"))
        if method == "fit" and (self.stateful or not has_arrays):
            if has_arrays and arguments.get("shuffle"):
                raise ValueError(
                    "A stateful model reads windows in the order in which the text goes on. "
                    "Received: shuffle=True. Leave `shuffle` out."
                )
            # Keras warns that its default, to shuffle, does nothing to a dataset.
            arguments.setdefault("shuffle", False)
        if not self.built and shape is not None:
            self.build(shape)  # before Keras does so from a first batch
        self._complete_validation(arguments)
        if self.stateful:
            arguments["callbacks"] = self._add_state_reset(arguments.get("callbacks"))
        return parent(**arguments)

    def _complete_arrays(self, arguments: dict[str, Any]) -> tuple[int, int]:
        """Check what is to be read, and return the shape of its batches."""
        names = ("x", "y", "sample_weight")
        size = self.word_table.vocabulary_size
        arrays = complete_arrays("x", size, *map(arguments.get, names))
        arguments.update((k, v) for k, v in zip(names, arrays, strict=True) if v is not None)
        num_windows, length = arrays[0].shape
        batch_size = arguments.get("batch_size")
        if batch_size is None:
            batch_size = arguments["batch_size"] = self._default_batch_size
        check_size("batch_size", batch_size)
        split = arguments.get("validation_split") or 0.0
        num_trained = math.floor(num_windows * (1 - split))  # as Keras splits
        self._check_batches((num_trained, num_windows - num_trained), batch_size)
        return batch_size, length

    def _complete_validation(self, arguments: dict[str, Any]) -> None:
        """Check what is to be validated on before the training that comes first."""
        validation = arguments.get("validation_data")
        if validation is None:
            return
        parts = validation if isinstance(validation, (tuple, list)) else (validation,)
        if not is_array(parts[0]):
            check_source("validation_data", parts[0])
            return
        size = self.word_table.vocabulary_size
        arrays = complete_arrays("validation_data", size, *parts)
        batch_size = arguments.get("validation_batch_size") or arguments.get("batch_size")
        if batch_size is None:
            batch_size = arguments["validation_batch_size"] = self._default_batch_size
        self._check_batches((0, len(arrays[0])), batch_size)
        arguments["validation_data"] = arrays

    @property
    def _default_batch_size(self) -> int:
        return 32 if self.carried_state is None else self.carried_state.batch_size

    def _add_state_reset(self, callbacks: Any) -> Any:
        """Return callbacks, in any form that `fit` takes, with a `StateReset` among them."""
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
            return [StateReset(), *(callback for callback in given if callback is not None)]
        # That of `fit`, which evaluates with it, has one already.
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
