"""What a solver returns."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_lightrnn.table.allocation import Allocation


@dataclasses.dataclass(frozen=True, eq=False)
class AssignmentSolution:
    """An allocation, what it costs, and how far from the optimum it can be at most.

    Every allocation of the problem costs at least `dual_bound`, so this one costs at most
    `duality_gap` more than the best.

    Attributes:
        allocation: `Allocation`, feasible whatever the status.
        primal_cost: Float, its cost in nats, added up in float64.
        dual_bound: Float, a lower bound in nats on the cost of every allocation.
        status: One of `"optimal"` (within the solver's tolerance, certified by the bound),
            `"converged"` (the method came to its end; nothing is claimed beyond the bound),
            `"round_limit"`, `"time_limit"` and `"interrupted"` (stopped early, with the best
            allocation found so far).
        message: String, the status in a sentence, with what to do about it.
        prices: `(R, C)` float64, in nats, what the cells cost at the end: give them to the
            next `solve` of a similar problem. `None` for solvers without prices.
        num_rounds: Integer, rounds of the method (see the solver).
        solve_seconds: Float, wall time.
        statistics: Dictionary of integers, what the solver counted; empty for most.

    Example:

    >>> from keras_lightrnn import assignment
    >>> problem = assignment.AssignmentProblem.from_costs([[0.0], [0.0]], [[0, 1], [2, 1]])
    >>> solution = assignment.ExactSolver().solve(problem)
    >>> solution.allocation.cells.tolist(), solution.primal_cost, solution.status
    ([0, 1], 1.0, 'optimal')
    """

    allocation: Allocation
    primal_cost: float
    dual_bound: float
    status: str
    message: str
    prices: np.ndarray | None = dataclasses.field(repr=False)
    num_rounds: int
    solve_seconds: float
    statistics: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def duality_gap(self) -> float:
        """`primal_cost - dual_bound`, in nats; rounding may not make it negative."""
        return max(0.0, self.primal_cost - self.dual_bound)
