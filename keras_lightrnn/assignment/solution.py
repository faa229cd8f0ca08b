"""The result of a solver."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np

from keras_lightrnn.table.allocation import Allocation


class AssignmentStatus(str, enum.Enum):
    """Why a solver stopped.

    A member equals its value, so it can be written to JSON and compared with a string.

    Attributes:
        OPTIMAL: `"optimal"`, the cost is within the solver's tolerance, as the bound proves.
        CONVERGED: `"converged"`, the method ended; nothing is claimed beyond the bound.
        ROUND_LIMIT: `"round_limit"`, the solver ran out of rounds.
        TIME_LIMIT: `"time_limit"`, the solver ran out of time.
        INTERRUPTED: `"interrupted"`, `KeyboardInterrupt` stopped the solver.

    Example:

    >>> from keras_lightrnn import assignment
    >>> problem = assignment.AssignmentProblem.from_costs([[0.0], [0.0]], [[0, 1], [2, 1]])
    >>> solution = assignment.ExactSolver().solve(problem)
    >>> solution.status is AssignmentStatus.OPTIMAL, str(solution.status), solution.status.is_early
    (True, 'optimal', False)
    """

    OPTIMAL = "optimal"
    CONVERGED = "converged"
    ROUND_LIMIT = "round_limit"
    TIME_LIMIT = "time_limit"
    INTERRUPTED = "interrupted"

    # Python 3.10 and 3.12 differ in how they format an enum that is a string.
    def __str__(self) -> str:
        return self.value

    def __format__(self, format_spec: str) -> str:
        return format(self.value, format_spec)

    @property
    def is_early(self) -> bool:
        """Whether the solver was stopped before its method ended."""
        return self not in (AssignmentStatus.OPTIMAL, AssignmentStatus.CONVERGED)


@dataclasses.dataclass(frozen=True, eq=False)
class AssignmentSolution:
    """An allocation, its cost, and a bound on its distance from the optimum.

    Every allocation of the problem costs at least `dual_bound`, so this one costs at most
    `duality_gap` more than the best.

    Attributes:
        allocation: `Allocation`, feasible whatever the status.
        primal_cost: Float, the cost of the allocation in nats, summed in float64.
        dual_bound: Float, a lower bound in nats on the cost of every allocation.
        status: `AssignmentStatus`. If the solver stopped early, the solution holds the best
            allocation found until then.
        message: String, explains the status and says how to get a better solution.
        prices: `(R, C)` float64, in nats, the prices of the cells at the end. Pass them to the
            next `solve` of a similar problem. `None` for solvers without prices.
        num_rounds: Integer, rounds of the method (see the solver).
        solve_seconds: Float, wall time.
        statistics: Dictionary of integers, counters of the solver; empty for most solvers.

    Example:

    >>> from keras_lightrnn import assignment
    >>> problem = assignment.AssignmentProblem.from_costs([[0.0], [0.0]], [[0, 1], [2, 1]])
    >>> solution = assignment.ExactSolver().solve(problem)
    >>> solution.allocation.cells.tolist(), solution.primal_cost, solution.message
    ([0, 1], 1.0, 'The exact optimum.')
    """

    allocation: Allocation
    primal_cost: float
    dual_bound: float
    status: AssignmentStatus
    message: str
    prices: np.ndarray | None = dataclasses.field(repr=False)
    num_rounds: int
    solve_seconds: float
    statistics: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def duality_gap(self) -> float:
        """`primal_cost - dual_bound` in nats, not negative."""
        return max(0.0, self.primal_cost - self.dual_bound)
