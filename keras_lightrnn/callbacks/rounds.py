"""State of reallocation that persists from round to round."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields

import numpy as np


@dataclass
class Rounds:
    """Record of the reallocation rounds of a model. A callback and its `RoundState` share it.

    Attributes:
        history: A dictionary of floats for each round.
        prices: For the index of a table, the prices `(R, C)` of its last solution, from which its
            next solver starts.
        num_epochs: Integer, the number of epochs that are finished, including their rounds; `None`
            before the first.
        num_steps: Integer, the number of train steps in all epochs and calls of `fit`.
        num_steps_before: Integer, `num_steps` at the start of the current epoch.
        best: Float, the best value of the monitor since the last round that moved words.

    Example:

    >>> rounds = Rounds(num_steps=40)
    >>> Rounds.from_arrays(rounds.to_arrays()) == rounds
    True
    """

    history: list[dict[str, float]] = field(default_factory=list)
    prices: dict[int, np.ndarray] = field(default_factory=dict)
    num_epochs: int | None = None
    num_steps: int = 0
    num_steps_before: int = 0
    best: float = math.inf

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the rounds as arrays by name, for a file."""
        values = {x.name: getattr(self, x.name) for x in fields(self) if x.name != "prices"}
        arrays = {"rounds": np.frombuffer(json.dumps(values).encode(), np.uint8)}
        return arrays | {_name_prices(table): prices for table, prices in self.prices.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Rounds:
        """Return the rounds from the arrays of `to_arrays`.

        Raises:
            ValueError: if the arrays are damaged.
        """
        try:
            values = json.loads(np.asarray(arrays["rounds"]).tobytes())
            prices = {
                int(name.removeprefix("prices").removeprefix("_") or 0): np.asarray(array)
                for name, array in arrays.items()
                if name.startswith("prices")
            }
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
            and all(x.ndim == 2 and x.dtype.kind == "f" for x in self.prices.values())
        )
        if not are_right:
            raise ValueError(f"wrong types or values in {self}")

    def assign(self, other: Rounds) -> None:
        """Copy the values of other rounds, in place."""
        for x in fields(self):
            setattr(self, x.name, getattr(other, x.name))


def _name_prices(table: int) -> str:
    """Return the name of the prices of a table in a file; the first table has no number."""
    return f"prices_{table}" if table else "prices"
