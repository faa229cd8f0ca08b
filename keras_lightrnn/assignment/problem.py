"""The problem: a separable assignment of words to the cells of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_lightrnn.table.allocation import Allocation, compute_table_shape

# Bytes of a block of dense costs, in a pass over all words.
_BLOCK_BYTES = 64 * 2**20


class AssignmentProblem:
    """The cost of every word in every cell, as the sum of a row cost and a column cost.

    Word `w` in cell `(i, j)` costs `row_cost[w, i] + column_cost[w, j]`. The problem is to
    put `V` words into different cells of an `R x C` table at the least total cost. Costs may have
    any sign. Empty cells cost nothing.

    Use `AssignmentProblem.from_costs` for explicit costs, or `AssignmentProblem.from_factors` for
    low-rank factors of the costs, which need far less memory for a large vocabulary. Arrays of
    floats are not copied: do not change them while the problem is in use.

    Attributes:
        vocabulary_size: Integer `V`.
        num_rows: Integer `R`.
        num_columns: Integer `C`.
        num_cells: Integer `R * C`.
        shape: Tuple `(R, C)`.

    Example:

    >>> problem = AssignmentProblem.from_costs(
    ...     row_cost=[[0, 5], [0, 1], [2, 0]], column_cost=[[0, 1], [0, 3], [1, 0]]
    ... )
    >>> problem.vocabulary_size, problem.shape
    (3, (2, 2))
    >>> problem.compute_cost(Allocation([1, 0, 3], 2, 2))
    1.0

    Reference:
        Li et al., "LightRNN: Memory and Computation-Efficient Recurrent Neural
        Networks", NIPS 2016, [arXiv:1610.09893](https://arxiv.org/abs/1610.09893).
    """

    def __init__(self, row_side: _Side, column_side: _Side) -> None:
        if row_side.vocabulary_size != column_side.vocabulary_size:
            raise ValueError(
                "Row and column costs must describe the same words. Received: "
                f"{row_side.vocabulary_size} words on the row side ({row_side.name}), "
                f"{column_side.vocabulary_size} on the column side ({column_side.name})."
            )
        compute_table_shape(row_side.vocabulary_size, row_side.size, column_side.size)
        self._row_side = row_side
        self._column_side = column_side
        # Each word has a row cost and a column cost.
        if not np.isfinite(2.0 * self.compute_magnitude() * self.vocabulary_size):
            raise ValueError(
                "The total cost must be representable in float64. Received: costs of up to "
                f"{self.compute_magnitude():.3g} for {self.vocabulary_size} words. Scale the costs "
                "down; the best allocation stays the same."
            )

    @classmethod
    def from_costs(cls, row_cost: Any, column_cost: Any) -> AssignmentProblem:
        """Return a problem with explicit costs.

        Args:
            row_cost: `(V, R)`, the cost of each word in each row, in nats over all occurrences.
            column_cost: `(V, C)`, the cost of each word in each column.

        Raises:
            ValueError: if shapes disagree, a number is not finite, or there are more words than
                cells.
        """
        return cls(
            _Side("row_cost", _as_matrix("row_cost", row_cost), None),
            _Side("column_cost", _as_matrix("column_cost", column_cost), None),
        )

    @classmethod
    def from_factors(
        cls,
        row_features: Any,
        row_vectors: Any,
        column_features: Any,
        column_vectors: Any,
    ) -> AssignmentProblem:
        """Return a problem with costs `-(features @ vectors.T)`, for rows and for columns.

        In a LightRNN `row_features[w]` is the sum of the hidden states that predicted the
        row of `w`, with the count of `w` appended, and `row_vectors` is the row kernel with
        the row biases appended.

        Args:
            row_features: `(V, K)`.
            row_vectors: `(R, K)`.
            column_features: `(V, L)`.
            column_vectors: `(C, L)`.

        Raises:
            ValueError: if shapes disagree, a number is not finite, or there are more words than
                cells.

        Example:

        >>> problem = AssignmentProblem.from_factors([[2.0], [1.0]], [[3.0]], [[1.0], [4.0]],
        ...                                          [[1.0], [2.0]])
        >>> problem.compute_row_costs().tolist(), problem.compute_column_costs().tolist()
        ([[-6.0], [-3.0]], [[-1.0, -2.0], [-4.0, -8.0]])
        """
        return cls(
            _Side(
                "row_features",
                _as_matrix("row_features", row_features),
                _as_matrix("row_vectors", row_vectors),
            ),
            _Side(
                "column_features",
                _as_matrix("column_features", column_features),
                _as_matrix("column_vectors", column_vectors),
            ),
        )

    @property
    def vocabulary_size(self) -> int:
        return self._row_side.vocabulary_size

    @property
    def num_rows(self) -> int:
        return self._row_side.size

    @property
    def num_columns(self) -> int:
        return self._column_side.size

    @property
    def num_cells(self) -> int:
        return self.num_rows * self.num_columns

    @property
    def shape(self) -> tuple[int, int]:
        """Table shape `(R, C)`."""
        return self.num_rows, self.num_columns

    @property
    def factors(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None]:
        """Row features, row vectors, column features, column vectors, as `from_factors` takes them.

        In a problem made from costs these stand for the features, and the vectors are `None`.
        """
        row_side, column_side = self._row_side, self._column_side
        return row_side.features, row_side.vectors, column_side.features, column_side.vectors

    def compute_row_costs(self, words: Any = None, dtype: Any = np.float64) -> np.ndarray:
        """Return the row costs `(N, R)` of all words, or of a slice or an index array of words."""
        return self._row_side.compute_costs(words, dtype)

    def compute_column_costs(self, words: Any = None, dtype: Any = np.float64) -> np.ndarray:
        """Return the column costs `(N, C)` of all words, or of a slice or an index array."""
        return self._column_side.compute_costs(words, dtype)

    def compute_cost(self, allocation: Allocation) -> float:
        """Return the total cost of an allocation, summed in float64.

        Raises:
            ValueError: if the allocation has another vocabulary size or table shape.
        """
        self.check_allocation(allocation)
        total = 0.0
        for block in self.iterate_blocks():
            total += self._row_side.compute_chosen(
                block, allocation.cells[block] // self.num_columns
            )
            total += self._column_side.compute_chosen(
                block, allocation.cells[block] % self.num_columns
            )
        return total

    def compute_reference_costs(self) -> tuple[float, float]:
        """Return a lower bound on the cost, and the mean cost of a random allocation.

        The bound puts every word into its cheapest cell, even if words share it. The difference of
        the two is a scale for gains that does not depend on constants in the costs.

        Example:

        >>> problem = AssignmentProblem.from_costs([[0.0], [0.0]], [[1.0, 3.0], [1.0, 5.0]])
        >>> problem.compute_reference_costs()
        (2.0, 5.0)
        """
        least = mean = 0.0
        for block in self.iterate_blocks():
            for costs in (self.compute_row_costs(block), self.compute_column_costs(block)):
                least += float(costs.min(axis=1).sum())
                mean += float(costs.mean(axis=1).sum())
        return least, mean

    def find_equal_words(self, least: int) -> list[np.ndarray]:
        """Return the groups of at least `least` words with equal features.

        Example:

        >>> problem = AssignmentProblem.from_costs([[0.0], [1.0], [0.0]], [[2, 3, 4]] * 3)
        >>> problem.find_equal_words(least=2)
        [array([0, 2])]
        """
        hashes = self._row_side.hash_words() + np.uint64(3) * self._column_side.hash_words()
        order = np.argsort(hashes, kind="stable")
        starts = np.flatnonzero(np.diff(hashes[order], prepend=~hashes[order[0]]))
        sizes = np.diff(starts, append=order.size)
        groups = [order[starts[n] : starts[n] + sizes[n]] for n in np.flatnonzero(sizes >= least)]
        return [
            words
            for words in groups
            if all(
                (features[words] == features[words[0]]).all()
                for features in (self._row_side.features, self._column_side.features)
            )
        ]

    def compute_magnitude(self) -> float:
        """Return a bound on the absolute value of every row cost and column cost."""
        return max(self._row_side.magnitude, self._column_side.magnitude)

    def iterate_blocks(self, block_bytes: int = _BLOCK_BYTES) -> Iterator[slice]:
        """Yield slices of words whose dense float64 costs fit into `block_bytes` bytes."""
        size = max(1, block_bytes // (8 * (self.num_rows + self.num_columns)))
        for start in range(0, self.vocabulary_size, size):
            yield slice(start, min(start + size, self.vocabulary_size))

    def check_allocation(self, allocation: Allocation) -> None:
        """Raise `ValueError` unless the allocation fits the words and the table of the problem."""
        received = (allocation.vocabulary_size, allocation.shape)
        if received != (self.vocabulary_size, self.shape):
            raise ValueError(
                "An allocation must have the vocabulary size and table shape of the problem. "
                f"Received: allocation={allocation!r} for {self!r}."
            )

    def __repr__(self) -> str:
        return (
            f"AssignmentProblem(vocabulary_size={self.vocabulary_size}, "
            f"num_rows={self.num_rows}, num_columns={self.num_columns})"
        )


class _Side:
    """Costs of rows or columns: `features` themselves, or `-(features @ vectors.T)`."""

    def __init__(self, name: str, features: np.ndarray, vectors: np.ndarray | None) -> None:
        if vectors is not None and vectors.shape[1] != features.shape[1]:
            raise ValueError(
                f"`{name}` and its vectors must have the same width. Received: "
                f"{name}.shape={features.shape}, vectors.shape={vectors.shape}."
            )
        self.name = name
        self.features = features
        self.vectors = vectors
        self.vocabulary_size = features.shape[0]
        self.size = features.shape[1] if vectors is None else vectors.shape[0]
        # For factors a bound, by Cauchy-Schwarz.
        self.magnitude = (
            max(float(features.max()), -float(features.min()))
            if vectors is None
            else _compute_longest(features) * _compute_longest(vectors)
        )

    def compute_costs(self, words: Any, dtype: Any) -> np.ndarray:
        features = self.features if words is None else self.features[words]
        if self.vectors is None:
            return features.astype(dtype, order="C")  # the order of the products below
        costs = features.astype(dtype, copy=False) @ self.vectors.astype(dtype, copy=False).T
        return np.negative(costs, out=costs)

    def hash_words(self) -> np.ndarray:
        """Return an integer for each word, equal for words with equal features."""
        bits = self.features.view(f"u{self.features.itemsize}")
        factors = np.random.default_rng(0).integers(2**63, size=bits.shape[1], dtype=np.uint64)
        hashes = np.empty(self.vocabulary_size, np.uint64)
        for start in range(0, self.vocabulary_size, 1 << 16):  # the product copies its operand
            block = slice(start, start + (1 << 16))
            hashes[block] = bits[block] @ factors
        return hashes

    def compute_chosen(self, words: slice, chosen: np.ndarray) -> float:
        features = self.features[words]
        if self.vectors is None:
            return float(np.take_along_axis(features, chosen[:, None], 1).sum(dtype=np.float64))
        vectors = self.vectors[chosen].astype(np.float64)  # (N, K)
        return -float(np.einsum("nk,nk->", features.astype(np.float64), vectors))


def _compute_longest(vectors: np.ndarray) -> float:
    largest = max(float(vectors.max()), -float(vectors.min()))
    return largest * float(np.sqrt(vectors.shape[1])) if vectors.size else 0.0


def _as_matrix(name: str, values: Any) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype not in (np.float32, np.float64):
        if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
            raise ValueError(
                f"`{name}` must hold real numbers. Received: {name}.dtype={values.dtype}."
            )
        values = values.astype(np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(
            f"`{name}` must be a matrix with one row for each word, row or column, and not empty. "
            f"Received: {name}.shape={values.shape}."
        )
    # If a number is not finite, neither is the sum, which needs no second array. A sum may also
    # overflow, so a second check decides.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(values.sum(dtype=np.float64))
    if suspicious and not np.isfinite(values).all():
        place = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(values)))
        raise ValueError(
            f"`{name}` must be finite. Received: {name}[{place[0]}, {place[1]}]={values[place]}. "
            "Costs that are not finite usually mean that training diverged."
        )
    return values
