"""Alternating exact assignments of columns and rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn.assignment.solution import AssignmentStatus
from keras_lightrnn.assignment.solver import AssignmentSolver, SolverRun


class AlternatingSolver(AssignmentSolver):
    """Coordinate descent: `R` exact column assignments, then `C` exact row assignments.

    For fixed rows the columns are `R` independent `C x C` assignment problems, which
    `scipy.optimize.linear_sum_assignment` solves exactly. For fixed columns the rows are `C` such
    problems. No sweep raises the cost. The result is an allocation that neither half can improve.
    The solver needs memory for one row of the table at a time.

    The bound puts every word into its cheapest cell, so the gap is loose.

    Args:
        max_sweeps: Integer, the largest number of sweeps over rows and columns. Defaults to 20.
        tolerance: Float. The solver stops when a sweep gains less than this share of the gain of
            all sweeps. Defaults to 1e-4.
        time_limit_seconds: Positive float, or `None`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> from keras_lightrnn.assignment import AssignmentProblem
    >>> generator = np.random.default_rng(0)
    >>> problem = AssignmentProblem.from_costs(generator.random((9, 3)), generator.random((9, 3)))
    >>> solution = AlternatingSolver().solve(problem)
    >>> str(solution.status), solution.primal_cost < problem.compute_reference_costs()[1]
    ('converged', True)
    """

    def __init__(
        self,
        max_sweeps: int = 20,
        tolerance: float = 1e-4,
        time_limit_seconds: float | None = None,
    ) -> None:
        super().__init__(time_limit_seconds)
        check_size("max_sweeps", max_sweeps)
        if not tolerance >= 0:
            raise ValueError(f"`tolerance` must not be negative. Received: tolerance={tolerance}.")
        self.max_sweeps = max_sweeps
        self.tolerance = tolerance

    def improve(self, run: SolverRun) -> tuple[AssignmentStatus, str]:
        problem = run.problem
        run.offer_bound(problem.compute_reference_costs()[0])
        run.check_time()
        start_cost = run.primal_cost
        rows = run.allocation.rows.astype(np.int64)
        columns = run.allocation.columns.astype(np.int64)
        for _ in range(self.max_sweeps):
            cost = run.primal_cost
            try:
                _assign_within(rows, columns, problem.num_rows, problem.compute_column_costs, run)
                _assign_within(columns, rows, problem.num_columns, problem.compute_row_costs, run)
            finally:
                # Between two groups no words share a cell, so an early stop loses nothing.
                run.offer_allocation(rows * problem.num_columns + columns)
            run.num_rounds += 1
            run.check_time()
            if cost - run.primal_cost <= self.tolerance * (start_cost - run.primal_cost):
                return (
                    AssignmentStatus.CONVERGED,
                    "No row and no column can be arranged at notably lower cost.",
                )
        return AssignmentStatus.ROUND_LIMIT, (
            f"Stopped after max_sweeps={self.max_sweeps} sweeps. Raise it for a better allocation, "
            "or use `AuctionSolver`, which does not stop at local optima."
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "max_sweeps": self.max_sweeps,
            "tolerance": self.tolerance,
            **super().get_config(),
        }


def _assign_within(
    groups: np.ndarray,
    places: np.ndarray,
    num_groups: int,
    compute_costs: Callable[[np.ndarray], np.ndarray],
    run: SolverRun,
) -> None:
    """Arrange the words of each group (say, a row) exactly; change `places` (their columns)."""
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(num_groups + 1))
    for group in range(num_groups):
        words = order[bounds[group] : bounds[group + 1]]
        if words.size:
            places[words] = linear_sum_assignment(compute_costs(words))[1]
        if group % 16 == 0:
            run.check_time()
