"""Colors and arguments that the pictures of a table share."""

from __future__ import annotations

from typing import Any

from keras_lightrnn.table.allocation import Allocation

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
