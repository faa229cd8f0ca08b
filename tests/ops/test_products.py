from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn.ops.products import multiply


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_sums_are_float32(dtype):
    # 4,097 ones: beyond what either low type can count to.
    product = tf.function(multiply, jit_compile=True)(tf.ones((2, 4097)), tf.ones((4097, 1), dtype))
    assert product.dtype == tf.float32
    assert np.asarray(product).tolist() == [[4097.0], [4097.0]]


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@pytest.mark.parametrize("way", ["eager", "xla"])
def test_sums_are_float32_in_and_outside_of_xla(rng, dtype, way):
    x, kernel = (tf.cast(rng.normal(size=shape), dtype) for shape in ((3, 40), (40, 2)))
    exact = np.asarray(x).astype("float64") @ np.asarray(kernel).astype("float64")
    run = tf.function(multiply, jit_compile=True) if way == "xla" else multiply
    product = run(tf.cast(x, "float32"), kernel)
    assert product.dtype == tf.float32
    assert np.asarray(product) == pytest.approx(exact, rel=1e-5, abs=1e-5)
