"""Interface of reallocation objectives."""

from __future__ import annotations

import abc
import enum
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


class ProposalStatus(enum.Enum):
    """How the search for an allocation ended.

    The first five are statuses of `keras_lightrnn.assignment` solvers.

    Example:

    >>> ProposalStatus("time_limit")
    <ProposalStatus.TIME_LIMIT: 'time_limit'>
    """

    OPTIMAL = "optimal"
    CONVERGED = "converged"
    ROUND_LIMIT = "round_limit"
    TIME_LIMIT = "time_limit"
    INTERRUPTED = "interrupted"
    CLUSTERED = "clustered"
    KEPT = "kept"


@dataclass(frozen=True)
class Proposal:
    """An allocation that an objective proposes, with its cost.

    Attributes:
        allocation: The `Allocation`; never worse than the one it was made from.
        cost_before: Float, cost of the old allocation, in the objective's `unit`.
        cost: Float, cost of the new allocation.
        gap: Float, an upper bound on how far `cost` is from the best possible, or `None` if it is
            not certified.
        status: `ProposalStatus`. A round whose search was `INTERRUPTED` ends `fit`.
        prices: Array from which the next round's search may start, or `None`.

    Example:

    >>> proposal = Proposal(Allocation([1, 0], 1, 2), 3.0, 2.5, None, ProposalStatus.CLUSTERED)
    >>> proposal.cost_before - proposal.cost
    0.5
    """

    allocation: Allocation
    cost_before: float
    cost: float
    gap: float | None
    status: ProposalStatus
    prices: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the proposal as arrays and JSON values, to send it to another process."""
        return {
            "cells": self.allocation.cells,
            "table_shape": list(self.allocation.shape),
            "cost_before": float(self.cost_before),
            "cost": float(self.cost),
            "gap": None if self.gap is None else float(self.gap),
            "status": self.status.value,
            "prices": self.prices,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Proposal:
        """Return the proposal that `to_dict` was called on."""
        values = dict(values)
        allocation = Allocation(values.pop("cells"), *values.pop("table_shape"))
        return cls(allocation, **{**values, "status": ProposalStatus(values["status"])})


class ReallocationObjective(abc.ABC):
    """Proposes an allocation from sums over a training run.

    An objective only reads arrays and returns a `Proposal`. `ReallocationCallback` decides when,
    collects the sums and installs the proposal. In a model with several tables it calls `propose`
    for one table at a time, with the sums and weights of that table.

    Attributes:
        unit: String, the unit of the costs.
        sums: Names of the sums of `HalfStepStatistics` that it needs.
        carries_output: Boolean, whether the output vectors of rows and columns follow the words
            that move, as the input vectors always do.

    Example:

    >>> class Frequency(ReallocationObjective):
    ...     unit, sums, carries_output = "words", (), True
    ...     def propose(self, sums, weights, allocation, prices=None):
    ...         order = np.argsort(-sums["counts"], kind="stable")
    ...         new = Allocation(np.argsort(order), allocation.num_rows, allocation.num_columns)
    ...         moved = float(new.count_moved(allocation))
    ...         return Proposal(new, moved, 0.0, None, ProposalStatus.OPTIMAL)
    >>> weights = OutputWeights(np.zeros((1, 1)), None, np.zeros((2, 1)), None)
    >>> sums = {"counts": np.array([1, 9])}
    >>> proposal = Frequency().propose(sums, weights, Allocation([0, 1], 1, 2))
    >>> proposal.allocation.cells.tolist()
    [1, 0]
    """

    unit: str
    sums: tuple[str, ...]
    carries_output: bool

    def check(self, vocabulary_size: int) -> None:  # noqa: B027, most have nothing to check
        """Raise `ValueError` if the objective does not fit a vocabulary. Called before training."""

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
            sums: By name, the sums that the attribute `sums` lists, `(V, H)`, and `counts`, `(V,)`.
                With several tables, a word counts by the share of this table in its prediction.
            weights: The output weights.
            allocation: The allocation under which the sums were collected.
            prices: The `prices` of the last proposal for this table, or `None`.

        Raises:
            ValueError: if a sum is not finite or nothing was counted.
        """


def check_sums(sums: dict[str, np.ndarray]) -> None:
    """Raise `ValueError` unless all sums are finite and at least one word was counted."""
    num_bad = sum(int((~np.isfinite(values)).sum()) for values in sums.values())
    counts: Any = sums["counts"]
    if num_bad or not counts.any():
        raise ValueError(
            "A reallocation round needs finite sums over at least one word. Received: "
            f"{num_bad} values that are NaN or infinite, {counts.sum():.0f} words. Table and "
            "weights are unchanged. Lower the learning rate or clip gradients if the loss is NaN."
        )
