"""The base class of the solvers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_lightrnn.assignment.problem import AssignmentProblem
from keras_lightrnn.assignment.solution import AssignmentSolution
from keras_lightrnn.table.allocation import Allocation

Progress = Callable[[dict[str, Any]], None]


class AssignmentSolver:
    """Turns an `AssignmentProblem` into an `AssignmentSolution`.

    A solver is a value: its constructor arguments are attributes and make up `get_config`,
    and `solve` changes nothing in it. A subclass implements `improve`, which improves the
    `SolverRun` it is given and returns a status with a message; limits of time,
    interruption and the promise never to return anything worse than `initial` are kept here.

    Args:
        time_limit_seconds: Positive float, or `None` for no limit. Looked at between steps
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
        progress: Progress | None = None,
    ) -> AssignmentSolution:
        """Find an allocation of low cost.

        Args:
            problem: `AssignmentProblem`.
            initial: `Allocation` to start from and never to be worse than; `None` starts
                from the words in the order of their ids.
            prices: `(R, C)` prices of an earlier solution, in nats, or `None`. Used by
                solvers that have prices, otherwise ignored.
            progress: Called now and then with a dictionary: `num_rounds`, `primal_cost`
                (the best so far), `dual_bound`, `num_unassigned`, `elapsed_seconds`.

        Returns:
            `AssignmentSolution`. `KeyboardInterrupt` ends the search and is told by the
            status `"interrupted"`, as running out of time is by `"time_limit"`.

        Raises:
            ValueError: if `initial` or `prices` do not fit the problem.
        """
        run = SolverRun(problem, initial, prices, progress, self.time_limit_seconds)
        try:
            status, message = self.improve(run)
        except OutOfTime:
            status = "time_limit"
            message = (
                f"Stopped after {self.time_limit_seconds} s with {self.early_stop_returns}. Raise "
                "`time_limit_seconds` for a better one."
            )
        except KeyboardInterrupt:
            status = "interrupted"
            message = f"Interrupted from the keyboard; this is {self.early_stop_returns}."
        return AssignmentSolution(
            allocation=run.allocation,
            primal_cost=run.primal_cost,
            dual_bound=run.dual_bound,
            status=status,
            message=message,
            prices=run.prices,
            num_rounds=run.num_rounds,
            solve_seconds=run.elapsed_seconds,
            statistics=run.statistics,
        )

    def improve(self, run: SolverRun) -> tuple[str, str]:
        """Improve `run` to the end of the method; return a status and a message."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {"time_limit_seconds": self.time_limit_seconds}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AssignmentSolver:
        """Make a solver from what `get_config` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class OutOfTime(Exception):
    """Raised by `SolverRun.report` when the time limit has passed."""


class SolverRun:
    """What one call of `solve` knows: the best allocation and the best bound so far."""

    def __init__(
        self,
        problem: AssignmentProblem,
        initial: Allocation | None,
        prices: Any,
        progress: Progress | None,
        time_limit_seconds: float | None,
    ) -> None:
        self._start = time.perf_counter()
        self._progress = progress
        self._time_limit_seconds = time_limit_seconds
        self.problem = problem
        if initial is None:
            initial = Allocation.by_frequency(problem.vocabulary_size, *problem.shape)
        self.allocation = initial
        self.primal_cost = problem.compute_cost(initial)  # checks that it fits
        # No cost can lie below: at least this much is known before anything is computed.
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

    def report(self, num_unassigned: int = 0) -> None:
        """Call the progress function; raise `OutOfTime` once the limit has passed."""
        if self._progress is not None:
            self._progress(
                {
                    "num_rounds": self.num_rounds,
                    "primal_cost": self.primal_cost,
                    "dual_bound": self.dual_bound,
                    "num_unassigned": num_unassigned,
                    "elapsed_seconds": self.elapsed_seconds,
                }
            )
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
            f"{np.count_nonzero(~np.isfinite(prices))} prices that are not. Leave `prices` out to "
            "start from none."
        )
    return prices
