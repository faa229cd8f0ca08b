from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from keras_lightrnn._internal.inference import (
    compile_inference,
    run_without_gradients,
    view_values,
)


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="ones")])
    model.layers[0].bias.assign([1.0, 2.0])
    return model


def read(model):
    def function(places, states):
        hidden, [other] = states
        rows = ops.take(hidden, places, axis=0)
        return model.layers[0](rows), {"sum": rows + ops.take(other, places, axis=0)}

    return function


@pytest.mark.parametrize("any_size", [True, False])
def test_arrays_and_tensors_of_any_size_in_nested_structures(model, any_size, rng):
    run = compile_inference(model, read(model), any_size)
    for size, num_places in ((3, 1), (5, 4)):
        hidden, other = rng.normal(size=(2, size, 2)).astype("float32")
        places = rng.integers(size, size=num_places).astype("int32")
        outputs, sums = run(places, (ops.convert_to_tensor(hidden), [ops.convert_to_tensor(other)]))
        expected = hidden[places].sum(axis=1, keepdims=True) + [1.0, 2.0]
        np.testing.assert_allclose(outputs, expected, rtol=1e-5)
        np.testing.assert_allclose(sums["sum"], (hidden + other)[places], rtol=1e-6)


def test_later_changes_of_the_variables_are_seen(model):
    run = compile_inference(model, lambda x: model.layers[0](x))
    zeros = np.zeros((1, 2), "float32")
    assert np.asarray(run(zeros)).tolist() == [[1.0, 2.0]]
    model.layers[0].bias.assign([3.0, 4.0])
    assert np.asarray(run(zeros)).tolist() == [[3.0, 4.0]]


def test_errors_of_a_compiled_function_reach_the_caller(model):
    import tensorflow as tf

    run = compile_inference(model, lambda x: tf.ensure_shape(x, (2, None)))
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(np.zeros((3, 2), "int32"))


def test_arrays_are_tensors_where_nothing_is_compiled():
    run = run_without_gradients(lambda x, cache: (ops.is_tensor(x), cache))
    assert run(np.zeros(2, "float32"), {"a": None}) == (True, {"a": None})


def test_a_view_holds_the_values_of_its_time():
    variable = keras.Variable([3, 1, 4], dtype="int32")
    view = view_values(variable)
    assert view.dtype == "int32"
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 7
    variable.assign([1, 5, 9])
    assert view.tolist() == [3, 1, 4]
    assert view_values(variable).tolist() == [1, 5, 9]
