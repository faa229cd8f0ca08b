"""What an objective of reallocation promises."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from keras_lightrnn.table.allocation import Allocation


class OutputWeights(NamedTuple):
    """The weights of a `TwoComponentSoftmax`, as arrays: `(R, H)`, `(R,)`, `(C, H)`, `(C,)`.

    Example:

    >>> OutputWeights(np.zeros((2, 4)), None, np.zeros((3, 4)), None).column_kernel.shape
    (3, 4)
    """

    row_kernel: np.ndarray
    row_bias: np.ndarray | None
    column_kernel: np.ndarray
    column_bias: np.ndarray | None


@dataclass(frozen=True)
class Proposal:
    """An allocation that an objective prefers, and by how much.

    Attributes:
        allocation: The `Allocation`; never a worse one than it was made from.
        cost_before: Float, cost of the allocation there was, in the objective's `unit`.
        cost: Float, cost of this one.
        gap: Float, by how much the best allocation could be better still at most; `None` where
            nothing certifies it.
        status: String, how the search ended.
        prices: What the next round's search may start from, or `None`.

    Example:

    >>> proposal = Proposal(Allocation([1, 0], 1, 2), 3.0, 2.5, gap=None, status="clustered")
    >>> proposal.cost_before - proposal.cost
    0.5
    """

    allocation: Allocation
    cost_before: float
    cost: float
    gap: float | None
    status: str
    prices: np.ndarray | None = None


class ReallocationObjective(abc.ABC):
    """Says which sums over a training run it needs, and which allocation is best by them.

    Pure: it reads arrays and returns a `Proposal`. `ReallocationCallback` decides when, gathers
    the sums and installs what is proposed.

    Attributes:
        name: String.
        unit: String, of the costs.
        sums: Names of the sums of `HalfStepStatistics` that it needs.
        carries_output: Boolean, whether the output vectors of rows and columns follow the words
            that move, as the input vectors always do.

    Example:

    >>> class Frequency(ReallocationObjective):
    ...     name, unit, sums, carries_output = "frequency", "words", (), True
    ...     def propose(self, sums, weights, allocation, prices=None):
    ...         order = np.argsort(-sums["counts"], kind="stable")
    ...         new = Allocation(np.argsort(order), allocation.num_rows, allocation.num_columns)
    ...         return Proposal(new, float(new.count_moved(allocation)), 0.0, None, "sorted")
    >>> weights = OutputWeights(np.zeros((1, 1)), None, np.zeros((2, 1)), None)
    >>> sums = {"counts": np.array([1, 9])}
    >>> proposal = Frequency().propose(sums, weights, Allocation([0, 1], 1, 2))
    >>> proposal.allocation.cells.tolist()
    [1, 0]
    """

    name: str
    unit: str
    sums: tuple[str, ...]
    carries_output: bool

    def check(self, vocabulary_size: int) -> None:  # noqa: B027, most have nothing to check
        """Raise `ValueError` if it is not made for so many words. Called before training."""

    @abc.abstractmethod
    def propose(
        self,
        sums: dict[str, np.ndarray],
        weights: OutputWeights,
        allocation: Allocation,
        prices: np.ndarray | None = None,
    ) -> Proposal:
        """Return the best allocation found.

        Args:
            sums: By name, those that `sums` asks for, `(V, H)`, and `counts`, `(V,)`.
            weights: The output weights.
            allocation: The allocation that the sums were taken under.
            prices: What the last proposal's `prices` were, or `None`.

        Raises:
            ValueError: if a sum is not finite or nothing was counted.
        """


def check_sums(sums: dict[str, np.ndarray]) -> None:
    """Raise `ValueError` unless all sums are finite, over at least one word."""
    num_bad = sum(int((~np.isfinite(values)).sum()) for values in sums.values())
    counts: Any = sums["counts"]
    if num_bad or not counts.any():
        raise ValueError(
            "A reallocation round needs finite sums over at least one word. Received: "
            f"{num_bad} numbers that are NaN or infinite, {counts.sum():.0f} words. Table and "
            "weights are unchanged. Lower the learning rate or clip gradients if the loss is NaN."
        )
