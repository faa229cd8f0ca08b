"""Steps are counted alike by what any version of Keras tells its callbacks."""

import types

import keras
import numpy as np
import pytest

from keras_lightrnn.callbacks.executions import count_steps


@pytest.mark.parametrize("names_first_step", [False, True])
@pytest.mark.parametrize("num_there", [10, 12, None])
@pytest.mark.parametrize("steps_per_execution", [1, 3, 5, 12])
def test_steps_of_every_execution(names_first_step, num_there, steps_per_execution):
    callback = keras.callbacks.Callback()
    callback._model = types.SimpleNamespace(steps_per_execution=steps_per_execution)
    callback.set_params({"steps": num_there})
    num_steps = num_there or 10
    for begin in range(0, num_steps, steps_per_execution):
        last = min(begin + steps_per_execution, num_steps)
        counted = count_steps(callback, begin, begin if names_first_step else last - 1)
        # Of data of unknown length no one says how many steps the last execution had.
        assert counted == (last if num_there else begin + steps_per_execution)


def test_the_count_is_an_integer_of_python():
    callback = keras.callbacks.Callback()
    callback._model = types.SimpleNamespace(steps_per_execution=np.int64(4))
    callback.set_params({"steps": np.int64(10)})  # as `fit(steps_per_epoch=...)` was given it
    for begin, counted in ((0, 4), (8, 10)):
        steps = count_steps(callback, begin, begin)
        assert (type(steps), steps) == (int, counted)


def test_no_parameters():
    callback = keras.callbacks.Callback()
    callback._model = keras.Sequential()
    assert count_steps(callback, 4, 4) == 5
