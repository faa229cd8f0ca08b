"""Exact optima of small problems."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from keras_lightrnn._internal.checks import check_not_negative
from keras_lightrnn.assignment.solution import AssignmentStatus
from keras_lightrnn.assignment.solver import AssignmentSolver, SolverRun


class ExactSolver(AssignmentSolver):
    """The optimum, by `scipy.optimize.linear_sum_assignment` on the `V x (R * C)` matrix.

    Use it for small problems and as an oracle. The matrix takes `8 * V * R * C` bytes, and the
    time grows with the cube of `V` (10,000 words: 800 MB and half a minute). The solver
    has no time limit and cannot be interrupted while SciPy runs.

    Args:
        max_matrix_bytes: Integer, the largest matrix allowed, in bytes. Defaults to 2 GiB.

    Raises:
        ValueError: if `max_matrix_bytes` is not an integer or is negative; from `solve`, if the
            matrix would be larger.

    Example:

    >>> from keras_lightrnn.assignment import AssignmentProblem
    >>> problem = AssignmentProblem.from_costs([[3, 1], [2, 0]], [[0, 1, 5], [0, 4, 5]])
    >>> solution = ExactSolver().solve(problem)
    >>> solution.allocation.cells.tolist(), solution.primal_cost, solution.duality_gap
    ([4, 3], 2.0, 0.0)
    """

    def __init__(self, max_matrix_bytes: int = 2**31) -> None:
        super().__init__()
        self.max_matrix_bytes = check_not_negative("max_matrix_bytes", max_matrix_bytes)

    def improve(self, run: SolverRun) -> tuple[AssignmentStatus, str]:
        problem = run.problem
        matrix_bytes = 8 * problem.vocabulary_size * problem.num_cells
        if matrix_bytes > self.max_matrix_bytes:
            raise ValueError(
                "The exact solver needs the matrix of all words and cells, which must take at most "
                f"`max_matrix_bytes`={self.max_matrix_bytes} bytes. Received: {problem!r}, whose "
                f"matrix takes {matrix_bytes} bytes. Use `AuctionSolver`, which needs no matrix "
                "and bounds its distance from the optimum, or raise `max_matrix_bytes`."
            )
        costs = (  # (V, R, C)
            problem.compute_row_costs()[:, :, None] + problem.compute_column_costs()[:, None, :]
        )
        _, cells = linear_sum_assignment(costs.reshape(problem.vocabulary_size, -1))
        run.num_rounds = 1
        run.offer_bound(run.offer_allocation(np.asarray(cells)))
        # The initial allocation may cost as little, or less by a rounding; then it is kept.
        run.dual_bound = min(run.dual_bound, run.primal_cost)
        return AssignmentStatus.OPTIMAL, "The exact optimum."

    def get_config(self) -> dict[str, Any]:
        return {"max_matrix_bytes": self.max_matrix_bytes}
