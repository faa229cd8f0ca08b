"""Small vectors of single words in plain TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_lightrnn.search.graph_rows import FEW_CELLS
from keras_lightrnn.serving.weights import gather, make_variable
from keras_lightrnn.table.allocation import Allocation


class ServedVectors(tf.Module):
    """Small vectors of words, which are read by the cells of a table. Empty cells read any vector.

    Args:
        vectors: `(R, C, K)` in the order of the cells of the first table, or `(N, K)`.
        indices: `(R C,)` int32, for each cell the index of its vector, -1 for any; `None` if the
            vectors are in the order of the cells of this table.
        allocation: `Allocation` of this table.
    """

    def __init__(
        self, vectors: tf.Variable, indices: tf.Variable | None, allocation: Allocation
    ) -> None:
        super().__init__()
        self.vectors, self.indices = vectors, indices
        self.size = vectors.shape[-1]
        self._shape = allocation.shape
        self._in_order = vectors if indices is None else None

    def keep_in_order(self) -> None:
        """Keep the vectors of a small table in the order of its cells, if they are not.

        Searches compute all its cells, and would wait for the memory of single vectors.
        """
        if self._in_order is None and self._shape[0] * self._shape[1] <= FEW_CELLS:
            self._in_order = make_variable(self.read_all())

    def read_cells(self, cells: tf.Tensor) -> tf.Tensor:
        """Return the vectors of cells, `(...) -> (..., K)`."""
        if self.indices is not None:
            cells = gather(self.indices, cells)
        return self._read(cells)

    def read_rows(self, rows: tf.Tensor) -> tf.Tensor:
        """Return the vectors of rows, `(n,) -> (n, C, K)`."""
        if self.indices is None:
            return gather(self.vectors, rows)
        return self._read(tf.gather(tf.reshape(self.indices, self._shape), rows))

    def read_all(self) -> tf.Tensor:
        """Return the vectors of all rows, `(R, C, K)`."""
        if self._in_order is not None:
            return tf.convert_to_tensor(self._in_order)
        indices = tf.reshape(tf.maximum(self.indices, 0), (*self._shape, 1))
        # For so many entries, this takes two thirds of the time of `tf.gather`.
        return tf.gather_nd(tf.reshape(self.vectors, [-1, self.size]), indices)

    def _read(self, indices: tf.Tensor) -> tf.Tensor:
        return tf.gather(tf.reshape(self.vectors, [-1, self.size]), tf.maximum(indices, 0))


def make_vectors(
    values: Any, allocation: Allocation, indices: tf.Variable | None = None
) -> ServedVectors:
    """Return the vectors of the first table.

    If every word has a vector, they are stored in the order of cells: they need no indices then,
    and those of a row are one block of memory.

    Args:
        values: `(N, K)`, the vectors of the words `0 .. N - 1`.
        allocation: `Allocation` of the table.
        indices: The indices of other vectors of the same words, to share. `None` to make them.
    """
    values = ops.convert_to_numpy(values)
    if len(values) < allocation.vocabulary_size:
        vectors = make_variable(np.pad(values, [[0, 1], [0, 0]]))  # zeros for all other words
        if indices is None:
            indices = _make_indices(allocation, len(values))
        return ServedVectors(vectors, indices, allocation)
    by_cell = np.zeros((allocation.num_cells, values.shape[1]), np.float32)
    by_cell[allocation.cells] = values
    return ServedVectors(make_variable(by_cell.reshape(*allocation.shape, -1)), None, allocation)


def share_vectors(
    first: ServedVectors, allocation: Allocation, first_cells: tf.Variable
) -> ServedVectors:
    """Return the vectors of the first table for a further one.

    Args:
        first: `ServedVectors` of the first table.
        allocation: `Allocation` of the further table.
        first_cells: `(R C,)` int32, the cell in the first table of the word in each cell, -1 for
            empty cells.
    """
    if first.indices is None:
        return ServedVectors(first.vectors, first_cells, allocation)
    indices = _make_indices(allocation, first.vectors.shape[0] - 1)
    return ServedVectors(first.vectors, indices, allocation)


def _make_indices(allocation: Allocation, num_vectors: int) -> tf.Variable:
    """Return the index of the vector of each cell, `num_vectors` for words without one."""
    words = allocation.words.ravel()
    has_vector = (words >= 0) & (words < num_vectors)
    return make_variable(np.where(has_vector, words, num_vectors), tf.int32)
