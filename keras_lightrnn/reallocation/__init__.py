"""Reallocation objectives: score an allocation and propose a better one (NumPy only)."""

from __future__ import annotations

from typing import Any

from keras_lightrnn.reallocation.likelihood import LikelihoodObjective
from keras_lightrnn.reallocation.objective import (
    OutputWeights,
    Proposal,
    ProposalStatus,
    ReallocationObjective,
)
from keras_lightrnn.reallocation.similarity import SimilarityObjective

__all__ = [
    "LikelihoodObjective",
    "OutputWeights",
    "Proposal",
    "ProposalStatus",
    "ReallocationObjective",
    "SimilarityObjective",
    "get",
]

_OBJECTIVES = {"likelihood": LikelihoodObjective, "similarity": SimilarityObjective}


def get(identifier: Any) -> ReallocationObjective:
    """Return an objective by name, or an objective unchanged.

    Args:
        identifier: `"similarity"`, `"likelihood"`, or a `ReallocationObjective`.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if `identifier` is neither a name nor an objective.

    Example:

    >>> get("likelihood").unit
    'nats/word'
    """
    if isinstance(identifier, ReallocationObjective):
        return identifier
    if not isinstance(identifier, str):
        raise TypeError(
            "A reallocation objective must be a name or a `ReallocationObjective`. Received: "
            f"{identifier!r} (of type {type(identifier).__name__})."
        )
    if identifier not in _OBJECTIVES:
        raise ValueError(
            f"A reallocation objective must be one of {sorted(_OBJECTIVES)}. Received: "
            f"{identifier!r}."
        )
    return _OBJECTIVES[identifier]()
