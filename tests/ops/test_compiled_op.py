from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn.ops.compiled_op import compile_op


def forward(inputs, factor):
    x, indices, absent = inputs
    assert absent is None
    return [factor * x * x, indices + 1], [x + 1]


def backward(inputs, residuals, upstream, factor):
    x, _, _ = inputs
    assert len(residuals) == 1
    return [2 * factor * x * upstream[0] * (residuals[0] - x), None, None]


OP = compile_op(forward, backward)


def differentiate(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, indices = OP([x, tf.constant([4]), None], 3.0)
        loss = tf.reduce_sum(y * [1.0, 2.0])
    return y, indices, tape.gradient(loss, x)


@pytest.mark.parametrize("way", ["eager", "function", "xla"])
def test_takes_its_gradient_from_the_backward_pass(way):
    run = differentiate
    if way != "eager":
        run = tf.function(differentiate, jit_compile=way == "xla", autograph=False)
    y, indices, gradient = run(tf.constant([1.0, -2.0]))
    assert np.asarray(y).tolist() == [3.0, 12.0]
    assert np.asarray(indices).tolist() == [5]
    assert np.asarray(gradient).tolist() == [6.0, -24.0]


def test_is_compiled_inside_a_function_that_is_not():
    function = tf.function(differentiate, autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec((2,))).graph.as_graph_def()
    compiled = [f for f in graph.library.function if f.attr["_XlaMustCompile"].b]
    assert len(compiled) == 2


@pytest.mark.parametrize("way", ["eager", "function"])
def test_the_gradient_is_not_differentiated(way):
    def differentiate_twice(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            _, _, gradient = differentiate(x)
            penalty = tf.reduce_sum(gradient**2)
        return outer.gradient(penalty, x)

    run = differentiate_twice
    if way == "function":
        run = tf.function(differentiate_twice, autograph=False)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        run(tf.constant([1.0, -2.0]))
