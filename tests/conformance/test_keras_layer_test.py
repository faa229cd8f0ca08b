"""Keras's own test of layers."""

from __future__ import annotations

import pytest
from cases import CASES, D, T, make_table, make_windows
from keras.src.testing import TestCase

from keras_lightrnn.layers import TwoComponentEmbedding


@pytest.mark.parametrize("combine", ["interleave", "sum", "concat"])
@pytest.mark.parametrize("word_dim", [0, 2])
def test_embedding(combine, word_dim):
    length = 2 * T if combine == "interleave" else T + 1
    TestCase().run_layer_test(
        TwoComponentEmbedding,
        {
            "word_table": make_table(),
            "output_dim": D,
            "combine": combine,
            "mask_zero": True,
            "word_dim": word_dim,
        },
        input_data=make_windows(),
        expected_output_shape=(2, length, 2 * D if combine == "concat" else D),
        expected_num_trainable_weights=4 if word_dim else 2,
        expected_num_non_trainable_weights=1,
        supports_masking=True,
    )


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_serialization(case):
    TestCase().run_class_serialization_test(case.make())
