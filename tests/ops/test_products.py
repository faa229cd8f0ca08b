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
