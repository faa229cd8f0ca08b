from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn.ops.loops import scan


def weigh(carry, inputs):
    """A step whose outputs differ from its carry in shape and number."""
    x, y = inputs
    total = 0.5 * carry[0] + x
    return [total], [total + y[:, :1], y]


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_scan_is_the_loop_that_it_says(rng, length, reverse, jit_compile):
    x = rng.normal(size=(length, 2, 3)).astype("float32")
    y = rng.normal(size=(length, 2, 4)).astype("float32")

    @tf.function(jit_compile=jit_compile, autograph=False)
    def run(x, y):
        return scan(weigh, [tf.ones((2, 3))], [x, y], [(2, 3), (2, 4)], reverse)

    [last], outputs = run(x, y)
    total, expected = np.ones((2, 3)), [None] * length
    for t in reversed(range(length)) if reverse else range(length):
        total = 0.5 * total + x[t]
        expected[t] = total + y[t, :, :1]
    assert np.asarray(last) == pytest.approx(total, abs=1e-5)
    assert np.asarray(outputs[0]) == pytest.approx(np.array(expected), abs=1e-5)
    assert np.array_equal(outputs[1], y)
