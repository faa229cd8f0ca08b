"""Train steps of an epoch, counted by the executions that Keras tells its callbacks of."""

from __future__ import annotations

import keras


def count_steps(callback: keras.callbacks.Callback, begin: int, end: int) -> int:
    """Return the steps that the epoch has had after an execution, which may be several steps.

    Args:
        callback: One of the callbacks that Keras told.
        begin: Integer, the `batch` of `on_train_batch_begin`.
        end: Integer, the `batch` of `on_train_batch_end`. Keras 3.8 names the first step of an
            execution there too, later ones the last.

    Example:

    >>> from keras_lightrnn import LightRNNModel
    >>> callback, model = keras.callbacks.Callback(), LightRNNModel(30, 4, 4)
    >>> model.compile("adam", steps_per_execution=4)
    >>> callback.set_model(model)
    >>> callback.set_params({"steps": 10})
    >>> count_steps(callback, 0, 3), count_steps(callback, 8, 9)
    (4, 10)
    """
    # On JAX, to ask for `model` brings its state back from the device.
    num_steps = max(end + 1, begin + getattr(callback._model, "steps_per_execution", 1))
    num_there = (callback.params or {}).get("steps")
    # The last execution may have fewer than the others.
    return min(num_steps, num_there) if num_there else num_steps
