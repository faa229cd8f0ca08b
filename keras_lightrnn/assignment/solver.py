"""The base class of the solvers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from keras_lightrnn.assignment.problem import AssignmentProblem
from keras_lightrnn.assignment.solution import AssignmentSolution, AssignmentStatus
from keras_lightrnn.table.allocation import Allocation


class AssignmentSolver:
    """Turns an `AssignmentProblem` into an `AssignmentSolution`.

    A solver is a value: its constructor arguments are attributes and the entries of
    `get_config`, and `solve` does not change it. A subclass implements `improve`, which
    improves a `SolverRun` and returns a status with a message. This class handles the time
    limit and interruption, and never returns an allocation worse than `initial`.

    Args:
        time_limit_seconds: Positive float, or `None` for no limit. It is checked between steps
            of a fraction of a second (a few seconds on the largest problems).

    Raises:
        ValueError: if the limit is not positive.

    Example:

    >>> from keras_lightrnn.assignment import AlternatingSolver, AssignmentProblem
    >>> problem = AssignmentProblem.from_costs([[0, 1], [1, 0]], [[0.0], [0.0]])
    >>> solver = AlternatingSolver(time_limit_seconds=60)
    >>> solver.solve(problem, initial=Allocation([1, 0], 2, 1)).primal_cost
    0.0
    >>> AlternatingSolver.from_config(solver.get_config()).time_limit_seconds
    60
    """

    # What `solve` returns when it is stopped, for the message.
    early_stop_returns = "the best allocation found so far"

    def __init__(self, time_limit_seconds: float | None = None) -> None:
        if time_limit_seconds is not None and not time_limit_seconds > 0:
            raise ValueError(
                "`time_limit_seconds` must be positive, or `None` for no limit. Received: "
                f"time_limit_seconds={time_limit_seconds}."
            )
        self.time_limit_seconds = time_limit_seconds

    def solve(
        self,
        problem: AssignmentProblem,
        initial: Allocation | None = None,
        *,
        prices: Any = None,
    ) -> AssignmentSolution:
        """Find an allocation of low cost.

        Args:
            problem: `AssignmentProblem`.
            initial: The `Allocation` to start from. The result is never worse. `None` starts
                from the words in the order of their ids.
            prices: `(R, C)` prices of an earlier solution, in nats, or `None`. Solvers without
                prices ignore them.

        Returns:
            `AssignmentSolution`. After `KeyboardInterrupt` its status is
            `AssignmentStatus.INTERRUPTED`, after the time limit `AssignmentStatus.TIME_LIMIT`.

        Raises:
            ValueError: if `initial` or `prices` do not fit the problem.
        """
        run = SolverRun(problem, initial, prices, self.time_limit_seconds)
        try:
            status, message = self.improve(run)
        except OutOfTime:
            status = AssignmentStatus.TIME_LIMIT
            message = (
                f"Stopped after {self.time_limit_seconds} s with {self.early_stop_returns}. Raise "
                "`time_limit_seconds` for a better one."
            )
        except KeyboardInterrupt:
            status = AssignmentStatus.INTERRUPTED
            message = f"Interrupted from the keyboard; this is {self.early_stop_returns}."
        return AssignmentSolution(
            allocation=run.allocation,
            primal_cost=run.primal_cost,
            dual_bound=run.dual_bound,
            status=AssignmentStatus(status),
            message=message,
            prices=run.prices,
            num_rounds=run.num_rounds,
            solve_seconds=run.elapsed_seconds,
            statistics=run.statistics,
        )

    def improve(self, run: SolverRun) -> tuple[AssignmentStatus, str]:
        """Improve `run` until the method ends; return a status and a message."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {"time_limit_seconds": self.time_limit_seconds}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AssignmentSolver:
        """Return a solver made from a result of `get_config`."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class OutOfTime(Exception):
    """Raised by `SolverRun.check_time` after the time limit."""


class SolverRun:
    """The state of one call of `solve`: the best allocation and the best bound so far."""

    def __init__(
        self,
        problem: AssignmentProblem,
        initial: Allocation | None,
        prices: Any,
        time_limit_seconds: float | None,
    ) -> None:
        self._start = time.perf_counter()
        self._time_limit_seconds = time_limit_seconds
        self.problem = problem
        if initial is None:
            initial = Allocation.by_frequency(problem.vocabulary_size, *problem.shape)
        self.allocation = initial
        self.primal_cost = problem.compute_cost(initial)  # checks that it fits
        # No allocation can cost less; this bound needs no computation.
        self.dual_bound = -2.0 * problem.compute_magnitude() * problem.vocabulary_size
        self.initial_prices = None if prices is None else _check_prices(prices, problem.shape)
        self.prices: np.ndarray | None = None  # of the solution, if the method has any
        self.num_rounds = 0
        self.statistics: dict[str, int] = {}

    @property
    def elapsed_seconds(self) -> float:
        return time.perf_counter() - self._start

    def offer_allocation(self, cells: np.ndarray) -> float:
        """Keep an allocation if it is the best so far; return its cost."""
        allocation = Allocation(cells, *self.problem.shape)
        cost = self.problem.compute_cost(allocation)
        if cost < self.primal_cost:
            self.allocation, self.primal_cost = allocation, cost
        return cost

    def offer_bound(self, bound: float) -> None:
        """Keep a lower bound if it is the best so far."""
        self.dual_bound = max(self.dual_bound, bound)

    def check_time(self) -> None:
        """Raise `OutOfTime` after the time limit. Methods call it between steps."""
        if self._time_limit_seconds is not None and self.elapsed_seconds > self._time_limit_seconds:
            raise OutOfTime


def _check_prices(prices: Any, shape: tuple[int, int]) -> np.ndarray:
    prices = np.array(prices, np.float64)  # a copy: solvers change it
    if prices.shape != shape:
        raise ValueError(
            "`prices` must hold one number for each cell of the table. Received: "
            f"prices.shape={prices.shape} for a table of shape {shape}."
        )
    if not np.isfinite(prices).all():
        raise ValueError(
            "`prices` must be finite. Received: "
            f"{np.count_nonzero(~np.isfinite(prices))} prices that are not. Omit `prices` to "
            "start without any."
        )
    return prices
