"""State of reallocation that passes from round to round."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields

import numpy as np


@dataclass
class Rounds:
    """Rounds of reallocation of one model so far. A callback and its `RoundState` share it.

    Attributes:
        history: A dictionary of floats for each round.
        prices: `(R, C)`, the prices of the last solution, from which the next solver starts, or
            `None`.
        num_epochs: Integer, epochs whose round, if one was due, is done; `None` before the first.
        num_steps: Integer, train steps in all epochs and calls of `fit`.
        num_steps_before: Integer, `num_steps` at the start of the current epoch.
        best: Float, the best value of the monitor since the last round that moved words.

    Example:

    >>> rounds = Rounds(num_steps=40)
    >>> Rounds.from_arrays(rounds.to_arrays()) == rounds
    True
    """

    history: list[dict[str, float]] = field(default_factory=list)
    prices: np.ndarray | None = None
    num_epochs: int | None = None
    num_steps: int = 0
    num_steps_before: int = 0
    best: float = math.inf

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the rounds as arrays by name, for a file."""
        values = {x.name: getattr(self, x.name) for x in fields(self) if x.name != "prices"}
        arrays = {"rounds": np.frombuffer(json.dumps(values).encode(), np.uint8)}
        if self.prices is not None:
            arrays["prices"] = self.prices
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Rounds:
        """Return the rounds that `to_arrays` wrote.

        Raises:
            ValueError: if the arrays are not such.
        """
        try:
            values = json.loads(np.asarray(arrays["rounds"]).tobytes())
            prices = np.asarray(arrays["prices"]) if "prices" in arrays else None
            rounds = cls(prices=prices, **values)
            rounds._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"The state of reallocation cannot be read. Received: arrays {sorted(arrays)} "
                f"({error!r})."
            ) from error
        return rounds

    def _check(self) -> None:
        values = [number for record in self.history for number in record.values()]
        counts = [self.num_steps, self.num_steps_before]
        counts += [] if self.num_epochs is None else [self.num_epochs]
        are_right = (
            all(isinstance(number, float) for number in [*values, self.best])
            and all(type(count) is int and count >= 0 for count in counts)
            and (self.prices is None or (self.prices.ndim == 2 and self.prices.dtype.kind == "f"))
        )
        if not are_right:
            raise ValueError(f"wrong types or values in {self}")

    def assign(self, other: Rounds) -> None:
        """Take the values of other rounds, in place."""
        for x in fields(self):
            setattr(self, x.name, getattr(other, x.name))
