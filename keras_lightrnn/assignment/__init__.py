"""Separable assignment problems: put words into the cells of a table at the least cost.

This package needs NumPy, SciPy and Numba only. Numba is imported by the first `solve` that needs
compiled loops.
"""

from __future__ import annotations

from typing import Any

from keras_lightrnn.assignment.alternating import AlternatingSolver
from keras_lightrnn.assignment.auction import AuctionSolver
from keras_lightrnn.assignment.exact import ExactSolver
from keras_lightrnn.assignment.greedy import GreedySolver
from keras_lightrnn.assignment.problem import AssignmentProblem
from keras_lightrnn.assignment.solution import AssignmentSolution, AssignmentStatus
from keras_lightrnn.assignment.solver import AssignmentSolver

__all__ = [
    "AlternatingSolver",
    "AssignmentProblem",
    "AssignmentSolution",
    "AssignmentSolver",
    "AssignmentStatus",
    "AuctionSolver",
    "ExactSolver",
    "GreedySolver",
    "get",
]

_SOLVERS: dict[str, type[AssignmentSolver]] = {
    "alternating": AlternatingSolver,
    "auction": AuctionSolver,
    "exact": ExactSolver,
    "greedy": GreedySolver,
}


def get(identifier: Any) -> AssignmentSolver:
    """Return a solver by name, or the solver that is given.

    Args:
        identifier: `"auction"`, `"exact"`, `"alternating"`, `"greedy"`, or an
            `AssignmentSolver`.

    Returns:
        `AssignmentSolver`, with default arguments if a name was given.

    Raises:
        ValueError: if no solver has this name.

    Example:

    >>> get("alternating").max_sweeps
    20
    """
    if isinstance(identifier, AssignmentSolver):
        return identifier
    if isinstance(identifier, str) and identifier.lower() in _SOLVERS:
        return _SOLVERS[identifier.lower()]()
    raise ValueError(
        f"A solver must be one of {sorted(_SOLVERS)}, or an `AssignmentSolver`. Received: "
        f"identifier={identifier!r}."
    )
