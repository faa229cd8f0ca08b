"""Peak memory of this process."""

from __future__ import annotations

import resource
import sys

# `ru_maxrss` is in bytes on macOS and in KiB elsewhere.
_UNIT = 1 if sys.platform == "darwin" else 1024


def get_peak_megabytes() -> float:
    """Return the peak resident size of this process in MB of `10**6` bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 1e6


def get_peak_gigabytes() -> float:
    """Return the peak resident size of this process in GB of `10**9` bytes."""
    return get_peak_megabytes() / 1e3
