"""Compilation of loops with Numba, cached on disk where that is possible.

Importing this module imports Numba, which takes a good part of a second. Modules of compiled loops
import it, and are themselves imported when a solver or a clustering first runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numba

_is_warned = False


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function with `numba.njit(cache=True)`, or without a cache where there is no place.

    Numba refuses to cache where it can write neither beside the source file nor into a cache folder
    of the user, as in a read-only container without a home. The function is then compiled in each
    process, and the first such function warns.

    Args:
        function: The function, or `None` to return a decorator.
        **options: Passed on to `numba.njit`.

    Returns:
        The compiled function, or a decorator.
    """
    if function is None:
        return lambda function: njit(function, **options)
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError as error:
        if "cache" not in str(error):
            raise
        _warn(error)
        return numba.njit(function, **options)


def _warn(error: RuntimeError) -> None:
    global _is_warned
    if not _is_warned:
        _is_warned = True
        warnings.warn(
            "Numba found no folder to keep compiled code in, so that solvers and clustering are "
            "compiled in each process, which takes some ten seconds. Set the environment variable "
            f"NUMBA_CACHE_DIR to a folder that can be written to. ({error})",
            RuntimeWarning,
            stacklevel=4,
        )
