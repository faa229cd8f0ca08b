"""Shared vectors and their optimizer slots when words move."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy import sparse

from keras_lightrnn._internal.typing import Tensor


def list_indexed_weights(
    layers: Iterable[keras.layers.Layer], table_shape: tuple[int, int]
) -> tuple[list[keras.Variable], list[keras.Variable]]:
    """Return the weights of layers that are indexed by rows and by columns, each weight once.

    Args:
        layers: Keras layers. Their properties `row_weights` and `column_weights`, if they have
            them, list weights whose first axis is the rows, or the columns, of the table.
        table_shape: `(R, C)`.

    Raises:
        ValueError: if the first axis of a weight has another size.
    """
    weights: tuple[dict[int, keras.Variable], dict[int, keras.Variable]] = ({}, {})
    for layer in layers:
        for found, name, size in zip(
            weights, ("row_weights", "column_weights"), table_shape, strict=True
        ):
            for weight in getattr(layer, name, ()):
                if not weight.shape or weight.shape[0] != size:
                    raise ValueError(
                        f"`{name}` must list weights whose first axis has the size {size}. "
                        f"Received: {weight.path!r} of shape {tuple(weight.shape)} from the layer "
                        f"{layer.name!r}."
                    )
                found[id(weight)] = weight
    by_row, by_column = weights
    return list(by_row.values()), list(by_column.values())


def compute_changes(
    variables: Iterable[keras.Variable],
    optimizer: keras.optimizers.Optimizer | None,
    old_groups: np.ndarray,
    new_groups: np.ndarray,
    counts: np.ndarray,
) -> list[tuple[keras.Variable, Tensor]]:
    """Return the weights that change when words move, each with its new value.

    Args:
        variables: Weights with one vector or number for each row, or for each column.
        optimizer: The Keras optimizer, whose slots of these weights change alike; or `None`.
        old_groups, new_groups, counts: See `carry_vectors`.
    """
    changes = []
    for variable in variables:
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
    """Return shared vectors of new groups: the mean vector of their words, weighted by counts.

    Args:
        vectors: `(R, ...)`, a vector or number for each group.
        old_groups: `(V,)`, the group of each word before.
        new_groups: `(V,)`, the group of each word after.
        counts: `(V,)`, occurrences of each word.

    Returns:
        An array of the shape and type of `vectors`. A group whose words never occur keeps its
        vector.

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


def _find_slots(
    optimizer: keras.optimizers.Optimizer | None, variable: keras.Variable
) -> list[keras.Variable]:
    """Return the optimizer's variables that belong to a weight, such as moments."""
    if optimizer is None:
        return []
    prefix = variable.path.replace("/", "_") + "_"
    return [
        slot
        for slot in optimizer.variables
        if slot.name.startswith(prefix) and slot.shape == variable.shape
    ]
