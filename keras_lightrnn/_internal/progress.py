"""Progress of long computations that need no Keras."""

from __future__ import annotations

import sys
import time

# Seconds between two updates of a line.
_INTERVAL = 0.2


class Progress:
    """One line on standard error that is updated in place.

    If standard error is not a terminal, each stage writes one line at its end.

    Args:
        verbose: Integer. Nothing is written with 0.

    Example:

    >>> progress = Progress(verbose=0)
    >>> progress.update("reading", "1,000 words")
    >>> progress.end_stage("reading", "2,000 words")
    """

    def __init__(self, verbose: int) -> None:
        self.verbose = verbose
        self._start = time.perf_counter()
        self._last = -_INTERVAL
        self._width = 0

    def update(self, stage: str, text: str) -> None:
        """Show how far a stage is, at most a few times a second."""
        now = time.perf_counter()
        if self.verbose and sys.stderr.isatty() and now - self._last >= _INTERVAL:
            self._last = now
            self._write(stage, text, end="")

    def end_stage(self, stage: str, text: str) -> None:
        """Show the result of a stage and begin a new line."""
        if self.verbose:
            self._write(stage, text, end="\n")
            self._width = 0

    def _write(self, stage: str, text: str, end: str) -> None:
        line = f"{stage}: {text}, {time.perf_counter() - self._start:.1f} s"
        begin = "\r" if sys.stderr.isatty() else ""
        sys.stderr.write(f"{begin}{line:<{self._width}}{end}")
        sys.stderr.flush()
        self._width = len(line)
