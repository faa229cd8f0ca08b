"""What the pictures of a table are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_lightrnn.allocation import Allocation

# From the colour of words that never occur to that of the most frequent one, RGB. Lightness
# falls evenly, so that the order survives in grey and for the colour-blind.
COLOR_RAMP = (
    (250, 238, 200),
    (243, 184, 106),
    (221, 108, 82),
    (148, 48, 103),
    (44, 17, 79),
)


def get_allocation(table: Any) -> Allocation:
    """Return the allocation of a `WordTable`, or an `Allocation` as it is."""
    allocation = getattr(table, "allocation", table)
    if not isinstance(allocation, Allocation):
        raise TypeError(
            "`table` must be an `Allocation` or a `WordTable`. Received: "
            f"table={table!r} (of type {type(table).__name__})."
        )
    return allocation


def check_counts(counts: Any, vocabulary_size: int) -> np.ndarray:
    """Return counts `(V,)` as an array, or raise."""
    counts = np.asarray(counts)
    if counts.shape != (vocabulary_size,):
        raise ValueError(
            "`counts` must hold one number for each word of the table. Received: "
            f"counts.shape={counts.shape}, for {vocabulary_size} words."
        )
    is_number = np.issubdtype(counts.dtype, np.integer) or np.issubdtype(counts.dtype, np.floating)
    if not is_number or not np.isfinite(counts).all() or counts.min() < 0:
        raise ValueError(
            "`counts` must be finite numbers that are not negative. Received: counts of type "
            f"{counts.dtype}, for example {counts[:5]}."
        )
    return counts
