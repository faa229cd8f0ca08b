"""Independent pieces of work on several threads."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

_Result = TypeVar("_Result")


def count_threads() -> int:
    """Return the number of threads to use: `NUMBA_NUM_THREADS`, or the cores of this process.

    Example:

    >>> count_threads() >= 1
    True
    """
    chosen = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(chosen) if chosen.isdecimal() and int(chosen) else count_cores()


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_slices(
    function: Callable[[slice], _Result], size: int, slice_size: int
) -> Iterator[_Result]:
    """Call a function with consecutive slices of `range(size)`, on as many threads as pay.

    A thread takes the next slice when it is done with one, so a busy core delays one slice and not
    all threads. The threads end with the iteration: they survive neither an exception nor a fork.
    The function must release the global interpreter lock to gain anything.

    Args:
        function: Called with a slice; calls with different slices must be independent.
        size: Integer, the end of the last slice.
        slice_size: Integer, the length of all slices but the last.

    Yields:
        The results, in the order of the slices.

    Example:

    >>> list(map_slices(lambda part: part.stop - part.start, size=5, slice_size=2))
    [2, 2, 1]
    """
    slices = [slice(start, min(start + slice_size, size)) for start in range(0, size, slice_size)]
    num_threads = min(count_threads(), len(slices))
    if num_threads <= 1:
        yield from map(function, slices)
        return
    pool = concurrent.futures.ThreadPoolExecutor(num_threads, "keras_lightrnn")
    try:
        yield from pool.map(function, slices)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
