"""Random permutations in constant memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

_NUM_ROUNDS = 4
# An odd number with evenly mixed bits, 2**64 divided by the golden ratio.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(32)


def make_permutation(size: int, seed: int, epoch: int) -> Callable[[Any], np.ndarray]:
    """Return a random permutation of `range(size)` as a function of positions.

    Values are computed on request, so the permutation of a billion windows takes no memory. It
    depends on `seed` and `epoch` only.

    The function is a Feistel network over pairs `(left, right)`, which cover slightly more than
    `range(size)`. It is applied again to values outside of the range.

    Args:
        size: Integer, the number of values.
        seed: Integer, at least 0.
        epoch: Integer, at least 0.

    Returns:
        A function from an integer array of positions in `[0, size)` to the values there, an int64
        array of the same shape.

    Example:

    >>> permute = make_permutation(5, seed=0, epoch=0)
    >>> sorted(permute(np.arange(5)).tolist())
    [0, 1, 2, 3, 4]

    Reference:
        Black, Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002.
    """
    num_left = np.uint64(math.isqrt(size - 1) + 1 if size > 1 else 1)
    num_right = np.uint64(-(-size // int(num_left)))
    keys = np.random.default_rng((seed, epoch)).integers(
        1 << 64, size=(_NUM_ROUNDS, 2), dtype=np.uint64
    )

    def encrypt(values: np.ndarray) -> np.ndarray:
        left, right = np.divmod(values, num_right)
        for left_key, right_key in keys:
            left = (left + _mix(right, left_key)) % num_left
            right = (right + _mix(left, right_key)) % num_right
        return left * num_right + right

    def permute(positions: Any) -> np.ndarray:
        values = encrypt(np.asarray(positions, np.uint64).reshape(-1))
        outside = np.flatnonzero(values >= size)
        while outside.size:
            values[outside] = encrypt(values[outside])
            outside = outside[values[outside] >= size]
        return values.astype(np.int64).reshape(np.shape(positions))

    return permute


def _mix(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return numbers below 2**32 that depend on all bits of the values and the key."""
    values = (values ^ key) * _MULTIPLIER
    values = (values ^ (values >> _SHIFT)) * _MULTIPLIER
    return values >> _SHIFT
