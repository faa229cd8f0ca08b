"""What becomes of shared vectors, and of an optimizer's slots of them, when words move."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops
from scipy import sparse


def compute_changes(
    variables: Iterable[Any],
    optimizer: Any,
    old_groups: np.ndarray,
    new_groups: np.ndarray,
    counts: np.ndarray,
) -> list[tuple[Any, Any]]:
    """Return the weights that change when words move, and the values that they are to have.

    Args:
        variables: Weights with one vector or number for each row, or for each column; `None` among
            them stands for none.
        optimizer: The Keras optimizer, whose slots of these weights change as they do; or `None`.
        old_groups, new_groups, counts: See `carry_vectors`.
    """
    changes = []
    for variable in variables:
        if variable is None:
            continue
        for weight in (variable, *_find_slots(optimizer, variable)):
            values: Any = ops.convert_to_numpy(weight)
            values = carry_vectors(values, old_groups, new_groups, counts)
            if weight is variable and variable.constraint is not None:
                values = variable.constraint(ops.convert_to_tensor(values))
            changes.append((weight, values))
    return changes


def carry_vectors(
    vectors: np.ndarray, old_groups: np.ndarray, new_groups: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Return shared vectors for new groups: means of what their words had, weighted by counts.

    Args:
        vectors: `(R, D)`, one vector a group, or `(R,)`, one number.
        old_groups: `(V,)`, the group of each word until now.
        new_groups: `(V,)`, its group from now on.
        counts: `(V,)`, occurrences of each word.

    Returns:
        Of the shape and type of `vectors`. A group none of whose words occurs keeps its vector.

    Example:

    >>> vectors = np.array([[0.0], [4.0]])
    >>> carry_vectors(vectors, [0, 0, 1], [0, 1, 1], counts=[1, 1, 3]).ravel().tolist()
    [0.0, 3.0]
    """
    size = len(vectors)
    flow = sparse.csr_matrix((counts, (new_groups, old_groups)), shape=(size, size))
    totals = np.asarray(flow.sum(axis=1)).ravel()
    flat = vectors.reshape(size, -1)
    means = (flow @ flat.astype(np.float64)) / np.maximum(totals, 1e-30)[:, None]
    return np.where(totals[:, None] > 0, means, flat).astype(vectors.dtype).reshape(vectors.shape)


def _find_slots(optimizer: Any, variable: Any) -> list[Any]:
    """Return the optimizer's variables that shadow a weight: moments and the like."""
    if optimizer is None:
        return []
    prefix = variable.path.replace("/", "_") + "_"
    return [
        slot
        for slot in optimizer.variables
        if slot.name.startswith(prefix) and slot.shape == variable.shape
    ]
