"""Separable assignment problems: words into the cells of a table, at the least cost.

Needs NumPy, SciPy and Numba only.
"""

from __future__ import annotations

from typing import Any

from keras_lightrnn.assignment.alternating import AlternatingSolver
from keras_lightrnn.assignment.auction import AuctionSolver
from keras_lightrnn.assignment.exact import ExactSolver
from keras_lightrnn.assignment.greedy import GreedySolver
from keras_lightrnn.assignment.problem import AssignmentProblem
from keras_lightrnn.assignment.solution import AssignmentSolution
from keras_lightrnn.assignment.solver import AssignmentSolver

__all__ = [
    "AlternatingSolver",
    "AssignmentProblem",
    "AssignmentSolution",
    "AssignmentSolver",
    "AuctionSolver",
    "ExactSolver",
    "GreedySolver",
    "get",
    "serialize",
]

_SOLVERS: dict[str, type[AssignmentSolver]] = {
    "alternating": AlternatingSolver,
    "auction": AuctionSolver,
    "exact": ExactSolver,
    "greedy": GreedySolver,
}


def get(identifier: Any) -> AssignmentSolver:
    """Return a solver: by name, from a dictionary that `serialize` made, or as it is.

    Args:
        identifier: `"auction"`, `"exact"`, `"alternating"` or `"greedy"`; a dictionary with
            `class_name` (such a name, or the name of the class) and, if need be, `config`;
            or an `AssignmentSolver`.

    Returns:
        `AssignmentSolver`.

    Raises:
        ValueError: if there is no such solver.

    Example:

    >>> get("alternating").max_sweeps
    20
    >>> get({"class_name": "alternating", "config": {"max_sweeps": 3}}).max_sweeps
    3
    """
    if isinstance(identifier, AssignmentSolver):
        return identifier
    name, config = identifier, {}
    if isinstance(identifier, dict):
        name, config = identifier.get("class_name"), identifier.get("config", {})
    if isinstance(name, str):
        for short_name, solver in _SOLVERS.items():
            if name.lower() in (short_name, solver.__name__.lower()):
                return solver.from_config(config)
    raise ValueError(
        f"A solver must be one of {sorted(_SOLVERS)}, a dictionary with `class_name` and `config`, "
        f"or an `AssignmentSolver`. Received: identifier={identifier!r}."
    )


def serialize(solver: AssignmentSolver) -> dict[str, Any]:
    """Return a dictionary that `get` makes an equal solver from.

    Example:

    >>> get(serialize(AlternatingSolver(max_sweeps=3))).max_sweeps
    3
    """
    return {"class_name": type(solver).__name__, "config": solver.get_config()}
