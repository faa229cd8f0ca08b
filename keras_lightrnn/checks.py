"""Checks of arguments, for every part of the package."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_size(value: Any) -> bool:
    """Return whether a value is a positive integer, Python's or NumPy's."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value > 0)


def check_size(name: str, value: Any) -> int:
    """Return `value` as an `int`, or raise `ValueError` unless it is a positive integer.

    Example:

    >>> check_size("units", np.int64(3))
    3
    >>> check_size("units", 0)
    Traceback (most recent call last):
        ...
    ValueError: `units` must be a positive integer. Received: units=0 (of type int).
    """
    if not is_size(value):
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r} "
            f"(of type {type(value).__name__})."
        )
    return int(value)
