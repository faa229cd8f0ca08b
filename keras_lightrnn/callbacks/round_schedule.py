"""Schedule of reallocation rounds."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from keras_lightrnn._internal.checks import check_size, is_size
from keras_lightrnn.callbacks.rounds import Rounds


class RoundSchedule:
    """Determines after which train steps or epochs a reallocation round is due.

    Args:
        every: `"epoch"`: after every epoch. An integer: after that many train steps, counted over
            the whole training. A list of integers: after these epochs, counted from 1.
            `"plateau"`: after an epoch in which `monitor` was not lower than its best value since
            the last round.
        max_rounds: Integer, or `None` for no limit.
        monitor: The key in the `logs` that `"plateau"` reads.

    Raises:
        ValueError: if an argument has another value.

    Example:

    >>> schedule = RoundSchedule([1, 3])
    >>> [epoch for epoch in range(1, 6) if schedule.is_due_after_epoch(epoch, Rounds(), {})]
    [1, 3]
    >>> schedule.is_over(num_epochs=2, num_rounds=1), schedule.is_over(num_epochs=3, num_rounds=2)
    (False, True)
    >>> schedule = RoundSchedule(400, max_rounds=2)
    >>> schedule.is_due_after_step(399, 400, num_rounds=0)
    True
    >>> schedule.is_due_after_step(1199, 1200, num_rounds=2)
    False
    """

    def __init__(
        self, every: Any = (1,), max_rounds: int | None = None, monitor: str = "val_loss"
    ) -> None:
        if isinstance(every, Iterable) and not isinstance(every, str):
            every = list(every)
            is_known = bool(every) and all(map(is_size, every))
        else:
            every = int(every) if is_size(every) else every
            is_known = is_size(every) or every in ("epoch", "plateau")
        if not is_known:
            raise ValueError(
                '`every` must be "epoch", a positive integer (of steps), a list of positive '
                f'integers (epochs, from 1), or "plateau". Received: every={every!r}.'
            )
        self.every = every
        self.max_rounds = None if max_rounds is None else check_size("max_rounds", max_rounds)
        self.monitor = monitor

    @property
    def counts_steps(self) -> bool:
        """Whether rounds follow train steps instead of epochs."""
        return isinstance(self.every, int)

    def is_due_after_step(self, before: int, step: int, num_rounds: int) -> bool:
        """Return whether a round is due after a train step.

        Args:
            before: Integer, train steps of the whole training at the previous call. One execution
                of the train function may run several.
            step: Integer, train steps of the whole training now.
            num_rounds: Integer, rounds so far.
        """
        if not self.counts_steps or before // self.every == step // self.every:
            return False
        return self._is_left(num_rounds)

    def is_due_after_epoch(self, epoch: int, rounds: Rounds, logs: dict[str, Any]) -> bool:
        """Return whether a round is due after an epoch. Updates `rounds.best`.

        If `logs` lacks the monitor, as in epochs that `validation_freq` skips, `"plateau"` warns
        and no round is due.

        Args:
            epoch: Integer, the number of the epoch, from 1.
            rounds: The `Rounds` so far.
            logs: The `logs` of the epoch.
        """
        if self.every == "plateau":
            if self.monitor not in logs:
                warnings.warn(
                    f"A round at a plateau needs {self.monitor!r} in the logs. Received: "
                    f"{sorted(logs)}. No round follows this epoch. If the key is always missing, "
                    "give `fit` validation data, or another `monitor`.",
                    stacklevel=2,
                )
                return False
            value = float(logs[self.monitor])
            is_due = not value < rounds.best
            rounds.best = min(rounds.best, value)
        elif isinstance(self.every, list):
            is_due = epoch in self.every
        else:
            is_due = self.every == "epoch"
        return is_due and self._is_left(len(rounds.history))

    def is_over(self, num_epochs: int, num_rounds: int) -> bool:
        """Return whether no round can be due after so many epochs and rounds."""
        is_past = isinstance(self.every, list) and max(self.every) <= num_epochs
        return is_past or not self._is_left(num_rounds)

    def _is_left(self, num_rounds: int) -> bool:
        return self.max_rounds is None or num_rounds < self.max_rounds
