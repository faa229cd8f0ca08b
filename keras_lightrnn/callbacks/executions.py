"""Counts of train steps, from the executions that Keras reports to callbacks."""

from __future__ import annotations

import keras

from keras_lightrnn._internal.keras_internals import peek_model


def count_steps(callback: keras.callbacks.Callback, begin: int, end: int) -> int:
    """Return the number of steps of the epoch after an execution of one or more steps.

    Args:
        callback: A callback of the `fit`.
        begin: Integer, the `batch` of `on_train_batch_begin`.
        end: Integer, the `batch` of `on_train_batch_end`: the last step of the execution (the first
            one in Keras 3.8).

    Example:

    >>> from keras_lightrnn import LightRNNModel
    >>> callback, model = keras.callbacks.Callback(), LightRNNModel(30, 4, 4)
    >>> model.compile("adam", steps_per_execution=4)
    >>> callback.set_model(model)
    >>> callback.set_params({"steps": 10})
    >>> count_steps(callback, 0, 3), count_steps(callback, 8, 9)
    (4, 10)
    """
    num_steps = max(end + 1, begin + getattr(peek_model(callback), "steps_per_execution", 1))
    num_available = (callback.params or {}).get("steps")
    # The last execution may have fewer than the others.
    num_steps = min(num_steps, num_available) if num_available else num_steps
    return int(num_steps)  # `fit` may have been given integers of NumPy, which JSON lacks
