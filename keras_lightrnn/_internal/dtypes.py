"""Dtypes of sums."""

from __future__ import annotations

from typing import Any

import keras


def choose_sum_dtype(dtype: Any = None) -> str:
    """Return the dtype for sums over words: float64 where it is asked for, otherwise float32.

    Sums in float16 and bfloat16 stop growing after a few hundred words.

    Args:
        dtype: A dtype or dtype policy; `None` for `keras.config.floatx()`.

    Example:

    >>> choose_sum_dtype("float64"), choose_sum_dtype("mixed_bfloat16")
    ('float64', 'float32')
    """
    policy = keras.dtype_policies.get(dtype or keras.config.floatx())
    return "float64" if policy.compute_dtype == "float64" else "float32"
