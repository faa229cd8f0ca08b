"""Colors and arguments that the views of a table share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_lightrnn.table.allocation import Allocation

# RGB, from the color of words that never occur to that of the most frequent word. Lightness
# decreases evenly, so the order is visible in gray and with color blindness.
COLOR_RAMP = (
    (250, 238, 200),
    (243, 184, 106),
    (221, 108, 82),
    (148, 48, 103),
    (44, 17, 79),
)


def get_allocation(table: Any) -> Allocation:
    """Return the allocation of a `WordTable`, or an `Allocation` unchanged."""
    allocation = getattr(table, "allocation", table)
    if not isinstance(allocation, Allocation):
        raise TypeError(
            "`table` must be an `Allocation` or a `WordTable`. Received: "
            f"table={table!r} (of type {type(table).__name__})."
        )
    return allocation


def get_allocations(tables: Any) -> list[Allocation]:
    """Return the allocations of one table or of a sequence of tables.

    Raises:
        TypeError: if one is neither an `Allocation` nor a `WordTable`.
        ValueError: if there is no table, or the tables hold different numbers of words.
    """
    tables = tables if isinstance(tables, Sequence) else [tables]
    allocations = [get_allocation(table) for table in tables]
    sizes = [allocation.vocabulary_size for allocation in allocations]
    if len(set(sizes)) != 1:
        raise ValueError(
            "`table` must be one table, or several tables of the same words. Received: "
            f"{len(sizes)} tables, of {sizes} words."
        )
    return allocations
