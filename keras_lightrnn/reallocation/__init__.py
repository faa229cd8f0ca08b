"""What a better table is: objectives of reallocation, in NumPy, apart from when and by whom."""

from __future__ import annotations

from typing import Any

from keras_lightrnn.reallocation.likelihood import LikelihoodObjective
from keras_lightrnn.reallocation.objective import OutputWeights, Proposal, ReallocationObjective
from keras_lightrnn.reallocation.similarity import SimilarityObjective

__all__ = [
    "LikelihoodObjective",
    "OutputWeights",
    "Proposal",
    "ReallocationObjective",
    "SimilarityObjective",
    "get",
]

_OBJECTIVES = {"likelihood": LikelihoodObjective, "similarity": SimilarityObjective}


def get(identifier: Any) -> ReallocationObjective:
    """Return an objective by name, `"similarity"` or `"likelihood"`, or as it is.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if it is neither a name nor an objective.

    Example:

    >>> get("likelihood").name
    'likelihood'
    """
    if isinstance(identifier, ReallocationObjective):
        return identifier
    if not isinstance(identifier, str):
        raise TypeError(
            "A reallocation objective is a name or a `ReallocationObjective`. Received: "
            f"{identifier!r} (of type {type(identifier).__name__})."
        )
    if identifier not in _OBJECTIVES:
        raise ValueError(
            f"A reallocation objective must be one of {sorted(_OBJECTIVES)}. Received: "
            f"{identifier!r}."
        )
    return _OBJECTIVES[identifier]()
